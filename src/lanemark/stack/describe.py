"""`python -m lanemark.stack.describe --preset P --json`: build a preset on the meta device and say how large it is.

No weight is allocated, so a 20-billion-parameter model is described in a second. It is the independent check of the
closed forms in `lanemark.lanes.presets`: here parameters are counted one by one on the real modules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from lanemark.lanes.presets import PRESETS, Preset, preset
from lanemark.records.errors import LanemarkError
from lanemark.stack.model import Decoder, count_parameters
from lanemark.stack.moe import RoutedFeedForward
from lanemark.stack.parallel import build

#: AdamW keeps two fp32 moments beside each fp32 weight (Kingma and Ba, arXiv:1412.6980): 4 + 8 bytes a parameter.
_STATE_BYTES = 12


def describe(recipe: Preset, sequence: int) -> dict[str, Any]:
    """Sizes of a preset, counted on its modules.

    Returns:
        `parameters` and `parameters_active` (counts); `flops_per_token` (FLOP of a training step, PaLM's convention);
        `bytes_fp32` (weights alone) and `bytes_training_fp32` (weights and AdamW's moments; no gradients or
        activations).
    """
    model = build(recipe, sequence, "fp32")
    parameters = count_parameters(model)
    return {
        "preset": recipe.name,
        "pattern": recipe.pattern,
        "sequence": sequence,
        "parameters": parameters,
        "parameters_active": parameters - _idle_parameters(model),
        "flops_per_token": recipe.flops_per_token(sequence),
        "bytes_fp32": 4 * parameters,
        "bytes_training_fp32": _STATE_BYTES * parameters,
        "device": str(next(model.parameters()).device),
    }


def _idle_parameters(model: Decoder) -> int:
    """Weights of the experts that one token is not sent to, over all blocks."""
    idle = 0
    for module in model.modules():
        if isinstance(module, RoutedFeedForward):
            experts = module.gate_up_EDF.numel() + module.down_EFD.numel()
            idle += experts // module.num_experts * (module.num_experts - module.top_k)
    return idle


def main(argv: Sequence[str] | None = None) -> int:
    """Print the description. Exit code 2 for a preset that does not exist."""
    parser = argparse.ArgumentParser(prog="python -m lanemark.stack.describe", description="Describe a preset.")
    parser.add_argument("--preset", required=True, help="one of " + ", ".join(PRESETS))
    parser.add_argument("--sequence", type=int, help="tokens in a sequence; default: the preset's")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args(argv)
    try:
        recipe = preset(arguments.preset)
    except LanemarkError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    facts = describe(recipe, arguments.sequence or recipe.sequence)
    if arguments.json:
        sys.stdout.write(json.dumps(facts, sort_keys=True) + "\n")
    else:
        sys.stdout.writelines(
            f"{key}: {value:,}\n" if isinstance(value, int) else f"{key}: {value}\n" for key, value in facts.items()
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
