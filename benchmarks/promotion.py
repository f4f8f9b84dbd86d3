"""Does the promotion lane reject every broken kernel, for the right reason, and pass every right one?

Each of the zoo's broken kernels (`kernel_zoo.py`) is tried with 50 fresh seeds in bfloat16 on the case that its entry
names, whole: execution, names, canary, parity with 20 repeats, mutants. It counts as rejected only when the first
reason is one that its entry allows. Correct kernels are tried with 200 fresh seeds over dense, grouped, varlen and
sparse cases, every fifth of them with gradients too; a case without power counts as not passed.

Seeds come from the operating system and are never fixed. A draw that went wrong is named in the method.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

BROKEN_SEEDS, CORRECT_SEEDS, GRADIENTS_EVERY = 50, 200, 5
DTYPE = "bf16"


def tried(name: str, case: str, *, direction: str = "forward", dtype: str = DTYPE, repeats: Any = None) -> Any:
    """Where a candidate stands on one case over fresh seeds, as a record would say it."""
    import torch

    from lanemark.lanes.promotion_ladder import PROOF_FILES, standing
    from lanemark.lanes.promotion_matrix import problem_of
    from lanemark.stack.promotion.examine import examine
    from lanemark.stack.promotion.kernels import open_kernel

    kernel = open_kernel(name)
    found = examine(kernel, [problem_of(case)], dtype, direction, device=torch.device("cpu"), repeats=repeats)
    done = {"done": True, "words": "tried in this process"}
    found |= {
        "applicability": {"applies": True, "reason": "covered", "words": "cpu"}, "compiled": done, "imported": done,
        "runtime_modes": kernel.claims.runtime_modes,
    }  # fmt: skip
    asked = {
        "mode": kernel.claims.mode, "candidate": name, "direction": direction, "matrix": "attention-v1",
        "cases": [case],
    }  # fmt: skip
    return standing(asked, found, [f"ranks/0/{file}" for file in PROOF_FILES.values()])


def broken(seeds: int = BROKEN_SEEDS) -> tuple[int, int, list[str]]:
    """How many draws of broken kernels were rejected for a right reason, of how many, and the ones that were not."""
    from kernel_zoo import BROKEN

    right, wrong = 0, []
    for name, (reasons, case) in BROKEN.items():
        for _ in range(seeds):
            stands = tried(f"kernel_zoo:{name}", case)
            if stands.state == "rejected" and stands.rejection.reason in reasons:
                right += 1
            else:
                seed = [entry["seed"] for entry in stands.parity]
                wrong.append(f"{name} is {stands.state} ({stands.reason[:80]}; seeds {seed})")
    return right, right + len(wrong), wrong


def correct(seeds: int = CORRECT_SEEDS) -> tuple[int, int, list[str]]:
    """How many draws of correct kernels passed every case, of how many, and the ones that did not."""
    from kernel_zoo import CORRECT, DENSE_CASE, GROUPED_CASE, SPARSE_CASE, VARLEN_CASE

    passed, failed = 0, []
    names = [f"kernel_zoo:{name}" for name in CORRECT] + ["sdpa_flash", "sdpa_math", "gather", "union"]
    for number in range(seeds):
        name = names[number % len(names)]
        is_sparse = name in ("gather", "union") or ":sparse" in name
        case = SPARSE_CASE if is_sparse else (DENSE_CASE, GROUPED_CASE, VARLEN_CASE)[number // len(names) % 3]
        backward = number % GRADIENTS_EVERY == 0 and name not in ("gather", "union")
        stands = tried(name, case, direction="backward" if backward else "forward")
        verdicts = [entry["verdict"] for entry in stands.parity]
        if stands.rejection is None and verdicts and set(verdicts) == {"pass"}:
            passed += 1
        else:
            seed = [entry["seed"] for entry in stands.parity]
            failed.append(f"{name} on {case}: {verdicts}, {stands.reason[:80]} (seeds {seed})")
    return passed, passed + len(failed), failed


def results() -> list[dict[str, Any]]:
    """The two figures of the lane."""
    import torch

    torch.set_num_threads(1)
    from kernel_zoo import BROKEN

    right, of_broken, wrong = broken()
    passed, of_correct, failed = correct()
    shown = f"; not: {'; '.join(wrong[:3])}" if wrong else ""
    missed = f"; not: {'; '.join(failed[:3])}" if failed else ""
    return [
        {
            "name": "promotion.broken_rejected", "value": right / of_broken, "unit": "ratio", "target": ">= 1",
            "ok": right == of_broken,
            "method": f"{len(BROKEN)} broken kernels, {BROKEN_SEEDS} fresh seeds each, {DTYPE}: rejected, first reason "
            f"one that the fault allows{shown}",
        },
        {
            "name": "promotion.correct_passed", "value": passed / of_correct, "unit": "ratio", "target": ">= 1",
            "ok": passed == of_correct,
            "method": f"{of_correct} fresh seeds over 8 correct kernels, {DTYPE}, gradients in every "
            f"{GRADIENTS_EVERY}th: every case passed, none without power{missed}",
        },
    ]  # fmt: skip


if __name__ == "__main__":
    for row in results():
        print(row)
