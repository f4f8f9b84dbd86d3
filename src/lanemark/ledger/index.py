"""The index: a disposable SQLite file over the object files. Losing it costs a rebuild and never a record.

* An index that is damaged, foreign, of another schema version or of another ledger is set aside, not repaired: a new
  one is built from the files. That is also the answer to SQLite's own rare WAL faults (versions before 3.51.3).
* WAL with `synchronous=NORMAL`: a crash of the host may cost the last rows, which the files give back.
* Every write is `BEGIN IMMEDIATE`. A deferred transaction that reads before it writes fails under contention in a way
  that no busy timeout helps.
* `refresh` compares only directories whose modification time changed since it last looked, so that listing after a
  crash between publishing and indexing misses nothing and costs a `stat` a directory.
* What the tables are, and how a question finds its rows among millions, is in `lanemark.ledger.tables`.

Where SQLite cannot work at all (read-only home, no locks) callers catch `IndexUnusableError` and read the files.
Standard library only: appending happens beside the ranks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from lanemark.ledger import tables
from lanemark.ledger.objects import (
    changed_directories,
    read_each,
    read_file,
    records_in,
    sweep_temporary,
)
from lanemark.ledger.rows import Filters, IndexRow, row_from_bytes
from lanemark.ledger.tables import SCHEMA_VERSION
from lanemark.records.encoding import digest

_T = TypeVar("_T")

#: "LMIX" in ASCII; SQLite's header field for telling one application's files from another's (sqlite.org/pragma.html).
APPLICATION_ID: Final = 0x4C4D4958
_BUSY_S: Final = 20.0
#: Directory times have the kernel's tick as their grain (up to 10 ms; 2 s on FAT): a younger one is looked at again.
_SETTLED_S: Final = 2.5


#: Rows to a transaction of a rebuild: fewer commits write each page of the indices fewer times.
_BATCH_ROWS: Final = 5000
#: What a rebuild may hold, in KiB (sqlite.org/pragma.html, cache_size): enough that each page is written once.
_REBUILD_CACHE_KIB: Final = 32_000
#: Pages of its log after which a rebuild writes them into the index (wal_autocheckpoint): four times SQLite's default.
_REBUILD_LOG_PAGES: Final = 4000
#: Connections opened by the process that we were forked from; kept, so that nothing ever closes them here
#: (sqlite.org/howtocorrupt.html, section 2.6).
_INHERITED: Final[list[sqlite3.Connection]] = []


class IndexUnusableError(Exception):
    """SQLite cannot work where the index lies; the text says why. The files are unharmed."""


class _UnfitError(Exception):
    """The index file is not one that this version may use; it is set aside and built anew."""


class BadFile(NamedTuple):
    """A file under `objects/` that is not the record its name promises. `name` is relative to the ledger."""

    name: str
    reason: str


class SyncReport(NamedTuple):
    """What a sync did.

    Attributes:
        added: rows written because the index was new.
        healed: rows written because a standing index lacked them (a writer died between file and row)
            or had them wrong.
        removed: rows whose record is not there any more.
        swept: files that killed writers had left half-written, removed.
        bad: files that are not what their name says. They are not listed, and not touched.
        set_aside: why the former index file was set aside, or None.
    """

    added: int = 0
    healed: int = 0
    removed: int = 0
    swept: int = 0
    bad: tuple[BadFile, ...] = ()
    set_aside: str | None = None


class _Change(NamedTuple):
    """What one directory's files ask of the index: `mtime_ns` is 0 where it must be looked at again."""

    name: str
    mtime_ns: int
    rows: list[IndexRow]
    gone: list[str]


