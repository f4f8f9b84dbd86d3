"""The index's tables, and how a question finds its rows among millions without an index for every combination.

Most of what is asked about (lane, preset, device, mode, outcome …) takes few values, and few combinations of them ever
occur. So each combination is one row of `groups`, and a record's row names its group:

* a filter over those columns is a look through `groups`: thousands of rows, however many records there are. It begins
  with one number a group, `mask`, in which every filtered column has a byte that depends on its value: groups whose
  bytes differ from those asked for are passed over without reading their columns, and the others are compared in full;
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
from binascii import crc32
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Final

from lanemark.ledger.rows import AFTER, SERIES, Filters, IndexRow, newest_first

#: 3: `mask`. 2 looked through whole groups; 1 had one wide table.
SCHEMA_VERSION: Final = 3
#: The columns that a group is made of.
GROUPED: Final = (
    "lane", "preset", "outcome", "device_class", "world_size", "mode", "compile", "dtype", "surface", "startup_state",
    "path_class",
)  # fmt: skip
#: Filter by its column. Each has a byte of `mask`, in this order.
_FILTERED: Final = {
    "lane": "lane", "preset": "preset", "gpu": "device_class", "surface": "surface", "mode": "mode",
    "startup": "startup_state", "outcome": "outcome",
}  # fmt: skip
_NAMES: Final = IndexRow._fields
_OWN: Final = tuple(name for name in _NAMES if name not in GROUPED)
SCHEMA: Final = (
    "CREATE TABLE ledger (root TEXT NOT NULL, reconciled INTEGER NOT NULL)",
    "CREATE TABLE directories (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE groups (
        grp INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, newest TEXT NOT NULL, lane TEXT NOT NULL,
        preset TEXT NOT NULL, outcome TEXT NOT NULL, device_class TEXT COLLATE NOCASE, world_size INTEGER, mode TEXT,
        compile TEXT, dtype TEXT, surface TEXT, startup_state TEXT, path_class TEXT, mask INTEGER NOT NULL
    )""",
    "CREATE INDEX by_newest ON groups (newest DESC, mask)",
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
#: Rows fetched by one statement: few enough values for every SQLite (999 before version 3.32; sqlite.org/limits.html).
_AT_ONCE: Final = 250
_group_of: Final = itemgetter(*(_NAMES.index(name) for name in GROUPED))  # of a row, which is a tuple
_own_of: Final = itemgetter(*(_NAMES.index(name) for name in _OWN if name != "id"))
_key_of: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ADD: Final = (
    f"INSERT OR REPLACE INTO records (id, grp, {', '.join(name for name in _OWN if name != 'id')}) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_OWN) + 1))})"
)


def insert(db: sqlite3.Connection, rows: Iterable[IndexRow]) -> None:
    """Put rows in, replacing those of the same id. Inside a write transaction."""
    groups: dict[tuple[Any, ...], tuple[int, str]] = {}
    newer: dict[int, str] = {}
    values = []
    for row in rows:
        named = _group_of(row)
        found = groups.get(named)
        if found is None:
            found = groups[named] = _group(db, named, row.created)
        grp, newest = found
        if row.created > newest:
            groups[named] = (grp, row.created)
            newer[grp] = row.created
        values.append((_blob(row.id), grp, *_own_of(row)))
    db.executemany(_ADD, values)
    if newer:
        raised = [(newest, grp) for grp, newest in newer.items()]
        db.executemany("UPDATE groups SET newest = ?1 WHERE grp = ?2 AND newest < ?1", raised)


def _group(db: sqlite3.Connection, named: tuple[Any, ...], created: str) -> tuple[int, str]:
    """(number, newest) of a group, made if it is new. Unlike a unique index, a key takes two NULLs for equal."""
    key = _key_of(named)
    found = db.execute("SELECT grp, newest FROM groups WHERE key = ?", (key,)).fetchone()
    if found is not None:
        return found[0], found[1]
    columns = dict(zip(GROUPED, named, strict=True))
    mask, _ = _mask({column: columns[column] for column in _FILTERED.values()})
    text = (
        f"INSERT INTO groups (key, newest, mask, {', '.join(GROUPED)}) VALUES ({', '.join('?' * (len(GROUPED) + 3))})"  # noqa: S608
    )
    made = db.execute(text, (key, created, mask, *named)).lastrowid
    assert made is not None, "an INSERT gives the row it made"
    return made, created


def _mask(values: Mapping[str, str | None]) -> tuple[int, int]:
    """(the bytes that `mask` has for these columns' values, all bits of those bytes). Equal values have equal bytes."""
    mask = whole = 0
    for place, column in enumerate(_FILTERED.values()):
        value = values.get(column)
        if value is not None:
            # Lower case because devices are compared without regard to it; elsewhere it merely makes more values alike.
            mask |= (crc32(value.lower().encode("utf-8", "backslashreplace")) & 0xFF) << 8 * place
            whole |= 0xFF << 8 * place
    return mask, whole


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
    for begin in range(0, len(found), _AT_ONCE):
        rowids = [rowid for _, _, rowid in found[begin : begin + _AT_ONCE]]
        marks = ", ".join("?" * len(rowids))
        whole = f"{_SELECT} records JOIN groups USING (grp) WHERE records.rowid IN ({marks})"
        yield from newest_first(map(_row, db.execute(whole, rowids)))


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
    if terms:
        mask, whole = _mask({column: getattr(wanted, name) for name, column in _FILTERED.items()})
        terms, values = ["mask & ? = ?", *terms], [whole, mask, *values]
    if wanted.since is not None:
        terms, values = [*terms, "newest >= ?"], [*values, wanted.since]
    columns = ", ".join(("grp", "newest", *more))
    text = f"SELECT {columns} FROM groups INDEXED BY by_newest WHERE {' AND '.join(terms) or '1'} ORDER BY newest DESC"  # noqa: S608
    yield from db.execute(text, values)


def _group_terms(wanted: Filters) -> tuple[list[str], list[Any]]:
    """Conditions on `groups` and their values. Only our own literals are pasted; every value is bound."""
    return _used(*((f"{column} = ?", getattr(wanted, name)) for name, column in _FILTERED.items()))


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
