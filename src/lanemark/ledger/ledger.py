"""`Ledger`: append, get, list, sync, verify over one store. The files are the truth, the index is a convenience.

An append is done once the record's file is published; that the index or a piece of evidence could not be written is a
notice, never a failure of the append, because the record itself is safe by then.

The store is a directory unless `lanemark.ledger.location` opened another one; what follows holds for each. An append
that does not reach a store at all raises, and the sealed record waits in its attempt directory for `lanemark collect`.

The index lies in the ledger, or, where `LANEMARK_INDEX` names a directory, in a file of its own there: for a ledger on
a network share, where SQLite's shared memory does not work, or on a read-only disk.

Small results here and in `objects`, `rows` and `lanes.rules` are named tuples, because this runs where a run ends and
defining a frozen dataclass costs ten times as much of the CPU that leaving a record may take.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from lanemark.ledger import objects
from lanemark.ledger.index import BadFile, Index, IndexUnusableError, SyncReport, read_row
from lanemark.ledger.local import LocalStore, unreadable
from lanemark.ledger.rows import Filters, IndexRow, row_from_bytes, row_of, select
from lanemark.records.encoding import decode, digest, safe_text
from lanemark.records.errors import LedgerError, RecordError

if TYPE_CHECKING:
    from lanemark.ledger.keys import PublicKey
    from lanemark.ledger.store import Log, RowIndex, Store
    from lanemark.ledger.verify import Verification
    from lanemark.records.reading import RecordView

INDEX_VARIABLE: Final = "LANEMARK_INDEX"
_Rows = TypeVar("_Rows", "tuple[IndexRow, ...]", "Iterator[IndexRow]")
#: A store that gives one of these for a piece of evidence would give it for the record too, after as long a wait.
_STORE_GONE: Final = frozenset({"ledger-unreachable", "ledger-denied"})


class Appended(NamedTuple):
    """The outcome of an append.

    Attributes:
        id: `sha256:…` of the record.
        path: the file its bytes lie in on this machine: the ledger's own, or a copy of what a remote store now holds.
        notices: what did not work beside it (a piece of evidence, the index), each one sentence.
    """

    id: str
    path: Path
    notices: tuple[str, ...] = ()


class Listing(NamedTuple):
    """Rows, newest first, and what a reader should know about how they were found.

    Attributes:
        rows: one entry a record.
        bad: files that are not what their name says, as far as this listing looked.
        notices: one sentence each.
    """

    rows: tuple[IndexRow, ...]
    bad: tuple[BadFile, ...] = ()
    notices: tuple[str, ...] = ()


class Streaming(NamedTuple):
    """As `Listing`, with rows that are read while they are used. They are to be used once, and soon."""

    rows: Iterator[IndexRow]
    bad: tuple[BadFile, ...] = ()
    notices: tuple[str, ...] = ()


class Ledger:
    """One ledger. Holds no file open between calls; safe to use from several processes at once.

    Args:
        root: its directory; created by the first append.
        environ: where `LANEMARK_INDEX` is looked up; this process's environment when not given.
        store: where the truth lies, when that is not `root` itself.
        indexes: what lists it, in the order in which they are tried; at least one, when given.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str] | None = None,
        *,
        store: Store | None = None,
        indexes: tuple[RowIndex, ...] = (),
    ) -> None:
        self.root = root
        self._store: Store = LocalStore(root) if store is None else store
        if not indexes:
            indexes = (Index(index_path(root, os.environ if environ is None else environ), root),)
        self._index: RowIndex = indexes[0]
        self._spare = indexes[1:]
        self._is_many = False

    @property
    def is_remote(self) -> bool:
        """Whether `root` only holds copies of what another place keeps."""
        return not isinstance(self._store, LocalStore)

    @property
    def index_file(self) -> Path:
        """Where the index on this machine lies. It may be deleted at any time."""
        return next(index.path for index in (self._index, *self._spare) if isinstance(index, Index))

    def append(self, data: bytes, evidence: Iterable[tuple[str, Path | bytes]] = ()) -> Appended:
        """Publish sealed bytes, with copies of their evidence. Appending the same record again changes nothing.

        Evidence goes first, so that a crash never leaves a record whose evidence was about to follow.

        Args:
            data: exactly the sealed bytes.
            evidence: (name in the record, its file or bytes) each.

        Raises:
            LedgerError: `ledger-unwritable`, `ledger-unreachable` or `ledger-denied`: the record itself is not kept.
            RecordError: `record-too-large`, or `record-corrupt` where a remote store has other bytes by its name.
        """
        notices: list[str] = []
        for name, source in evidence:
            try:
                self._store.publish_evidence(name, source)
            except (LedgerError, RecordError) as error:
                if error.slug in _STORE_GONE:
                    raise
                notices.append(f"evidence {safe_text(name)!r} was not kept: {error.what}")
        path = self._store.publish(data)
        record_id = digest(data)
        try:
            # For one record alone, bringing in what finds a row without parsing takes longer than parsing.
            self._index.add(row_from_bytes(record_id, data) if self._is_many else row_of(record_id, decode(data)))
        except (IndexUnusableError, ValueError) as error:
            notices.append(f"the record is kept but not indexed ({error}); `lanemark index sync` lists it")
        return Appended(record_id, path, tuple(notices))

    def keep_signature(self, record_id: str, keyid: str, envelope: bytes) -> bytes | None:
        """Create a signature's file beside a record; what stands there is never replaced, but returned.

        Raises:
            LedgerError: `ledger-unwritable`, `ledger-unreachable` or `ledger-denied`.
        """
        return self._store.keep_signature(record_id, keyid, envelope)

    def signature_place(self, record_id: str, keyid: str) -> str:
        """Where a signature of a record lies or would lie: a path, or `s3://…`."""
        return self._store.signature_place(record_id, keyid)

    def log(self) -> Log:
        """The log of this ledger's records, which may not have been begun (`lanemark.ledger.log`)."""
        return self._store.log()

    def find(self, id_or_prefix: str) -> Path:
        """The file of one record on this machine, by its id, the beginning of its id, or its run id.

        Raises:
            RecordError: `record-missing` or `record-ambiguous`; `record-corrupt` from a remote store.
            LedgerError: `ledger-unreadable`, `ledger-unreachable` or `ledger-denied`.
        """
        return self._store.path(self._id(id_or_prefix))

    def _id(self, id_or_prefix: str) -> str:
        from lanemark.records.attempt import RUN_ID

        if RUN_ID.fullmatch(id_or_prefix):
            rows = self.list(run_id=id_or_prefix).rows
            if not rows:
                raise objects.missing(id_or_prefix)
            return rows[0].id
        return self._store.find(id_or_prefix)

    def get(self, id_or_prefix: str) -> RecordView:
        """One record, read strictly, its bytes held against its name.

        Raises:
            RecordError: `record-missing`, `record-ambiguous`, `record-corrupt`, `record-malformed`, `record-foreign`,
                `record-unfit`, `record-too-new`.
            LedgerError: as `find`.
        """
        from lanemark.records.reading import read_record

        path = self.find(id_or_prefix)
        try:
            data = objects.read_file(path)
        except OSError as error:
            raise unreadable(self.root, error) from error
        if digest(data) != "sha256:" + path.stem:
            raise RecordError(
                "record-corrupt",
                f"the bytes of record {path.stem[:12]} are not the ones it is named by",
                "fetch the record again from a copy, and check the disk",
            )
        return read_record(data)

    def list(
        self,
        *,
        lane: str | None = None,
        gpu: str | None = None,
        preset: str | None = None,
        since: str | None = None,
        run_id: str | None = None,
        limit: int | None = None,
        surface: str | None = None,
        mode: str | None = None,
        startup: str | None = None,
        outcome: str | None = None,
        until: str | None = None,
        commit: str | None = None,
        latest: bool = False,
    ) -> Listing:
        """Records, newest first. Misses nothing that was published, whatever state the index is in.

        Args:
            lane: exactly this lane.
            gpu: observed device class, letter case aside.
            preset: exactly this preset.
            surface: exactly this surface.
            mode: exactly this observed distributed mode.
            startup: exactly this observed start-up state.
            outcome: exactly this final state.
            run_id: exactly this attempt.
            since: sealed at or after this RFC 3339 text, or a prefix of one (`2026-11-22`).
            until: sealed at or before it; a prefix stands for its last moment.
            commit: the observed commit begins with this.
            limit: at most this many of the newest.
            latest: only the newest of each series (`lanemark.ledger.rows.SERIES`) among these.

        Raises:
            LedgerError: `ledger-unreadable`.
        """
        wanted = Filters(lane, gpu, preset, since, run_id, limit, surface, mode, startup, outcome, until, commit)
        rows, bad, notices = self._ask(
            wanted,
            lambda index, asked: index.listed(asked, latest=latest),
            lambda found: select(found, wanted, latest=latest),
        )
        return Listing(tuple(rows), bad, notices)

    def stream(self, wanted: Filters) -> Streaming:
        """As `list`, for any number of records: rows are read while they are used, and memory does not grow.

        Raises:
            LedgerError: `ledger-unreadable`, here or while the rows are read.
        """
        return Streaming(*self._ask(wanted, self._streamed, lambda rows: iter(select(rows, wanted))))

    def _streamed(self, index: RowIndex, wanted: Filters) -> tuple[SyncReport, Iterator[IndexRow]]:
        report = index.refresh()
        rows = index.stream(wanted)
        first = next(rows, None)  # asked for now, so that an index which cannot be used is found out before any output

        def all_of_them() -> Iterator[IndexRow]:
            if first is None:
                return
            yield first
            try:
                yield from rows
            except IndexUnusableError as error:
                raise LedgerError(
                    "ledger-unreadable",
                    f"{index.name} broke off while it was read ({error})",
                    "run the command again; the records are unharmed, and what was written so far is not all of them",
                ) from error

        return report, all_of_them()

    def _ask(
        self,
        wanted: Filters,
        ask: Callable[[RowIndex, Filters], tuple[SyncReport, _Rows]],
        otherwise: Callable[[tuple[IndexRow, ...]], _Rows],
    ) -> tuple[_Rows, tuple[BadFile, ...], tuple[str, ...]]:
        """Rows from the first index that works, brought up to date, else from reading every record."""
        texts: dict[str, Any] = {
            name: safe_text(value) for name, value in wanted._asdict().items() if isinstance(value, str)
        }
        wanted = wanted._replace(**texts)
        if not self._store.exists():
            return otherwise(()), (), ()
        notices: list[str] = []
        for index in (self._index, *self._spare):
            try:
                report, rows = ask(index, wanted)
            except IndexUnusableError as error:
                notices.append(f"{index.name} cannot be used ({error})")
                continue
            if report.set_aside:
                notices.append(f"{index.name} was rebuilt: {report.set_aside}")
            return rows, report.bad, tuple(notices)
        found, bad = self._scan()
        notices[-1] += ", so every record was read instead"
        return otherwise(found), bad, tuple(notices)

    @contextlib.contextmanager
    def many(self) -> Iterator[None]:
        """Appends inside the block keep the index open between them, which makes each several times cheaper.

        Each is as safe as outside the block. Not for use from several threads.
        """
        outer, self._is_many = self._is_many, True
        try:
            with self._index.kept_open() if isinstance(self._index, Index) else contextlib.nullcontext():
                yield
        finally:
            self._is_many = outer

    def sync(self) -> SyncReport:
        """Read and hash every file and make the index say what they say.

        Raises:
            LedgerError: `ledger-unwritable` or `index-unusable`, or as `find` where the store cannot be looked at.
        """
        if not self._store.exists():
            return SyncReport()
        try:
            return self._index.sync()
        except IndexUnusableError as error:
            if not isinstance(self._index, Index):
                raise LedgerError(
                    "index-unusable",
                    f"{self._index.name} cannot be used ({error})",
                    "see to its server, or leave it out of the location; the records are unharmed",
                ) from error
            raise LedgerError(
                "ledger-unwritable",
                f"the index {safe_text(os.fspath(self._index.path))!r} cannot be used ({error})",
                f"make it writable, or name another directory with {INDEX_VARIABLE}; the records are unharmed",
            ) from error

    def verify(self, id_or_prefix: str, *, keys: Iterable[PublicKey] = ()) -> Verification:
        """Verify one record and its evidence in numbered steps (`lanemark.ledger.verify`).

        Every one of `keys` must have signed it.

        Raises:
            RecordError: `record-missing` or `record-ambiguous`.
            LedgerError: `ledger-unreadable`, `ledger-unreachable` or `ledger-denied`.
        """
        from lanemark.ledger.verify import verify_file

        record_id = self._id(id_or_prefix)
        with self._store.at_hand(record_id) as root:
            report = verify_file(objects.object_path(root, record_id), ledger_root=root, keys=tuple(keys))
        return report if root == self.root else replace(report, subject=self._store.place(record_id))

    def _scan(self) -> tuple[tuple[IndexRow, ...], tuple[BadFile, ...]]:
        rows, bad = [], []
        try:
            for item in objects.iter_objects(self.root):
                name = safe_text(os.path.relpath(item.path, self.root))
                if item.record_id is None:
                    bad.append(BadFile(name, item.problem or "is not a record"))
                    continue
                try:
                    rows.append(read_row(item.path, item.record_id))
                except (ValueError, OSError) as error:
                    bad.append(BadFile(name, safe_text(str(error))[:200]))
        except OSError as error:
            raise unreadable(self.root, error) from error
        return tuple(rows), tuple(bad)


def index_path(root: Path, environ: Mapping[str, str]) -> Path:
    """Where the index of the ledger at `root` lies. Pure but for resolving symbolic links in `root`."""
    elsewhere = environ.get(INDEX_VARIABLE)
    if not elsewhere:
        return root / "index.sqlite"
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    return Path(elsewhere) / f"lanemark-{name}.sqlite"
