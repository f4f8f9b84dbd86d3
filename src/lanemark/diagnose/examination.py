"""What `lanemark doctor` says of an attempt: lane, stage of its life, class, evidence, what to do next. Pure.

The class comes from the same detectors that a record's first cause comes from. A sealed record keeps its own
conclusion: what this version would conclude is told beside it where the two differ, and is followed only where the
record was left undecided.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Final, Literal

from lanemark.diagnose.advice import advice_for
from lanemark.diagnose.first_cause import first_cause
from lanemark.diagnose.hang import HangContext, name_hang
from lanemark.diagnose.leaks import scrubbed, suspects
from lanemark.diagnose.signs import where
from lanemark.diagnose.snapshot import Snapshot
from lanemark.records.case import Case
from lanemark.records.finding import Finding

Life = Literal["running", "ended", "unknown"]

#: Phase of a beacon page → stage of a run's life, in the order they are lived through.
STAGES: Final[dict[str, str]] = {
    "start": "bootstrap",
    "import": "bootstrap",
    "init_process_group": "bootstrap",
    "prewarm": "pre-warming the compiler",
    "build": "building the model",
    "shard": "building the model",
    "load": "opening the data",
    "warmup": "warm-up",
    "window": "measured window",
    "checkpoint": "checkpoint",
    "drain": "closing",
    "done": "done",
}
_ORDER: Final = tuple(dict.fromkeys(STAGES.values()))
#: With a page's last words alone, these do not say which stage they lie in.
_NESTED: Final = ("collective", "compile")


@dataclass(frozen=True)
class Attempt:
    """What could be read of an attempt, for the examination.

    Attributes:
        run_id: its id, or the name of its directory.
        life: whether its supervisor is at work now; `unknown` where nothing says so.
        lane: as its case has it; None when that could not be read.
        state: as its manifest or record has it; None when neither could be read.
        case: None when it could not be read.
        snapshot: the picture for the detectors.
        fresh: whether the last look is of now, so that what it shows still holds.
        sealed_cause: the first cause in its sealed record, or None.
        sealed_caveats: kind and summary of the record's other findings.
        record_id: the sealed record's id, or None.
        problems: what was there and could not be read, one line each.
        named: what was named while it ran, one line each.
    """

    run_id: str
    life: Life
    lane: str | None
    state: str | None
    case: Case | None
    snapshot: Snapshot
    fresh: bool = False
    sealed_cause: Finding | None = None
    sealed_caveats: tuple[Finding, ...] = ()
    record_id: str | None = None
    problems: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examination:
    """The doctor's answer.

    Attributes:
        run_id, lane, state, record_id: of the attempt.
        asked: what was asked, in a phrase; None where the case could not be read.
        life: whether it is still running.
        stage: where in its life it was, as a phrase.
        finding: what is wrong; None when nothing is.
        caveats: what a reader of a good run's number must know.
        ranks: one line a rank.
        steps: what to do next, first things first.
        not_fixes: what does not help.
        diagnostic: the command that answers "model or infrastructure?", or None where that is not open.
        notes: what else bears on it (files that could not be read, what was named live, settings that were scrubbed).
    """

    run_id: str
    lane: str | None
    asked: str | None
    state: str | None
    record_id: str | None
    life: Life
    stage: str
    finding: Finding | None
    caveats: tuple[Finding, ...]
    ranks: tuple[str, ...]
    steps: tuple[str, ...]
    not_fixes: tuple[str, ...]
    diagnostic: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong. A run that is still going and shows nothing is healthy so far."""
        return self.finding is None

    def to_json(self) -> dict[str, Any]:
        """Shape: the fields above; `finding` and `diagnostic` are null where there is none."""
        return {
            "run_id": self.run_id,
            "record_id": self.record_id,
            "lane": self.lane,
            "asked": self.asked,
            "state": self.state,
            "life": self.life,
            "stage": self.stage,
            "healthy": self.healthy,
            "finding": None if self.finding is None else self.finding.to_json(),
            "caveats": [finding.to_json() for finding in self.caveats],
            "ranks": list(self.ranks),
            "steps": list(self.steps),
            "not_fixes": list(self.not_fixes),
            "diagnostic": None if self.diagnostic is None else list(self.diagnostic),
            "notes": list(self.notes),
        }


def examine(attempt: Attempt) -> Examination:
    """Conclude. Whatever could not be read is a note, and never a reason to call a run healthy."""
    finding, notes = _conclusion(attempt)
    notes += [f"could not be read: {problem}" for problem in attempt.problems]
    notes += [f"named while it ran: {line}" for line in attempt.named]
    taken = scrubbed(attempt.snapshot.settings)
    if taken:
        notes.append(f"taken out of the ranks' environment by the launcher: {', '.join(taken)}")
    own = suspects(attempt.snapshot.settings)
    if own and finding is not None and finding.kind != "environment_leak":
        values = ", ".join(f"{name}={value}" for name, value in own)
        notes.append(f"set by the operator, and not what one node needs: {values}")
    steps: tuple[str, ...] = ()
    not_fixes: tuple[str, ...] = ()
    diagnostic = None
    if finding is not None:
        advice = advice_for(finding.kind)
        rank = "N" if finding.rank is None else str(finding.rank)
        # Ranks of a command share its log.
        of_command = attempt.case is not None and attempt.case.script is not None
        log = "stderr.log" if of_command else f"ranks/{rank}/stderr.log"
        steps = tuple(
            step.replace("ranks/{rank}/stderr.log", log).replace("{rank}", rank).replace("{run}", attempt.run_id)
            for step in advice.steps
        )
        not_fixes = advice.not_fixes
        if advice.asks_diagnostic and attempt.case is not None:
            diagnostic = diagnostic_command(attempt.case)
    caveats = () if finding is not None else attempt.sealed_caveats
    for caveat in caveats:
        steps += advice_for(caveat.kind).steps if caveat.kind in ("straggler", "seeding_pass") else ()
    return Examination(
        run_id=attempt.run_id,
        lane=attempt.lane,
        asked=None if attempt.case is None else _asked(attempt.case),
        state=attempt.state,
        record_id=attempt.record_id,
        life=attempt.life,
        stage=stage_of(attempt.snapshot, finding),
        finding=finding,
        caveats=caveats,
        ranks=tuple(f"rank {rank.rank}: {where(rank)}" for rank in attempt.snapshot.ranks),
        steps=steps,
        not_fixes=not_fixes,
        diagnostic=diagnostic,
        notes=tuple(notes),
    )


