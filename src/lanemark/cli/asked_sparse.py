"""From a command line to a `Case` of the sparse lane: a case set, the backends, and how their calls are timed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked, cache_layout, one_of, refuse_arguments, seconds, whole
from lanemark.cli.parsing import Parser
from lanemark.lanes.sparse_presets import SPARSE_PRESETS, CaseSet, parse_case_set
from lanemark.records.case import Case, DataAsked, parse_gpu
from lanemark.records.errors import DataError, UsageError
from lanemark.records.questions import SparseAsked

#: Backends by name, as `lanemark.stack.sparse.backends` has them: that room needs torch, and this one may not.
BACKENDS: Final = ("gather", "sdpa_masked", "flex", "flex_flash", "union", "triton", "dense")
#: Backends whose call is compiled by torch; a case that asks for one compiles a region.
COMPILED: Final = frozenset({"flex", "flex_flash"})
#: Arguments that mean nothing here, with the values that say they were not given.
_OF_STEPS: Final[dict[str, Any]] = {
    "mode": None, "steps": None, "sequence": None, "micro_batch": None, "grad_accum": "1", "prewarm": "auto",
    "data_class": None, "compile": "eager", "collective_timeout": "600", "dtype": None, "seed": "0",
    "tokens_per_step": None, "join": None,
}  # fmt: skip
_LARGEST_FILE_BYTES: Final = 1024 * 1024


def add_arguments(parser: Parser) -> None:
    """The arguments that only the sparse lane takes."""
    group = parser.add_argument_group("what is asked of the sparse lane")
    names = ", ".join(BACKENDS)
    group.add_argument("--backends", default=None, metavar="LIST", help=f"of {names} (default: the set's)")
    group.add_argument("--repeats", default=None, metavar="N", help="timed calls of a backend over a case")
    group.add_argument("--time-indexer", action="store_true", help="let each timed call choose its indices too")


def understand(args: argparse.Namespace) -> Asked:
    """Check every argument and build the case. Raises UsageError or DataError; reads a case set's file and no more."""
    refuse_arguments(args, "sparse", _OF_STEPS)
    if args.data not in (None, "synthetic"):  # what its inputs are in any case
        raise UsageError("value-invalid", "--data means nothing in the sparse lane", "leave --data out")
    chosen = case_set("smoke" if args.preset is None else args.preset)
    reasons: dict[str, str] = {}
    for name, given in (("backends", args.backends), ("warmup", args.warmup), ("repeats", args.repeats)):
        if given is None:
            reasons[name] = f"the case set {chosen.name}'s default"
    backends = _backends(args.backends.split(",") if args.backends is not None else list(chosen.backends))
    if whole(args.nproc, "--nproc", 1, 10**6, slug="nproc-invalid") != 1:
        raise UsageError("nproc-invalid", "the sparse lane runs one process", "leave --nproc out")
    if args.time_indexer and any(case.index_set != "indexer" for case in chosen.cases):
        raise UsageError(
            "value-invalid",
            f"--time-indexer was given and the case set {chosen.name} has indices that are drawn, not chosen",
            "give a case set of index_set `indexer` alone",
        )
    posture = "regional" if COMPILED & set(backends) else "eager"
    reasons["compile"] = "a backend that torch compiles is among them" if posture == "regional" else "none is compiled"
    policy = args.cache_policy
    if policy is None:
        policy, reasons["cache_policy"] = "seed", "one rank waits for nobody, and the run fills the cache for the next"
    case = Case(
        lane="sparse",
        preset=chosen.name,
        nproc=1,
        mode="single",
        compile=posture,  # type: ignore[arg-type]
        dtype="fp32" if any(each.dtype == "fp32" for each in chosen.cases) else "bf16",
        steps=0,
        warmup=0,
        sequence=0,
        micro_batch=0,
        data=DataAsked("synthetic"),
        surface=args.surface,
        gpu=str(parse_gpu(args.gpu)),
        seed=0,
        cache_policy=one_of(policy, "--cache-policy", ("require", "seed", "cold")),  # type: ignore[arg-type]
        stall_s=seconds(args.stall_timeout, "--stall-timeout"),
        wall_s=seconds(args.wall_limit, "--wall-limit"),
        sparse=SparseAsked(
            backends=backends,
            cases=chosen.cases,
            warmup=chosen.warmup if args.warmup is None else whole(args.warmup, "--warmup", 0, 10_000),
            repeats=chosen.repeats if args.repeats is None else whole(args.repeats, "--repeats", 1, 10_000),
            indexer_timed=bool(args.time_indexer),
        ),
    )
    return Asked(
        case=case,
        preset=None,
        dtype_given=True,
        data="synthetic",
        reasons=reasons,
        cache_layout=cache_layout(args),
        cache_from=tuple(args.cache_from),
        cache_to=args.cache_to,
    )


def _backends(names: list[str]) -> tuple[str, ...]:
    wanted = [name.strip() for name in names]
    wrong = [name for name in wanted if name not in BACKENDS]
    if wrong or not wanted:
        named = wrong[0] if wrong else ""
        raise UsageError(
            "value-invalid", f"no sparse backend is called {named[:40]!r}", f"give some of {', '.join(BACKENDS)}"
        )
    return tuple(dict.fromkeys(wanted))


def case_set(name: str) -> CaseSet:
    """A case set by name, or from a user's TOML or JSON file.

    Raises:
        UsageError: `preset-unknown`, where it is neither.
        DataError: `case-set-invalid`.
    """
    if name in SPARSE_PRESETS:
        return SPARSE_PRESETS[name]
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise UsageError(
            "preset-unknown",
            f"no case set of the sparse lane is called {name[:80]!r}",
            f"use {', '.join(SPARSE_PRESETS)}, or a file that ends in .toml or .json",
        )
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE_BYTES)
    except OSError as error:
        what = f"the case set {name[:200]!r} cannot be read ({error.strerror})"
        raise DataError("case-set-invalid", what, "name a file that can be") from None
    return parse_case_set(path.stem, _document(name, data, toml=path.suffix == ".toml"))


def _document(name: str, data: bytes, *, toml: bool) -> Any:
    try:
        if not toml:
            return json.loads(data)
        import tomllib

        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(
            "case-set-invalid", f"the case set {name[:200]!r} does not parse ({str(error)[:120]})", "mend it"
        ) from None
