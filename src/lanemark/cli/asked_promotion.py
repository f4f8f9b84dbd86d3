"""From a command line to the cases of a wave of the promotion lane: one case for each record that it will leave."""

from __future__ import annotations

import argparse
import json
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked, cache_layout, one_of, refuse_arguments, seconds, whole
from lanemark.cli.parsing import Parser
from lanemark.lanes.promotion_claims import ARCH_OF_CLASS, CANDIDATES, check_candidate
from lanemark.lanes.promotion_waves import (
    DIRECTIONS,
    DTYPES,
    PRESETS,
    LeftOut,
    Question,
    Wave,
    check_size,
    questions,
    wave_of_document,
)
from lanemark.observe.clock import stamp
from lanemark.observe.devices import device_facts
from lanemark.records.case import Case, DataAsked, parse_gpu
from lanemark.records.errors import DataError, UsageError

#: Arguments that mean nothing here, with the values that say they were not given.
_UNUSED: Final[dict[str, Any]] = {
    "mode": None, "steps": None, "warmup": None, "sequence": None, "micro_batch": None, "grad_accum": "1",
    "prewarm": "auto", "data": None, "data_class": None, "compile": "eager", "collective_timeout": "600", "seed": "0",
    "backends": None, "repeats": None, "time_indexer": False,
}  # fmt: skip
#: The same of this lane's own arguments, for the lanes that do not have them.
PROMOTION_ONLY: Final[dict[str, Any]] = {"candidate": [], "direction": None, "family": None, "wave": None}
_LARGEST_FILE_BYTES: Final = 1024 * 1024
_WAVE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_FAMILIES: Final = {"dense": "dense_attention", "sparse": "sparse_validation"}


@dataclass(frozen=True)
class AskedWave:
    """A wave with nothing open.

    Attributes:
        name: of the wave, and of its manifest.
        preset: `smoke`, `matrix`, or the file's name without its ending.
        arch: the architecture that claims were asked for; what the device is, the worker sees.
        asked: one for each record.
        left_out: what is not asked, and why.
    """

    name: str
    preset: str
    arch: str
    asked: tuple[Asked, ...]
    left_out: tuple[LeftOut, ...]


def add_arguments(parser: Parser) -> None:
    """The arguments that only the promotion lane takes."""
    group = parser.add_argument_group("what is asked of the promotion lane")
    group.add_argument(
        "--candidate", action="append", default=[], metavar="C",
        help=f"kernel path: {', '.join(CANDIDATES)}, or your own as module:function; may be repeated (default: all "
        "that claim this device)",
    )  # fmt: skip
    group.add_argument(
        "--direction", default=None, metavar="D", help="forward or backward (default: all that is claimed)"
    )
    group.add_argument("--family", default=None, metavar="F", help="of your own candidate: dense (default) or sparse")
    group.add_argument("--wave", default=None, metavar="NAME", help="name of the wave (default: preset and time)")


def understand_wave(args: argparse.Namespace) -> AskedWave:
    """Check every argument and build the cases. Raises UsageError or DataError; reads a wave's file, and asks the host
    whether it has a GPU.
    """
    if getattr(args, "command", ()):
        raise UsageError(
            "value-invalid", "a command of your own is measured in the training lane, not in the promotion lane",
            "name a kernel with --candidate module:function",
        )  # fmt: skip
    refuse_arguments(args, "promotion", _UNUSED)
    if whole(args.nproc, "--nproc", 1, 10**6, slug="nproc-invalid") != 1:
        raise UsageError("nproc-invalid", "the promotion lane runs one process", "leave --nproc out")
    wave = _wave(args)
    gpu = parse_gpu(args.gpu)
    arch = planned_arch(gpu.name)
    family = _FAMILIES[one_of(args.family or "dense", "--family", tuple(_FAMILIES))]
    found, left = questions(wave, arch, mode_of_own=family)
    check_size(found, wave)
    name = args.wave or f"{wave.preset}-{stamp()[:19].replace('-', '').replace(':', '')}Z-{secrets.token_hex(2)}"
    if not _WAVE_NAME.fullmatch(name):
        raise UsageError(
            "value-invalid", f"--wave {name[:60]!r} is no name for a wave", "use letters, digits, `.`, `_` and `-`"
        )
    return AskedWave(name, wave.preset, arch, tuple(_asked(question, wave, args) for question in found), left)


def _wave(args: argparse.Namespace) -> Wave:
    name = "smoke" if args.preset is None else args.preset
    wave = PRESETS[name] if name in PRESETS else _from_file(name)
    for candidate in args.candidate:
        check_candidate(candidate, CANDIDATES)
    if args.candidate:
        wave = replace(wave, candidates=tuple(dict.fromkeys(args.candidate)))
    if args.dtype is not None:
        wave = replace(wave, dtypes=(one_of(args.dtype, "--dtype", DTYPES),))
    if args.direction is not None:
        wave = replace(wave, directions=(one_of(args.direction, "--direction", DIRECTIONS),))
    return wave


def _from_file(name: str) -> Wave:
    path = Path(name)
    if path.suffix != ".json":
        raise UsageError(
            "preset-unknown", f"no wave of the promotion lane is called {name[:80]!r}",
            f"use {', '.join(PRESETS)}, or a file that ends in .json",
        )  # fmt: skip
    try:
        with path.open("rb") as file:
            doc = json.loads(file.read(_LARGEST_FILE_BYTES))
    except OSError as error:
        raise DataError(
            "wave-invalid", f"the wave {name[:200]!r} cannot be read ({error.strerror})", "name a file that can be"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            "wave-invalid", f"the wave {name[:200]!r} does not parse ({str(error)[:120]})", "mend it"
        ) from None
    return wave_of_document(path.stem, doc)


def planned_arch(gpu: str) -> str:
    """The architecture to ask claims for: of the class that was asked for, else of what the host says it has."""
    if gpu in ARCH_OF_CLASS:
        return ARCH_OF_CLASS[gpu]
    seen = device_facts()["device_class"]
    return ARCH_OF_CLASS.get(str(seen.value), "sm_90") if seen.status == "observed" else "cpu"


def _asked(question: Question, wave: Wave, args: argparse.Namespace) -> Asked:
    """One case. A candidate that torch compiles at its first call compiles a region."""
    posture = "regional" if question.asked.candidate == "flex" else "eager"
    policy = one_of(args.cache_policy or "seed", "--cache-policy", ("require", "seed", "cold"))
    case = Case(
        lane="promotion",
        preset=wave.preset,
        nproc=1,
        mode="single",
        compile=posture,  # type: ignore[arg-type]
        dtype=question.dtype,  # type: ignore[arg-type]
        steps=0,
        warmup=0,
        sequence=0,
        micro_batch=0,
        data=DataAsked("synthetic"),
        surface=args.surface,
        gpu=str(parse_gpu(args.gpu)),
        cache_policy=policy,  # type: ignore[arg-type]
        stall_s=seconds(args.stall_timeout, "--stall-timeout"),
        wall_s=seconds(args.wall_limit, "--wall-limit"),
        promotion=question.asked,
    )
    return Asked(
        case=case,
        preset=None,
        dtype_given=True,
        data="synthetic",
        reasons={"cases": f"the cases of the wave {wave.preset} that {question.asked.candidate} claims"},
        cache_layout=cache_layout(args),
        cache_from=tuple(args.cache_from),
        cache_to=args.cache_to,
    )