def _asked(case: Case) -> str:
    ranks = f"{case.nproc} rank{'' if case.nproc == 1 else 's'}"
    if case.script is not None:
        return f"{shlex.join(case.command)[:200]} on {ranks}, {case.gpu}"
    return f"{case.preset} on {ranks}, {case.mode}, {case.compile}, {case.dtype}, {case.gpu}"


def _conclusion(attempt: Attempt) -> tuple[Finding | None, list[str]]:
    snapshot = attempt.snapshot
    if attempt.life == "running":
        died = [r for r in snapshot.ranks if r.ended_ns is not None and not (r.end_marker and r.status == 0)]
        if died:
            return first_cause(snapshot), ["the supervisor is still at work: this is what can be seen so far"]
        named = name_hang(snapshot.looks, HangContext.of(snapshot)) if attempt.fresh else None
        return named, []
    sealed = attempt.sealed_cause
    if sealed is not None:
        today = first_cause(snapshot) if attempt.case is not None else None
        if today is None or today.kind in ("undecided", sealed.kind):
            return sealed, []
        if sealed.kind == "undecided":
            return today, [f"its record was sealed as undecided: {sealed.summary}"]
        return sealed, [f"this version concludes {today.kind}: {today.summary}"]
    if attempt.record_id is not None and attempt.state == "ok":
        return None, []
    found = first_cause(snapshot) if snapshot.ranks else None
    if found is None and (attempt.problems or not snapshot.ranks):
        found = Finding("undecided", "failure", "what is left of the attempt does not say how it ended")
    elif found is not None and found.kind == "undecided" and attempt.life == "unknown":
        text = "the attempt has no record, and what is there does not show a failure"
        found = Finding("undecided", "failure", text, found.evidence)
    return found, []


def stage_of(snapshot: Snapshot, finding: Finding | None) -> str:
    """The stage of the rank concerned, else of the one that is furthest behind."""
    ranks = [rank for rank in snapshot.ranks if finding is None or finding.rank in (None, rank.rank)]
    stages: list[tuple[int, str, int | None]] = []
    for rank in ranks:
        phase = rank.stage
        if phase in _NESTED:
            # Compilations and collectives are nested in a phase; whether a step has ended tells the two loops apart.
            measured = snapshot.warmup is not None and (rank.step or 0) >= snapshot.warmup
            phase = "window" if measured else "warmup"
        if phase in STAGES:
            stages.append((_ORDER.index(STAGES[phase]), STAGES[phase], rank.step))
    if not stages:
        return "before any rank was seen"
    _, name, step = min(stages, key=lambda each: each[0])
    if name == "warm-up" and step == 0:
        return "first step"
    return name


def diagnostic_command(case: Case) -> tuple[str, ...]:
    """The run that tells the model from the machine: same ranks, mode, compilation and devices, reduced complexity.

    What a command of the user's own leaves open is left to the defaults.
    """
    asked = (("--mode", case.mode), ("--compile", case.compile), ("--dtype", case.dtype))
    pinned = [word for flag, value in asked if value != "any" for word in (flag, value)]
    return (
        "lanemark", "run", "training", "--preset", "diagnostic", "--nproc", str(case.nproc), *pinned,
        "--gpu", case.gpu, "--data", "synthetic", "--cache-policy", "seed",
    )  # fmt: skip


def conclude_diagnostic(before: Finding | None, cause: Finding | None, ids: tuple[str, ...]) -> Finding:
    """What the diagnostic run says about the failed one.

    Args:
        before: what the failed run was found to have, or None.
        cause: the first cause of the diagnostic run; None when it ended well.
        ids: lines that name both records and the devices, for whoever is told.
    """
    if cause is None:
        text = "the diagnostic preset passed on the same ranks: the model or its compilation is the suspect"
        return Finding("undecided" if before is None else before.kind, "failure", text, ids)
    evidence = (*ids, cause.summary, *cause.evidence)
    same = before is not None and cause.kind == before.kind
    if cause.kind in _MACHINE or (same and cause.kind == "rank_killed"):
        text = f"the diagnostic preset fails as well, without the model ({cause.kind}): the machine is the suspect"
        return Finding("infrastructure_hang", "failure", text, evidence, cause.rank)
    if same and cause.kind != "undecided":
        text = f"the diagnostic preset fails the same way ({cause.kind}), so the model is not the cause"
        return Finding(cause.kind, "failure", text, evidence, cause.rank)
    text = f"the diagnostic preset failed, and not in the same way ({cause.kind}): nothing follows for the model"
    return Finding("undecided", "failure", text, evidence, cause.rank)


#: Classes that, in the diagnostic preset, can only be the machine's.
_MACHINE: Final = frozenset({"infrastructure_hang", "stalled", "bootstrap_failed"})
