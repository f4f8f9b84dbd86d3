"""Pairs of records with a right answer: what a comparison must say, and what misleads about each.

Every pair is made of records of the test corpus, changed so that they are well-formed and keep their lane's rules
wherever the pair is not about breaking them. `A` and `B` are sets of runs; their figures are scaled from the corpus's
samples. Many are misleading on purpose: the figures alone, or the figures and the names that people give to runs,
suggest an answer that is not one. The expected verdict was written down by hand for each; nothing here is computed by
what it tests.
"""

from __future__ import annotations

from typing import NamedTuple

from judge_runs import (
    NOISY,
    STEADY,
    Change,
    Doc,
    asked_gpu,
    case_of,
    compiled_inside,
    flash,
    hidden,
    made,
    made_failed,
    mode,
    partly_warm,
    posture,
    put,
    runs,
    scaled,
    settled,
    substituted,
    torch,
)


class Pair(NamedTuple):
    """One pair.

    Attributes:
        name: what it is about.
        trap: what misleads, in one phrase; "" where nothing does.
        a, b: the runs' statements.
        verdict: what must be said.
        codes: reasons that must be among those given.
        conclusion: what may be concluded of B where they are comparable: faster, slower, equivalent, inconclusive,
            unreplicated, or "none" in a lane without a metric. "" where they are not.
        metric, vary: the question.
        unblock: what a refusal must offer; None: nothing would do.
    """

    name: str
    trap: str
    a: tuple[Doc, ...]
    b: tuple[Doc, ...]
    verdict: str
    codes: tuple[str, ...] = ()
    conclusion: str = ""
    metric: str | None = None
    vary: tuple[str, ...] = ()
    unblock: tuple[str, ...] | None = None


REFUSED, CAVEATS, FINE = "not_comparable", "comparable_with_caveats", "comparable"


def pairs() -> tuple[Pair, ...]:
    """All pairs, plain ones first."""
    gpu = runs("cuda_h100_8", "a", STEADY)
    faster = scaled(STEADY, 1.10)
    return (
        *_plain(gpu, faster),
        *_hardware(gpu, faster),
        *_software(gpu, faster),
        *_questions(gpu),
        *_gates(gpu, faster),
        *_processor(),
        *_other_lanes(),
    )


def _b(*changes: Change, speeds: tuple[float, ...] = STEADY, steps: int = 0) -> tuple[Doc, ...]:
    return runs("cuda_h100_8", "b", speeds, *changes, steps=steps)


def _plain(gpu: tuple[Doc, ...], faster: tuple[float, ...]) -> tuple[Pair, ...]:
    slower = scaled(STEADY, 0.95)
    return (
        Pair("the same thing twice", "", gpu, _b(), FINE, conclusion="equivalent"),
        Pair(
            "ddp against fsdp2, asked",
            "",
            gpu,
            _b(mode("ddp"), speeds=faster),
            FINE,
            conclusion="faster",
            vary=("mode",),
        ),
        Pair(
            "a slower mode, asked", "", gpu, _b(mode("ddp"), speeds=slower), FINE, conclusion="slower", vary=("mode",)
        ),
        Pair("another seed", "the command lines differ", gpu, _b(case_of(seed=7)), FINE, conclusion="equivalent"),
        Pair(
            "one run each, 30 % apart",
            "a large difference that may be one slow host",
            gpu[:1],
            _b(speeds=(1.3,)),
            FINE,
            conclusion="unreplicated",
        ),
        Pair(
            "one run each, 200 steps, 3 % apart",
            "a test over steps calls it certain",
            runs("cuda_h100_8", "a", (1.0,), steps=200),
            _b(speeds=(1.03,), steps=200),
            FINE,
            conclusion="unreplicated",
        ),
        Pair(
            "a noisy host, 2 % apart",
            "the means differ",
            runs("cuda_h100_8", "a", NOISY),
            _b(speeds=scaled(NOISY, 1.02)),
            FINE,
            conclusion="inconclusive",
        ),
        Pair(
            "the same metric, first step",
            "",
            gpu,
            _b(speeds=scaled(STEADY, 1.2)),
            FINE,
            conclusion="faster",
            metric="time_to_first_step_s",
        ),
        Pair(
            "ten times the steps",
            "a longer window is another sample",
            gpu,
            _b(steps=120),
            CAVEATS,
            ("COVARIATE_DIFFERS",),
            "equivalent",
        ),
    )


