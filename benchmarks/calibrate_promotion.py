"""Where the promotion lane's limits come from: errors of correct kernels beside those of planted faults.

    python benchmarks/calibrate_promotion.py [--seeds N]

writes `benchmarks/calibration/promotion.json`. Every draw has a fresh seed, which is kept, so that any line of the file
can be drawn again. Correct kernels are torch's fused and unfused attention and the zoo's flash-like ones; all have been
read and are trusted for it. For each element type and direction the file says how large a correct kernel's error came
relative to the dense path's and to the limit, and how small a planted fault's. A limit is right when the first stays
below 1 and the second above it, with room on both sides (docs/adr/0029-parity-with-power.md reads it).

It takes about a minute of processor time and is no benchmark: `make benchmarks` does not run it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402 - the folder is found first

from lanemark.lanes.promotion_matrix import problem_of  # noqa: E402
from lanemark.lanes.promotion_parity import entry  # noqa: E402
from lanemark.records.terms import fro_limit, row_limit  # noqa: E402
from lanemark.stack.promotion.inputs import fresh_seed  # noqa: E402
from lanemark.stack.promotion.kernels import open_kernel  # noqa: E402
from lanemark.stack.promotion.parity import examine_case  # noqa: E402

DENSE = (
    "causal-s128-d64-h4", "causal-s127-d128-h4x2-x1.5", "full-s128-d64-h4x1", "window64-s127-d64-h4-x1.5",
    "varlen-s128-d64-h4x2-b3", "causal-s64x200-d64-h4x1", "causal-s333-d64-h2-x1.5",
)  # fmt: skip
SPARSE = ("topk32-s128-d64-h4", "topk64-s127-d64-h4x2-x1.5-e3", "topk256-s127-d64-h4x1", "topk32-s333-d64-h2")
KERNELS = (
    ("sdpa_flash", DENSE), ("sdpa_math", DENSE), ("kernel_zoo:flash_like", DENSE), ("kernel_zoo:sparse_gather", SPARSE),
)  # fmt: skip


def measured(seeds: int) -> list[dict[str, Any]]:
    """One line a kernel, case, element type, direction and seed."""
    lines = []
    for name, cases in KERNELS:
        kernel = open_kernel(name)
        for dtype in ("fp32", "bf16", "fp16"):
            for case in cases:
                for _ in range(seeds):
                    seed = fresh_seed()
                    doc = examine_case(
                        kernel.attend, problem_of(case), dtype, seed=seed, backward=True,
                        repeats={"forward": 2, "backward": 2},
                    )  # fmt: skip
                    for direction in ("forward", "backward"):
                        found, raw = entry(doc, doc[direction]), doc[direction]
                        lines.append({
                            "kernel": name, "dtype": dtype, "case": case, "direction": direction, "seed": seed,
                            "over_dense": found["fro"] / found["dense_fro"],
                            "over_limit": found["fro"] / found["fro_limit"],
                            "row_over_limit": found["row"] / found["row_limit"],
                            "mutant_over_limit": min(
                                max(each["fro"] / fro_limit(direction, each.get("dense_fro", raw["dense_fro"])),
                                    each["row"] / row_limit(each.get("dense_row", raw["dense_row"])))
                                for each in raw["mutants"]
                            ),
                            "lse": raw.get("lse_max_error"), "difference": raw.get("max_difference"),
                            "verdict": found["verdict"],
                        })  # fmt: skip
    return lines


def summary(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Extremes for each element type and direction."""
    out = []
    for dtype in ("fp32", "bf16", "fp16"):
        for direction in ("forward", "backward"):
            some = [line for line in lines if (line["dtype"], line["direction"]) == (dtype, direction)]
            lse = [line["lse"] for line in some if line["lse"] is not None]
            differences = [line["difference"] for line in some if line["difference"] is not None]
            out.append({
                "dtype": dtype, "direction": direction, "draws": len(some),
                "failed": sum(line["verdict"] == "fail" for line in some),
                "no_power": sum(line["verdict"] == "no_power" for line in some),
                "largest_over_dense": _short(max(line["over_dense"] for line in some)),
                "largest_over_limit": _short(max(line["over_limit"] for line in some)),
                "largest_row_over_limit": _short(max(line["row_over_limit"] for line in some)),
                "smallest_mutant_over_limit": _short(min(line["mutant_over_limit"] for line in some)),
                **({"largest_lse_error": _short(max(lse))} if lse else {}),
                **({"largest_difference": _short(max(differences))} if differences else {}),
            })  # fmt: skip
    return out


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=8)
    asked = options.parse_args()
    torch.set_num_threads(1)
    lines = measured(asked.seeds)
    found = summary(lines)
    worst = sorted(lines, key=lambda line: line["over_limit"], reverse=True)[:20]
    doc = {
        "torch": torch.__version__, "machine": platform.machine(), "kernels": [name for name, _ in KERNELS],
        "cases": [*DENSE, *SPARSE], "summary": found,
        "nearest_to_a_limit": [
            {key: _short(value) if isinstance(value, float) else value for key, value in line.items()} for line in worst
        ],
    }  # fmt: skip
    (HERE / "calibration" / "promotion.json").write_text(json.dumps(doc, indent=1) + "\n")
    for row in found:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
