"""`Case`: the fully pinned question. Its digest is its name, the same on every machine.

A case says *what* is asked, never *where* it happens to run: paths, hosts and cache directories are the attempt's
placement. Two attempts of one case on two boxes therefore carry the same plan digest.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from lanemark.records.encoding import digest, encode
from lanemark.records.errors import UsageError
from lanemark.records.questions import PromotionAsked, SparseAsked
from lanemark.records.script import ScriptAsked

Lane = Literal["training", "sparse", "promotion"]
#: `any`, as for a GPU: nothing was asked for. Only a command of the user's own leaves these open.
Mode = Literal["single", "ddp", "fsdp2", "any"]
Posture = Literal["eager", "regional", "model", "any"]
Dtype = Literal["fp32", "bf16", "fp16", "any"]

LANES: Final = ("training", "sparse", "promotion")
MODES: Final = ("single", "ddp", "fsdp2")
POSTURES: Final = ("eager", "regional", "model")
#: Precisions of the training and sparse lanes; `fp16` is tested by the promotion lane alone.
DTYPES: Final = ("fp32", "bf16")
#: What a run of token files may be said to read them through (`--data-class`).
PATH_CLASSES: Final = ("object_mount", "network_volume", "local_disk", "ram", "page_cache", "mixed")
#: Fields of a lane that takes optimizer steps. A case of another lane does not have them.
STEP_FIELDS: Final = (
    "steps", "warmup", "sequence", "micro_batch", "grad_accum", "prewarm", "collective_timeout_s",
)  # fmt: skip
_STEP_COUNTS: Final = frozenset({"steps", "warmup", "sequence", "micro_batch"})

#: GPU names that Modal and the field use (facts: modal.com/docs/guide/gpu); `any` and `cpu` are ours.
GPU_NAMES: Final = (
    "T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H200", "B200", "B300",
)  # fmt: skip
_GPU_SPEC: Final = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9-]*?)(?P<pin>[!+])?(?::(?P<count>[0-9]{1,3}))?")


@dataclass(frozen=True)
class GpuSpec:
    """A parsed GPU specification: `NAME[!|+][:COUNT]`, or `any`, or `cpu`.

    Attributes:
        name: one of `GPU_NAMES`, `cpu`, or `any` (no constraint asked for).
        pinned: `!` was given: exactly this class, no substitute.
        or_better: `+` was given: a newer class may be served.
        count: devices asked for, or None where the text named no count.
    """

    name: str
    pinned: bool = False
    or_better: bool = False
    count: int | None = None

    def __str__(self) -> str:
        mark = "!" if self.pinned else "+" if self.or_better else ""
        return f"{self.name}{mark}" + ("" if self.count is None else f":{self.count}")


def parse_gpu(text: str) -> GpuSpec:
    """Parse `H100!:8`, `B200+`, `cpu`, `any`. Raises UsageError `gpu-spec-invalid`, naming what is wrong."""

    def refuse(why: str) -> UsageError:
        return UsageError(
            "gpu-spec-invalid",
            f"the GPU specification {text[:60]!r} {why}",
            "write NAME[!][:COUNT], for instance H100!:8, with NAME one of " + ", ".join(GPU_NAMES) + ", cpu or any",
        )

    match = _GPU_SPEC.fullmatch(text)
    if match is None:
        raise refuse("does not parse")
    given, pin, count_text = match["name"], match["pin"], match["count"]
    if given.lower() in ("any", "cpu"):
        if pin or (count_text and given.lower() == "any"):
            raise refuse("puts a mark or a count on a word that takes none")
        if count_text and int(count_text) < 1:
            raise refuse("asks for no device at all")
        return GpuSpec(given.lower(), count=int(count_text) if count_text else None)
    name = given.upper()
    if name not in GPU_NAMES:
        raise refuse("names no GPU class we know")
    if count_text is not None and not 1 <= int(count_text) <= 8:
        raise refuse("asks for a count outside 1 to 8")
    return GpuSpec(name, pin == "!", pin == "+", int(count_text) if count_text else None)


#: What `preset` says of a command of the user's own, whose model no recipe names.
SCRIPT_PRESET: Final = "script"
#: What a case of a command does not pin: the command decides it, and nobody knows it before.
_NOT_A_SCRIPTS: Final = ("sequence", "micro_batch", "grad_accum", "prewarm", "collective_timeout_s")


@dataclass(frozen=True)
class DataAsked:
    """Which tokens the case asks for.

    Attributes:
        kind: token files, or made up in memory; `own`: a command brings its tokens along, and nothing identifies them.
        dataset_digest: None for synthetic tokens, which are no dataset.
        path_class: what the tokens are said to be read through, one of `PATH_CLASSES`; None where nothing was said.
            What they really are read through is observed, and held to it.
    """

    kind: Literal["shards", "synthetic", "own"]
    dataset_digest: str | None = None
    path_class: str | None = None


@dataclass(frozen=True)
class Case:
    """The fully pinned question of one benchmark.

    Attributes:
        lane: exactly one of the three lanes.
        preset: the named recipe (`lanemark.lanes.presets`).
        surface: where it is to run (`local`, `modal`).
        nproc: ranks, all on one node.
        gpu: canonical GPU specification (`any`: no constraint).
        mode: how ranks share the model.
        compile: `eager`, `regional` (one compiled block, repeated) or `model`.
        dtype: compute precision policy; `bf16` keeps fp32 master weights and reductions.
        steps: optimizer steps in all, warm-up included.
        warmup: leading steps that are never measured; at least 1, since step 0 pays for compilation.
        sequence: tokens in one sequence.
        micro_batch: sequences a rank takes in one forward.
        grad_accum: forwards a rank takes in one optimizer step.
        seed: of weights and data order.
        data: the tokens asked for.
        cache_policy: what the compile cache must be at the start.
        command: the user's own command, verbatim; empty for the reference stack.
        stall_s: without any rank's progress for this long the run is ended; seconds.
        wall_s: the run is ended after this long whatever it does; seconds.
        prewarm: whether ranks compile one unsharded block before they share the model; `auto` leaves it to the ranks'
            policy, which gives its reason.
        collective_timeout_s: how long a rank may wait in a collective once nothing is left to compile; seconds. The
            default is torch's own for NCCL (torch.distributed.constants).
        script: there for a command that Lanemark launches once and whose ranks it finds; such a case pins the command,
            the window and what is declared of it, and leaves mode, posture and precision open (`any`).
        sparse: the sparse lane's own question; None in any other lane.
        promotion: the promotion lane's own question; None in any other lane.

    The fields of `STEP_FIELDS` belong to the training lane. In a case of another lane they say nothing, their counts
    are 0, and its JSON leaves them out.
    """

    lane: Lane
    preset: str
    nproc: int
    mode: Mode
    compile: Posture
    dtype: Dtype
    steps: int
    warmup: int
    sequence: int
    micro_batch: int
    data: DataAsked
    surface: str = "local"
    gpu: str = "any"
    grad_accum: int = 1
    seed: int = 0
    cache_policy: Literal["require", "seed", "cold"] = "seed"
    command: tuple[str, ...] = field(default=())
    stall_s: float = 300.0
    wall_s: float = 3600.0
    prewarm: Literal["auto", "off"] = "auto"
    collective_timeout_s: float = 600.0
    script: ScriptAsked | None = None
    sparse: SparseAsked | None = None
    promotion: PromotionAsked | None = None

    def __post_init__(self) -> None:
        asked = {"sparse": self.sparse, "promotion": self.promotion}
        for lane, question in asked.items():
            if (question is not None) != (self.lane == lane):
                has = "lacks" if question is None else "has"
                raise ValueError(f"a case of the {self.lane} lane {has} a question of the {lane} lane")
        if self.script is not None and (self.lane != "training" or not self.command):
            raise ValueError("only the training lane measures a command, and then the case has one")

    @property
    def takes_steps(self) -> bool:
        """Whether its ranks take optimizer steps, and so leave samples of them."""
        return self.lane == "training"

    def to_json(self) -> dict[str, Any]:
        """The case as plain JSON; `Case.from_json` reads it back."""
        doc = asdict(self)
        doc["command"] = list(self.command)
        for question in ("sparse", "promotion", "script"):
            del doc[question]
        if not self.takes_steps:
            for name in STEP_FIELDS:
                del doc[name]
        if self.sparse is not None:
            doc["sparse"] = self.sparse.to_json()
        if self.promotion is not None:
            doc["promotion"] = self.promotion.to_json()
        if self.script is not None:
            doc = {name: value for name, value in doc.items() if name not in _NOT_A_SCRIPTS}
            doc["script"] = self.script.to_json()
        for name in ("dataset_digest", "path_class"):
            if doc["data"][name] is None:
                del doc["data"][name]
        return doc

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Case:
        """Read back `to_json`. Raises ValueError or TypeError when the document is no case."""
        known = {f.name for f in fields(cls)}
        if not isinstance(doc, dict) or not set(doc) <= known:
            raise ValueError(f"not a case: unknown keys {sorted(set(doc) - known)[:5]}")
        if "script" in doc:
            pinned = set(doc) & set(_NOT_A_SCRIPTS)
            if pinned:
                raise ValueError(f"not a case: a command decides {min(pinned)} itself")
            doc = {**doc, "sequence": 1, "micro_batch": 1, "script": ScriptAsked.from_json(doc["script"])}
        alone = {name for name in STEP_FIELDS if name in doc}
        if doc["lane"] == "training" and not alone >= _STEP_COUNTS:
            raise ValueError("not a case of the training lane: it takes no steps")
        if doc["lane"] != "training" and alone:
            raise ValueError(f"not a case: only the training lane has {min(alone)}")
        none = {} if alone else dict.fromkeys(_STEP_COUNTS, 0)
        sparse, promotion = doc.get("sparse"), doc.get("promotion")
        return cls(
            **{
                **none,
                **doc,
                "data": DataAsked(**doc["data"]),
                "command": tuple(doc.get("command", ())),
                "sparse": None if sparse is None else SparseAsked.from_json(sparse),
                "promotion": None if promotion is None else PromotionAsked.from_json(promotion),
            }
        )

    @property
    def digest(self) -> str:
        """`sha256:…` of the canonical bytes: the case's name, and every record's `plan_digest`."""
        return digest(encode(self.to_json()))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch in one optimizer step: of a command, as declared, and 0 where nobody did."""
        if self.script is not None:
            return self.script.tokens_per_step or 0
        return self.nproc * self.micro_batch * self.grad_accum * self.sequence

    @property
    def measured_steps(self) -> int:
        """Length of the declared window, in steps."""
        return self.steps - self.warmup
