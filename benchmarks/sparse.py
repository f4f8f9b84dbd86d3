"""The sparse lane's backends: processor time of the block union against the exact gather, and parity over the matrix.

Backends that are compared run in this process, in turns, over the same tensors; what is compared is processor time of
all threads, which a busy machine changes less than it changes the clock. Parity is the largest error of any element
over the reference's largest magnitude, the worst over all cases of the matrix and all backends that run on this device.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from lanemark.lanes.sparse_presets import SPARSE_PRESETS
from lanemark.records.questions import AttentionCase
from lanemark.stack.sparse.backends import BACKENDS, Attend, call
from lanemark.stack.sparse.problem import Problem, draw_problem
from lanemark.stack.sparse.reference import dense_reference, largest_error, reference

#: Long enough that the index set matters, and the size that the lane's target names.
LONG = AttentionCase("local-4096", 1, 4096, 256, 8, 8, 64, "fp32", "local", 0, 11)
#: Turns of each backend; the first is a warm-up and is left out.
TURNS = 4
LIMITS = {"fp32": 1e-6, "bf16": 5e-3}


def cpu_s(attend: Attend, problem: Problem) -> float:
    """Processor seconds of one call, all threads."""
    began = time.process_time()
    call(attend, problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)
    return time.process_time() - began


def against_gather() -> tuple[float, str]:
    """Gather's processor time over that of the better block backend, and how it came about."""
    problem = draw_problem(LONG, torch.device("cpu"))
    names = ("gather", "union", "flex", "dense")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(TURNS):
        for name in names:
            times[name].append(cpu_s(BACKENDS[name], problem))
    middle = {name: statistics.median(values[1:]) for name, values in times.items()}
    better = min(("union", "flex"), key=middle.__getitem__)
    told = ", ".join(f"{name} {1e3 * middle[name]:.0f} ms" for name in names)
    return middle["gather"] / middle[better], f"better: {better}; processor time of all threads: {told}"


def worst_parity(dtype: str) -> tuple[float, str]:
    """The worst error over the matrix's cases of a precision and every backend, and where it was."""
    chosen = SPARSE_PRESETS["matrix"]
    worst, where = 0.0, "nowhere"
    cases = [case for case in chosen.cases if case.dtype == dtype]
    for case in cases:
        problem = draw_problem(case, torch.device("cpu"))
        expected, dense = reference(problem)[0], dense_reference(problem)[0]
        for name in chosen.backends:
            out = call(BACKENDS[name], problem.q_BHSD, problem.k_BGSD, problem.v_BGSD, problem.indices_BSK)[0]
            error = largest_error(out, dense if name == "dense" else expected)
            if not error <= worst:
                worst, where = error, f"{name} over {case.name}"
    return worst, f"{len(cases)} cases of the matrix, {', '.join(chosen.backends)}; worst: {where}"


def results() -> list[dict[str, Any]]:
    """The three figures of the lane."""
    ratio, how = against_gather()
    rows = [
        {
            "name": "sparse.union_vs_gather", "value": ratio, "unit": "ratio", "target": ">= 5", "ok": ratio >= 5,
            "method": f"S 4096, topk 256, local sets, 8 heads of 64, fp32, median of {TURNS - 1} turns; {how}",
        }
    ]  # fmt: skip
    for dtype, limit in LIMITS.items():
        worst, how = worst_parity(dtype)
        rows.append(
            {
                "name": f"sparse.parity_{dtype}_worst", "value": worst, "unit": "ratio", "target": f"<= {limit:g}",
                "ok": worst <= limit, "method": how,
            }
        )  # fmt: skip
    return rows
