"""From a question to the lane that answers it, the command to run, and the records that already do. Pure data.

A decision list that a person can read: the first row whose words all occur in the question is the answer. It
understands no language; each row names groups of words, one of each group has to occur, and a question that fits no row
is told what can be asked. Rows stand from the narrow to the wide, because the first one wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Route(NamedTuple):
    """One kind of question.

    Attributes:
        name: stable.
        example: a question that it answers.
        words: groups of words; a question fits when it has at least one of each group. A word that ends in `*` is the
            beginning of one.
        lane: whose evidence answers it, or "" where it is not a lane's to answer.
        commands: what to run, in order. Words in capitals are for the reader to fill in.
        answered_by: filters of records that already answer it, as `lanemark list` takes them, one for each side.
        why: why this lane, in one sentence.
        not_by: what must not be taken for an answer.
        vary: what the two sides of an answer differ in, where it has two.
    """

    name: str
    example: str
    words: tuple[tuple[str, ...], ...]
    lane: str
    commands: tuple[str, ...]
    answered_by: tuple[Mapping[str, str], ...]
    why: str
    not_by: str
    vary: tuple[str, ...] = ()


_FASTER: Final = (
    "fast*", "slow*", "worth", "better", "speed*", "throughput", "tok*", "versus", "vs", "against", "than", "or",
    "compar*", "gain*", "beat*", "pay*", "cost*", "help*", "difference",
)  # fmt: skip
_RAN: Final = (
    "run", "ran", "running", "really", "actually", "use*", "using", "taken", "dispatch*", "fall*", "fell", "backend*",
    "select*",
)  # fmt: skip
_KERNELS: Final = (
    "fa4", "fa3", "fa2", "flash*", "flex*", "sparse", "triton", "kernel*", "attention", "backend*", "gather", "union",
    "indexer",
)  # fmt: skip
_COMPONENTS: Final = (
    "torch", "cuda", "nccl", "driver", "triton", "image", "wheel*", "version*", "upgrade*", "bump", "python",
)  # fmt: skip

#: The decision list. The first row that fits is the answer.
ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "promotion", "can I promote this image?",
        (("promot*", "accept*", "ship", "roll*", "approve*", "ready", "gate"),),
        "promotion",
        ("lanemark run promotion", "lanemark promotion status", "lanemark show ID", "lanemark cite ID"),
        ({"lane": "promotion", "outcome": "ok"},),
        "Only execute-class evidence, parity that could have failed and an observed dispatch accept a kernel path.",
        "a fast training record, an import that succeeds, or a sparse record of the same image",
    ),
    Route(
        "backend", "did FA4 really run?",
        (_KERNELS, _RAN),
        "sparse",
        ("lanemark list --lane sparse", "lanemark show ID", "lanemark cite ID"),
        ({"lane": "sparse", "outcome": "ok"},),
        "The sparse lane names the backend that ran by its kernels and a canary, beside the one that was asked for.",
        "a flag, a version, or a training throughput",
    ),
    Route(
        "parity", "is the sparse kernel correct?",
        (("correct*", "parity", "right", "accura*", "equal*", "match*", "wrong", "numeric*"),),
        "promotion",
        ("lanemark run promotion --preset matrix", "lanemark promotion status", "lanemark show ID"),
        ({"lane": "promotion", "outcome": "ok"},),
        "Parity is shown over a matrix with planted faults that it must notice.",
        "a finite loss, or parity of one case",
    ),
    Route(
        "modes", "is FSDP2 still worth it against DDP?",
        (("fsdp*", "ddp", "shard*", "parallel*", "mode", "modes", "distributed"), _FASTER),
        "training",
        (
            "lanemark run training --preset P --nproc N --mode ddp",
            "lanemark run training --preset P --nproc N --mode fsdp2",
            "lanemark compare --a ID… --b ID… --vary mode",
        ),
        ({"lane": "training", "outcome": "ok", "mode": "ddp"}, {"lane": "training", "outcome": "ok", "mode": "fsdp2"}),
        "One controlled launch of whole training steps on each side, which differ in the mode alone.",
        "records whose other factors differ as well, or one run on each side",
        ("mode",),
    ),
    Route(
        "compile", "does regional compilation pay off?",
        (("compil*", "eager", "inductor", "regional", "dynamo"), _FASTER),
        "training",
        (
            "lanemark run training --preset P --nproc N --compile eager",
            "lanemark run training --preset P --nproc N --compile regional",
            "lanemark compare --a ID… --b ID… --vary compile",
        ),
        ({"lane": "training", "outcome": "ok"},),
        "The loop's throughput after the last compilation, on both sides; what starting costs is a metric of its own.",
        "the time of the first step, unless that is the question",
    ),
    Route(
        "startup", "how long until the first step?",
        (("start*", "boot*", "cold", "warm", "first", "seed*", "cache*", "launch*"),),
        "training",
        (
            "lanemark run training --preset P --nproc N --compile regional --cache-policy cold",
            "lanemark run training --preset P --nproc N --compile regional --cache-policy require",
            "lanemark show ID",
        ),
        (
            {"lane": "training", "outcome": "ok", "startup": "cold"},
            {"lane": "training", "outcome": "ok", "startup": "warm"},
        ),
        "Each record shows its own; the start-up state is a key of that metric, so cold is not held against warm.",
        "a throughput, or a snapshot that was restored but never warmed",
    ),
    Route(
        "packages", "did the new torch make it slower?",
        (_COMPONENTS, _FASTER),
        "training",
        (
            "lanemark run training --preset P --nproc N",
            "lanemark compare --a ID… --b ID… --vary torch",
        ),
        ({"lane": "training", "outcome": "ok"},),
        "The same case under both, with the changed component declared; an image that changed more is a caveat.",
        "runs whose image changed and whose components were not looked at",
    ),
    Route(
        "regression", "did this commit make it slower?",
        (("regress*", "commit*", "change*", "since", "drop*", "slower"),),
        "training",
        ("lanemark run training --preset P --nproc N", "lanemark compare --a ID… --b ID… --vary source"),
        ({"lane": "training", "outcome": "ok"},),
        "Several runs on each side of the change: one run cannot tell a regression from the spread between runs.",
        "one run before and one after",
    ),
    Route(
        "devices", "is the B200 worth its price?",
        (("b200", "b300", "h100", "h200", "a100", "l40s", "gpu*", "device*", "chip*", "hardware"), _FASTER),
        "training",
        ("lanemark run training --preset P --gpu NAME!:COUNT", "lanemark cite ID"),
        ({"lane": "training", "outcome": "ok"},),
        "Each device's own record is cited; a device class is a key, so that no ratio between two is made here.",
        "the class that was asked for, where another one was observed",
    ),
    Route(
        "data", "is the data path slowing us down?",
        (("data", "loader", "storage", "bucket", "s3", "disk", "stall*", "shards"),),
        "training",
        ("lanemark run training --preset P --nproc N --data PATH", "lanemark show ID"),
        ({"lane": "training", "outcome": "ok"},),
        "The share of the measured window that the loop waited for data, by rank, with the class of the path.",
        "a run on synthetic tokens, which measures no data path",
    ),
    Route(
        "works", "what works on this box?",
        (("work*", "alive", "support*", "frontier", "status", "known", "broken", "fail*", "unstable", "stale"),),
        "",
        ("lanemark frontier",),
        ({},),
        "The grid of lanes, modes, postures and device classes with the newest evidence of each.",
        "a neighbouring cell: it says nothing of this one",
    ),
    Route(
        "throughput", "how fast does dense-1b train?",
        (("fast", "throughput", "tok*", "tokens", "speed", "steps", "mfu", "train*"),),
        "training",
        ("lanemark run training --preset P --nproc N", "lanemark cite ID"),
        ({"lane": "training", "outcome": "ok"},),
        "Whole training steps over a declared window, with what is missing before the number may be quoted.",
        "a latency of isolated calls, or a peak over a few steps",
    ),
)  # fmt: skip

_WORD: Final = re.compile(r"[a-z0-9]+")


def route(question: str) -> Route | None:
    """The first row that fits a question, or None where none does."""
    words = set(_WORD.findall(question.lower()))
    return next((row for row in ROUTES if all(_has(words, group) for group in row.words)), None)


def _has(words: set[str], group: tuple[str, ...]) -> bool:
    for wanted in group:
        if wanted.endswith("*"):
            if any(word.startswith(wanted[:-1]) for word in words):
                return True
        elif wanted in words:
            return True
    return False


def to_json(row: Route) -> dict[str, Any]:
    """A row as `route --json` prints it."""
    return {
        "name": row.name, "lane": row.lane, "why": row.why, "not_answered_by": row.not_by,
        "commands": list(row.commands), "answered_by": [dict(wanted) for wanted in row.answered_by],
    }  # fmt: skip
