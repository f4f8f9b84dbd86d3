"""The index's tables, and how a question finds its rows among millions without an index for every combination.

Most of what is asked about (lane, preset, device, mode, outcome …) takes few values, and few combinations of them ever
occur. So each combination is one row of `groups`, and a record's row names its group:

* a filter over those columns is a look through `groups`: thousands of rows, however many records there are;
* the newest records of the groups found are merged, the group with the newest record first, and the merge stops as soon
  as no group left can hold a newer one. A question with a limit so costs about as many look-ups as its limit. (With an
  end in time this bound is lost, and the records are walked from that end backwards instead);
* the newest of each series is one look-up a group.

An index for every column would be larger, slower to write, and would still read a million rows for a rare combination
of two common values. `groups.newest` is never too old; after removals it may be too new, which costs a look-up.

A row's id is kept as the 32 bytes of its digest. Standard library only: appending happens beside the ranks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from operator import attrgetter, itemgetter
from typing import Any, Final

from lanemark.ledger.rows import AFTER, SERIES, Filters, IndexRow, newest_first

#: 2: groups. 1 had one wide table.
SCHEMA_VERSION: Final = 2
#: The columns that a group is made of.
GROUPED: Final = (
    "lane", "preset", "outcome", "device_class", "world_size", "mode", "compile", "dtype", "surface", "startup_state",
    "path_class",
)  # fmt: skip
_NAMES: Final = IndexRow._fields
_OWN: Final = tuple(name for name in _NAMES if name not in GROUPED)
SCHEMA: Final = (
    "CREATE TABLE ledger (root TEXT NOT NULL, reconciled INTEGER NOT NULL)",
    "CREATE TABLE directories (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE groups (
        grp INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, newest TEXT NOT NULL, lane TEXT NOT NULL,
        preset TEXT NOT NULL, outcome TEXT NOT NULL, device_class TEXT COLLATE NOCASE, world_size INTEGER, mode TEXT,
        compile TEXT, dtype TEXT, surface TEXT, startup_state TEXT, path_class TEXT
    )""",
    # All that a filter or a series asks of a group, so that looking through the groups reads this index alone.
    """CREATE INDEX by_newest ON groups (
        newest DESC, lane, preset, outcome, device_class, world_size, mode, compile, surface, startup_state
    )""",
    """CREATE TABLE records (
        id BLOB NOT NULL UNIQUE, grp INTEGER NOT NULL, run_id TEXT NOT NULL, created TEXT NOT NULL,
        receipt INTEGER NOT NULL, tokens_per_s REAL, step_p50_s REAL, git_commit TEXT, plan_digest TEXT
    )""",
    "CREATE INDEX by_time ON records (created DESC, id)",
    "CREATE INDEX by_group ON records (grp, created DESC, id)",
    "CREATE INDEX by_run ON records (run_id)",
    "CREATE INDEX by_commit ON records (git_commit) WHERE git_commit IS NOT NULL",
)
_SELECT: Final = f"SELECT {', '.join(_NAMES)} FROM"
_ORDER: Final = "ORDER BY created DESC, id"
#: Above this many rows merging groups has no advantage over walking all records in their order.
_MERGED: Final = 1000
_group_of: Final = attrgetter(*GROUPED)
_own_of: Final = attrgetter(*(name for name in _OWN if name != "id"))
_ADD: Final = (
    f"INSERT OR REPLACE INTO records (id, grp, {', '.join(name for name in _OWN if name != 'id')}) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_OWN) + 1))})"
)


def insert(db: sqlite3.Connection, rows: Iterable[IndexRow]) -> None:
    """Put rows in, replacing those of the same id. Inside a write transaction."""
    groups: dict[tuple[Any, ...], tuple[int, str]] = {}
    values = []
    for row in rows:
        named = _group_of(row)
        grp, newest = groups.get(named) or _group(db, named, row.created)
        groups[named] = (grp, max(newest, row.created))
        values.append((_blob(row.id), grp, *_own_of(row)))
    db.executemany(_ADD, values)
    db.executemany(
        "UPDATE groups SET newest = ?1 WHERE grp = ?2 AND newest < ?1",
        [(newest, grp) for grp, newest in groups.values()],
    )


def _group(db: sqlite3.Connection, named: tuple[Any, ...], created: str) -> tuple[int, str]:
    """(number, newest) of a group, made if it is new. Unlike a unique index, a key takes two NULLs for equal."""
    key = json.dumps(named, ensure_ascii=False, separators=(",", ":"))
    found = db.execute("SELECT grp, newest FROM groups WHERE key = ?", (key,)).fetchone()
    if found is not None:
        return found[0], found[1]
    text = f"INSERT INTO groups (key, newest, {', '.join(GROUPED)}) VALUES ({', '.join('?' * (len(GROUPED) + 2))})"  # noqa: S608
    made = db.execute(text, (key, created, *named)).lastrowid
    assert made is not None, "an INSERT gives the row it made"
    return made, created


def remove(db: sqlite3.Connection, record_ids: Iterable[str]) -> None:
    """Take rows out by id. Inside a write transaction."""
    db.executemany("DELETE FROM records WHERE id = ?", [(_blob(record_id),) for record_id in record_ids])


def remove_within(db: sqlite3.Connection, directory: str) -> int:
    """Take out the rows of one two-digit directory of `objects/`; returns how many."""
    return db.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", _range(directory)).rowcount


