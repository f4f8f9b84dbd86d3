"""The index's tables, and how a question finds its rows among millions without an index for every combination.

Most of what is asked about (lane, preset, device, mode, outcome …) takes few values, and few combinations of them ever
occur. So each combination is one row of `groups`, and a record's row names its group. A question with a limit then
looks at three things, and stops as soon as it has its rows:

* **the newest records.** What most records match is found among the first few hundred, by their groups' numbers;
* **the groups that may match.** Every filtered column is kept a second time as one text of bytes in `marks`, in which
  byte *n* depends on the value that the group *n* has. Finding the groups of any combination of values takes a
  translation of a few such texts, however many thousand groups there are: no group is read;
* **the newest records of those groups,** the group with the newest record first. With *limit* groups at hand, none of
  the answer is older than the last group's newest record, so that one look-up each finds all of it.

Two values may share a byte: whatever is found so is compared in full before it is an answer. `groups.newest` is never
too old; after removals it may be too new, and then the look-up finds too few rows and the groups are merged one by one.
For a question with an end in time each group's newest record before that end is looked up first.

The newest of each series is one look-up a group.

An index for every column would be larger, slower to write, and would still read a million rows for a rare combination
of two common values. A row's id is kept as the 32 bytes of its digest. Standard library only: appending happens beside
the ranks.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from binascii import crc32
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, Final

from lanemark.ledger.rows import AFTER, SERIES, Filters, IndexRow, newest_first

#: 4: `marks`. 3 had them as a number in each group, 2 looked through whole groups, 1 had one wide table.
SCHEMA_VERSION: Final = 4
#: The columns that a group is made of.
GROUPED: Final = (
    "lane", "preset", "outcome", "device_class", "world_size", "mode", "compile", "dtype", "surface", "startup_state",
    "path_class",
)  # fmt: skip
#: Filter by its column. Each has a row of `marks`.
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
        compile TEXT, dtype TEXT, surface TEXT, startup_state TEXT, path_class TEXT
    )""",
    "CREATE INDEX by_newest ON groups (newest DESC)",
    "CREATE TABLE marks (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE records (
        id BLOB NOT NULL UNIQUE, grp INTEGER NOT NULL, run_id TEXT NOT NULL, created TEXT NOT NULL,
        receipt INTEGER NOT NULL, tokens_per_s REAL, step_p50_s REAL, git_commit TEXT, plan_digest TEXT
    )""",
    "CREATE INDEX by_time ON records (created DESC, id, grp)",
    "CREATE INDEX by_group ON records (grp, created DESC, id)",
    "CREATE INDEX by_run ON records (run_id)",
    "CREATE INDEX by_commit ON records (git_commit) WHERE git_commit IS NOT NULL",
)
_SELECT: Final = f"SELECT {', '.join(_NAMES)} FROM"
_OF_GROUPS: Final = "SELECT created, id, records.rowid FROM groups CROSS JOIN records USING (grp)"
_BEFORE: Final = "SELECT created FROM records WHERE grp = asked.grp AND created < ? ORDER BY created DESC LIMIT 1"
_ORDER: Final = "ORDER BY created DESC, id"
#: Above this many rows merging groups has no advantage over walking all records in their order.
_MERGED: Final = 1000
#: The newest records looked at before any group, and how many times as many where it seems that they will suffice.
_WALKED: Final = 200
_FURTHER: Final = 6
#: How many groups are passed over in order in the time that one takes to be looked up, its page being read from disk.
_LOOKUP: Final = 12
#: Rows fetched by one statement: few enough values for every SQLite (999 before version 3.32; sqlite.org/limits.html).
_AT_ONCE: Final = 250
_group_of: Final = itemgetter(*(_NAMES.index(name) for name in GROUPED))  # of a row, which is a tuple
_own_of: Final = itemgetter(*(_NAMES.index(name) for name in _OWN if name != "id"))
#: For each byte of `marks` what turns a text of them into ones, where it stands, and zeros.
_ONLY: Final = tuple(bytes(value == byte for value in range(256)) for byte in range(256))
_key_of: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ADD: Final = (
    f"INSERT OR REPLACE INTO records (id, grp, {', '.join(name for name in _OWN if name != 'id')}) "  # noqa: S608
    f"VALUES ({', '.join('?' * (len(_OWN) + 1))})"
)


def insert(db: sqlite3.Connection, rows: Iterable[IndexRow]) -> None:
    """Put rows in, replacing those of the same id. Inside a write transaction."""
    groups: dict[tuple[Any, ...], tuple[int, str]] = {}
    newer: dict[int, str] = {}
    made: list[tuple[Any, ...]] = []
    values = []
    for row in rows:
        named = _group_of(row)
        found = groups.get(named)
        if found is None:
            found = groups[named] = _group(db, named, row.created, made)
        grp, newest = found
        if row.created > newest:
            groups[named] = (grp, row.created)
            newer[grp] = row.created
        values.append((_blob(row.id), grp, *_own_of(row)))
    db.executemany(_ADD, values)
    if newer:
        raised = [(newest, grp) for grp, newest in newer.items()]
        db.executemany("UPDATE groups SET newest = ?1 WHERE grp = ?2 AND newest < ?1", raised)
    if made:
        _mark(db, made)


def _group(
    db: sqlite3.Connection, named: tuple[Any, ...], created: str, made: list[tuple[Any, ...]]
) -> tuple[int, str]:
    """(number, newest) of a group, made if it is new. Unlike a unique index, a key takes two NULLs for equal."""
    key = _key_of(named)
    found = db.execute("SELECT grp, newest FROM groups WHERE key = ?", (key,)).fetchone()
    if found is not None:
        return found[0], found[1]
    text = f"INSERT INTO groups (key, newest, {', '.join(GROUPED)}) VALUES ({', '.join('?' * (len(GROUPED) + 2))})"  # noqa: S608
    number = db.execute(text, (key, created, *named)).lastrowid
    assert number is not None, "an INSERT gives the row it made"
    made.append(named)
    return number, created


def _mark(db: sqlite3.Connection, made: list[tuple[Any, ...]]) -> None:
    """Add the bytes of groups just made, in the order of their numbers. No group is ever taken out."""
    (count,) = db.execute("SELECT max(grp) FROM groups").fetchone()
    for column in _FILTERED.values():
        place = GROUPED.index(column)
        added = bytes(_mark_of(named[place]) for named in made)
        old = db.execute("SELECT bytes FROM marks WHERE name = ?", (column,)).fetchone()
        marks = added if old is None else old[0] + added
        if len(marks) != count:
            raise sqlite3.DatabaseError("its marks are not those of its groups")
        db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (column, marks))


def _mark_of(value: str | None) -> int:
    """The byte that stands for a value. Equal values have equal bytes; unequal ones may."""
    # Lower case because devices are compared without regard to it; elsewhere it merely makes more values alike.
    return 0 if value is None else crc32(value.lower().encode("utf-8", "backslashreplace")) & 0xFF


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
    elif grouped and limit is not None and 0 < limit <= _MERGED:
        yield from _newest(db, wanted, limit)
        return
    else:
        source = "records INDEXED BY by_time CROSS JOIN groups USING (grp)"
    where = " AND ".join([*own, *grouped]) or "1"
    text = f"{_SELECT} {source} WHERE {where} {_ORDER}" + ("" if limit is None else f" LIMIT {limit}")
    yield from map(_row, db.execute(text, (*own_values, *group_values)))


def _newest(db: sqlite3.Connection, wanted: Filters, limit: int) -> list[IndexRow]:
    """The newest `limit` rows that match, in three looks: see the module's docstring."""
    fits = _fitting(db, wanted)
    if 1 not in fits:
        return []
    near, is_all = _walked(db, wanted, fits, limit)
    if is_all:
        rows = _whole(db, wanted, near)
        if len(rows) == len(near):  # else another value had the same byte
            return rows
    groups = _ranked(db, wanted, fits, limit)
    first = list(itertools.islice(groups, limit))
    if len(first) == limit:
        bound = first[-1][1]
        for group in groups:
            first.append(group)
            if group[1] < bound:
                break
        rows = _whole(db, wanted, _since(db, wanted, [grp for grp, newest in first if newest >= bound], bound, limit))
        if len(rows) == limit:
            return rows
    return _whole(db, wanted, _merged(db, wanted, itertools.chain(first, groups), limit))


