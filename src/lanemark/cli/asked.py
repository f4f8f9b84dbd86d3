"""From a command line to a `Case` and where it is to lie: the arguments that `run` and `plan` share.

Everything chosen here that was not asked for carries its reason, which `plan` prints.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from lanemark.cli.parsing import Parser
from lanemark.lanes.presets import PRESETS, Preset, preset
from lanemark.lanes.training import check_window
from lanemark.launch.environment import CacheLayout
from lanemark.launch.modal_request import Rental
from lanemark.records.case import LANES, PATH_CLASSES, Case, DataAsked, parse_gpu
from lanemark.records.errors import UsageError

#: One node of the field's boxes has 8 GPUs; on a CPU more ranks than this only measure the scheduler.
MAX_NPROC = 64
SURFACES = ("local", "modal")


def add_arguments(parser: Parser) -> None:
    """The arguments of `lanemark run LANE …` and `lanemark plan LANE …`."""
    parser.add_argument("lane", help=f"one of {', '.join(LANES)}; each is its own question")
    group = parser.add_argument_group("what is asked")
    group.add_argument("--preset", default=None, metavar="P",
        help=f"model recipe: {', '.join(PRESETS)} (default dense-nano); in the sparse and promotion lanes a set "
        "of cases: smoke (default), matrix, or a FILE",
    )  # fmt: skip
    group.add_argument("--nproc", default="1", metavar="N", help="ranks on this node (default 1)")
    group.add_argument(
        "--mode", default=None, metavar="M", help="single, ddp or fsdp2 (default: single, fsdp2 above 1)"
    )
    group.add_argument("--gpu", default="any", metavar="SPEC", help="NAME[!][:COUNT], cpu or any (default any)")
    group.add_argument("--compile", default="eager", metavar="C", help="eager, regional or model (default eager)")
    group.add_argument(
        "--dtype",
        default=None,
        metavar="D",
        help="fp32 or bf16 (default: bf16 on a GPU, else fp32); also fp16 in the promotion lane",
    )
    group.add_argument("--steps", default=None, metavar="N", help="optimizer steps in all, warm-up included")
    group.add_argument("--warmup", default=None, metavar="K", help="leading steps (or calls) never measured")
    group.add_argument("--sequence", default=None, metavar="T", help="tokens in a sequence (default: the preset's)")
    group.add_argument("--micro-batch", default=None, metavar="B", help="sequences a rank takes in one forward")
    group.add_argument("--grad-accum", default="1", metavar="A", help="forwards a rank takes in one step (default 1)")
    group.add_argument("--seed", default="0", metavar="S", help="of weights and data order (default 0)")
    group.add_argument(
        "--prewarm", default="auto", metavar="W",
        help="compile one block on each rank before the ranks share the model: auto (default) or off",
    )  # fmt: skip
    from lanemark.cli.asked_script import add_arguments as add_script_arguments
    from lanemark.cli.asked_sparse import add_arguments as add_sparse_arguments

    add_sparse_arguments(parser)
    add_script_arguments(parser)
    from lanemark.cli.asked_promotion import add_arguments as add_promotion_arguments

    add_promotion_arguments(parser)
    from lanemark.cli.asked_modal import add_arguments as add_modal_arguments

    place = parser.add_argument_group("where")
    place.add_argument("--surface", default="local", metavar="S", help="local (default) or modal")
    place.add_argument(
        "--data", default=None, metavar="PATH|URL",
        help="directory of llm.c token shards, s3://, gs://, az:// or https:// of some, which are staged first, or "
        "`synthetic` (default: a corpus of the C++ headers in torch's wheel)",
    )  # fmt: skip
    place.add_argument(
        "--data-class", default=None, metavar="CLASS",
        help=f"what the tokens should be read through, held to what is seen: {', '.join(PATH_CLASSES)}",
    )  # fmt: skip
    place.add_argument(
        "--cache-policy", default=None, metavar="P",
        help="compile cache: require a covered one, seed (use and fill), or cold (a fresh, empty one); default: "
        "require for compiled runs of several ranks, else seed",
    )  # fmt: skip
    place.add_argument(
        "--cache-to", default=None, metavar="FILE", help="capture the compile cache after the run, to FILE.tar.zst"
    )
    place.add_argument(
        "--cache-layout", default="shared", metavar="L",
        help="compile cache: shared by the ranks (default), or per-rank, a directory each",
    )  # fmt: skip
    place.add_argument(
        "--cache-from", action="append", default=[], metavar="SOURCE",
        help="seed the compile cache: a .tar.zst (path or URL), a directory, or a URL ending in /; may be repeated",
    )  # fmt: skip
    add_modal_arguments(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--collective-timeout", default="600", metavar="S", help="a rank may wait S s in a collective, once compiled"
    )
    limits.add_argument("--stall-timeout", default="300", metavar="S", help="end the run after S s without progress")
    limits.add_argument("--wall-limit", default="3600", metavar="S", help="end the run after S s whatever it does")


def whole(text: str, name: str, low: int, high: int, *, slug: str = "value-invalid") -> int:
    """A whole number within bounds. Raises UsageError naming the argument."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high or str(text).strip() != str(text):
        raise UsageError(
            slug, f"{name} {text[:40]!r} is not a whole number from {low} to {high}", f"give {name} such a number"
        )
    return value