def rows_within(db: sqlite3.Connection, directory: str) -> dict[str, IndexRow]:
    """The rows of one two-digit directory of `objects/`, by id."""
    text = f"{_SELECT} records JOIN groups USING (grp) WHERE id BETWEEN ? AND ?"
    return {row.id: row for row in map(_row, db.execute(text, _range(directory)))}


def matching(db: sqlite3.Connection, wanted: Filters) -> Iterator[IndexRow]:
    """The rows that are wanted, newest first, a few at a time."""
    limit = None if wanted.limit is None else max(0, wanted.limit)
    grouped, group_values = _group_terms(wanted)
    own, own_values = _own_terms(wanted)
    if wanted.run_id is not None or wanted.commit is not None:  # few rows, found by an index of their own
        source = "records JOIN groups USING (grp)"
    elif grouped and wanted.until is None and limit is not None and 0 < limit <= _MERGED:
        yield from _merged(db, wanted, limit)
        return
    else:
        source = "records INDEXED BY by_time CROSS JOIN groups USING (grp)"
    where = " AND ".join([*own, *grouped]) or "1"
    text = f"{_SELECT} {source} WHERE {where} {_ORDER}" + ("" if limit is None else f" LIMIT {limit}")
    yield from map(_row, db.execute(text, (*own_values, *group_values)))


def _merged(db: sqlite3.Connection, wanted: Filters, limit: int) -> Iterator[IndexRow]:
    """The newest rows of the groups that match: see the module's docstring."""
    text = f"SELECT created, id, rowid FROM records WHERE grp = ? AND created >= ? {_ORDER} LIMIT ?"  # noqa: S608
    found: list[tuple[str, bytes, int]] = []
    oldest = wanted.since or ""
    for grp, newest in _groups(db, wanted):
        if newest < oldest:
            break
        more = db.execute(text, (grp, oldest, limit)).fetchall()
        if more:
            found = sorted([*found, *more], key=itemgetter(1))
            found.sort(key=itemgetter(0), reverse=True)
            found = found[:limit]
            oldest = found[-1][0] if len(found) == limit else oldest
    whole = f"{_SELECT} records JOIN groups USING (grp) WHERE records.rowid = ?"
    for _, _, rowid in found:
        yield from map(_row, db.execute(whole, (rowid,)))


def latest(db: sqlite3.Connection, wanted: Filters) -> list[IndexRow]:
    """The newest wanted row of each series, newest first."""
    own, own_values = _own_terms(wanted)
    where = " AND ".join(["grp = ?", *own])
    text = f"{_SELECT} records JOIN groups USING (grp) WHERE {where} {_ORDER} LIMIT 1"
    best: dict[tuple[Any, ...], IndexRow] = {}
    for grp, newest, *series in _groups(db, wanted, SERIES):
        named = tuple(series)
        if named in best and best[named].created > newest:
            continue  # nothing in this group is newer than what its series has
        for row in map(_row, db.execute(text, (grp, *own_values))):
            best[named] = newest_first([row, *([best[named]] if named in best else [])])[0]
    kept = newest_first(best.values())
    return kept if wanted.limit is None else kept[: max(0, wanted.limit)]


def _groups(db: sqlite3.Connection, wanted: Filters, more: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """(number, newest, …) of the groups that may hold a wanted row, the one with the newest record first."""
    terms, values = _group_terms(wanted)
    if wanted.since is not None:
        terms, values = [*terms, "newest >= ?"], [*values, wanted.since]
    columns = ", ".join(("grp", "newest", *more))
    text = f"SELECT {columns} FROM groups INDEXED BY by_newest WHERE {' AND '.join(terms) or '1'} ORDER BY newest DESC"  # noqa: S608
    yield from db.execute(text, values)


def _group_terms(wanted: Filters) -> tuple[list[str], list[Any]]:
    """Conditions on `groups` and their values. Only our own literals are pasted; every value is bound."""
    return _used(
        ("lane = ?", wanted.lane),
        ("preset = ?", wanted.preset),
        ("device_class = ?", wanted.gpu),
        ("surface = ?", wanted.surface),
        ("mode = ?", wanted.mode),
        ("startup_state = ?", wanted.startup),
        ("outcome = ?", wanted.outcome),
    )


def _own_terms(wanted: Filters) -> tuple[list[str], list[Any]]:
    """Conditions on `records` and their values."""
    return _used(
        ("run_id = ?", wanted.run_id),
        ("created >= ?", wanted.since),
        ("created < ?", None if wanted.until is None else wanted.until + AFTER),
        ("git_commit >= ?", wanted.commit),
        ("git_commit < ?", None if wanted.commit is None else wanted.commit + AFTER),
    )


def _used(*terms: tuple[str, Any]) -> tuple[list[str], list[Any]]:
    asked = [(text, value) for text, value in terms if value is not None]
    return [text for text, _ in asked], [value for _, value in asked]


def _blob(record_id: str) -> bytes:
    return bytes.fromhex(record_id[7:])


def _range(directory: str) -> tuple[bytes, bytes]:
    return bytes.fromhex(directory + "00" * 31), bytes.fromhex(directory + "ff" * 31)


def _row(values: tuple[Any, ...]) -> IndexRow:
    record_id, run_id, lane, preset, created, outcome, receipt, *rest = values
    return IndexRow("sha256:" + record_id.hex(), run_id, lane, preset, created, outcome, bool(receipt), *rest)
