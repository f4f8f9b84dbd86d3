"""A matrix file: which cells a grid has, and what each of them runs. Pure but for reading the file.

```toml
run = ["training", "--steps", "60"]        # arguments of `lanemark run`
command = ["python", "train.py"]           # what stands behind `--`; left out for the reference stack
repeat = 3                                 # runs of each cell
vary = ["compile"]                         # what the cells differ in besides what they set (`compare --vary`)

[axes.compile]                             # an axis: each of its points adds flags, args and env
eager = {}
whole = { args = ["--compile"] }
```
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import tomllib

from lanemark.records.encoding import digest, encode
from lanemark.records.errors import UsageError

#: More cells than this are a study and no small grid; a run of each takes minutes.
MAX_CELLS: Final = 64
_MAX_REPEAT: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
#: What a point may add, and what is varied by it.
_VARIES: Final = {"flags": "flags", "args": "command", "env": "environment"}


@dataclass(frozen=True)
class Cell:
    """One cell: its name, what `lanemark run` is told, and what is added to the environment.

    Attributes:
        varied: what the cell's points set: `command`, `environment`, `flags`.
        declared: the factors that cells may differ in besides, as the file says.
    """

    name: str
    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    varied: frozenset[str]
    declared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Grid:
    """A matrix file, understood. `key` names its contents, so that a changed file is another grid."""

    cells: tuple[Cell, ...]
    repeat: int
    key: str


def read_grid(path: Path) -> Grid:
    """Read and understand a matrix file. Raises UsageError `matrix-invalid`."""
    try:
        doc = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(f"the matrix {str(path)[:200]!r} cannot be read ({str(error)[:120]})") from None
    return grid_of(doc)


def grid_of(doc: dict[str, Any]) -> Grid:
    """The grid that a parsed file describes. Raises UsageError `matrix-invalid`."""
    unknown = sorted(set(doc) - {"run", "command", "repeat", "vary", "axes"})
    if unknown:
        raise _invalid(f"a matrix has no {unknown[0][:40]!r}; it has run, command, repeat, vary and axes")
    run, command, declared = _words(doc, "run"), _words(doc, "command"), frozenset(_words(doc, "vary"))
    repeat = doc.get("repeat", 3)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= _MAX_REPEAT:
        raise _invalid(f"repeat {str(repeat)[:20]!r} is no whole number from 1 to {_MAX_REPEAT}")
    if not run or "--" in run or "--json" in run:
        raise _invalid("run holds the arguments of `lanemark run`, without --json and without a command")
    axes = [_axis(name, points) for name, points in _table(doc, "axes").items()]
    cells = [replace(_cell(run, command, combination), declared=declared) for combination in itertools.product(*axes)]
    if len(cells) > MAX_CELLS:
        raise _invalid(f"the grid has {len(cells)} cells, and {MAX_CELLS} are the most")
    return Grid(tuple(cells), repeat, digest(encode(doc)).partition(":")[2][:24])


def _axis(name: str, points: Any) -> list[tuple[str, str, dict[str, Any]]]:
    if not _NAME.fullmatch(name) or not isinstance(points, dict) or not points:
        raise _invalid(f"the axis {name[:40]!r} is no table of named points")
    found = []
    for point, adds in points.items():
        if not _NAME.fullmatch(point) or not isinstance(adds, dict) or not set(adds) <= set(_VARIES):
            raise _invalid(f"the point {point[:40]!r} of {name} adds other things than flags, args and env")
        found.append((name, point, adds))
    return found


def _cell(run: list[str], command: list[str], points: tuple[tuple[str, str, dict[str, Any]], ...]) -> Cell:
    words, behind, env, varied = list(run), list(command), dict[str, str](), set[str]()
    for _, point, adds in points:
        words += _words(adds, "flags")
        behind += _words(adds, "args")
        for name, value in _table(adds, "env").items():
            if not isinstance(value, str):
                raise _invalid(f"the variable {name[:40]!r} of {point} is not text: write it in quotes")
            env[name] = value
        varied |= {
            what for what, key in (("flags", "flags"), ("command", "args"), ("environment", "env")) if adds.get(key)
        }
    if behind and not command:
        raise _invalid("args are added to a command, and the matrix has none")
    name = ", ".join(f"{axis}={point}" for axis, point, _ in points) or "the only one"
    return Cell(name, (*words, *(("--", *behind) if behind else ())), tuple(sorted(env.items())), frozenset(varied))


def _words(doc: dict[str, Any], key: str) -> list[str]:
    value = doc.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _invalid(f"{key} is a list of words, each in quotes")
    return list(value)


def _table(doc: dict[str, Any], key: str) -> dict[str, Any]:
    value = doc.get(key, {})
    if not isinstance(value, dict):
        raise _invalid(f"{key} is a table")
    return value


def _invalid(what: str) -> UsageError:
    return UsageError("matrix-invalid", what, "see docs/your-script.md, which has one")