def _walked(db: sqlite3.Connection, wanted: Filters, fits: bytes, limit: int) -> tuple[list[int], bool]:
    """Row numbers of the newest rows that may match, and whether they are as many as asked for or all there are.

    Gives up once it is seen that too few of the newest match.
    """
    own, own_values = _own_terms(wanted)
    where = " AND ".join(own) or "1"
    near: list[int] = []
    rows = db.execute(f"SELECT rowid, grp FROM records INDEXED BY by_time WHERE {where} {_ORDER}", own_values)  # noqa: S608
    for count, (rowid, grp) in enumerate(rows, 1):
        if fits[grp - 1]:
            near.append(rowid)
            if len(near) == limit:
                return near, True
        if count == _WALKED * _FURTHER or (count == _WALKED and len(near) * _FURTHER < limit):
            return near, False
    return near, True


def _fitting(db: sqlite3.Connection, wanted: Filters) -> bytes:
    """A byte for each group in the order of their numbers: 1 where it may match, 0 where it does not."""
    fits, count = -1, 0
    for name, column in _FILTERED.items():
        value = getattr(wanted, name)
        if value is not None:
            found = db.execute("SELECT bytes FROM marks WHERE name = ?", (column,)).fetchone()
            marks = b"" if found is None else found[0]
            fits &= int.from_bytes(marks.translate(_ONLY[_mark_of(value)]), "big")
            count = len(marks)
    return fits.to_bytes(count, "big") if fits > 0 else bytes(count)


