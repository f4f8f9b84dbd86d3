"""`lanemark stage SOURCE DEST`: carry data to where it is read, every byte verified."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from lanemark.cli.parsing import parser, print_json
from lanemark.cli.progress import Bar
from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError
from lanemark.stage.artifacts import is_image_digest
from lanemark.stage.objects import Staged
from lanemark.stage.staging import PATIENCE_S, Progress, stage

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def main(args: list[str]) -> int:
    """Stage. Exit 0 when everything lies there, verified as far as the source allows; 1 when not; 2 for bad input."""
    verb = parser(
        "stage",
        "Copy a data set to a local directory, all of it or nothing, every byte held to its digest. What is there "
        "already, or was carried by an interrupted try, is hashed again and not fetched.",
    )
    verb.add_argument("source", help="s3://BUCKET/PREFIX, gs://…, az://…, https://HOST/PATH, or a directory")
    verb.add_argument("destination", metavar="DEST", help="a directory that does not exist, is empty, or was staged")
    verb.add_argument("--manifest", action="store_true", help="make a manifest.json where the source has none")
    verb.add_argument("--manifest-file", metavar="FILE", help="hold the data to this manifest, not to the source's own")
    verb.add_argument(
        "--artifacts", action="store_true",
        help="wheels and other artifacts, held to the source's artifacts.json; made where there is none",
    )  # fmt: skip
    verb.add_argument("--image", metavar="DIGEST", help="with --artifacts: the image that they belong to, sha256:…")
    verb.add_argument("--dry-run", action="store_true", help="say what would be carried, with sizes; write nothing")
    verb.add_argument("--deadline", metavar="S", help="give up after S s (default: 300, and 1 more a megabyte)")
    verb.add_argument("--patience", metavar="S", help=f"s that one request may keep failing (default {PATIENCE_S:g})")
    verb.add_argument("--json", action="store_true", help="print what was staged as JSON")
    options = verb.parse_args(args)
    _check(options)
    deadline_s = _seconds(options.deadline, "--deadline")
    with Watcher() as watcher:
        done = stage(
            options.source,
            Path(options.destination),
            manifest=None if options.manifest_file is None else Path(options.manifest_file),
            make_manifest=options.manifest,
            artifacts=options.artifacts,
            image=options.image,
            progress=watcher.look,
            deadline_s=deadline_s,
            patience_s=_seconds(options.patience, "--patience") or PATIENCE_S,
            dry_run=options.dry_run,
        )
    if options.json:
        print_json(document(done, dry_run=options.dry_run))
    else:
        print(sentence(done, dry_run=options.dry_run))
    return 0


def _seconds(text: str | None, name: str) -> float | None:
    """What was asked for, or None. What it needs is a third of this verb's start, and is imported when it is."""
    if text is None:
        return None
    from lanemark.cli.asked import seconds

    return seconds(text, name)


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant together."""
    if options.artifacts and (options.manifest or options.manifest_file is not None):
        raise UsageError("value-invalid", "--artifacts and a manifest of shards exclude one another", "leave one out")
    if options.image is not None and not (options.artifacts and is_image_digest(options.image)):
        raise UsageError(
            "value-invalid", "--image takes the digest of an image, sha256: and 64 digits, and goes with --artifacts",
            "take the digest that the registry shows for the image",
        )  # fmt: skip


def document(done: Staged, *, dry_run: bool) -> dict[str, Any]:
    """What was staged, for `--json`."""
    return {
        "dry_run": dry_run,
        "source": done.source,
        "directory": safe_text(done.directory),
        "verification": done.verification,
        "dataset_digest": done.dataset_digest,
        "objects": [
            {"name": one.name, "bytes": one.bytes, "sha256": one.sha256, "verified": one.verified}
            for one in done.objects
        ],
        "bytes_total": done.bytes_total,
        "bytes_fetched": done.bytes_fetched,
        "bytes_reused": done.bytes_reused,
        "ignored": done.ignored,
        "repeats": done.repeats,
        "seconds": round(done.seconds, 3),
    }


def sentence(done: Staged, *, dry_run: bool) -> str:
    """What was staged, for people."""
    against = {
        "manifest": "every byte held to a manifest",
        "provider": "every byte held to the provider's checksums",
        "unverified": "UNVERIFIED: the source has no digest for some of it",
    }[done.verification]
    if dry_run:
        would = against.replace("held", "to be held")
        return f"{size(done.bytes_total)} would be staged from {done.source} to {safe_text(done.directory)}; {would}"
    lines = [
        f"{len(done.objects)} objects, {size(done.bytes_total)}, from {done.source} in {safe_text(done.directory)}",
        f"fetched {size(done.bytes_fetched)}, reused {size(done.bytes_reused)}, in {done.seconds:.1f} s; {against}",
    ]
    if done.repeats:
        lines.append(f"{done.repeats} pieces had to be fetched again")
    if done.ignored:
        lines.append(f"{done.ignored} objects of the source were not wanted")
    if done.dataset_digest is not None:
        lines.append(f"data set {done.dataset_digest}")
    return "\n".join(lines)


def size(count: float) -> str:
    """A number of bytes, for people."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


class Watcher:
    """Turns a staging's progress into a bar with rate and time left. The bar is made at the first bytes."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._began_s = 0.0
        self._first_bytes = 0
        self._shown_bytes = 0

    def __enter__(self) -> Watcher:
        return self

    def look(self, seen: Progress) -> None:
        """One look at how far it is."""
        now = time.monotonic()
        if self._bar is None:
            self._bar = Bar(seen.doing, total=float(max(1, seen.bytes_total)))
            self._bar.__enter__()
            self._began_s, self._first_bytes = now, seen.bytes_done
        self._bar.line(f"{seen.doing}: {rate_and_rest(seen, now - self._began_s, self._first_bytes)}")
        self._bar.advance(seen.bytes_done - self._shown_bytes)
        self._shown_bytes = seen.bytes_done

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def rate_and_rest(seen: Progress, elapsed_s: float, first_bytes: int) -> str:
    """`1.2 GiB of 4.0 GiB, 310.0 MiB/s, 9 s left`. Pure. What lay there before does not count towards the rate."""
    text = f"{size(seen.bytes_done)} of {size(seen.bytes_total)}"
    if seen.objects_total > 1:
        text += f", {seen.objects_done} of {seen.objects_total} objects"
    carried = seen.bytes_done - first_bytes
    if elapsed_s < 0.5 or carried <= 0:
        return text
    rate = carried / elapsed_s
    left_s = (seen.bytes_total - seen.bytes_done) / rate
    rest = f"{left_s:.0f} s" if left_s < 120 else f"{left_s / 60:.0f} min"
    return f"{text}, {size(rate)}/s, {rest} left"
