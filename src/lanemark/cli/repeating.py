"""`lanemark run … --repeat N --against OTHER`: several runs of one or two cases in turns, and what they say together.

One run says how fast that run was. Whether a change made a difference shows in several runs of each side, made in turns
(ABAB…) so that whatever the machine does in the meantime happens to both. Each run is a process of its own, exactly as
`lanemark run` alone would be: nothing is warmer for the second one than it would have been.

What may be asked is settled before the first run. Sides whose records no comparison would admit (another preset,
another number of ranks) are refused at once and not an hour later; what differs between the sides is the declared
question.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from lanemark.cli.asked import parsed, understand, whole
from lanemark.cli.parsing import Parser, advise, home, print_json, terminal_width
from lanemark.collect.signals import StopSignals
from lanemark.records.case import Case
from lanemark.records.errors import UsageError

#: Fewer runs on a side do not show the spread between runs (`lanemark.judge.effect`).
_DEFAULT: Final = 3
_MOST: Final = 100
#: A look at the stop signals while a run goes on, in seconds. The run itself is a process of its own.
_LOOK_S: Final = 0.2
#: Fields of a case that a question may be about, and the factor by which `compare --vary` knows each.
QUESTIONS: Final = {
    "mode": "mode",
    "compile": "compile",
    "dtype": "dtype",
    "micro_batch": "batch",
    "grad_accum": "batch",
}
#: Fields that make two cases two questions: a comparison of their records would refuse.
APART: Final = (
    "lane", "preset", "surface", "nproc", "gpu", "warmup", "sequence", "data", "command", "script", "sparse",
    "promotion",
)  # fmt: skip
#: The flag of a case's field, where it is not the field's own name. None: there is none.
_FLAGS: Final[dict[str, str | None]] = {
    "lane": None, "command": None, "script": None, "data": None, "sparse": None, "promotion": None,
    "stall_s": "--stall-timeout", "wall_s": "--wall-limit",
    "collective_timeout_s": "--collective-timeout",
}  # fmt: skip
_OWN: Final = ("--repeat", "--against")


def add_repeating(parser: Parser) -> None:
    """The arguments that make several runs of one command."""
    group = parser.add_argument_group("several runs")
    group.add_argument("--repeat", default=None, metavar="N", help="make N runs (of each side), one after the other")
    group.add_argument(
        "--against", default=None, metavar="OTHER",
        help="in turns with runs of another side: the same arguments with these in one string put in their place "
        f"(\"--compile regional\"), or a file of `lanemark plan`; then compare (default --repeat {_DEFAULT})",
    )  # fmt: skip


def joined(words: list[str]) -> list[str]:
    """The arguments with `--against OTHER` as one word, because OTHER looks like an option itself."""
    out = list(words)
    for place in range(len(words) - 2, -1, -1):
        if words[place] == "--against":
            out[place : place + 2] = [f"--against={words[place + 1]}"]
    return out


def is_asked(options: argparse.Namespace) -> bool:
    """Whether the command is for several runs."""
    return options.repeat is not None or options.against is not None


def repeat(args: list[str], options: argparse.Namespace, parser: Parser) -> int:
    """Make the runs and say what they show.

    Exit 0; 1 when a run failed, which ends the series; 3 when the runs may not be compared after all; and what a run
    that never started exited with.
    """
    count = whole(str(options.repeat or _DEFAULT), "--repeat", 2, _MOST)
    if getattr(options, "detach", False):
        raise UsageError(
            "value-invalid", "--repeat runs one after the other and cannot be detached", "leave one of the two out"
        )
    words = without_own(args)
    sides = {"a": words}
    vary: tuple[str, ...] = ()
    if options.against is not None:
        sides["b"] = other_side(words, options.against)
        vary = question(_case(parser, words), _case(parser, sides["b"]))
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with StopSignals() as stop:
        for number in range(1, count + 1):
            for name, side in sides.items():
                advise(f"lanemark: run {number} of {count}{f' of side {name.upper()}' if len(sides) > 1 else ''}")
                code, answer = run_once(side, stop)
                if answer is not None:
                    made[name].append(answer)
                if code != 0 or stop() is not None:
                    return _ended_early(made, code or 1, as_json=options.json)
    return _say(made, vary, as_json=options.json)


def without_own(args: list[str]) -> list[str]:
    """The arguments of one of the runs: without those of this module. What follows `--` is left alone."""
    end = args.index("--") if "--" in args else len(args)
    out, skip = [], False
    for word in args[:end]:
        if skip:
            skip = False
        elif word in _OWN:
            skip = True
        elif not word.startswith(tuple(f"{flag}=" for flag in _OWN)) and word != "--json":
            out.append(word)
    return [*out, *args[end:]]


def other_side(words: list[str], other: str) -> list[str]:
    """The arguments of the other side: of options given twice the last one counts.

    Raises:
        UsageError: `against-invalid`.
    """
    file = Path(other)
    if other.strip().startswith("-"):
        try:
            more = shlex.split(other)
        except ValueError as error:
            raise _invalid(f"--against {other[:60]!r} does not parse ({error})") from None
    elif other.strip() and file.is_file():
        more = _of_case(file)
    else:
        raise _invalid(f"--against {other[:60]!r} is neither options nor a file")
    if any(word in ("--", *_OWN) or word.startswith(tuple(f"{flag}=" for flag in _OWN)) for word in more):
        raise _invalid("--against holds a word that only the first side may have")
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *more, *words[end:]]


def _of_case(file: Path) -> list[str]:
    """A case that `lanemark plan` printed, or the `case` of a record, as arguments."""
    try:
        doc = json.loads(file.read_bytes())
        case = Case.from_json(doc.get("case", doc))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _invalid(f"the file {str(file)[:120]!r} holds no case ({error})") from None
    words = ["--data", "synthetic"] if case.data.kind == "synthetic" else []
    for field in fields(case):
        flag = _FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
        value = getattr(case, field.name)
        if flag is not None and value is not None and not isinstance(value, bool):
            words += [flag, str(value)]
    return words


def question(a: Case, b: Case) -> tuple[str, ...]:
    """What is asked by running both cases: the factors in which they differ.

    Raises:
        UsageError: `against-invalid`: they are one case, or no comparison would admit their records.
    """
    if a == b:
        raise _invalid("--against changes nothing: both sides are one case")
    apart = [name for name in APART if getattr(a, name) != getattr(b, name)]
    if not apart and a.tokens_per_step != b.tokens_per_step:
        apart = ["tokens a step"]
    if apart:
        raise _invalid(f"the sides differ in {', '.join(apart)}, and records that do are never compared")
    return tuple(sorted({factor for name, factor in QUESTIONS.items() if getattr(a, name) != getattr(b, name)}))


def _invalid(what: str) -> UsageError:
    return UsageError(
        "against-invalid", what, 'give options such as --against "--compile regional", or a file of `lanemark plan`'
    )


def _case(parser: Parser, words: list[str]) -> Case:
    return understand(parsed(parser, words)).case


def run_once(
    words: list[str], stop: StopSignals, more: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, dict[str, Any] | None]:
    """One run: its exit code, and what it printed, where it came to a record. `more` is added to its environment.

    It has a process group of its own, so that Ctrl-C reaches it once, from here, and it can seal its record.
    """
    command = [sys.executable, "-m", "lanemark", "run", *_with_json(words)]
    environ = {**os.environ, **more}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0, env=environ)
    passed = 0
    while True:
        try:
            printed, _ = child.communicate(timeout=_LOOK_S)
            break
        except subprocess.TimeoutExpired:
            if stop.count > passed:
                passed = stop.count
                child.terminate()
    try:
        answer = json.loads(printed)
    except ValueError:
        return child.returncode or 1, None
    return child.returncode, answer if isinstance(answer, dict) and "record_id" in answer else None


def _with_json(words: list[str]) -> list[str]:
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], "--json", *words[end:]]


def _ended_early(made: dict[str, list[dict[str, Any]]], code: int, *, as_json: bool) -> int:
    ids = {name: [run["record_id"] for run in runs] for name, runs in made.items()}
    if as_json:
        print_json({**ids, "complete": False})
    advise(f"lanemark: the series ended early, with {sum(map(len, ids.values()))} records; each is kept")
    return code


def _say(made: dict[str, list[dict[str, Any]]], vary: tuple[str, ...], *, as_json: bool) -> int:
    """What the runs say together, from their records in the ledger."""
    from lanemark.cli.admitting import admitted, series_around
    from lanemark.cli.compare import NOT_COMPARABLE, rendered
    from lanemark.judge.repeated import one_side
    from lanemark.judge.sets import compare_sets
    from lanemark.ledger.location import open_ledger

    ledger = open_ledger(home())
    sides = {name: [admitted(ledger, run["record_id"]) for run in runs] for name, runs in made.items()}
    ids = {name: [record.id for record in side] for name, side in sides.items()}
    if "b" in sides:
        taken = {*ids["a"], *ids["b"]}
        history = [one for one in series_around(ledger, sides["a"][0]) if one.id not in taken]
        comparison = compare_sets(sides["a"], sides["b"], None, vary, history)
        if as_json:
            print_json({**ids, "complete": True, **comparison.to_json()})
        else:
            print(rendered(comparison, sides["a"], sides["b"], vary, terminal_width() or 100))
        return 0 if comparison.verdict.comparable else NOT_COMPARABLE
    side = one_side(sides["a"])
    if as_json:
        print_json({**ids, "complete": True, **side.to_json()})
    else:
        print("\n".join([*(f"  {record_id[:19]}" for record_id in ids["a"]), side.text]))
    return 0 if not side.reasons else NOT_COMPARABLE
