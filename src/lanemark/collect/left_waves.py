"""A wave of the promotion lane that was left on this host: its state on disk, and which case is the next.

    waiting ─▶ left ─▶ ended        one case at a time: several would share the device and each other's memory
       ▲         └──▶ waiting       (nothing was launched: it is tried again)

    left-waves/<name>/
    wave.json       the cases and what became of each; replaced atomically
    wave.lock       held (flock) by the wave's driver for as long as it lives
    driver.log      what the driver said

A driver (`lanemark.cli.wave_driver`) leaves the cases one after another, each with a supervisor of its own. A run's id
is in `wave.json` *before* the run is handed over, so that a driver that goes on after another one was killed finds the
run and launches nothing twice. Whoever finds the lock free knows that nobody is at the wave: what it had left goes on
by itself, and the next case waits for somebody who resumes the wave.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lanemark.collect.lock import AttemptLock
from lanemark.measure.durable import replace_file
from lanemark.records.case import Case
from lanemark.records.encoding import encode
from lanemark.records.errors import LedgerError

FORMAT: Final = 1


@dataclass(frozen=True)
class LeftCase:
    """One case of a left wave.

    Attributes:
        case: the question.
        reasons: why arguments have the values that nobody asked for.
        run_id: of its newest attempt, once one was prepared.
        state: the state that this attempt ended in; None before.
        earlier: run ids of attempts before it, that were never launched or did not end well.
    """

    case: Case
    reasons: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    state: str | None = None
    earlier: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        doc = {"case": self.case.to_json(), "reasons": dict(self.reasons), "earlier": list(self.earlier)}
        optional = {"run_id": self.run_id, "state": self.state}
        return doc | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> LeftCase:
        return cls(
            Case.from_json(doc["case"]), dict(doc["reasons"]), doc.get("run_id"), doc.get("state"),
            tuple(doc["earlier"]),
        )  # fmt: skip


@dataclass(frozen=True)
class LeftWave:
    """A left wave.

    Attributes:
        name, preset: of the wave.
        argv: the command line that left it, for the records.
        words: the same without the verb, for advice.
        cwd: where that was.
        cases: in the order in which they run.
        left_out: what the wave does not ask, for its manifest.
        cache: how the compile cache is laid out and seeded: `layout`, `from`, `to`.
        artifacts: what was pinned for the runs.
        driver: ids of the process that is at it, or was last.
        stopped: why the driver ended before the wave did; None where it did not, or was killed.
    """

    name: str
    preset: str
    argv: tuple[str, ...]
    words: tuple[str, ...]
    cwd: str
    cases: tuple[LeftCase, ...]
    left_out: tuple[Mapping[str, Any], ...] = ()
    cache: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    driver: Mapping[str, str] = field(default_factory=dict)
    stopped: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every case ended with a record of a run that ended well."""
        return all(each.state == "ok" for each in self.cases)

    @property
    def num_ended(self) -> int:
        """How many cases have ended, however they did."""
        return sum(each.state is not None for each in self.cases)

    def with_case(self, number: int, **changes: Any) -> LeftWave:
        """The wave with one case changed."""
        cases = list(self.cases)
        cases[number] = replace(cases[number], **changes)
        return replace(self, cases=tuple(cases))

    def next_case(self) -> int | None:
        """The case that is to be left, or was and has not ended; None where all have. A cancelled one ends the wave."""
        if any(each.state == "cancelled" for each in self.cases):
            return None
        return next((number for number, each in enumerate(self.cases) if each.state is None), None)

    def resumed(self) -> LeftWave:
        """The wave as it is gone on with: what did not end well is asked again."""
        cases = tuple(
            each if each.state in (None, "ok")
            else replace(each, run_id=None, state=None, earlier=(*each.earlier, each.run_id or "unknown"))
            for each in self.cases
        )  # fmt: skip
        return replace(self, cases=cases, stopped=None)

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "format": FORMAT, "wave": self.name, "preset": self.preset, "argv": list(self.argv),
            "words": list(self.words), "cwd": self.cwd, "cases": [each.to_json() for each in self.cases],
            "left_out": [dict(each) for each in self.left_out], "cache": dict(self.cache),
            "artifacts": dict(self.artifacts), "driver": dict(self.driver),
        }  # fmt: skip
        return doc if self.stopped is None else {**doc, "stopped": self.stopped}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> LeftWave:
        """Read back `to_json`. Raises ValueError, KeyError or TypeError on anything else."""
        if doc.get("format") != FORMAT:
            raise ValueError(f"format {doc.get('format')!r} of a left wave, not {FORMAT}")
        return cls(
            doc["wave"], doc["preset"], tuple(doc["argv"]), tuple(doc["words"]), doc["cwd"],
            tuple(LeftCase.from_json(each) for each in doc["cases"]), tuple(doc["left_out"]), doc["cache"],
            doc["artifacts"], doc["driver"], doc.get("stopped"),
        )  # fmt: skip


class LeftWavePlace:
    """File names of one left wave, and its lock."""

    def __init__(self, left_waves: Path, name: str) -> None:
        self.root = left_waves / name
        self.state = self.root / "wave.json"
        self.log = self.root / "driver.log"
        self.lock = AttemptLock(self.root / "wave.lock")

    def exists(self) -> bool:
        """Whether such a wave was ever left here."""
        return self.state.is_file()

    def read(self) -> LeftWave:
        """Raises LedgerError `wave-missing` where there is none that can be read."""
        try:
            return LeftWave.from_json(json.loads(self.state.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(
                "wave-missing", f"no wave {self.root.name[:80]!r} that was left here can be read "
                f"({type(error).__name__})", "see `lanemark promotion wave` for those that there are",
            ) from None  # fmt: skip

    def save(self, wave: LeftWave) -> LeftWave:
        """Write the state down, durably. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        replace_file(self.state, encode(wave.to_json()))
        return wave

    def is_driven(self) -> bool:
        """Whether a driver is at it now."""
        try:
            with AttemptLock(self.root / "wave.lock") as held:
                return not held
        except OSError:
            return False


def left_waves(root: Path) -> list[LeftWavePlace]:
    """Every wave that was left here, by name."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [place for name in names if (place := LeftWavePlace(root, name)).exists()]
