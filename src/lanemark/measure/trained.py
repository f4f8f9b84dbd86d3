"""What a script of the user's own trains, as far as its optimizers show it: parameters, device, mode, compile posture.

A framework hides its model; an optimizer that stepped holds what was trained. From its parameters' types follows how
ranks share them (source: torch's own classes): FSDP2 makes them `DTensor`, FSDP1 `FlatParameter`. DDP leaves them as
they are, and FSDP1 can, so that their wrappers are looked for among the live objects, once, outside the window. Of a
model that DeepSpeed trains, its engine is asked instead (`lanemark.measure.engines`).
"""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Any, Final
from weakref import WeakMethod, ref

from lanemark.measure.engines import Engines
from lanemark.records.observation import Observation, observed, unavailable

_SOURCE: Final = "parameters of the optimizers that stepped"
#: More optimizers than a training step has; scripts that make one a parameter are known by their first ones.
_MAX_OPTIMIZERS: Final = 64
#: A compiled module that holds at least this share of what is trained is the model: frozen parts and heads vary.
_WHOLE: Final = 0.99
#: Wrappers that leave parameters as they are (FSDP1 with `use_orig_params`, DDP): the mode, the module, its class.
_WRAPPERS: Final = (
    ("fsdp1", "torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
    ("ddp", "torch.nn.parallel.distributed", "DistributedDataParallel"),
)


class Trained:
    """What is known of the model, from the optimizers that stepped and the calls of `torch.compile`."""

    nothing = "no optimizer of torch stepped in this process"

    def __init__(self) -> None:
        self._optimizers: list[Any] = []
        self._engines = Engines()
        self._compiled: list[Any] = []
        self._functions: list[Any] = []
        self._num_functions = 0

    def take(self, optimizer: Any) -> None:
        """An optimizer stepped. Cheap: called at every step."""
        known = self._optimizers
        if len(known) < _MAX_OPTIMIZERS and not any(each() is optimizer for each in known):
            known.append(ref(optimizer))

    def compiled(self, target: Any, *, backend: str) -> None:
        """`torch.compile` was given `target`; a backend that compiles nothing (`eager`) does not count."""
        if backend == "eager":
            return
        module = getattr(target, "__self__", target)  # Module.compile passes the module's own bound call
        if hasattr(module, "parameters"):
            self._compiled.append(ref(module))
        elif target is not None:  # none: a decorator is being made, which calls again with what it decorates
            self._num_functions += 1
            with contextlib.suppress(TypeError):  # a callable that cannot be held weakly is counted and not looked into
                self._functions.append(WeakMethod(target) if hasattr(target, "__self__") else ref(target))

    def _parameters(self) -> list[Any]:
        found: dict[int, Any] = {id(parameter): parameter for parameter in self._engines.parameters()}
        if found:
            return list(found.values())
        for each in self._optimizers:
            optimizer = each()
            for group in [] if optimizer is None else optimizer.param_groups:
                found |= {id(parameter): parameter for parameter in group["params"]}
        return list(found.values())

    def device(self) -> Any:
        """The torch.device of what is trained, or None where nothing was seen."""
        if (device := self._engines.device()) is not None:
            return device
        parameters = self._parameters()
        return parameters[0].device if parameters else None

    def parameters(self) -> Observation[int]:
        """How many numbers are trained, over all ranks. Raises nothing that the caller does not guard."""
        parameters = self._parameters()
        if not parameters:
            return unavailable(_SOURCE, self.nothing)
        if self._engines.look():
            return self._engines.count()
        if any(_is_flat(parameter) for parameter in parameters) or _wrapper() == "fsdp1":
            return unavailable(_SOURCE, "FSDP1 leaves each rank a flat shard, whose own size is not the model's")
        return observed(sum(int(parameter.numel()) for parameter in parameters), _SOURCE)

    def dtypes(self) -> Observation[list[str]]:
        """The number formats of what is trained, sorted. Compute may use others (autocast)."""
        names = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in self._parameters()})
        return observed(names, _SOURCE) if names else unavailable(_SOURCE, self.nothing)

    def mode(self, world_size: int) -> Observation[str]:
        """`fsdp2`, `fsdp1`, `ddp`, `single`, `mixed`, `deepspeed_zero<n>`; unavailable where it is none of these."""
        parameters = self._parameters()
        if not parameters:
            return unavailable(_SOURCE, self.nothing)
        if self._engines.look():
            return self._engines.mode()
        if any(_is_flat(parameter) for parameter in parameters):
            return observed("fsdp1", f"{_SOURCE}: FlatParameter")
        sharded = [hasattr(parameter, "placements") and hasattr(parameter, "device_mesh") for parameter in parameters]
        if all(sharded):
            return observed("fsdp2", f"{_SOURCE}: DTensor")
        if any(sharded):
            return observed("mixed", f"{_SOURCE}: some of them DTensor")
        if world_size == 1:
            return observed("single", "a world of one rank")
        wrapper = _wrapper()
        if wrapper is not None:
            return observed(wrapper, "a live module of torch's wrapper class")
        return unavailable(_SOURCE, "several ranks, and no wrapper of torch's that would share their work")

    def posture(self, compilations: int) -> Observation[str]:
        """`model`, `regional` or `eager`, from what was compiled; only what ran can tell, so ask after the warm-up."""
        if not self._compiled and not self._num_functions:
            if compilations:
                return unavailable("torch.compile", "something compiled and torch.compile was never called")
            return observed("eager", "torch.compile was never called")
        if not compilations:
            return observed("eager", "torch.compile was called and nothing was compiled")
        trained = {id(parameter) for parameter in self._parameters()}
        modules = [module for each in self._compiled if (module := each()) is not None]
        inside = [module for each in self._functions for module in _modules_of(each())]
        for module in (*modules, *inside):
            held = {id(parameter) for parameter in module.parameters()}
            if trained and len(held & trained) >= _WHOLE * len(trained):
                what = "a module that holds" if module in modules else "a function that uses a module with"
                return observed("model", f"torch.compile was given {what} what is trained")
        if self._compiled or inside:
            return observed("regional", "torch.compile was given parts of what is trained")
        return unavailable("torch.compile", "it was given functions alone, and which part ran in them was not seen")


def _modules_of(function: Any) -> list[Any]:
    """The modules that a function's code names, in its closure, its globals and the object that it belongs to."""
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    places = (getattr(function, "__globals__", {}), getattr(getattr(function, "__self__", None), "__dict__", {}))
    used = [place[name] for place in places for name in names if name in place]
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell
            used.append(cell.cell_contents)
    nn = getattr(sys.modules.get("torch"), "nn", None)
    return [] if nn is None else [each for each in used if isinstance(each, nn.Module)]


def _is_flat(parameter: Any) -> bool:
    return bool(getattr(parameter, "_is_flat_param", False)) or type(parameter).__name__ == "FlatParameter"


def _wrapper() -> str | None:
    """`fsdp1` or `ddp` when a module of that class is alive, else None. Walks all objects: a tenth of a second."""
    classes = []
    for name, module, attribute in _WRAPPERS:
        found = getattr(sys.modules.get(module), attribute, None)
        if isinstance(found, type):
            classes.append((name, found))
    kinds = {type(each) for each in gc.get_objects()}
    return next((name for name, wanted in classes if any(issubclass(kind, wanted) for kind in kinds)), None)
