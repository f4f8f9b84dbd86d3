"""`PostgresIndex`: one list of a team's records, shared by all its hosts. As disposable as the SQLite one.

The bucket stays the truth: rows are drawn from records, an append whose row could not be written succeeds with a
notice, and refreshing compares the ids in the bucket with those in the table, so that what was missed comes in with the
next `lanemark list` or `lanemark index sync`. The database may be dropped; an empty one fills itself.

* The schema has a version. Migrations run forward only, under an advisory lock, each in the transaction that records
  it; a database of a newer version is left alone.
* A row is written with ON CONFLICT, so that any number of writers and repetitions come to the same row.
* A connection that was dropped (a restarted server) is made anew once. After that the index cannot be used, and the
  ledger falls back to this machine's own.
* A server that stops in the middle of an answer is not waited for: the connection is cut when the deadline has passed.
* One database may serve several ledgers: rows carry the key of theirs.

`psycopg` is imported when the first row is asked for or written, and by nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lanemark.ledger.copies import ObjectStore, record_name
from lanemark.ledger.index import BadFile, IndexUnusableError, SyncReport
from lanemark.ledger.remote import extra_missing
from lanemark.ledger.rows import AFTER, SERIES, Filters, IndexRow, row_from_bytes

if TYPE_CHECKING:
    import psycopg

    from lanemark.ledger.s3_location import S3Location

_T = TypeVar("_T")

#: "LMIX": the first half of the advisory lock's name, so that it meets no other application's in a shared database.
LOCK_CLASS: Final = 0x4C4D4958
_MIGRATION_LOCK: Final = 1
_COLUMNS: Final = IndexRow._fields
_WHOLE: Final = "world_size"
_REAL: Final = ("tokens_per_s", "step_p50_s")
_REQUIRED: Final = ("id", "run_id", "lane", "preset", "created", "outcome", "receipt")
#: Rows to a statement batch: enough to hide the round trips, little enough to keep a transaction short.
_BATCH: Final = 500
_PAGE: Final = 1000
#: How many times the ordinary deadline a question about every row of a ledger may take.
_BULK: Final = 10
#: One entry a version, from 1: the statements that lead to it from the version before. Entries are never edited.
#: Text is compared byte by byte (COLLATE "C"), as SQLite compares it, so that both indexes give one order.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE lanemark_records (
            ledger text COLLATE "C" NOT NULL,
            id text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL, lane text COLLATE "C" NOT NULL,
            preset text COLLATE "C" NOT NULL, created text COLLATE "C" NOT NULL, outcome text COLLATE "C" NOT NULL,
            receipt boolean NOT NULL, device_class text COLLATE "C", world_size bigint, mode text COLLATE "C",
            compile text COLLATE "C", dtype text COLLATE "C", surface text COLLATE "C",
            startup_state text COLLATE "C", path_class text COLLATE "C", tokens_per_s double precision,
            step_p50_s double precision, git_commit text COLLATE "C", plan_digest text COLLATE "C",
            PRIMARY KEY (ledger, id)
        )""",
        "CREATE INDEX lanemark_by_time ON lanemark_records (ledger, created DESC, id)",
        "CREATE INDEX lanemark_by_preset ON lanemark_records (ledger, preset, created DESC)",
        "CREATE INDEX lanemark_by_device ON lanemark_records (ledger, lower(device_class), created DESC)",
        "CREATE INDEX lanemark_by_run ON lanemark_records (ledger, run_id)",
    ),
)
#: A filter, as a condition. A test holds that every filter has one and that both indexes answer alike.
CONDITIONS: Final[dict[str, str]] = {
    "lane": "lane = %s",
    "gpu": "lower(device_class) = lower(%s)",
    "preset": "preset = %s",
    "since": "created >= %s",
    "run_id": "run_id = %s",
    "surface": "surface = %s",
    "mode": "mode = %s",
    "startup": "startup_state = %s",
    "outcome": "outcome = %s",
    "until": f"created < %s || '{AFTER}'",
    "commit": "starts_with(git_commit, %s)",
}


