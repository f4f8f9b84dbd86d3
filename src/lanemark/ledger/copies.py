"""A ledger on object storage: the same names there as in a directory, and a directory of copies here.

Truth lies in the bucket, as `objects/ab/<64 hex>.json` and `evidence/ab/<64 hex>`, each created once and never
replaced: of many writers of one name exactly one creates it, equal bytes are the same record, and other bytes under a
record's name are damage, which is reported and not repaired from here.

What is read is compared with the digest that names it and then kept in `$LANEMARK_HOME/ledger-copies/`. Objects never
change, so that a copy needs no second look, and the ordinary SQLite index lists the copies as if they were a ledger.
All of it may be deleted. Refreshing compares the names in the bucket with the copies: one request for each 1,000
records, and one for each that is new here.

Verifying never trusts a copy: it fetches the record and its evidence again.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lanemark.ledger import objects
from lanemark.ledger.index import BadFile, Index, SyncReport
from lanemark.ledger.ledger import Ledger, index_path
from lanemark.ledger.remote import Bucket
from lanemark.ledger.signing import MAX_ENVELOPE_BYTES
from lanemark.records.encoding import MAX_RECORD_BYTES, decode, digest, safe_text
from lanemark.records.errors import LedgerError, RecordError

if TYPE_CHECKING:
    from lanemark.ledger.remote_log import BucketLog
    from lanemark.ledger.rows import Filters, IndexRow
    from lanemark.ledger.s3_location import S3Location

_RECORD: Final = re.compile(r"objects/(?P<two>[0-9a-f]{2})/(?P<hex>(?P=two)[0-9a-f]{62})\.json")
_SIGNATURE: Final = re.compile(r"sigs/[0-9a-f]{64}/[0-9a-f]{64}\.json")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID_PREFIX: Final = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{1,64})")
#: A piece of evidence travels whole, in one request and through memory; logs are cut to far less than this.
MAX_EVIDENCE_BYTES: Final = 256 * 1024 * 1024
#: Requests under way at once. Storage answers in tens of milliseconds, and more than this starves a small host's cores.
_AT_ONCE: Final = 8
_DAMAGED: Final = "its bytes are not the ones it is named by"


class Fetched(NamedTuple):
    """One record asked of the bucket: its bytes, or what is wrong with it."""

    record_id: str
    data: bytes | None
    problem: str = ""

    @property
    def is_damaged(self) -> bool:
        """Whether there are bytes, and others than the name says."""
        return self.problem == _DAMAGED


def open_remote(place: S3Location, root: Path, environ: Mapping[str, str]) -> Ledger:
    """The ledger at an `s3://` location, its copies under `root`. Asks nothing of the network yet.

    Raises:
        LedgerError: `team-extra-missing`.
    """
    store = ObjectStore(Bucket(place, environ), root)
    own = CopiedIndex(index_path(root, environ), store)
    if place.shared_index is None:
        return Ledger(root, environ, store=store, indexes=(own,))
    from lanemark.ledger.postgres import PostgresIndex

    return Ledger(root, environ, store=store, indexes=(PostgresIndex(place, store), own))


class ObjectStore:
    """A store whose truth lies in a bucket (see `lanemark.ledger.store.Store`).

    Args:
        bucket: where the truth lies.
        root: where copies are kept.
    """

    def __init__(self, bucket: Bucket, root: Path) -> None:
        self.bucket = bucket
        self.root = root

    def exists(self) -> bool:
        return True  # an empty bucket and one that cannot be reached are told apart by asking, not by guessing

    def publish(self, data: bytes) -> Path:
        if len(data) > MAX_RECORD_BYTES:
            raise RecordError(
                "record-too-large",
                f"{len(data)} bytes is more than the {MAX_RECORD_BYTES} that a record may have",
                "keep raw samples and logs as evidence beside the record",
            )
        record_id = digest(data)
        self.create_once(record_name(record_id), data, MAX_RECORD_BYTES)
        with contextlib.suppress(LedgerError):  # the record is safe: a copy that cannot be kept is fetched when needed
            objects.publish(self.root, data)
        return objects.object_path(self.root, record_id)

    def publish_evidence(self, name: str, source: Path | bytes) -> None:
        data = source if isinstance(source, bytes) else _read_evidence(name, source)
        self.create_once(_evidence_name(digest(data)), data, MAX_EVIDENCE_BYTES)

    def keep_signature(self, record_id: str, keyid: str, envelope: bytes) -> bytes | None:
        return self._create_or_read(_signature_name(record_id, keyid), envelope, MAX_ENVELOPE_BYTES)

    def find(self, prefix: str) -> str:
        match = _ID_PREFIX.fullmatch(prefix.strip().lower())
        if match is None:
            raise objects.missing(prefix)
        wanted = match["hex"]
        if len(wanted) == 64:
            return f"sha256:{wanted}"  # whoever goes on to read it learns whether it is there
        # A directory is what can be listed by name; one digit alone begins sixteen of them.
        directory = f"objects/{wanted[:2]}" if len(wanted) >= 2 else "objects"
        found = []
        for named in self.bucket.names(directory):
            known = _RECORD.fullmatch(named.name)
            if known is not None and known["hex"].startswith(wanted):
                found.append(known["hex"])
        if not found:
            raise objects.missing(prefix)
        if len(found) > 1:
            shown = ", ".join(name[: max(12, len(wanted) + 4)] for name in found[:4])
            raise RecordError(
                "record-ambiguous",
                f"{len(found)} ids begin with {wanted!r} ({shown}{', …' if len(found) > 4 else ''})",
                "give more of its digits",
            )
        return f"sha256:{found[0]}"

    def path(self, record_id: str) -> Path:
        if not self._has_copy(record_id):
            self._keep(record_id)
        return objects.object_path(self.root, record_id)

    def place(self, record_id: str) -> str:
        return f"{self.bucket.name}/{record_name(record_id)}"

    def signature_place(self, record_id: str, keyid: str) -> str:
        return f"{self.bucket.name}/{_signature_name(record_id, keyid)}"

    @contextlib.contextmanager
    def at_hand(self, record_id: str) -> Iterator[Path]:
        """What the bucket has of a record, fetched now, whatever its bytes are; gone when the block ends."""
        data = self.bucket.read(record_name(record_id), MAX_RECORD_BYTES)
        if data is None:
            raise objects.missing(record_id)
        with tempfile.TemporaryDirectory(prefix="lanemark-verify-") as directory:
            root = Path(directory)
            _write(objects.object_path(root, record_id), data)
            for named in _evidence_of(data):
                kept = self.bucket.read(_evidence_name(named), MAX_EVIDENCE_BYTES)
                if kept is not None:
                    _write(objects.evidence_path(root, named), kept)
            for signature in self.bucket.names(f"sigs/{record_id.removeprefix('sha256:')}"):
                if _SIGNATURE.fullmatch(signature.name):
                    kept = self.bucket.read(signature.name, MAX_ENVELOPE_BYTES)
                    if kept is not None:
                        _write(root / signature.name, kept)
            self.log().at_hand(root)
            yield root

    def log(self) -> BucketLog:
        from lanemark.ledger.remote_log import BucketLog

        return BucketLog(self)

    # -- what the bucket holds, for indexes ---------------------------------------------------------------------------

    def listed(self) -> tuple[set[str], tuple[BadFile, ...]]:
        """Ids of all records by their names alone, and what lies among them and is none.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`.
        """
        found: set[str] = set()
        bad: list[BadFile] = []
        for named in self.bucket.names("objects"):
            known = _RECORD.fullmatch(named.name)
            if known is None:
                bad.append(BadFile(safe_text(named.name)[:300], "is not named as a record"))
            elif named.size_bytes > MAX_RECORD_BYTES:
                bad.append(BadFile(named.name, f"is larger than the {MAX_RECORD_BYTES} bytes of a record"))
            else:
                found.add(f"sha256:{known['hex']}")
        return found, tuple(bad)

    def copied(self) -> set[str]:
        """Ids of the records of which there is a copy here."""
        try:
            return {item.record_id for item in objects.iter_objects(self.root) if item.record_id is not None}
        except OSError:
            return set()  # copies that cannot be listed are fetched again

    def fetch(self, record_ids: Iterable[str]) -> Iterator[Fetched]:
        """The bytes of records from the bucket, several at a time, each compared with its name.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`.
        """
        asked = iter(record_ids)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="lanemark-fetch") as pool:
            # A portion at a time: what is fetched faster than it is used would pile up in memory.
            while portion := list(islice(asked, 4 * _AT_ONCE)):
                try:
                    yield from pool.map(self._fetched, portion)
                except LedgerError:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def pull(self, *, full: bool) -> tuple[BadFile, ...]:
        """Make the copies those of the bucket; returns what is not as its name says.

        Args:
            full: fetch and hash every record, and not only those of which there is no copy.

        Raises:
            LedgerError: `ledger-unreachable` or `ledger-denied`; `ledger-unwritable` when no copy can be kept.
        """
        # In this order: what another process publishes meanwhile is in neither set, and never taken for removed.
        copies = self.copied()
        there, bad = self.listed()
        problems = list(bad)
        for fetched in self.fetch(sorted(there if full else there - copies)):
            if fetched.data is None:
                problems.append(BadFile(record_name(fetched.record_id), fetched.problem))
            else:
                objects.publish(self.root, fetched.data)
        for record_id in copies - there:
            with contextlib.suppress(OSError):  # one that stays is looked at again next time
                objects.object_path(self.root, record_id).unlink()
        return tuple(problems)

    def _fetched(self, record_id: str) -> Fetched:
        name = record_name(record_id)
        for _ in range(2):  # a byte that flipped on its way is not there the second time; one that lies there is
            data = self.bucket.read(name, MAX_RECORD_BYTES)
            if data is None:
                return Fetched(record_id, None, "was listed and is gone")
            if digest(data) == record_id:
                return Fetched(record_id, data)
        return Fetched(record_id, None, _DAMAGED)

    def _keep(self, record_id: str) -> None:
        """Bring a copy here. Raises as `find`, or `record-corrupt`."""
        fetched = self._fetched(record_id)
        if fetched.is_damaged:
            raise _corrupt(self.place(record_id))
        if fetched.data is None:
            raise objects.missing(record_id)
        objects.publish(self.root, fetched.data)

    def _has_copy(self, record_id: str) -> bool:
        path = objects.object_path(self.root, record_id)
        try:
            return f"sha256:{objects.hash_file(path)[0]}" == record_id
        except OSError:
            return False

    def create_once(self, name: str, data: bytes, limit_bytes: int) -> None:
        """Create an object, or find that it is there already with these bytes.

        Raises:
            RecordError: `record-corrupt`: it has others.
            LedgerError: `ledger-unreachable` or `ledger-denied`.
        """
        there = self._create_or_read(name, data, limit_bytes)
        if there not in (None, data):
            raise _corrupt(f"{self.bucket.name}/{name}")

    def _create_or_read(self, name: str, data: bytes, limit_bytes: int) -> bytes | None:
        """Create an object, or return the bytes that are there; they may be ours, of a try whose answer was lost."""
        for _ in range(3):
            if self.bucket.create(name, data):
                return None
            there = self.bucket.read(name, limit_bytes)
            if there is not None:
                return there
            # It was there and is gone: another writer's creation that was taken back. Ours may go in now.
        raise LedgerError(
            "ledger-unreachable",
            f"the storage of {self.bucket.name} says of one object that it exists and that it does not",
            "try again; if it stays so, the storage does not hold to create-only puts and cannot keep a ledger",
        )


class CopiedIndex(Index):
    """The SQLite index over the copies, which it brings up to date first."""

    def __init__(self, path: Path, store: ObjectStore) -> None:
        super().__init__(path, store.root)
        self.name = "the index of this machine's copies"
        self._store = store

    def refresh(self) -> SyncReport:
        bad = self._store.pull(full=False)
        report = super().refresh()
        if report.bad:  # a copy was damaged here: fetched once more, it is as the bucket has it
            self._drop(report.bad)
            bad = self._store.pull(full=False)
            report = super().refresh()
        return report._replace(bad=(*bad, *report.bad))

    def listed(self, wanted: Filters, *, latest: bool = False) -> tuple[SyncReport, tuple[IndexRow, ...]]:
        return self.refresh(), self.query(wanted, latest=latest)

    def sync(self) -> SyncReport:
        bad = self._store.pull(full=True)
        report = super().sync()
        return report._replace(bad=(*bad, *report.bad))

    def _drop(self, bad: Iterable[BadFile]) -> None:
        for file in bad:
            with contextlib.suppress(OSError):
                (self.ledger_root / file.name).unlink()


def record_name(record_id: str) -> str:
    """The name of a record in the bucket, below the ledger's prefix."""
    name = record_id.removeprefix("sha256:")
    return f"objects/{name[:2]}/{name}.json"


