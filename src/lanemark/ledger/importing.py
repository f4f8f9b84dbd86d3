"""Taking another ledger's records in: each verified first, none twice, and none that contradicts one that is here.

    1. every file is read and verified as by `lanemark verify`: digest against name, syntax, schema, plan, lane rules;
    2. evidence that lies with it is held against its digests;
    3. a run has one record. Where a different record of the same run is here already, or two different ones are
       offered, none of them is taken, and all are named: which one is true is not for a program to choose;
    4. what is left is appended with its evidence;
    5. the signatures that lie with a record follow it, also to a record that was here already. Each must be an
       envelope over exactly the record's bytes, under the name of the key that it names; whether that key made it is
       asked when it is checked (`lanemark verify --key`). A different file that is here already stays.

Importing again changes nothing. One bad file keeps no good one out. A log is of its own ledger and is not taken along.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lanemark.ledger import objects, signing
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.rows import Filters
from lanemark.ledger.verify import verify_bytes
from lanemark.records.encoding import decode, digest, safe_text
from lanemark.records.errors import DataError, LanemarkError, RecordError

_OBJECT_NAME: Final = re.compile(r"(?P<hex>[0-9a-f]{64})\.json")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        file: as it was found.
        status: `imported`, `present` (the same one was here already) or `refused`.
        record_id: `sha256:…` of the record, or of the one that the file is a signature of, where a name has one.
        slug: of a refusal.
        reason: of a refusal, or what could not be taken along.
        kind: what the file is, or was offered as.
    """

    file: str
    status: Literal["imported", "present", "refused"]
    record_id: str | None = None
    slug: str | None = None
    reason: str | None = None
    kind: Literal["record", "signature"] = "record"


@dataclass(frozen=True)
class _Offer:
    """A file that verified. Its bytes are read again when it is appended: thousands of them need no memory."""

    path: Path
    record_id: str
    run_id: str
    evidence: tuple[tuple[str, Path], ...]


def import_records(
    ledger: Ledger, sources: Iterable[Path], progress: Callable[[int], None] | None = None
) -> list[Outcome]:
    """Import object files, or all of a ledger's, with their signatures; returns one outcome a file.

    Args:
        ledger: takes the records.
        sources: a ledger's directory, a directory of object files, or an object file each.
        progress: told how many files have been looked at.

    Raises:
        DataError: `data-missing`: a source is not there or cannot be listed, before anything was taken.
        LedgerError: `ledger-unreadable`, or `ledger-unwritable` part-way; importing again then goes on.
    """
    files = [path for source in sources for path in _files(source)]
    outcomes: list[Outcome] = []
    offers: dict[str, _Offer] = {}
    for number, path in enumerate(files, 1):
        try:
            offer = _offer(path)
            offers[offer.record_id] = offer
        except LanemarkError as error:
            outcomes.append(_refusal(path, error))
        if progress is not None:
            progress(number)
    present, others = _already_here(ledger, offers)
    with ledger.many():
        for offer in offers.values():
            rivals = sorted(others.get(offer.run_id, set()) - {offer.record_id})
            if offer.record_id in present:
                outcomes.append(Outcome(_shown(offer.path), "present", offer.record_id))
            elif rivals:
                outcomes.append(_refusal(offer.path, _conflict(offer, rivals)))
            else:
                outcomes.append(_taken(ledger, offer))
            if outcomes[-1].status != "refused":
                outcomes += _signatures(ledger, offer)
    return outcomes


