"""The promotion lane's part of a record: is a kernel path accepted, and on what evidence. Needs pydantic.

There is no throughput field, and the lane's rules refuse one under any name. Readiness is computed from the rest of the
part (`lanemark.lanes.readiness`), so that a record cannot simply say so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lanemark.records.schema_envelope import CasePart
from lanemark.records.schema_parts import Count, Digest, Magnitude, Many, Name, Observed, Part, Positive, Text
from lanemark.records.schema_runtime import CollectorPart, IdentityPart, ImportHealthPart, RemotePart
from lanemark.records.terms import (
    Direction,
    ParityVerdict,
    PromotionDtype,
    PromotionState,
    PromotionStatus,
    ProofClass,
    Rung,
    StopRuleName,
)

PromotionMode = Literal["dense_attention", "sparse_validation"]


class PromotionAskedPart(Part):
    """The promotion lane's own question."""

    mode: PromotionMode = Field(description="The family of the candidate.")
    candidate: Name = Field(description="A known candidate, or a user's `module:function`.")
    direction: Direction = Field(description="`forward`, or `backward`, which includes forward.")
    matrix: Name = Field(description="Name and version of the parity matrix.")
    cases: Annotated[Many[Name], Field(min_length=1)] = Field(description="The matrix's cases that are asked for.")


class PromotionCasePart(CasePart):
    """The promotion lane's question, whole."""

    lane: Literal["promotion"] = Field(description="The lane.")
    dtype: PromotionDtype = Field(description="Element type under test.")
    promotion: PromotionAskedPart = Field(description="What is asked of the promotion lane.")


class CandidatePart(Part):
    """What is being accepted."""

    name: Name = Field(description="The case's candidate.")
    source_digest: Observed[Digest] = Field(
        description="Digest of its source or wheel. Unavailable for closed kernels."
    )
    applicable: Observed[bool] = Field(description="Whether it claims to cover this scope. Unavailable fails closed.")
    applicable_reason: Text = Field(description="Why, either way.")


class ScopePart(Part):
    """What an acceptance would hold for, and nothing beyond it."""

    surface: Text = Field(description="The case's surface.")
    arch: Observed[str] = Field(description="Device architecture as the worker saw it.")
    dtype: PromotionDtype = Field(description="The case's element type.")
    direction: Direction = Field(description="The case's direction.")


class RungPart(Part):
    """One rung of the proof ladder."""

    rung: Rung = Field(description="The rung.")
    held: bool = Field(description="Whether it is held.")
    proof_class: ProofClass | None = Field(
        default=None, description="How much its evidence proves. Missing when not held."
    )
    evidence: Many[Text] = Field(description="Names in the record's `evidence`. At least one that no lower rung names.")
    reason: Text = Field(description="Why it is held, or what is missing.")


class MutantPart(Part):
    """A planted fault that the parity rule must notice."""

    name: Name = Field(description="What was broken on purpose: `scale_1_01`, `drop_one_token`, `reroute_to_full`.")
    killed: bool = Field(description="Whether the rule refused it.")
    fro: Magnitude = Field(description="Its relative Frobenius error.")


class PromotionParityPart(Part):
    """One case of the matrix: errors beside the dense path's own errors, and whether the case could tell at all."""

    name: Name = Field(description="The case of the matrix.")
    direction: Direction = Field(description="Whether output or gradients are held against the reference.")
    seed: Count = Field(description="The fresh seed it was run with.")
    batch: Positive = Field(description="Sequences.")
    queries: Count = Field(description="Query positions of the longest sequence.")
    keys: Count = Field(description="Key positions of the longest sequence.")
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads.")
    head_dim: Positive = Field(description="Elements of one query and key head.")
    head_dim_v: Positive = Field(description="Elements of one value head.")
    masking: Literal["full", "causal", "window", "varlen", "sparse"] = Field(description="Which scores count.")
    input_scale: Magnitude = Field(description="Standard deviation of the inputs.")
    reference: Literal["float64"] = Field(description="Over the rounded inputs.")
    dense_fro: Magnitude = Field(description="The dense path's relative Frobenius error in this dtype.")
    dense_row: Magnitude = Field(description="The dense path's largest relative error of one row.")
    fro: Magnitude = Field(
        description="The candidate's relative Frobenius error; for gradients the worst of the three."
    )
    fro_limit: Magnitude = Field(description="Largest that is parity: recomputed by a rule.")
    row: Magnitude = Field(description="The candidate's largest relative error of one row.")
    row_limit: Magnitude = Field(description="Largest that is parity: recomputed by a rule.")
    masks_equal: bool = Field(description="Whether infinities and NaN stand where the reference has them.")
    poisoned_output: bool = Field(description="Whether the output buffer held NaN before the call.")
    lse_max_error: Observed[float] = Field(
        description="Largest error of the log-sum-exp. Absent when none is returned."
    )
    repeats: Count = Field(description="Runs on equal inputs.")
    bitwise_equal: bool = Field(description="Whether all of them gave the same bits.")
    mutants: Many[MutantPart] = Field(description="Planted faults. One that survives makes the case `no_power`.")
    verdict: ParityVerdict = Field(description="`no_power` does not count: the case could not have told.")