def _hardware(gpu: tuple[Doc, ...], faster: tuple[float, ...]) -> tuple[Pair, ...]:
    seen = "hardware.observed."
    return (
        Pair(
            "an H200 was served for an H100",
            "both asked for an H100",
            runs("cuda_h100_8", "a", STEADY, asked_gpu("H100:8")),
            _b(substituted("H200", "NVIDIA H200"), speeds=faster),
            REFUSED,
            ("KEY_MISMATCH", "GPU_SUBSTITUTED"),
        ),
        Pair(
            "one asked for any device",
            "the requests differ, the devices do not",
            gpu,
            _b(asked_gpu("any")),
            FINE,
            conclusion="equivalent",
        ),
        Pair(
            "a PCIe board",
            "both are called H100",
            gpu,
            _b(asked_gpu("H100:8"), put(seen + "device_class", "H100-PCIe"), speeds=scaled(STEADY, 0.7)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "a slice of a device",
            "the class is the same",
            gpu,
            _b(put(seen + "mig", value=True)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "error correction off",
            "the class is the same",
            gpu,
            _b(put(seen + "ecc", value=False), speeds=faster),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "a lower power cap",
            "nothing in the name says so",
            gpu,
            _b(put(seen + "power_limit_w", 500.0), speeds=scaled(STEADY, 0.9)),
            CAVEATS,
            ("COVARIATE_DIFFERS",),
            "slower",
        ),
        Pair(
            "another driver", "", gpu, _b(put(seen + "driver", "580.1")), CAVEATS, ("COVARIATE_DIFFERS",), "equivalent"
        ),
        Pair(
            "a device that nobody saw",
            "it was asked for",
            gpu,
            _b(hidden(seen + "ecc"), speeds=faster),
            REFUSED,
            ("MISSING_EVIDENCE",),
        ),
        Pair(
            "unknown on both sides",
            "both say the same: nothing",
            runs("cuda_h100_8", "a", STEADY, hidden(seen + "mig")),
            _b(hidden(seen + "mig"), speeds=faster),
            REFUSED,
            ("MISSING_EVIDENCE",),
        ),
        Pair(
            "a rented container and an owned host",
            "the same case otherwise",
            gpu,
            _b(case_of(surface="modal"), put("surface.name", "modal"), speeds=faster),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "an object mount and a local disk",
            "the same tokens",
            gpu,
            _b(put("data.path_class", "object_mount"), speeds=scaled(STEADY, 0.9)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
    )


def _software(gpu: tuple[Doc, ...], faster: tuple[float, ...]) -> tuple[Pair, ...]:
    slower = scaled(STEADY, 0.92)
    image = put("image.digest", "sha256:" + "9" * 64)
    return (
        Pair(
            "a mode that nobody declared",
            "the figures are clear",
            gpu,
            _b(mode("ddp"), speeds=faster),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("mode",),
        ),
        Pair(
            "a torch that nobody declared",
            "only the image changed, it is said",
            gpu,
            _b(torch("2.14.0"), speeds=slower),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("torch",),
        ),
        Pair(
            "a torch that was declared",
            "",
            gpu,
            _b(torch("2.14.0"), speeds=slower),
            CAVEATS,
            ("OPAQUE_IMAGE_CHANGE",),
            "slower",
            vary=("torch",),
        ),
        Pair(
            "only the image",
            "every listed component is the same",
            gpu,
            _b(image, speeds=faster),
            CAVEATS,
            ("OPAQUE_IMAGE_CHANGE",),
            "faster",
        ),
        Pair(
            "a rebuilt kernel wheel",
            "the version is the same",
            runs("cuda_h100_8", "a", STEADY, flash("1")),
            _b(flash("2"), speeds=faster),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("packages.flash-attn",),
        ),
        Pair(
            "a wheel that did not load",
            "it is installed on both",
            runs("cuda_h100_8", "a", STEADY, flash("1")),
            _b(flash("1", imported=False), speeds=slower),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("packages.flash-attn",),
        ),
        Pair(
            "a variable of the collective library",
            "the command lines are the same",
            gpu,
            _b(put("environment.variables.NCCL_ALGO", "Tree"), speeds=slower),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("environment.NCCL_ALGO",),
        ),
        Pair(
            "which devices of the host",
            "a variable differs",
            gpu,
            _b(put("environment.variables.CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")),
            FINE,
            conclusion="equivalent",
        ),
        Pair(
            "uncommitted changes on both sides",
            "the commits are the same",
            runs("cuda_h100_8", "a", STEADY, put("source.dirty", value=True)),
            _b(put("source.dirty", value=True)),
            CAVEATS,
            ("UNCOMMITTED_SOURCE",),
            "equivalent",
        ),
        Pair(
            "bf16 against fp32",
            "the model's name is the same",
            gpu,
            _b(case_of(dtype="fp32"), speeds=slower),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("dtype",),
        ),
        Pair(
            "a field that no table knows",
            "a newer version wrote it",
            runs("cuda_h100_8", "a", STEADY, put("hardware.observed.interposer", "x")),
            _b(put("hardware.observed.interposer", "y"), speeds=faster),
            REFUSED,
            ("UNLISTED_FIELD",),
        ),
    )


def _questions(gpu: tuple[Doc, ...]) -> tuple[Pair, ...]:
    faster = scaled(STEADY, 1.4)
    both = (mode("ddp"), posture("model"))
    return (
        Pair(
            "two things changed, both declared",
            "one effect, two causes",
            gpu,
            _b(*both, speeds=faster),
            CAVEATS,
            ("CONFOUNDED_QUESTION",),
            "faster",
            vary=("mode", "compile"),
        ),
        Pair(
            "two things changed, one declared",
            "the declared one gets the credit",
            gpu,
            _b(*both, speeds=faster),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            vary=("mode",),
            unblock=("compile", "mode"),
        ),
        Pair(
            "twice the batch", "twice the tokens a second", gpu, _b(case_of(micro_batch=2)), REFUSED, ("KEY_MISMATCH",)
        ),
        Pair(
            "half the sequence",
            "more tokens a second",
            gpu,
            _b(case_of(sequence=2048), speeds=faster),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "another model of that name",
            "the preset's name is the same",
            gpu,
            _b(put("training.model.parameters", 1_000_000), speeds=faster),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "a longer warm-up",
            "the same measured steps",
            gpu,
            _b(_longer_warmup, speeds=scaled(STEADY, 1.02)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "cold against partly warm, throughput",
            "",
            gpu,
            _b(partly_warm),
            CAVEATS,
            ("COVARIATE_DIFFERS",),
            "equivalent",
        ),
        Pair(
            "cold against partly warm, first step",
            "the same two records",
            gpu,
            _b(partly_warm, speeds=faster),
            REFUSED,
            ("KEY_MISMATCH",),
            metric="time_to_first_step_s",
        ),
        Pair(
            "one odd run among the runs",
            "the mean hides it",
            gpu,
            (*_b()[:4], made("cuda_h100_8", "b9", mode("ddp"))),
            REFUSED,
            ("MIXED_SIDE",),
        ),
    )


def _longer_warmup(predicate: Doc) -> None:
    predicate["case"] |= {"warmup": 3, "steps": predicate["case"]["steps"] + 1}
    predicate["training"]["window"] |= {"warmup": 3, "steps": predicate["case"]["steps"]}
    predicate["training"]["samples"]["warmup"].append(130_000_000)
    settled(predicate)


def _gates(gpu: tuple[Doc, ...], faster: tuple[float, ...]) -> tuple[Pair, ...]:
    inflated = put("training.tokens_per_s", 400_000.0)
    fewer = put("data.token_parity", value=False)
    return (
        Pair("a run and itself", "the figures agree perfectly", gpu[:1], gpu[:1], REFUSED, ("SAME_RUN",)),
        Pair(
            "compiled inside the window",
            "the mean looks ordinary",
            gpu,
            _b(compiled_inside),
            REFUSED,
            ("NO_STEADY_STATE",),
        ),
        Pair(
            "fewer tokens than asked for",
            "any loop is fast on those",
            gpu,
            _b(fewer, speeds=faster),
            REFUSED,
            ("TOKEN_PARITY_BROKEN", "BROKEN_RULE"),
        ),
        Pair("a number that was edited", "everything else is in order", gpu, _b(inflated), REFUSED, ("BROKEN_RULE",)),
        Pair(
            "a run that was killed",
            "it left some steps",
            runs("eager_ddp_cpu", "a", STEADY),
            (made_failed("lost", "b0"),),
            REFUSED,
            ("NO_RECEIPT",),
        ),
        Pair(
            "a run that filled the cache",
            "it ended well",
            gpu,
            _b(_seeding, speeds=scaled(STEADY, 0.9)),
            REFUSED,
            ("SEEDING_PASS",),
        ),
    )


def _seeding(predicate: Doc) -> None:
    predicate["record_version"] = "1.1"
    purpose = {"kind": "seeding_pass", "reason": "the cache did not cover the question"}
    predicate["startup"]["purpose"] = {"status": "observed", "source": "coverage", "value": purpose}


def _processor() -> tuple[Pair, ...]:
    cpu = runs("fsdp2_regional_warm", "a", STEADY)

    def b(*changes: Change, speeds: tuple[float, ...] = STEADY) -> tuple[Doc, ...]:
        return runs("fsdp2_regional_warm", "b", speeds, *changes)

    model = put("hardware.observed.cpu_model", "Intel Xeon 8481C")
    return (
        Pair(
            "a processor, a real regression",
            "",
            cpu,
            b(put("source.commit", "5" * 40), speeds=scaled(STEADY, 0.95)),
            FINE,
            conclusion="slower",
            vary=("source",),
        ),
        Pair(
            "another processor",
            "both devices are called cpu",
            cpu,
            b(model, speeds=scaled(STEADY, 1.2)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "fewer usable cores",
            "the same processor",
            cpu,
            b(put("hardware.observed.cpu_usable", 1), speeds=scaled(STEADY, 0.6)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair(
            "another compiler on a processor",
            "the torch is the same",
            cpu,
            b(put("toolchain.cxx", "clang 19"), speeds=scaled(STEADY, 1.05)),
            REFUSED,
            ("UNDECLARED_FACTOR",),
            unblock=("cxx",),
        ),
        Pair(
            "synthetic tokens against shards",
            "the same model and ranks",
            runs("eager_ddp_cpu", "a", STEADY),
            runs("synthetic", "b", scaled(STEADY, 2.0)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
    )


def _other_lanes() -> tuple[Pair, ...]:
    asked = runs("sparse_h100_triton", "a", STEADY)
    identity = "sparse.results.0.backend_identity."
    fallback: tuple[Change, ...] = (
        put(identity + "actual", "gather"),
        put(identity + "fallback_reason", {"status": "observed", "source": "log", "value": "arch_unsupported"}),
    )

    def b(*changes: Change, speeds: tuple[float, ...] = STEADY) -> tuple[Doc, ...]:
        return runs("sparse_h100_triton", "b", speeds, *changes)

    acceptance = runs("promotion_ready_fa4", "a", (1.0,))
    return (
        Pair(
            "training against sparse",
            "both have times",
            runs("cuda_h100_8", "a", (1.0,)),
            asked[:1],
            REFUSED,
            ("DIFFERENT_LANE",),
        ),
        Pair("a kernel against itself", "", asked, b(), FINE, conclusion="equivalent"),
        Pair(
            "a silent fallback",
            "both asked for triton",
            asked,
            b(*fallback, speeds=scaled(STEADY, 0.8)),
            REFUSED,
            ("UNDECLARED_FACTOR",),
        ),
        Pair(
            "other indices",
            "the same shapes",
            asked,
            b(put("sparse.results.0.indexer_digest", "sha256:" + "4" * 64), speeds=scaled(STEADY, 1.2)),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
        Pair("two acceptances", "", acceptance, runs("promotion_ready_fa4", "b", (1.0,)), FINE, conclusion="none"),
        Pair(
            "two acceptances on two architectures",
            "the same candidate",
            acceptance,
            runs(
                "promotion_ready_fa4",
                "b",
                (1.0,),
                put("promotion.scope.arch", "sm_100"),
                put("promotion.remote.arch", "sm_100"),
            ),
            REFUSED,
            ("KEY_MISMATCH",),
        ),
    )
