"""A wave: many isolated runs from one file, launched a few at a time and under a cap on dollars. Pure but for its file.

    waiting ─▶ launching ─▶ launched ─▶ ended
                   └───────▶ waiting     (nothing was launched: it may be tried again)

Which run is launched next is a pure function of the wave's state and of what is known of the runs. The state is one
file, replaced atomically: a run's id is written there *before* it is handed over, so that a wave that was interrupted
finds every run that it may have launched, and launches none of them twice.

**The cap is a promise.** What the ended runs cost, and what the running ones can cost at most (their time limit, at the
dearest device they may be served), together never exceed it. A run that does not fit now waits until others end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.measure.durable import replace_file
from lanemark.records.encoding import digest, encode
from lanemark.records.errors import LedgerError

FORMAT: Final = 1
Stage = Literal["waiting", "launching", "launched", "ended"]


@dataclass(frozen=True)
class Entry:
    """One run of a wave.

    Attributes:
        words: the arguments of `lanemark run` that make it.
        at_most_dollars: what it can cost: its time limit, at the dearest device it may be served.
        stage: where it is.
        run_id: of its attempt, once one was prepared.
        earlier: run ids of attempts that were never launched.
        outcome: the state that it ended in.
        receipt: whether its record is one.
        spent_dollars: what it cost; None where that is not known.
        ended_at: when its record was sealed or its worker was done.
    """

    words: tuple[str, ...]
    at_most_dollars: float
    stage: Stage = "waiting"
    run_id: str | None = None
    earlier: tuple[str, ...] = ()
    outcome: str | None = None
    receipt: bool | None = None
    spent_dollars: float | None = None
    ended_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        doc = {**vars(self), "words": list(self.words), "earlier": list(self.earlier)}
        return {name: value for name, value in doc.items() if value is not None}

    @property
    def counted_dollars(self) -> float:
        """What it counts for against the cap: nothing, what it can cost, or what it did cost."""
        if self.stage == "waiting":
            return 0.0
        return self.at_most_dollars if self.stage != "ended" or self.spent_dollars is None else self.spent_dollars


@dataclass(frozen=True)
class Wave:
    """A wave's state.

    Attributes:
        name: from its file.
        entries: in order.
        at_once: runs that may be under way together.
        max_dollars: the cap.
        began_at: when the first run was launched; None before.
    """

    name: str
    entries: tuple[Entry, ...]
    at_once: int
    max_dollars: float
    began_at: str | None = None

    @property
    def key(self) -> str:
        """Names the wave by what it asks: an edited file is another wave."""
        asked = {"name": self.name, "runs": [[*entry.words] for entry in self.entries]}
        return f"{self.name}-{digest(encode(asked)).removeprefix('sha256:')[:12]}"

    @property
    def dollars(self) -> float:
        """Spent by what has ended, and at most by what is under way."""
        return sum(entry.counted_dollars for entry in self.entries)

    def with_entry(self, number: int, **changes: Any) -> Wave:
        entries = list(self.entries)
        entries[number] = replace(entries[number], **changes)
        return replace(self, entries=tuple(entries))

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "at_once": self.at_once,
            "max_dollars": self.max_dollars,
            "runs": [entry.to_json() for entry in self.entries],
        }
        return doc if self.began_at is None else doc | {"began_at": self.began_at}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Wave:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        if doc["format"] != FORMAT:
            raise ValueError(f"wave format {doc['format']!r}, not {FORMAT}")
        entries = tuple(
            Entry(**{**entry, "words": tuple(entry["words"]), "earlier": tuple(entry.get("earlier", ()))})
            for entry in doc["runs"]
        )
        return cls(doc["name"], entries, int(doc["at_once"]), float(doc["max_dollars"]), doc.get("began_at"))


@dataclass(frozen=True)
class Next:
    """What to do now.

    Attributes:
        launch: numbers of entries to launch now.
        collect: numbers of entries to collect.
        over: whether nothing is left to be done.
        capped: numbers of entries that do not fit under the cap, whatever else ends.
    """

    launch: tuple[int, ...] = ()
    collect: tuple[int, ...] = ()
    over: bool = False
    capped: tuple[int, ...] = field(default=())


def following(wave: Wave) -> Next:
    """What to do next with a wave. Pure. Entries are launched in order; one that does not fit now holds nobody up."""
    numbered = list(enumerate(wave.entries))
    under_way = [number for number, entry in numbered if entry.stage in ("launching", "launched")]
    waiting = [number for number, entry in numbered if entry.stage == "waiting"]
    room, left = wave.at_once - len(under_way), wave.max_dollars - wave.dollars
    launch: list[int] = []
    for number in waiting:
        cost = wave.entries[number].at_most_dollars
        if len(launch) < room and cost <= left:
            launch.append(number)
            left -= cost
    idle = not under_way and not launch
    return Next(tuple(launch), tuple(under_way), over=idle, capped=tuple(waiting) if idle else ())


def first_trustworthy(wave: Wave) -> Entry | None:
    """The entry whose record was the first receipt of the wave; None where there is none yet. Pure."""
    ended = [entry for entry in wave.entries if entry.receipt and entry.ended_at is not None]
    return min(ended, key=lambda entry: str(entry.ended_at), default=None)


def dollars_until(wave: Wave, ended_at: str) -> float | None:
    """Dollars of every run that had ended by then; of those still under way, what they could have cost. Pure.

    None where what an ended run cost is not known. Too high rather than too low: a run that was under way for a minute
    counts whole.
    """
    begun = [entry for entry in wave.entries if entry.stage != "waiting"]
    if any(entry.stage == "ended" and entry.spent_dollars is None for entry in begun):
        return None
    return sum(entry.counted_dollars for entry in begun if entry.ended_at is None or entry.ended_at <= ended_at)


def save(path: Path, wave: Wave) -> None:
    """Replace the state file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encode(wave.to_json()))


def load(path: Path, fresh: Wave) -> Wave:
    """The wave as it was left, or `fresh` where it was never begun. Limits are those of today's file.

    Raises:
        LedgerError: `attempt-unreadable`: the state is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return fresh
    try:
        left = Wave.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            "attempt-unreadable", f"the state of the wave {fresh.name!r} is damaged ({type(error).__name__})",
            f"look at {path}; `lanemark runs` lists what it launched",
        ) from None  # fmt: skip
    assert [entry.words for entry in left.entries] == [entry.words for entry in fresh.entries], "the key names the runs"
    return replace(left, at_once=fresh.at_once, max_dollars=fresh.max_dollars)


def states(entries: Sequence[Entry]) -> dict[str, int]:
    """How many entries are at each stage, or ended how. Pure."""
    found: dict[str, int] = {}
    for entry in entries:
        word = entry.outcome or entry.stage
        found[word] = found.get(word, 0) + 1
    return found