def _evidence_name(named: str) -> str:
    name = named.removeprefix("sha256:")
    return f"evidence/{name[:2]}/{name}"


def _signature_name(record_id: str, keyid: str) -> str:
    return f"sigs/{record_id.removeprefix('sha256:')}/{keyid}.json"


def _evidence_of(data: bytes) -> list[str]:
    """Digests of the evidence that a record names; none where it cannot be understood, which verifying will say."""
    try:
        named = decode(data)["predicate"]["evidence"]
        return sorted({entry["digest"] for entry in named if _DIGEST.fullmatch(entry["digest"])})
    except (ValueError, KeyError, TypeError):
        return []


def _read_evidence(name: str, source: Path) -> bytes:
    """A regular file whole. A symbolic link is refused: a rank could plant one."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = file.read(MAX_EVIDENCE_BYTES + 1) if regular else b""
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _no_evidence(name, f"cannot be read ({why})") from error
    if not regular:
        raise _no_evidence(name, "is not a regular file")
    if len(data) > MAX_EVIDENCE_BYTES:
        raise _no_evidence(name, f"is larger than the {MAX_EVIDENCE_BYTES} bytes that are sent to storage")
    return data


def _no_evidence(name: str, why: str) -> LedgerError:
    return LedgerError(
        "attempt-unreadable",
        f"the evidence {safe_text(name)[:120]!r} {why}",
        "the record stands without it; `lanemark verify` will call it not at hand",
    )


def _corrupt(place: str) -> RecordError:
    return RecordError(
        "record-corrupt",
        f"the bytes at {place} are not the ones they are named by",
        "restore that object from a copy or from the storage's own versions; nothing was overwritten",
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
