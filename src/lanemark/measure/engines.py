"""What DeepSpeed's engine says of a script's model, where the optimizer cannot: it is given flat parts of parameters.

ZeRO hands its optimizer one flat shard a parameter group (from stage 1 on), on the host where it offloads. So what is
trained, on which device and in which formats is read from the engines that are alive, outside the window (source:
`DeepSpeedEngine.module`, `.device`, `.zero_optimization_stage()`; held against DeepSpeed 0.19). Nothing is imported.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Final
from weakref import ref

from lanemark.records.observation import Observation, observed, unavailable

_MODULE: Final = "deepspeed.runtime.engine"
_PIPELINES: Final = "deepspeed.runtime.pipe.engine"
SOURCE: Final = "the live engines of DeepSpeed"


class Engines:
    """The engines of DeepSpeed that are alive in this process; none where a script does not use it."""

    def __init__(self) -> None:
        self._found: list[Any] = []

    def look(self) -> list[Any]:
        """Every live engine. Walks all objects until one was found: a tenth of a second."""
        wanted = _class(_MODULE, "DeepSpeedEngine")
        if wanted is None:
            return []
        if not self._found:
            self._found = [ref(each) for each in gc.get_objects() if issubclass(type(each), wanted)]
        return [engine for each in self._found if (engine := each()) is not None]

    def parameters(self) -> list[Any]:
        """What is trained by any of them, each parameter once."""
        found = {id(each): each for engine in self.look() for each in engine.module.parameters() if each.requires_grad}
        return list(found.values())

    def device(self) -> Any:
        """The torch.device of the first, or None where there is none."""
        return next((engine.device for engine in self.look()), None)

    def count(self) -> Observation[int]:
        """How many numbers are trained, over all ranks. Call it where there is an engine."""
        pipeline = _class(_PIPELINES, "PipelineEngine")
        for engine in self.look():
            if (pipeline is not None and isinstance(engine, pipeline)) or getattr(engine, "mpu", None) is not None:
                return unavailable(SOURCE, "the model is divided among the ranks, and each holds only its part")
        parameters = self.parameters()
        if any(getattr(each, "allreduce", True) is False for each in parameters):
            return unavailable(SOURCE, "experts differ between the ranks, and each holds only its own")
        # At stage 3 a parameter is empty until it is needed, and knows its whole size (source: zero.Init).
        return observed(sum(int(getattr(each, "ds_numel", each.numel())) for each in parameters), SOURCE)

    def mode(self) -> Observation[str]:
        """`deepspeed_zero<stage>`, or `mixed`. Call it where there is an engine."""
        stages = {int(engine.zero_optimization_stage()) for engine in self.look()}
        if len(stages) > 1:
            return observed("mixed", f"{SOURCE}: ZeRO stages {', '.join(map(str, sorted(stages)))}")
        return observed(f"deepspeed_zero{stages.pop()}", SOURCE)


def _class(module: str, name: str) -> type | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None
