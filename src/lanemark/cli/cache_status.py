"""What `lanemark cache status` says, as a document and as lines of at most 80 columns."""

from __future__ import annotations

import shlex
import textwrap
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.cache_manifest import Manifest
from lanemark.lanes.coverage import Coverage, covers, needs
from lanemark.observe.compile_cache import COVERAGE_DIRECTORY, ListedFile, inventory, listing
from lanemark.observe.disk import free_space
from lanemark.records.case import SCRIPT_PRESET, Case
from lanemark.records.encoding import decode
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.stage.coverage import SEED_NOTE, manifests, read_bounded

_COLUMNS: Final = 80
_EXAMPLES: Final = 3
_MAX_COMMAND: Final = 120


def directory_doc(cache_dir: Path, reason: str) -> dict[str, Any]:
    """The cache directory: what it holds, what it is known to serve, where its seed came from, and the free space."""
    seen = listing(cache_dir)
    return {
        "directory": str(cache_dir),
        "reason": reason,
        "inventory": inventory(cache_dir).to_json(),
        "free_bytes": free_space(cache_dir).to_json(),
        "seeded": _seeded(cache_dir).to_json(),
        "manifests": [_manifest_doc(name, found, seen.value or ()) for name, found in manifests(cache_dir).items()],
    }


def rank_docs(manifest: Manifest, coverage: Coverage) -> list[dict[str, Any]]:
    """By rank, how many keys and binaries it needs, and how many of them are not there."""
    needed = {use.rank: list(needs(manifest, use)) for use in manifest.ranks}
    return [
        {
            "rank": use.rank,
            "fx": len(use.fx),
            "aot": len(use.aot),
            "binaries": sum(phrase.startswith("binary ") for phrase in needed[use.rank]),
            "missing": sum(phrase.startswith(f"rank {use.rank}: ") for phrase in coverage.missing),
        }
        for use in manifest.ranks
    ]


def directory_lines(doc: dict[str, Any]) -> list[str]:
    """The directory, a fact a line."""
    lines = [_field("cache", doc["directory"]), _field("", doc["reason"])]
    held = doc["inventory"]
    if held["status"] == "observed":
        value = held["value"]
        said = f"{value['files']} files, {size(value['bytes'])}: {value['keys']} keys, {value['binaries']} binaries"
        lines.append(_field("holds", said))
    else:
        lines.append(_field("holds", held.get("reason", held["status"])))
    free = doc["free_bytes"]
    lines.append(_field("free", size(free["value"]) if free["status"] == "observed" else free.get("reason", "unknown")))
    note = doc["seeded"]
    if note["status"] == "observed":
        value = note["value"]
        lines.append(_field("seeded", f"{_age(value['seeded_at'])} ago from {value['source']}"))
    elif note["status"] == "unavailable":
        lines.append(_field("seeded", note["reason"]))
    if not doc["manifests"]:
        lines.append(_field("covers", "nothing that a run has recorded"))
    for number, row in enumerate(doc["manifests"]):
        lines += _manifest_lines(row, "covers" if number == 0 else "")
    return [part for line in lines for part in _wrapped(line)]


def case_lines(doc: dict[str, Any], case: Case) -> list[str]:
    """Whether the cache covers one case, by rank, and what to do when not."""
    coverage = doc["coverage"]
    state = "covered" if coverage["covered"] else "NOT covered"
    what = f"{case.preset}, {case.mode}, {case.compile}, {case.dtype}"
    if case.script is not None:
        what = "the command " + shlex.join(case.command)[:_MAX_COMMAND]
    lines = [_field("case", f"{what}, {_ranks(case.nproc)}: {state}")]
    for row in doc["ranks"]:
        held = f"{row['fx']} graphs, {row['aot']} joint graphs, {row['binaries']} binaries"
        lines.append(
            _field(
                f"rank {row['rank']}", f"{held}; " + (f"{row['missing']} missing" if row["missing"] else "all there")
            )
        )
    reasons = [*coverage["mismatches"], *coverage["missing"]]
    lines += [_field("because" if number == 0 else "", reason) for number, reason in enumerate(reasons[:_EXAMPLES])]
    if len(reasons) > _EXAMPLES:
        lines.append(_field("", f"and {len(reasons) - _EXAMPLES} more"))
    if not coverage["covered"]:
        lines.append(_field("fill it", doc["remedy"]))
    return [part for line in lines for part in _wrapped(line)]


def size(number: int) -> str:
    """Bytes as people read them: binary multiples."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _manifest_doc(name: str, found: Manifest | str, files: tuple[ListedFile, ...]) -> dict[str, Any]:
    if isinstance(found, str):
        return {"name": name, "unusable": found}
    whole = covers(
        found,
        question=found.question,
        fingerprint=found.fingerprint,
        listing=files,
        layout=found.cache_layout,
        cache_root=found.cache_root,
    )
    return {
        "name": name,
        "question": found.question,
        "world_size": found.world_size,
        "cache_layout": found.cache_layout,
        "run_id": found.run_id,
        "captured_at": found.captured_at,
        "files": len(found.files),
        "bytes": found.total_bytes,
        "required": whole.required,
        "missing": len(whole.missing),
        "ranks": rank_docs(found, whole),
    }


def _manifest_lines(row: dict[str, Any], label: str) -> list[str]:
    if "unusable" in row:
        return [_field(label, f"{row['name']} cannot be used: {row['unusable']}")]
    asked = row["question"]
    words = [str(asked[name]) for name in ("preset", "mode", "compile", "dtype") if name in asked]
    if asked.get("preset") == SCRIPT_PRESET:
        words = ["a command of your own"]
    whole = "whole" if not row["missing"] else f"{row['missing']} of {row['required']} missing"
    known = len(row["ranks"])
    told = _ranks(row["world_size"]) if known == row["world_size"] else f"{known} of {_ranks(row['world_size'])}"
    return [
        _field(label, f"{', '.join(words)}, {told}: {whole}"),
        _field("", f"{row['files']} files, {size(row['bytes'])}, {_age(row['captured_at'])} old, from {row['run_id']}"),
    ]


def _seeded(cache_dir: Path) -> Observation[dict[str, Any]]:
    source = f"{COVERAGE_DIRECTORY}/{SEED_NOTE}"
    try:
        doc = decode(read_bounded(cache_dir / COVERAGE_DIRECTORY / SEED_NOTE), 64 * 1024)
        wanted = {"source", "kind", "digest", "run_id", "seeded_at"}
        if not isinstance(doc, dict) or not all(isinstance(doc.get(name), str) for name in wanted):
            return unavailable(source, "the note of the last seed does not read")
    except FileNotFoundError:
        return absent(source, "no seed was put in")
    except (OSError, ValueError):
        return unavailable(source, "the note of the last seed does not read")
    return observed(doc, source)


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def _age(stamp: str) -> str:
    """How long ago a time of ours was, in one unit."""
    try:
        then = datetime.fromisoformat(stamp.replace("Z", "+00:00"))
        seconds = (datetime.now(timezone.utc) - then).total_seconds()
    except (ValueError, TypeError):
        return "an unknown time"
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"


def _field(label: str, text: str) -> str:
    return f"{label:<8} {text}"


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _COLUMNS, subsequent_indent=" " * 9, break_on_hyphens=False) or [""]
