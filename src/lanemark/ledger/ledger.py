"""`Ledger`: append, get, list, sync, verify over one directory. The files are the truth, the index is a convenience.

An append is done once the record's file is published; that the index or a piece of evidence could not be written is a
notice, never a failure of the append, because the record itself is safe by then.

The index lies in the ledger, or, where `LANEMARK_INDEX` names a directory, in a file of its own there: for a ledger on
a network share, where SQLite's shared memory does not work, or on a read-only disk.

Small results here and in `objects`, `rows` and `lanes.rules` are named tuples, because this runs where a run ends and
defining a frozen dataclass costs ten times as much of the CPU that leaving a record may take.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lanemark.ledger import objects
from lanemark.ledger.index import BadFile, Index, IndexUnusableError, SyncReport, read_row
from lanemark.ledger.rows import Filters, IndexRow, row_of, select
from lanemark.records.encoding import decode, digest, safe_text
from lanemark.records.errors import LedgerError, RecordError

if TYPE_CHECKING:
    from lanemark.ledger.verify import Verification
    from lanemark.records.reading import RecordView

INDEX_VARIABLE: Final = "LANEMARK_INDEX"


class Appended(NamedTuple):
    """The outcome of an append.

    Attributes:
        id: `sha256:…` of the record.
        path: where its bytes lie now.
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


class Ledger:
    """One ledger. Holds no file open between calls; safe to use from several processes at once.

    Args:
        root: its directory; created by the first append.
        environ: where `LANEMARK_INDEX` is looked up; this process's environment when not given.
    """

    def __init__(self, root: Path, environ: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._index = Index(index_path(root, os.environ if environ is None else environ), root)

    @property
    def index_file(self) -> Path:
        """Where the index lies. It may be deleted at any time."""
        return self._index.path

    def append(self, data: bytes, evidence: Iterable[tuple[str, Path | bytes]] = ()) -> Appended:
        """Publish sealed bytes, with copies of their evidence. Appending the same record again changes nothing.

        Evidence goes first, so that a crash never leaves a record whose evidence was about to follow.

        Args:
            data: exactly the sealed bytes.
            evidence: (name in the record, its file or bytes) each.

        Raises:
            LedgerError: `ledger-unwritable`: the record itself could not be published.
            RecordError: `record-too-large`.
        """
        notices: list[str] = []
        for name, source in evidence:
            try:
                objects.publish_evidence(self.root, name, source)
            except LedgerError as error:
                notices.append(f"evidence {safe_text(name)!r} was not kept: {error.what}")
        path = objects.publish(self.root, data)
        record_id = digest(data)
        try:
            self._index.add(row_of(record_id, decode(data)))
        except (IndexUnusableError, ValueError) as error:
            notices.append(f"the record is kept but not indexed ({error}); `lanemark index sync` lists it")
        return Appended(record_id, path, tuple(notices))

    def find(self, id_or_prefix: str) -> Path:
        """The file of one record, by its id, the beginning of its id, or its run id.

        Raises:
            RecordError: `record-missing` or `record-ambiguous`.
            LedgerError: `ledger-unreadable`.
        """
        from lanemark.records.attempt import RUN_ID

        if RUN_ID.fullmatch(id_or_prefix):
            rows = self.list(run_id=id_or_prefix).rows
            if not rows:
                raise objects.missing(id_or_prefix)
            return objects.object_path(self.root, rows[0].id)
        try:
            return objects.find(self.root, id_or_prefix)
        except OSError as error:
            raise self._unreadable(error) from error

    def get(self, id_or_prefix: str) -> RecordView:
        """One record, read strictly, its bytes held against its name.

        Raises:
            RecordError: `record-missing`, `record-ambiguous`, `record-corrupt`, `record-malformed`, `record-too-new`.
            LedgerError: `ledger-unreadable`.
        """
        from lanemark.records.reading import read_record

        path = self.find(id_or_prefix)
        try:
            data = objects.read_file(path)
        except OSError as error:
            raise self._unreadable(error) from error
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
    ) -> Listing:
        """Records, newest first. Misses nothing that was published, whatever state the index is in.

        Args:
            lane: exactly this lane.
            gpu: observed device class, letter case aside.
            preset: exactly this preset.
            since: sealed at or after this RFC 3339 text, or a prefix of one (`2026-11-22`).
            run_id: exactly this attempt.
            limit: at most this many of the newest.

        Raises:
            LedgerError: `ledger-unreadable`.
        """
        texts = {"lane": lane, "gpu": gpu, "preset": preset, "since": since, "run_id": run_id}
        wanted = Filters(**{k: safe_text(v) for k, v in texts.items() if v is not None}, limit=limit)
        if not self.root.is_dir():
            return Listing(())
        try:
            report = self._index.refresh()
            rows = self._index.query(wanted)
        except IndexUnusableError as error:
            found, bad = self._scan()
            notice = f"the index cannot be used ({error}), so every record was read instead"
            return Listing(select(found, wanted), bad, (notice,))
        notices = (f"the index was rebuilt: {report.set_aside}",) if report.set_aside else ()
        return Listing(rows, report.bad, notices)

    def sync(self) -> SyncReport:
        """Read and hash every file and make the index say what they say.

        Raises:
            LedgerError: `ledger-unwritable` when the index cannot be written.
        """
        if not self.root.is_dir():
            return SyncReport()
        try:
            return self._index.sync()
        except IndexUnusableError as error:
            raise LedgerError(
                "ledger-unwritable",
                f"the index {safe_text(os.fspath(self._index.path))!r} cannot be used ({error})",
                f"make it writable, or name another directory with {INDEX_VARIABLE}; the records are unharmed",
            ) from error

    def verify(self, id_or_prefix: str) -> Verification:
        """Verify one record and its evidence in numbered steps (`lanemark.ledger.verify`).

        Raises:
            RecordError: `record-missing` or `record-ambiguous`.
            LedgerError: `ledger-unreadable`.
        """
        from lanemark.ledger.verify import verify_file

        return verify_file(self.find(id_or_prefix), ledger_root=self.root)

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
            raise self._unreadable(error) from error
        return tuple(rows), tuple(bad)

    def _unreadable(self, error: OSError) -> LedgerError:
        return LedgerError(
            "ledger-unreadable",
            f"the ledger {safe_text(os.fspath(self.root))!r} cannot be read ({error.strerror or type(error).__name__})",
            "check the permissions of the directory and of the files in it",
        )


def index_path(root: Path, environ: Mapping[str, str]) -> Path:
    """Where the index of the ledger at `root` lies. Pure but for resolving symbolic links in `root`."""
    elsewhere = environ.get(INDEX_VARIABLE)
    if not elsewhere:
        return root / "index.sqlite"
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    return Path(elsewhere) / f"lanemark-{name}.sqlite"