def seconds(text: str, name: str) -> float:
    """A finite positive number of seconds. Raises UsageError naming the argument."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 30 * 86_400:
        raise UsageError(
            "value-invalid",
            f"{name} {text[:40]!r} is not a number of seconds up to 30 days",
            f"give {name} such a number",
        )
    return value


def one_of(text: str, name: str, allowed: tuple[str, ...]) -> str:
    """One of a few words. Raises UsageError naming them."""
    if text not in allowed:
        raise UsageError(
            "value-invalid", f"{name} {text[:40]!r} is none of {', '.join(allowed)}", f"give {name} one of them"
        )
    return text


@dataclass(frozen=True)
class Asked:
    """A command line, understood, before anything of the host or the data was looked at.

    Attributes:
        case: everything but the data's digest and a precision that depends on the device, which the host decides.
        preset: the recipe of a model; None in a lane that trains none.
        dtype_given: whether the precision was asked for.
        data: `synthetic`, a directory, a URL to stage from, or None for the default corpus.
        reasons: argument → why it has the value it has, for everything not asked for.
        cache_layout: whether ranks share the compile cache: where the case runs, and no part of it.
        cache_from: layers of the seed, in order, as they were given.
        cache_to: where the compile cache is to be captured afterwards, or None.
        rental: what is to be rented from Modal; None where the run stays here.
    """

    case: Case
    preset: Preset | None
    dtype_given: bool
    data: str | None
    reasons: dict[str, str] = field(default_factory=dict)
    cache_layout: CacheLayout = "shared"
    cache_from: tuple[str, ...] = ()
    cache_to: str | None = None
    rental: Rental | None = None


def understand(args: argparse.Namespace) -> Asked:
    """Check every argument and build the case. Raises UsageError; looks at nothing but the arguments."""
    lane = one_of(args.lane, "the lane", LANES)
    check_surface(args)
    from lanemark.cli import asked_modal, asked_promotion, asked_script, asked_sparse

    if getattr(args, "command", ()):
        if lane != "training":
            raise UsageError(
                "value-invalid", f"a command of your own is measured in the training lane, not in the {lane} lane",
                "use `lanemark run training -- COMMAND`",
            )  # fmt: skip
        rental = asked_modal.rental(args)
        return asked_modal.rented(asked_script.understand(args), rental)

    if lane == "promotion":
        raise UsageError(
            "value-invalid", "the promotion lane asks for a wave of cases, which is no single case",
            "use `lanemark run promotion` or `lanemark plan promotion`",
        )  # fmt: skip
    refuse_arguments(args, lane, asked_promotion.PROMOTION_ONLY)
    rental = asked_modal.rental(args)
    asked = asked_sparse.understand(args) if lane == "sparse" else _training(args)
    return asked_modal.rented(asked, rental)


def check_surface(args: argparse.Namespace) -> None:
    """Refuse a surface that there is not. Raises UsageError `surface-unavailable`."""
    if args.surface not in SURFACES:
        raise UsageError(
            "surface-unavailable",
            f"the surface {args.surface[:40]!r} is not available in this version",
            f"use one of {', '.join(SURFACES)}",
        )


def parsed(parser: Parser, words: list[str]) -> argparse.Namespace:
    """The arguments before `--`, parsed, with what stands behind it as `command`: a tuple, empty for none.

    Raises:
        UsageError: the arguments do not parse, or nothing stands behind `--`.
    """
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.command = tuple(words[end + 1 :])
    if end < len(words) and not options.command:
        raise UsageError("arguments-invalid", "nothing stands behind `--`", "name the command, or leave `--` out")
    return options


def refuse_arguments(args: argparse.Namespace, lane: str, unused: dict[str, Any]) -> None:
    """Refuse what a lane has no use for. `unused`: the argument's attribute → the value that says it was not given."""
    for name, default in unused.items():
        if getattr(args, name, default) != default:
            flag = "--" + name.replace("_", "-")
            raise UsageError("value-invalid", f"{flag} means nothing in the {lane} lane", f"leave {flag} out")


def cache_layout(args: argparse.Namespace) -> CacheLayout:
    """How ranks divide the compile cache, as it was asked for."""
    asked = one_of(args.cache_layout, "--cache-layout", ("shared", "per-rank"))
    return "per_rank" if asked == "per-rank" else "shared"