def _files(source: Path) -> Iterator[Path]:
    """The object files that a source stands for, in the order of their names."""
    try:
        if not source.is_dir():
            source.stat()
            yield source
        elif (source / "objects").is_dir():
            yield from (item.path for item in objects.iter_objects(source))
        else:
            yield from sorted(path for path in source.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise DataError(
            "data-missing",
            f"the source {_shown(source)!r} cannot be read ({error.strerror or type(error).__name__})",
            "name a ledger's directory or the files of records",
        ) from error


def _offer(path: Path) -> _Offer:
    """A file's offer, once it verified. Raises RecordError, with the slug of the step that failed."""
    named = _OBJECT_NAME.fullmatch(path.name)
    if named is None:
        raise RecordError(
            "record-corrupt",
            f"{_shown(path)!r} is not named by the digest of its bytes, so nothing says that they are whole",
            "import it under the name that its ledger gave it",
        )
    record_id = f"sha256:{named['hex']}"
    try:
        data = objects.read_file(path)
    except OSError as error:
        raise RecordError(
            "record-missing",
            f"{_shown(path)!r} cannot be read ({error.strerror or type(error).__name__})",
            "check the file and its permissions",
        ) from error
    verify_bytes(data, expected_id=record_id).raise_if_failed()
    predicate = decode(data)["predicate"]
    root = path.parent.parent.parent if path.parent.parent.name == "objects" else None
    evidence = [] if root is None else [(e["name"], e["digest"], e["bytes"]) for e in predicate["evidence"]]
    return _Offer(path, record_id, predicate["run_id"], tuple(_with_it(root, evidence) if root else ()))


def _with_it(root: Path, named: list[tuple[str, str, int]]) -> Iterator[tuple[str, Path]]:
    """The evidence that lies in the record's ledger. Raises RecordError where its bytes are others."""
    for name, wanted, size in named:
        place = objects.evidence_path(root, wanted)
        try:
            found = objects.hash_file(place)
        except OSError:
            continue  # not at hand: a record travels without it, and `lanemark verify` says so
        if (f"sha256:{found[0]}", found[1]) != (wanted, size):
            raise RecordError(
                "evidence-mismatch",
                f"the evidence {safe_text(name)[:120]!r} in {_shown(root)!r} is not the one that the record names",
                "bring it back from a copy",
            )
        yield name, place


def _already_here(ledger: Ledger, offers: dict[str, _Offer]) -> tuple[set[str], dict[str, set[str]]]:
    """(ids offered that are here, ids by run id of all that is here or offered). Reads the index as a stream."""
    runs: dict[str, set[str]] = {}
    for offer in offers.values():
        runs.setdefault(offer.run_id, set()).add(offer.record_id)
    present = set()
    for row in ledger.stream(Filters()).rows:
        if row.run_id in runs:
            runs[row.run_id].add(row.id)
            if row.id in offers:
                present.add(row.id)
    return present, runs


def _conflict(offer: _Offer, rivals: list[str]) -> RecordError:
    return RecordError(
        "import-conflict",
        f"{_shown(offer.path)!r} is a record of the run {offer.run_id}, and {', '.join(rivals[:3])} is another of it",
        "find out which of them is true with `lanemark verify` and `lanemark show`",
    )


def _taken(ledger: Ledger, offer: _Offer) -> Outcome:
    try:
        data = objects.read_file(offer.path)
    except OSError as error:
        data = b""
        gone = error.strerror or type(error).__name__
    else:
        gone = "its bytes changed"
    if digest(data) != offer.record_id:
        changed = RecordError(
            "record-corrupt", f"{_shown(offer.path)!r} was not the same when read again ({gone})", "import it again"
        )
        return _refusal(offer.path, changed)
    appended = ledger.append(data, offer.evidence)
    return Outcome(_shown(offer.path), "imported", offer.record_id, reason="; ".join(appended.notices) or None)


def _signatures(ledger: Ledger, offer: _Offer) -> Iterator[Outcome]:
    """What became of each signature beside a record: in its ledger's `sigs/`, or in one beside the lone file."""
    inside = offer.path.parent.parent.name == "objects"
    place = offer.path.parent.parent.parent if inside else offer.path.parent
    directory = signing.signature_directory(place, offer.record_id)
    try:
        names = signing.sidecars(place, offer.record_id)
        data = objects.read_file(offer.path) if names else b""
    except OSError as error:
        why = f"signatures cannot be looked at ({error.strerror or type(error).__name__})"
        yield Outcome(_shown(directory), "refused", offer.record_id, "signature-invalid", why, "signature")
        return
    for name in names:
        path = directory / name
        try:
            if digest(data) != offer.record_id:
                raise signing.invalid("the record beside it was not the same when read again")
            created = _signature(ledger, offer.record_id, path, data)
        except RecordError as error:
            yield Outcome(_shown(path), "refused", offer.record_id, error.slug, error.what, "signature")
        else:
            yield Outcome(_shown(path), "imported" if created else "present", offer.record_id, kind="signature")


def _signature(ledger: Ledger, record_id: str, path: Path, data: bytes) -> bool:
    """Take one in; whether it is new here. Raises RecordError `signature-invalid` or `signature-conflict`."""
    keyid = signing.keyid_of(path.name)
    if keyid is None:
        raise signing.invalid("it is not named by the key id of a signer")
    try:
        raw = objects.read_file(path, signing.MAX_ENVELOPE_BYTES)
    except OSError as error:
        raise signing.invalid(f"it cannot be read ({error.strerror or type(error).__name__})") from None
    signing.check_form(raw, data, keyid)
    standing = ledger.keep_signature(record_id, keyid, raw)
    if standing is not None and standing != raw:
        raise signing.conflict(record_id, keyid, "its bytes are others")
    return standing is None


def _refusal(path: Path, error: LanemarkError) -> Outcome:
    named = _OBJECT_NAME.fullmatch(path.name)
    return Outcome(_shown(path), "refused", f"sha256:{named['hex']}" if named else None, error.slug, error.what)


def _shown(path: Path) -> str:
    return safe_text(os.fspath(path))
