"""`Finding`: what a detector or a rule concluded, with its evidence; never more than the evidence carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Severity = Literal["note", "caveat", "failure"]

#: Every class a finding may have, with what it means. `docs/messages.md` carries the advice for each.
FINDINGS: Final[dict[str, str]] = {
    # causes of a failed run
    "rank_raised": "a rank raised an exception",
    "rank_exited_early": "a rank ended with status 0 before its work was done",
    "rank_exited": "a rank ended with a non-zero status and left no exception",
    "rank_killed": "a rank was killed by a signal that the supervisor did not send",
    "rank_stopped": "a rank was stopped by a signal and did not continue",
    "rank_out_of_memory": "a rank ran out of memory",
    "disk_full": "a file system that the run writes to is full",
    "start_failed": "the ranks could not be started",
    "bootstrap_failed": "the ranks could not form a process group",
    "stalled": "no rank made progress for longer than the stall limit",
    "wall_limit": "the run outlived its wall-clock limit",
    "interrupted": "the supervisor was told to stop",
    "supervisor_failed": "the supervisor itself failed while it watched the ranks",
    "supervisor_lost": "the supervisor died without sealing a record",
    "never_launched": "the launcher died before it launched anything",
    "surface_failed": "the surface ended the run, or could not start it",
    "result_expired": "the run's result was no longer kept when it was collected",
    "undecided": "the run failed and the evidence does not say why",
    "compile_divergence": "some ranks were compiling while the others waited for them in a collective",
    "collective_missed": "a rank never entered the collective in which the others waited for it",
    "collective_mismatch": "ranks waited for one another in different collectives",
    "watchdog_in_compile": "a watchdog ended a rank that was compiling",
    "recompiled_after_warmup": "a rank compiled again after the warm-up",
    "kernel_import_missing": "a kernel package could not be imported",
    "environment_leak": "a network setting of another machine kept the ranks apart",
    "data_stall": "a rank waited for data and got none",
    "command_failed": "the command failed and no rank of it says why",
    "rank_vanished": "a rank went without an exception and without Python's own end",
    "world_differs": "the command started another number of ranks than the case asks for",
    "infrastructure_hang": "every rank entered the same collective and none came out",
    # what a reader of the number must know
    "gpu_substituted": "the observed device class is not the requested one",
    "clock_stepped": "the wall clock stepped during the run",
    "data_synthetic": "the tokens were made up, so no data path was measured",
    "data_path_remote": "the ranks read their tokens through a network or object mount",
    "data_class_contradicted": "the data path is not of the class that the run was said to read through",
    "artifact_drift": "what is installed is not what the pinned artifacts hold",
    "source_dirty": "the working tree had uncommitted changes",
    "source_unknown": "no commit could be observed",
    "compiled_in_window": "a compilation happened inside the measured window",
    "cache_state_contradicted": "the declared cache policy and the observed start-up state disagree",
    "stalls_in_window": "some measured steps took more than twice the median",
    "data_wait": "the loop waited for data for more than 1 % of the measured window",
    "ranks_disagree": "ranks report different facts that should be equal",
    "logs_truncated": "a rank printed more than is kept",
    "secrets_redacted": "an argument looked like a secret and was not stored",
    "data_own": "a command brought its own tokens, which nothing identifies",
    "loss_unseen": "a command reported no loss, so nobody saw whether it trained",
    "restarted": "ranks of a command were started again after they had taken steps",
    "figure_disputed": "a script's own throughput differs from the measured one by more than 2 %",
    "tokens_disputed": "a command's declared tokens a step are not those that its ranks counted",
    "straggler": "one rank arrived last at nearly every step",
    "seeding_pass": "the run filled the compile cache, so its figures are no benchmark",
    "begun_again": "the container was taken away and the run begun again",
    "retried_bootstrap": "the run was tried again after its ranks could not form a process group",
    "promoted_by_person": "a person promoted the candidate and named the records that it rests on",
    "rejected_by_person": "a person rejected the candidate and named the records that it rests on",
    "shadowed_by_person": "a person put the candidate into the shadow, where it is watched and takes no part",
    "self_check_failed": "the record contradicts itself, which is a defect of Lanemark",
}


@dataclass(frozen=True)
class Finding:
    """One conclusion.

    Attributes:
        kind: a key of `FINDINGS`.
        severity: `failure` ended the run, `caveat` belongs beside the number, `note` is context.
        summary: one sentence naming what it is about (which rank, which file).
        evidence: lines a person can check, in the order they bear on the conclusion.
        rank: the rank concerned, where there is exactly one.
    """

    kind: str
    severity: Severity
    summary: str
    evidence: tuple[str, ...] = field(default=())
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in FINDINGS:
            raise ValueError(f"undeclared finding {self.kind!r}")

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "kind": self.kind,
            "severity": self.severity,
            "summary": self.summary,
            "evidence": list(self.evidence),
        }
        if self.rank is not None:
            doc["rank"] = self.rank
        return doc
