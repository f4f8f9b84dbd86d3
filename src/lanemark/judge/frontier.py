"""What is known to work: a cell for each lane, mode, compile posture and device class, with its newest evidence.

    alive      the newest runs ended well
    unstable   some of the newest runs ended well and some did not
    failing    none of the newest runs ended well
    stale      what was known was seen under another image, driver or stack than the newest one seen on that device
    unknown    nobody ran it, or nobody saw what would tell

A cell never inherits from its neighbour: that fsdp2 works says nothing of ddp. So cells are shown only from their own
runs, and a combination that nobody ran is `unknown` even where every cell around it is alive. A run whose device or
mode was not observed is no evidence for any cell: it failed before it could say where it was.

Records age. What a device's newest record of any lane says of its image, driver and stack is what is *current* there;
the newest record of a cell that says otherwise makes that cell stale, with the first thing that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of

#: So many of a cell's newest runs decide whether it is stable.
NEWEST: Final = 5
STATES: Final = ("alive", "unstable", "failing", "stale", "unknown")
#: What a record's stack is: name, where it is, in the order in which a change is named.
STACK: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("image", ("image", "digest")),
    ("driver", ("hardware", "observed", "driver")),
    ("cuda", ("hardware", "observed", "cuda")),
    ("torch", ("toolchain", "torch_build")),
    ("nccl", ("toolchain", "nccl")),
)


class Row(Protocol):
    """What an index row says of a record (`lanemark.ledger.rows.IndexRow`)."""

    @property
    def id(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def created(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def receipt(self) -> bool: ...
    @property
    def device_class(self) -> str | None: ...
    @property
    def mode(self) -> str | None: ...
    @property
    def compile(self) -> str | None: ...


class Place(NamedTuple):
    """The name of a cell. `mode` and `device` as observed, `compile` as asked for."""

    lane: str
    mode: str
    compile: str
    device: str


class Cell(NamedTuple):
    """What is known of one place.

    Attributes:
        place: its name.
        state: one of `STATES`.
        newest: id of the newest evidence, or None where there is none.
        created: when that was sealed, or None.
        runs: records of this place, all of them.
        recent: outcomes of the newest, newest first: True where a run ended well and its result may be quoted.
        reason: one clause.
    """

    place: Place
    state: str
    newest: str | None
    created: str | None
    runs: int
    recent: tuple[bool, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `frontier --json` prints it."""
        doc: dict[str, Any] = {
            **self.place._asdict(), "state": self.state, "runs": self.runs, "recent": list(self.recent),
            "reason": self.reason,
        }  # fmt: skip
        return {**doc, **({} if self.newest is None else {"newest": self.newest, "created": self.created})}


class Frontier(NamedTuple):
    """The cells, by lane, device, mode and posture, and how many records fit none."""

    cells: tuple[Cell, ...]
    unplaced: int


class Gathered(NamedTuple):
    """Rows by place, before anything of their stack is known.

    Attributes:
        cells: place → its number of records and its newest rows, newest first.
        latest: device class → the newest row of any lane on it.
        unplaced: how many rows have no device or no mode.
    """

    cells: dict[Place, tuple[int, list[Row]]]
    latest: dict[str, Row]
    unplaced: int


def gather(rows: Iterable[Row]) -> Gathered:
    """Rows of the index, newest first, by place."""
    counts: dict[tuple[str, str | None, str | None, str | None], list[Any]] = {}
    latest: dict[str, Row] = {}
    for row in rows:
        key = (row.lane, row.mode, row.compile, row.device_class)
        found = counts.get(key)
        if found is None:
            counts[key] = [1, row]
            if row.device_class is not None:
                latest.setdefault(row.device_class, row)
        else:
            found[0] += 1
            if len(found) <= NEWEST:
                found.append(row)
    cells, unplaced = {}, 0
    for (lane, mode, posture, device), (count, *newest) in counts.items():
        if mode is None or posture is None or device is None:
            unplaced += count
        else:
            cells[Place(lane, mode, posture, device)] = (count, newest)
    return Gathered(cells, latest, unplaced)


def stack_of(predicate: Doc) -> dict[str, str]:
    """What a record says of its stack: names of `STACK` to text. What was not observed is left out."""
    found = {}
    for name, path in STACK:
        node: Any = predicate
        for step in path:
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get("status") == "absent":
            found[name] = "none"
        elif (value := value_of(node)) is not None:
            found[name] = str(value)
    return found


def settle(gathered: Gathered, stacks: Mapping[str, Mapping[str, str]]) -> Frontier:
    """The frontier, once the stacks of each cell's newest record and of each device's are known.

    Args:
        gathered: of `gather`.
        stacks: record id → its stack (`stack_of`). A record that could not be read is missing.
    """
    cells = [_cell(place, count, rows, gathered.latest, stacks) for place, (count, rows) in gathered.cells.items()]
    lanes = {place.lane for place in gathered.cells}
    for lane in lanes:
        here = [place for place in gathered.cells if place.lane == lane]
        for device in {place.device for place in here}:
            for mode in {place.mode for place in here}:
                for posture in {place.compile for place in here}:
                    place = Place(lane, mode, posture, device)
                    if place not in gathered.cells:
                        cells.append(Cell(place, "unknown", None, None, 0, (), "nobody ran it"))
    cells.sort(key=lambda cell: (cell.place.lane, cell.place.device, cell.place.mode, cell.place.compile))
    return Frontier(tuple(cells), gathered.unplaced)


def _cell(
    place: Place, count: int, rows: list[Row], latest: Mapping[str, Row], stacks: Mapping[str, Mapping[str, str]]
) -> Cell:
    newest = rows[0]
    recent = tuple(row.outcome == "ok" and row.receipt for row in rows)

    def cell(state: str, reason: str) -> Cell:
        return Cell(place, state, newest.id, newest.created, count, recent, reason)

    own, current = stacks.get(newest.id), stacks.get(latest[place.device].id)
    if own is None or current is None:
        return cell("unknown", "its newest record, or the newest of its device, cannot be read")
    changed = next((name for name, _ in STACK if name in own and name in current and own[name] != current[name]), None)
    if changed is not None:
        return cell("stale", f"seen with {changed} {_cut(own[changed])}, and {_cut(current[changed])} is there now")
    unseen = next((name for name, _ in STACK if (name in own) != (name in current)), None)
    if unseen is not None:
        return cell("stale", f"its {unseen} cannot be held against the current one")
    good = sum(recent)
    unsaid = "" if "image" in own else "; its image is not known"
    if good == len(recent):
        return cell("alive", f"the newest {_runs(good)} ended well{unsaid}")
    if good:
        return cell("unstable", f"{good} of the newest {len(recent)} runs ended well{unsaid}")
    return cell("failing", f"the newest {_runs(len(recent))} did not end well{unsaid}")


def _runs(number: int) -> str:
    return "run" if number == 1 else f"{number} runs"


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"