def _ranked(db: sqlite3.Connection, wanted: Filters, fits: bytes, limit: int) -> Iterator[tuple[int, str]]:
    """(number, newest) of the groups that may match, the one with the newest record first.

    Where they are many, all groups are read in that order, since `limit` of these come soon; where they are few, they
    are looked up one by one. The two take the same time where the groups that match are spread evenly.
    """
    oldest, count = wanted.since or "", fits.count(1)
    if wanted.until is None and count * count * _LOOKUP > limit * len(fits):
        text = "SELECT grp, newest FROM groups INDEXED BY by_newest WHERE newest >= ? ORDER BY newest DESC"
        yield from (group for group in db.execute(text, (oldest,)) if fits[group[0] - 1])
        return
    found: list[tuple[int, str]] = []
    values: list[Any]
    for some in _some(match.end() for match in re.finditer(b"\x01", fits)):
        if wanted.until is None:
            text, values = f"SELECT grp, newest FROM groups WHERE grp IN ({_places(some)})", some  # noqa: S608
        else:  # of `groups` nothing is needed, whose rows lie far apart
            asked, values = ", ".join(["(?)"] * len(some)), [*some, wanted.until + AFTER]
            text = f"WITH asked (grp) AS (VALUES {asked}) SELECT grp, ({_BEFORE}) FROM asked"  # noqa: S608
        found += [group for group in db.execute(text, values) if group[1] is not None and group[1] >= oldest]
    yield from sorted(found, key=itemgetter(1), reverse=True)