class Index:
    """The index of one ledger. Opens its file for each call, so it may be deleted or replaced at any time.

    Args:
        path: the SQLite file.
        ledger_root: the ledger whose files it lists.
    """

    name: str = "the index"

    def __init__(self, path: Path, ledger_root: Path) -> None:
        self.name = "the index"
        self.path = path
        self.ledger_root = ledger_root
        self._set_aside: str | None = None
        self._keep = False
        self._kept: tuple[sqlite3.Connection, tuple[int, int] | None, int] | None = None

    def add(self, row: IndexRow) -> None:
        """Put one record's row in. Raises IndexUnusableError."""

        def insert(db: sqlite3.Connection) -> None:
            with _transaction(db):
                tables.insert(db, (row,))
                # Known but never looked at: a refresh reads the directory, and a later removal is noticed.
                db.execute("INSERT OR IGNORE INTO directories VALUES (?, 0)", (row.id[7:9],))

        self._use(insert)

    def query(self, wanted: Filters, *, latest: bool = False) -> tuple[IndexRow, ...]:
        """Rows that are wanted, newest first, from the index alone; with `latest` only the newest of each series.

        Raises IndexUnusableError.
        """
        ask = tables.latest if latest else tables.matching
        return self._use(lambda db: tuple(ask(db, wanted)))

    def listed(self, wanted: Filters, *, latest: bool = False) -> tuple[SyncReport, tuple[IndexRow, ...]]:
        """`refresh` and then `query`, over one connection: opening one costs as much as finding the rows."""
        ask = tables.latest if latest else tables.matching
        return self._use(lambda db: (self._reconcile(db, full=False), tuple(ask(db, wanted))))

    def stream(self, wanted: Filters) -> Iterator[IndexRow]:
        """The rows of `query`, a few at a time: memory does not grow with their number. Raises IndexUnusableError.

        The rows are those of the moment at which the first one is asked for.
        """
        with self._used_by_this_call() as db:
            rows = tables.matching(db, wanted)
            while True:
                try:
                    row = next(rows, None)
                except sqlite3.Error as error:
                    raise IndexUnusableError(str(error)) from error
                if row is None:
                    return
                yield row

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Calls inside the block share one connection, which many appends in a row are several times faster with.

        A connection whose file was deleted or replaced meanwhile is not used. Not for use from several threads.
        """
        outer, self._keep = self._keep, True
        try:
            yield
        finally:
            self._keep = outer
            if not outer:
                self._release()

    def refresh(self) -> SyncReport:
        """Bring in what changed on disk since the index last looked; cheap. Raises IndexUnusableError."""
        return self._use(lambda db: self._reconcile(db, full=False))

    def sync(self) -> SyncReport:
        """Read and hash every file, make the index say what they say, and sweep what killed writers left.

        Raises IndexUnusableError.
        """

        def reconcile(db: sqlite3.Connection) -> SyncReport:
            if (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise _UnfitError(f"it is damaged ({verdict[:80]})")
            db.execute(f"PRAGMA cache_size=-{_REBUILD_CACHE_KIB}")
            db.execute(f"PRAGMA wal_autocheckpoint={_REBUILD_LOG_PAGES}")
            return self._reconcile(db, full=True)

        return self._use(reconcile)

    # -- the file ------------------------------------------------------------------------------------------------

    def _use(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` on an open index; set a damaged one aside and try once more."""
        for last in (False, True):
            used = self._identity()
            try:
                with self._connection(used) as db:
                    return work(db)
            except _UnfitError as error:
                why = str(error)
            except sqlite3.OperationalError as error:  # busy, read-only, full, no such directory: not the file's fault
                if not str(error).startswith("no such"):
                    raise IndexUnusableError(str(error)) from error
                why = f"it lacks what it should have ({error})"
            except sqlite3.DatabaseError as error:
                why = f"it is damaged ({error})"
            except OSError as error:
                raise IndexUnusableError(error.strerror or type(error).__name__) from error
            if last:
                raise IndexUnusableError(why)
            self._replace(why, used)
        raise AssertionError("unreachable: the second try returns or raises")

    @contextlib.contextmanager
    def _connection(self, found: tuple[int, int] | None) -> Iterator[sqlite3.Connection]:
        """An open index: the kept one while it is still the file's, which is `found`, else one for this call."""
        if self._kept is not None:
            db, identity, owner = self._kept
            if owner == os.getpid() and identity is not None and identity == found:
                yield db
                return
            self._release()
        db = self._open()
        if self._keep:
            self._kept = (db, self._identity(), os.getpid())
            try:
                yield db
            except BaseException:
                self._release()
                raise
        else:
            with contextlib.closing(db):
                yield db

    @contextlib.contextmanager
    def _used_by_this_call(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for a reading that outlives the call it began in."""
        self._use(self._check_fit)  # an index that is not fit is replaced now, before there is a reader
        try:
            db = self._open()
        except (sqlite3.Error, _UnfitError, OSError) as error:
            raise IndexUnusableError(str(error)) from error
        with contextlib.closing(db):
            yield db

    def _release(self) -> None:
        """Close the kept connection, but not one that a fork inherited: that would end its owner's locks."""
        if self._kept is not None:
            db, _, owner = self._kept
            self._kept = None
            if owner == os.getpid():
                db.close()
            else:
                _INHERITED.append(db)

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._create()
        db = self._connect()
        try:
            self._check_fit(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_fit(self, db: sqlite3.Connection) -> None:
        """Raise _UnfitError unless the open file is an index of this schema version and of this ledger."""
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise _UnfitError("it is not one of ours")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise _UnfitError(f"its schema is version {version}, and this is version {SCHEMA_VERSION}")
        root = db.execute("SELECT root FROM ledger").fetchone()
        if root is None or root[0] != self._root_text():
            raise _UnfitError("it is of another ledger")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(os.fspath(self.path), timeout=_BUSY_S, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            db.close()
            raise
        return db

    def _root_text(self) -> str:
        return os.path.realpath(self.ledger_root).encode("utf-8", "backslashreplace").decode()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process at a time creates or sets aside; opening and using the index needs no such lock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _create(self) -> None:
        """Build an empty index beside its place and rename it in, so that nobody ever opens half a schema."""
        with self._alone():
            if self.path.exists():
                return
            draft = Path(f"{self.path}.new")
            for stale in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm"), Path(f"{draft}-journal")):
                stale.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(os.fspath(draft), isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                with _transaction(db):
                    for statement in tables.SCHEMA:
                        db.execute(statement)
                    db.execute("INSERT INTO ledger VALUES (?, 0)", (self._root_text(),))
                    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            # An index deleted alone leaves its write-ahead log behind, which SQLite would replay into the new one.
            for stale in (Path(f"{self.path}-wal"), Path(f"{self.path}-shm")):
                stale.unlink(missing_ok=True)
            os.replace(draft, self.path)

    def _identity(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            return found.st_dev, found.st_ino
        return None

    def _replace(self, why: str, used: tuple[int, int] | None) -> None:
        """Set aside the file that failed, unless another process has put a new one in its place meanwhile."""
        with self._alone():
            if used is not None and self._identity() == used:
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                aside = f"{self.path}.set-aside-{stamp}-{os.urandom(3).hex()}"
                for suffix in ("-wal", "-shm", ""):  # the file itself last: while it is there, its WAL belongs to it
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
                self._set_aside = why

    # -- rows from files -----------------------------------------------------------------------------------------

    def _reconcile(self, db: sqlite3.Connection, *, full: bool) -> SyncReport:
        seen = dict(db.execute("SELECT name, mtime_ns FROM directories"))
        fresh = not db.execute("SELECT reconciled FROM ledger").fetchone()[0]
        written = removed = 0
        bad: list[BadFile] = []
        directories, present = changed_directories(self.ledger_root, {} if full else seen)
        changes: list[_Change] = []
        for directory in directories:
            if directory.problem is not None:
                bad.append(self._bad(directory.path, directory.problem))
                continue
            name = directory.path.name
            present.add(name)
            mtime_ns = directory.path.stat().st_mtime_ns
            changes.append(self._change(db, directory.path, mtime_ns, bad, full=full))
            if sum(len(change.rows) for change in changes) >= _BATCH_ROWS:
                done = _apply(db, changes)
                written, removed = written + done[0], removed + done[1]
        done = _apply(db, changes) if changes else (0, 0)
        written, removed = written + done[0], removed + done[1]
        for name in seen.keys() - present:
            with _transaction(db):
                removed += tables.remove_within(db, name)
                db.execute("DELETE FROM directories WHERE name = ?", (name,))
        if fresh:
            db.execute("UPDATE ledger SET reconciled = 1")
        why, self._set_aside = self._set_aside, None
        return SyncReport(
            added=written if fresh else 0,
            healed=0 if fresh else written,
            removed=removed,
            swept=sweep_temporary(self.ledger_root) if full else 0,
            bad=tuple(bad),
            set_aside=why,
        )

    def _change(
        self, db: sqlite3.Connection, directory: Path, mtime_ns: int, bad: list[BadFile], *, full: bool
    ) -> _Change:
        """What one two-digit directory has that the index has not. Files are read before the write lock is taken."""
        known = tables.rows_within(db, directory.name)
        names, others = records_in(directory)
        bad += [self._bad(item.path, item.problem or "is not a record") for item in others]
        kept: set[str] = set()
        rows: list[IndexRow] = []
        if not full:
            kept = {record_id for name in names if (record_id := f"sha256:{name[:64]}") in known}
            names = [name for name in names if f"sha256:{name[:64]}" not in kept]
        for name, data in read_each(directory, names):
            record_id = f"sha256:{name[:64]}"
            try:
                if isinstance(data, bytes) and digest(data) == record_id:
                    row = row_from_bytes(record_id, data)
                else:
                    row = read_row(directory / name, record_id)  # long, or else it says what is wrong
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                bad.append(self._bad(directory / name, _reason(error)))
                continue
            kept.add(record_id)
            if known.get(record_id) != row:
                rows.append(row)
        settled = time.time() - mtime_ns / 1e9 >= _SETTLED_S
        return _Change(directory.name, mtime_ns if settled else 0, rows, sorted(known.keys() - kept))

    def _bad(self, path: Path, reason: str) -> BadFile:
        name = os.path.relpath(path, self.ledger_root)
        return BadFile(name.encode("utf-8", "backslashreplace").decode(), reason)


def _apply(db: sqlite3.Connection, changes: list[_Change]) -> tuple[int, int]:
    """Make several directories' changes in one transaction, and forget them; (rows written, rows removed)."""
    with _transaction(db):
        for change in changes:
            tables.insert(db, change.rows)
            tables.remove(db, change.gone)
            db.execute("INSERT OR REPLACE INTO directories VALUES (?, ?)", (change.name, change.mtime_ns))
    done = sum(len(change.rows) for change in changes), sum(len(change.gone) for change in changes)
    changes.clear()
    return done


def read_row(path: Path, record_id: str) -> IndexRow:
    """The row of one object file, its bytes held against its name. Raises ValueError (what is wrong) or OSError."""
    data = read_file(path)
    if digest(data) != record_id:
        raise ValueError("its bytes are not the ones it is named by")
    return row_from_bytes(record_id, data)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or type(error).__name__})"
    return str(error)[:200].encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