class StopRulePart(Part):
    """One stop rule. What it measured is in the evidence; here is only whether it was broken."""

    rule: StopRuleName = Field(description="The rule.")
    limit: Magnitude = Field(description="The largest value that does not stop.")
    broken: Observed[bool] = Field(description="Whether it was broken. Unavailable when it was not looked at.")


class KeyComponentsPart(Part):
    """What an acceptance rests on: any change expires it. `absent` is written out where there is no such thing."""

    image: Text = Field(description="Image digest.")
    driver: Text = Field(description="Driver version.")
    torch: Text = Field(description="torch version with build tag.")
    cuda: Text = Field(description="CUDA version.")
    packages: Text = Field(description="Digest over kernel packages and versions.")
    kernel_source: Text = Field(description="Digest of the candidate's source.")
    selectors: Text = Field(description="Digest over the environment selectors.")
    matrix: Text = Field(description="Name and version of the matrix and of the rule tables.")


class EvidenceKeyPart(Part):
    """The name of the circumstances: two acceptances with one key rest on the same things."""

    digest: Digest = Field(description="Of the components' canonical bytes: recomputed by a rule.")
    components: KeyComponentsPart = Field(description="What was hashed.")


class WavePart(Part):
    """The wave of cases that this record belongs to."""

    name: Name = Field(description="The wave's name.")
    manifest: Observed[Digest] = Field(
        description="Digest of its summary manifest. Unavailable while the wave goes on."
    )


class PromotionPart(Part):
    """The promotion lane's own part: the ladder, its evidence, and the status that follows."""

    mode: PromotionMode = Field(description="The case's mode.")
    candidate: CandidatePart = Field(description="The kernel path in question.")
    scope: ScopePart = Field(description="What an acceptance would hold for.")
    ladder: Many[RungPart] = Field(description="All seven rungs, lowest first.")
    state: PromotionState = Field(description="The highest rung held, past it, or a state beside the ladder.")
    state_reason: Text = Field(description="Why: for `inconclusive`, what was missing (power, or an observation).")
    execute_proof: Observed[IdentityPart] = Field(description="What really ran. Unavailable when nothing did.")
    parity: Many[PromotionParityPart] = Field(description="The matrix's cases that were run.")
    stop_rules: Many[StopRulePart] = Field(description="Every stop rule, looked at or not.")
    promotion_ready: bool = Field(description="Computed from everything above: recomputed by a rule.")
    promotion_status: PromotionStatus = Field(description="Moved only by a person who names the evidence.")
    promoted_on: Many[Digest] = Field(
        description="Records that a person's word rests on: a promotion, a rejection, a shadow. Empty of a run."
    )
    evidence_key: EvidenceKeyPart = Field(description="What the evidence rests on.")
    wave: WavePart = Field(description="The wave it belongs to.")
    import_health: Many[ImportHealthPart] = Field(description="Imports, apart from parity: neither proves the other.")
    remote: RemotePart = Field(description="The worker as it reported itself.")
    collector: CollectorPart = Field(description="Who looked at the run, and when.")
    does_not_prove: Many[Text] = Field(description="What must not be read into this record. Never empty.")