def _training(args: argparse.Namespace) -> Asked:
    """The training lane's case."""
    refuse_arguments(
        args,
        "training",
        {"backends": None, "repeats": None, "time_indexer": False, "tokens_per_step": None, "join": None},
    )
    recipe = preset("dense-nano" if args.preset is None else args.preset)
    nproc = whole(args.nproc, "--nproc", 1, MAX_NPROC, slug="nproc-invalid")
    reasons: dict[str, str] = {}
    mode = args.mode
    if mode is None:
        mode = "single" if nproc == 1 else "fsdp2"
        reasons["mode"] = f"{nproc} rank{'s' if nproc > 1 else ''} and no --mode given"
    mode = one_of(mode, "--mode", ("single", "ddp", "fsdp2"))
    if mode == "single" and nproc > 1:
        raise UsageError(
            "mode-invalid", f"--mode single has room for one rank, not {nproc}", "use --mode ddp or --mode fsdp2"
        )
    steps, warmup = args.steps, args.warmup
    if steps is None:
        steps = str(
            recipe.steps
            if warmup is None
            else whole(warmup, "--warmup", 0, 10**6, slug="warmup-invalid") + recipe.steps - recipe.warmup
        )
        reasons["steps"] = f"the preset {recipe.name}'s default"
    if warmup is None:
        warmup = str(recipe.warmup)
        reasons["warmup"] = f"the preset {recipe.name}'s default"
    num_steps = whole(steps, "--steps", 0, 10**7)
    num_warmup = whole(warmup, "--warmup", 0, 10**6, slug="warmup-invalid")
    check_window(num_steps, num_warmup)
    gpu = parse_gpu(args.gpu)
    if gpu.name not in ("any", "cpu") and gpu.count is not None and gpu.count != nproc:
        raise UsageError("gpu-spec-invalid", f"--gpu {gpu} asks for {gpu.count} devices and --nproc for {nproc} ranks",
                         f"give one rank a device: --nproc {gpu.count}")  # fmt: skip
    dtype = args.dtype or "fp32"
    compile_posture = one_of(args.compile, "--compile", ("eager", "regional", "model"))
    policy = args.cache_policy
    if policy is None:
        policy, reasons["cache_policy"] = default_policy(nproc, compile_posture)
    case = Case(
        lane="training",
        preset=recipe.name,
        nproc=nproc,
        mode=mode,  # type: ignore[arg-type]  # one_of checked it
        compile=compile_posture,  # type: ignore[arg-type]
        dtype=one_of(dtype, "--dtype", ("fp32", "bf16")),  # type: ignore[arg-type]
        steps=num_steps,
        warmup=num_warmup,
        sequence=_sequence(args.sequence, recipe),
        micro_batch=whole(args.micro_batch or str(recipe.micro_batch), "--micro-batch", 1, 4096),
        grad_accum=whole(args.grad_accum, "--grad-accum", 1, 4096),
        seed=whole(args.seed, "--seed", 0, 2**31 - 1),
        data=_tokens(args),
        surface=args.surface,
        gpu=str(gpu),
        cache_policy=one_of(policy, "--cache-policy", ("require", "seed", "cold")),  # type: ignore[arg-type]
        stall_s=seconds(args.stall_timeout, "--stall-timeout"),
        wall_s=seconds(args.wall_limit, "--wall-limit"),
        prewarm=one_of(args.prewarm, "--prewarm", ("auto", "off")),  # type: ignore[arg-type]
        collective_timeout_s=seconds(args.collective_timeout, "--collective-timeout"),
    )
    return Asked(
        case=case,
        preset=recipe,
        dtype_given=args.dtype is not None,
        data=args.data,
        reasons=reasons,
        cache_layout=cache_layout(args),
        cache_from=tuple(args.cache_from),
        cache_to=args.cache_to,
    )


def _tokens(args: argparse.Namespace) -> DataAsked:
    """The tokens asked for, as far as the command line tells."""
    said = args.data_class if args.data_class is None else one_of(args.data_class, "--data-class", PATH_CLASSES)
    if args.data != "synthetic":
        return DataAsked("shards", path_class=said)
    if said is not None:
        raise UsageError(
            "value-invalid", "--data-class says what token files are read through, and synthetic tokens are no files",
            "leave --data-class out, or name token shards with --data",
        )  # fmt: skip
    return DataAsked("synthetic")


def default_policy(nproc: int, posture: str) -> tuple[str, str]:
    """The cache policy that nobody asked for otherwise, and why. Pure."""
    if nproc > 1 and posture != "eager":
        return "require", "ranks that compile at different times wait for one another until a timeout ends them"
    if posture == "eager":
        return "seed", "nothing is compiled"
    return "seed", "one rank waits for nobody, and the run fills the cache for the next"


def _sequence(text: str | None, recipe: Preset) -> int:
    return recipe.sequence if text is None else whole(text, "--sequence", 8, recipe.sequence)
