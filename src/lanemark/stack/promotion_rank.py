"""The rank program of the promotion lane: `python -m lanemark.stack.promotion_rank`, one process, one device.

It climbs the proof ladder and leaves one file for each rung that it came to (`proofs/RUNG.json`), then `result.json`
with everything that was measured, and `end.json` as its last act. It concludes nothing: which rungs are held is decided
from those files where the record is built. The beacon says where it is: import → build → warmup (opening the candidate)
→ window (a case, named in its label) → drain → done.

A candidate that does not apply, cannot be imported or is rejected is a result and no failure of the run.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from lanemark.measure.durable import replace_file
from lanemark.measure.session import RankSession
from lanemark.observe.clock import stamp
from lanemark.records.encoding import encode
from lanemark.records.observation import observed, unavailable

if TYPE_CHECKING:
    import torch

    from lanemark.lanes.promotion_claims import Applicability, Claims
    from lanemark.lanes.promotion_matrix import Problem
    from lanemark.records.questions import PromotionAsked
    from lanemark.stack.promotion.kernels import Kernel

Doc = dict[str, Any]
RESULT_FORMAT = 1
#: What a user's own claims bring along to the record: which of its own words a candidate is held to.
_PROOF_OF = {
    "planned": ("applicability", "asked"),
    "compiled": ("compiled",),
    "imported": ("imported", "import_health"),
    "executed": ("executed",),
    "dispatch_confirmed": ("witness", "profile", "canary"),
}


def validate(session: RankSession) -> None:
    """Run the case of this session on this rank, from import to end marker."""
    asked, beacon = session.case.promotion, session.beacon
    if asked is None:
        raise ValueError("the case has no question of the promotion lane")
    beacon.enter("import")
    from lanemark.lanes.promotion_matrix import problem_of
    from lanemark.measure.cache_use import cache_use
    from lanemark.measure.compiling import watch_compilations
    from lanemark.measure.peaks import memory_peaks
    from lanemark.stack.sparse.bench import selectors
    from lanemark.stack.sparse_rank import choose_device, posture, worker_facts

    hooks = {"compile_hooks": watch_compilations(beacon), "control_plane": session.open_to_looks()}
    beacon.enter("build")
    device = choose_device(session.case.gpu)
    facts = {**worker_facts(session, device), **hooks}
    session.write_observed(facts)
    arch = facts["remote"]["arch"].get("value") if device.type == "cuda" else "cpu"
    result: Doc = {
        "format": RESULT_FORMAT, "asked": asked.to_json(),
        "selectors": {each["name"]: each["value"].get("value", "absent") for each in selectors(os.environ)},
    }  # fmt: skip
    problems = [problem_of(name) for name in asked.cases]
    climb(session, asked, problems, device=device, arch=arch, result=result)
    beacon.enter("drain")
    facts["compile_observed"] = posture(session).to_json()
    session.write_observed(facts)
    session.write_result(result)
    used = cache_use(os.environ, compiled=session.case.compile != "eager")
    session.write_end({"rank": session.rank, "completed_at": stamp(), "memory": memory_peaks(), "compile_cache": used})


def climb(
    session: RankSession,
    asked: PromotionAsked,
    problems: list[Problem],
    *,
    device: torch.device,
    arch: str | None,
    result: Doc,
) -> None:
    """Take one rung after another into `result`, each with its proof, until one cannot be taken."""
    from lanemark.lanes.promotion_claims import Applicability
    from lanemark.stack.promotion.examine import examine

    beacon, dtype = session.beacon, session.case.dtype
    beacon.enter("warmup", asked.candidate)
    opened, word = open_candidate(asked.candidate)
    result["import_health"] = import_health(asked.candidate, word)
    claims = claims_of(asked.candidate, opened)
    applies = opened if isinstance(opened, Applicability) else None
    if isinstance(opened, str):
        applies = Applicability(applies=False, reason="module_missing", words=opened)
    # What is known of a candidate needs no import: that it does not cover this scope says more than a missing module.
    if claims is not None:
        covered = covers(claims, asked, problems, arch, dtype)
        applies = applies if applies is not None and covered.applies else covered
        result["runtime_modes"] = list(claims.runtime_modes)
    assert applies is not None
    result["applicability"] = applies._asdict()
    prove(session, "planned", result)
    kernel = None if isinstance(opened, (Applicability, str)) else opened
    source = kernel.source if kernel is not None else unavailable("candidate", f"it could not be opened: {word}")
    result["source_digest"] = source.to_json()
    result["compiled"] = compile_candidate(asked, kernel, problems[0], dtype, device, applies=applies.applies)
    prove(session, "compiled", result)
    result["imported"] = {"done": kernel is not None, "words": word}
    prove(session, "imported", result)
    if kernel is None or not applies.applies:
        return

    def reached(step: str) -> None:
        beacon.enter("window", step)
        session.write_result(result)  # a run that is ended half-way leaves what it saw
        for rung in ("executed", "dispatch_confirmed"):
            if not session.paths.proof(rung).exists():
                prove(session, rung, result)

    examine(kernel, problems, dtype, asked.direction, device=device, reached=reached, into=result)
    for rung in ("executed", "dispatch_confirmed"):
        prove(session, rung, result)
    for rung, direction in (("fwd_parity", "forward"), ("bwd_parity", "backward")):
        cases = [{**case, direction: case[direction]} for case in result["cases"] if direction in case]
        if cases:
            write_proof(session, rung, {"cases": cases})


def open_candidate(name: str) -> tuple[Kernel | Applicability | str, str]:
    """The opened candidate with the words for it; where it cannot be imported, the error in place of it."""
    from lanemark.lanes.promotion_claims import Applicability
    from lanemark.stack.promotion.kernels import open_kernel

    try:
        opened = open_kernel(name)
    except Exception as error:  # importing runs foreign code, which may raise anything
        words = f"{type(error).__name__}: {error}"[:300]
        return words, words
    if isinstance(opened, Applicability):
        return opened, opened.words
    return opened, "imported and callable in this process"


def claims_of(name: str, opened: Kernel | Applicability | str) -> Claims | None:
    """What the candidate claims: a known one's claims need no import."""
    from lanemark.lanes.promotion_claims import CANDIDATES, Applicability

    if isinstance(opened, (Applicability, str)):
        return CANDIDATES.get(name)
    return opened.claims