def _since(db: sqlite3.Connection, wanted: Filters, groups: list[int], oldest: str, limit: int) -> list[int]:
    """Row numbers of the newest `limit` rows of these groups, none of them older than `oldest`."""
    terms, values = _group_terms(wanted)
    own, own_values = _own_terms(wanted._replace(since=oldest))
    found: list[tuple[str, bytes, int]] = []
    for some in _some(groups):
        where = " AND ".join([f"groups.grp IN ({_places(some)})", *terms, *own])
        text = f"{_OF_GROUPS} WHERE {where} {_ORDER} LIMIT ?"
        found += db.execute(text, (*some, *values, *own_values, limit))
    return [rowid for _, _, rowid in _in_order(found)[:limit]]


def _merged(db: sqlite3.Connection, wanted: Filters, groups: Iterable[tuple[int, str]], limit: int) -> list[int]:
    """As `_since`, one group after the other in the order of `_ranked`, until none left can hold a newer row."""
    terms, values = _group_terms(wanted)
    own, own_values = _own_terms(wanted._replace(since=None))
    where = " AND ".join(["groups.grp = ?", *terms, *own, "created >= ?"])
    text = f"{_OF_GROUPS} WHERE {where} {_ORDER} LIMIT ?"
    oldest = wanted.since or ""
    found: list[tuple[str, bytes, int]] = []
    for grp, newest in groups:
        if newest < oldest:
            break
        if more := db.execute(text, (grp, *values, *own_values, oldest, limit)).fetchall():
            found = _in_order([*found, *more])[:limit]
            oldest = found[-1][0] if len(found) == limit else oldest
    return [rowid for _, _, rowid in found]


def _whole(db: sqlite3.Connection, wanted: Filters, rowids: list[int]) -> list[IndexRow]:
    """The whole rows of these numbers that really match, newest first."""
    terms, values = _group_terms(wanted)
    rows: list[IndexRow] = []
    for some in _some(rowids):
        where = " AND ".join([f"records.rowid IN ({_places(some)})", *terms])
        rows += map(
            _row, db.execute(f"{_SELECT} records CROSS JOIN groups USING (grp) WHERE {where}", (*some, *values))
        )
    return newest_first(rows)


def latest(db: sqlite3.Connection, wanted: Filters) -> list[IndexRow]:
    """The newest wanted row of each series, newest first."""
    own, own_values = _own_terms(wanted)
    where = " AND ".join(["grp = ?", *own])
    text = f"{_SELECT} records JOIN groups USING (grp) WHERE {where} {_ORDER} LIMIT 1"
    best: dict[tuple[Any, ...], IndexRow] = {}
    for grp, newest, *series in _groups(db, wanted):
        named = tuple(series)
        if named in best and best[named].created > newest:
            continue  # nothing in this group is newer than what its series has
        for row in map(_row, db.execute(text, (grp, *own_values))):
            best[named] = newest_first([row, *([best[named]] if named in best else [])])[0]
    kept = newest_first(best.values())
    return kept if wanted.limit is None else kept[: max(0, wanted.limit)]


def _groups(db: sqlite3.Connection, wanted: Filters) -> Iterator[tuple[Any, ...]]:
    """(number, newest, what names the series …) of the groups that match, the one with the newest record first."""
    terms, values = _group_terms(wanted)
    if wanted.since is not None:
        terms, values = [*terms, "newest >= ?"], [*values, wanted.since]
    columns = ", ".join(("grp", "newest", *SERIES))
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


def _in_order(found: list[tuple[str, bytes, int]]) -> list[tuple[str, bytes, int]]:
    """(created, id, row number) in the order of every answer: newest first, and by id where two are of one time."""
    return sorted(sorted(found, key=itemgetter(1)), key=itemgetter(0), reverse=True)


def _some(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Numbers in lists of as many as one statement takes."""
    left = iter(numbers)
    while some := list(itertools.islice(left, _AT_ONCE)):
        yield some


def _places(some: list[int]) -> str:
    return ", ".join("?" * len(some))


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
