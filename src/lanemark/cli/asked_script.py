"""From a command line with a command of the user's own (`lanemark run training … -- COMMAND …`) to a `Case`.

What Lanemark's own program would be told here, a command decides itself: its mode, precision, sequence and batch. They
stay open in the case (`any`, or left out), and what ran is observed.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from lanemark.cli.asked import MAX_NPROC, Asked, cache_layout, one_of, refuse_arguments, seconds, whole
from lanemark.cli.parsing import Parser
from lanemark.lanes.training import check_window
from lanemark.records.case import SCRIPT_PRESET, Case, DataAsked, parse_gpu
from lanemark.records.errors import UsageError
from lanemark.records.script import ScriptAsked

#: Steps and warm-up where none were given: enough for an interval, and past a compilation that comes late.
DEFAULT_STEPS: Final = 60
DEFAULT_WARMUP: Final = 10
#: Arguments that only Lanemark's own program understands, with the values that say they were not given.
_OURS_ALONE: Final[dict[str, Any]] = {
    "preset": None, "mode": None, "dtype": None, "sequence": None, "micro_batch": None, "grad_accum": "1", "seed": "0",
    "prewarm": "auto", "data": None, "data_class": None, "collective_timeout": "600", "backends": None, "repeats": None,
    "time_indexer": False, "compile": "eager",
}  # fmt: skip
#: How launchers are told the number of ranks: on one node, and in all (source: their own help texts).
_ON_A_NODE: Final = ("--nproc-per-node", "--nproc_per_node", "--num_gpus")
_IN_ALL: Final = ("--num_processes", "--num-processes")
_NODES: Final = ("--nnodes",)


def add_arguments(parser: Parser) -> None:
    """The arguments that only a command takes."""
    group = parser.add_argument_group("what is asked of a command of your own (after `--`)")
    group.add_argument(
        "--tokens-per-step", default=None, metavar="N",
        help="tokens of the global batch in one step, as you declare them: kept beside the figures and never used for "
        "one; mark steps in the script to have tokens counted (docs/your-script.md)",
    )  # fmt: skip
    group.add_argument(
        "--join", default=None, metavar="RUN",
        help="run this node's command in the attempt of another node, which makes the record",
    )  # fmt: skip


def understand(args: argparse.Namespace) -> Asked:
    """Check every argument and build the case. Raises UsageError; looks at nothing but the arguments."""
    command: tuple[str, ...] = args.command
    if getattr(args, "join", None) is not None:
        raise UsageError("join-invalid", "--join is for `lanemark run` alone", "leave --join out")
    for name, default in _OURS_ALONE.items():
        if getattr(args, name, default) != default:
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                "value-invalid", f"{flag} is for the reference stack, and a command decides that itself",
                f"leave {flag} out, or give it to the command in its own words",
            )  # fmt: skip
    refuse_arguments(args, "training", {"cache_layout": "shared"})
    if args.surface != "local":
        _refuse_where_rented(args)
    reasons = dict.fromkeys(("mode", "compile", "dtype"), "a command decides it itself; what ran is observed")
    nproc, why = ranks_of(args.nproc, command)
    if why is not None:
        reasons["nproc"] = why
    steps, warmup = args.steps, args.warmup
    if warmup is None:
        warmup, reasons["warmup"] = str(DEFAULT_WARMUP), "the default for a command"
    num_warmup = whole(warmup, "--warmup", 0, 10**6, slug="warmup-invalid")
    if steps is None:
        steps, reasons["steps"] = str(num_warmup + DEFAULT_STEPS - DEFAULT_WARMUP), "the default for a command"
    num_steps = whole(steps, "--steps", 0, 10**7)
    check_window(num_steps, num_warmup)
    policy = args.cache_policy
    if policy is None:
        policy, reasons["cache_policy"] = "seed", "whether a command compiles is not known before it runs"
    declared = args.tokens_per_step
    case = Case(
        lane="training",
        preset=SCRIPT_PRESET,
        nproc=nproc,
        mode="any",
        compile="any",
        dtype="any",
        steps=num_steps,
        warmup=num_warmup,
        sequence=1,
        micro_batch=1,
        data=DataAsked("own"),
        surface=args.surface,
        gpu=str(parse_gpu(args.gpu)),
        cache_policy=one_of(policy, "--cache-policy", ("require", "seed", "cold")),  # type: ignore[arg-type]
        command=command,
        stall_s=seconds(args.stall_timeout, "--stall-timeout"),
        wall_s=seconds(args.wall_limit, "--wall-limit"),
        script=ScriptAsked(None if declared is None else whole(declared, "--tokens-per-step", 1, 10**12)),
    )
    return Asked(
        case=case,
        preset=None,
        dtype_given=True,
        data=None,
        reasons=reasons,
        cache_layout=cache_layout(args),
        cache_from=tuple(args.cache_from),
        cache_to=args.cache_to,
    )


def _refuse_where_rented(args: argparse.Namespace) -> None:
    """What a command cannot have on a rented box. Raises UsageError `value-invalid`."""
    if args.cache_from:
        raise UsageError(
            "value-invalid", "--cache-from seeds a compile cache, and a command's is empty on a rented box",
            "leave it out: only the reference stack's own questions have a cache on the Volume",
        )  # fmt: skip
    if args.cache_policy == "require":
        raise UsageError(
            "value-invalid", "--cache-policy require wants a covered cache, and a command's is empty on a rented box",
            "leave it out",
        )  # fmt: skip


def ranks_of(given: str, command: tuple[str, ...]) -> tuple[int, str | None]:
    """Ranks in all: as given, else as the command's own launcher is told, else one. And why, where it was not given.

    Raises:
        UsageError: `nproc-invalid`: the command leaves the number to the launcher (`gpu`, `auto`, `2:4`).
    """
    if given != "1":
        return whole(given, "--nproc", 1, MAX_NPROC, slug="nproc-invalid"), None
    nodes = _option(command, _NODES) or "1"
    in_all, on_a_node = _option(command, _IN_ALL), _option(command, _ON_A_NODE)
    text = in_all or on_a_node
    if text is None:
        return 1, "the command names no number of ranks that we know to read"
    if not text.isdigit() or not nodes.isdigit():
        raise UsageError(
            "nproc-invalid",
            f"the command starts {text[:20]!r} ranks on {nodes[:20]!r} nodes, which is decided when it runs",
            "say how many ranks there are in all: --nproc N",
        )
    count = int(text) * (1 if in_all else int(nodes))
    return whole(str(count), "the command's number of ranks", 1, MAX_NPROC, slug="nproc-invalid"), (
        f"{os.path.basename(command[0])} is told so in the command"
    )


def _option(command: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The value of the first such option before the script's own arguments: up to the first word that ends in `.py`."""
    end = next((place for place, word in enumerate(command) if place and word.endswith(".py")), len(command))
    for place, word in enumerate(command[:end]):
        flag, equals, value = word.partition("=")
        if flag in names:
            return value if equals else command[place + 1] if place + 1 < len(command) else None
    return None