class PostgresIndex:
    """The rows of one ledger in a PostgreSQL database (see `lanemark.ledger.store.RowIndex`).

    Args:
        place: whose rows; its `shared_index` is the database.
        store: the bucket that is the truth.

    Raises:
        LedgerError: `team-extra-missing`.
    """

    def __init__(self, place: S3Location, store: ObjectStore) -> None:
        assert place.shared_index is not None, "only a location with a shared index has one to open"
        try:
            import psycopg
        except ImportError:
            raise extra_missing("a shared index needs psycopg") from None
        self._psycopg = psycopg
        self._url = place.shared_index
        self._ledger = f"{place.name} {place.key}"
        self._store = store
        self._deadline_s = place.deadline_s
        self._connect_s = max(1, round(place.deadline_s / 2))
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self.name = f"the shared index {self._url}"

    def add(self, row: IndexRow) -> None:
        self._use(lambda db: self._upsert(db, [row]))

    def query(self, wanted: Filters, *, latest: bool = False) -> tuple[IndexRow, ...]:
        text, values = self._question(wanted, latest=latest)
        return self._use(lambda db: tuple(IndexRow(*found) for found in db.execute(text, values)), patience=_BULK)

    def listed(self, wanted: Filters, *, latest: bool = False) -> tuple[SyncReport, tuple[IndexRow, ...]]:
        return self.refresh(), self.query(wanted, latest=latest)

    def stream(self, wanted: Filters) -> Iterator[IndexRow]:
        text, values = self._question(wanted, latest=False)
        db = self._use(lambda db: db)
        try:
            # A named cursor lies on the server, so that the rows come in pages and memory does not grow with them.
            with db.transaction(), db.cursor(name="lanemark_rows") as cursor:
                cursor.itersize = _PAGE
                cursor.execute(text, values)
                for found in cursor:
                    yield IndexRow(*found)
        except self._psycopg.Error as error:
            raise IndexUnusableError(self._said(error)) from None

    def _question(self, wanted: Filters, *, latest: bool) -> tuple[bytes, list[Any]]:
        given = {name: value for name, value in wanted._asdict().items() if name in CONDITIONS and value is not None}
        where = " AND ".join(["ledger = %s", *(CONDITIONS[name] for name in given)])
        limit = "" if wanted.limit is None else f" LIMIT {max(0, wanted.limit)}"
        # Only our own literals are pasted together; every value is bound.
        names, source = ", ".join(_COLUMNS), f"lanemark_records WHERE {where}"
        if latest:
            place = f"row_number() OVER (PARTITION BY {', '.join(SERIES)} ORDER BY created DESC, id)"
            source = f"(SELECT {names}, {place} AS place FROM {source}) AS ranked WHERE place = 1"  # noqa: S608
        text = f"SELECT {names} FROM {source} ORDER BY created DESC, id{limit}"  # noqa: S608
        return text.encode(), [self._ledger, *(_storable(value) for value in given.values())]

    def refresh(self) -> SyncReport:
        return self._reconcile(full=False)

    def sync(self) -> SyncReport:
        return self._reconcile(full=True)

    def close(self) -> None:
        """Give the connection back. The next use makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._psycopg.Error):
                connection.close()

    def __del__(self) -> None:
        # A connection that is merely dropped makes its driver warn about it.
        if getattr(self, "_connection", None) is not None:
            self.close()

    # -- rows from the bucket -----------------------------------------------------------------------------------------

    def _reconcile(self, *, full: bool) -> SyncReport:
        # In this order: what is appended meanwhile is in neither set, and never taken for removed.
        known = self._use(lambda db: self._known(db, whole=full), patience=_BULK)
        there, unfit = self._store.listed()
        bad, unusable = list(unfit), set[str]()
        wanted = sorted(there if full else there - known.keys())
        written, batch = 0, []
        for fetched in self._store.fetch(wanted):
            try:
                row = row_from_bytes(fetched.record_id, fetched.data or b"")
            except ValueError as error:
                problem = fetched.problem or str(error)[:200].encode("utf-8", "backslashreplace").decode()
                bad.append(BadFile(record_name(fetched.record_id), problem))
                unusable.add(fetched.record_id)
                continue
            if known.get(row.id) != _clean(row):
                batch.append(row)
                written += 1
            if len(batch) >= _BATCH:
                self._write(batch)
        self._write(batch)
        gone = sorted(known.keys() - (there - unusable))
        if gone:
            text = b"DELETE FROM lanemark_records WHERE ledger = %s AND id = ANY(%s)"
            self._use(lambda db: db.execute(text, (self._ledger, gone)), patience=_BULK)
        fresh = not known
        return SyncReport(
            added=written if fresh else 0, healed=0 if fresh else written, removed=len(gone), bad=tuple(bad)
        )

    def _known(self, db: psycopg.Connection[tuple[Any, ...]], *, whole: bool) -> dict[str, tuple[Any, ...]]:
        """The rows there are, by id; only their ids unless `whole`."""
        names = ", ".join(_COLUMNS) if whole else "id"
        text = f"SELECT {names} FROM lanemark_records WHERE ledger = %s"  # noqa: S608 - our own names
        return {found[0]: found for found in db.execute(text.encode(), (self._ledger,))}

    def _write(self, batch: list[IndexRow]) -> None:
        if batch:
            rows = list(batch)
            self._use(lambda db: self._upsert(db, rows))
            batch.clear()

    def _upsert(self, db: psycopg.Connection[tuple[Any, ...]], rows: list[IndexRow]) -> None:
        names = ", ".join(_COLUMNS)
        marks = ", ".join(["%s"] * (len(_COLUMNS) + 1))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "id")
        text = (
            f"INSERT INTO lanemark_records (ledger, {names}) VALUES ({marks}) "  # noqa: S608 - our own names
            f"ON CONFLICT (ledger, id) DO UPDATE SET {changes}"
        )
        with db.transaction(), db.cursor() as cursor:
            cursor.executemany(text.encode(), [(self._ledger, *_clean(row)) for row in rows])

    # -- the connection -----------------------------------------------------------------------------------------------

    def _use(self, work: Callable[[psycopg.Connection[tuple[Any, ...]]], _T], patience: int = 1) -> _T:
        """Run `work` on an open connection, anew on a new one if the old one turns out to be dropped.

        It may take `patience` times the location's deadline.

        Every piece of work may be done twice: a commit whose answer was lost is repeated. Upserts and deletions by id
        come to the same rows.
        """
        for last in (False, True):
            fresh = self._connection is None
            try:
                db = self._connected()
                with _cut_after(db, self._deadline_s * patience):
                    return work(db)
            except self._psycopg.Error as error:
                dropped = self._connection is None or self._connection.broken or self._connection.closed
                if dropped:
                    self.close()
                if last or fresh or not dropped:
                    raise IndexUnusableError(self._said(error)) from None
        raise AssertionError("unreachable: the second try returns or raises")

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            connection = self._psycopg.connect(
                self._url.conninfo,
                autocommit=True,
                connect_timeout=self._connect_s,
                application_name="lanemark",
                options=f"-c lock_timeout={self._connect_s * 1000}",  # in milliseconds
            )
            try:
                with _cut_after(connection, self._deadline_s), connection.transaction():
                    migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _said(self, error: Exception) -> str:
        """The driver's words on one line, without a password in them."""
        text = " ".join(self._url.scrub(str(error)).split()) or type(error).__name__
        return text[:300].encode("utf-8", "backslashreplace").decode()