def covers(
    claims: Claims | None, asked: PromotionAsked, problems: list[Problem], arch: str | None, dtype: str
) -> Applicability:
    """Whether the claims cover the scope and every case that is asked: one that they do not cover blocks all."""
    from lanemark.lanes.promotion_claims import case_applies, scope_applies

    assert claims is not None
    scope = scope_applies(claims, asked.mode, arch, dtype, asked.direction)
    if not scope.applies:
        return scope
    assert arch is not None
    for problem in problems:
        found = case_applies(claims, problem, arch)
        if not found.applies:
            return found._replace(words=f"{problem.name}: {found.words}")
    return scope


def compile_candidate(
    asked: PromotionAsked, kernel: Kernel | None, first: Problem, dtype: str, device: torch.device, *, applies: bool
) -> Doc:
    """The `compiled` rung. FA4 can be cross-compiled where it does not apply; nothing else is then looked at."""
    from importlib.util import find_spec

    from lanemark.stack.promotion.compiled import compiled_proof, cross_compile_fa4
    from lanemark.stack.promotion.inputs import draw, fresh_seed

    if kernel is None or (asked.candidate == "fa4" and not applies):
        if asked.candidate == "fa4" and find_spec("flash_attn") is not None:
            return cross_compile_fa4(os.environ)
        return {"done": False, "words": "there is nothing to compile: the candidate could not be opened"}
    if not applies:
        return {"done": False, "words": "it does not apply here, so that nothing of it was looked for"}
    call = None
    if kernel.compiled is None:
        inputs = draw(first, dtype, fresh_seed(), device)

        def call() -> object:
            import torch

            with torch.no_grad():
                return kernel.attend(inputs)

    return compiled_proof(asked.candidate, kernel.compiled, device=device, call=call)


def import_health(name: str, word: str) -> list[Doc]:
    """Whether the candidate's modules can be imported, each tried in a process of its own; torch is imported here."""
    from lanemark.lanes.promotion_claims import CANDIDATES
    from lanemark.observe.packages import try_import
    from lanemark.records.observation import absent

    source = "imported by this rank"
    none = absent(source).to_json()
    health = [{"module": "torch", "imported": observed(value=True, source=source).to_json(), "error": none}]
    modules = CANDIDATES[name].modules if name in CANDIDATES else (name.partition(":")[0],)
    for module in modules:
        seen = try_import(module, os.environ)
        said = seen.source.partition(": ")[2] if seen.value is False else ""
        error = observed(said or word, "import probe") if seen.value is False else absent("import probe")
        if seen.status == "unavailable":
            error = unavailable("import probe", seen.reason or "it gave no answer")
        health.append({"module": module, "imported": seen.to_json(), "error": error.to_json()})
    return health


def prove(session: RankSession, rung: str, result: Doc) -> None:
    """Leave the file of a rung: what was seen there, whether or not it is enough."""
    seen = {key: result[key] for key in _PROOF_OF[rung] if key in result}
    if seen:
        write_proof(session, rung, seen)


def write_proof(session: RankSession, rung: str, seen: Doc) -> None:
    path = session.paths.proof(rung)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, encode({"format": RESULT_FORMAT, "rung": rung, "at": stamp(), **seen}))


def main() -> int:
    """Open the session from the environment and climb. What goes wrong is in `error.json`, and raised."""
    with RankSession.from_environment(os.environ) as session:
        validate(session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