def migrate(db: psycopg.Connection[tuple[Any, ...]]) -> int:
    """Bring the schema to this version, within the caller's transaction; returns the version that was found.

    Raises IndexUnusableError for a schema of a newer version.
    """
    db.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, _MIGRATION_LOCK))
    db.execute("CREATE TABLE IF NOT EXISTS lanemark_index_version (version integer NOT NULL)")
    row = db.execute("SELECT max(version) FROM lanemark_index_version").fetchone()
    found: int = row[0] if row is not None and row[0] is not None else 0
    if found > len(MIGRATIONS):
        raise IndexUnusableError(f"its schema is version {found}, and this Lanemark knows up to {len(MIGRATIONS)}")
    for version in range(found + 1, len(MIGRATIONS) + 1):
        for statement in MIGRATIONS[version - 1]:
            db.execute(statement.encode())
        db.execute("INSERT INTO lanemark_index_version VALUES (%s)", (version,))
    return found


@contextlib.contextmanager
def _cut_after(db: psycopg.Connection[tuple[Any, ...]], seconds: float) -> Iterator[None]:
    """Take the connection's socket away when the block lasts longer, which its driver then reports as dropped.

    A time limit that the server keeps is worth nothing when the server has stopped, and the driver has none of its own.
    """
    descriptor = os.dup(db.fileno())

    def cut() -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as held:
            held.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # it may be cutting at this moment, and must not hold a number that is given out anew
        os.close(descriptor)


def _storable(value: Any) -> Any:
    """Text as PostgreSQL can hold it: NUL is the one character that it cannot."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _clean(row: IndexRow) -> IndexRow:
    return IndexRow(*(_storable(value) for value in row))
