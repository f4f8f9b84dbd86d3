"""What is hooked in torch when a launched command imports it, through public places only, and what is looked at later.

    optimizer steps     torch.optim.optimizer.register_optimizer_step_post_hook: the zero-line way of counting steps
    spawned functions   multiprocessing: what a rank raised, which reaches no excepthook there
    the process group   torch.distributed.init_process_group: a phase on the page, and the rank where no variable has it
    compilations        torch.compile: from its first call on they are watched, and what it was given is remembered

Nothing is imported that the script does not import: the compiler's callbacks live in a module that takes a second to
load, so they wait for the first `torch.compile`. What is looked at (`facts`, `at_end`) is looked at outside the window.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, Final
from weakref import ref

from lanemark.measure.beacon import Beacon
from lanemark.measure.cache_use import cache_use
from lanemark.measure.collectives import watch_collectives
from lanemark.measure.compiling import watch_compilations
from lanemark.measure.control import open_control_plane
from lanemark.measure.open_data import DataSeen
from lanemark.measure.script import Probes, Script, complain
from lanemark.measure.torch_facts import device_facts, guarded, torch_facts
from lanemark.measure.trained import Trained
from lanemark.records.attempt import RankPaths
from lanemark.records.observation import Observation, absent, observed, unavailable

_GROUP: Final = "torch.distributed"


def install(script: Script) -> None:
    """Hook a torch that was just imported. Raises what a torch of another make raises."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    probes = TorchProbes(script, torch)
    probes.hooked = register_optimizer_step_post_hook(probes.after_optimizer_step)
    torch.compile = probes.compiled(torch.compile)
    if torch.distributed.is_available():
        torch.distributed.init_process_group = probes.grouped(torch.distributed.init_process_group)
    _watch_spawned(script)
    script.torch_came(probes)


def _watch_spawned(script: Script) -> None:
    """Hear of what a function raised that `multiprocessing` started, as `torch.multiprocessing.spawn` starts ranks.

    Python's own wrapper prints it, torch's hands it to the parent and exits with status 1 inside of it. Neither calls
    `sys.excepthook` (source: multiprocessing/process.py, `_bootstrap`; torch/multiprocessing/spawn.py, `_wrap`).
    """
    inner = BaseProcess.run

    @functools.wraps(inner)
    def run(self: BaseProcess) -> None:
        try:
            inner(self)
        except BaseException as error:
            cause = error.__context__ if isinstance(error, SystemExit) else error
            if cause is not None:
                script.failed(cause, cause.__traceback__)
            raise

    BaseProcess.run = run  # type: ignore[method-assign]


class TorchProbes(Probes):
    """The looks at one process's torch."""

    def __init__(self, script: Script, torch: Any) -> None:
        self.hooked: Any = None
        self._script = script
        self._torch = torch
        self._imported_ns = 0
        self._first: Any = None
        self._first_part: Callable[[], Any] = lambda: None
        self._trained = Trained()
        self._data = DataSeen()
        self._close: Callable[[], None] = lambda: None
        self._seen: dict[str, Any] = {}
        self._beacon: Beacon | None = None
        self._compiles = False

    def watch(self, beacon: Beacon, paths: RankPaths) -> None:
        self._beacon = beacon
        self._seen["collective_hooks"] = watch_collectives(beacon)
        self._close, self._seen["control_plane"] = open_control_plane(paths.control)
        if self._compiles:
            self._seen["compile_hooks"] = watch_compilations(beacon)

    # -- steps

    def after_optimizer_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """An optimizer stepped. Of several, the first that ever did counts the steps: all of them step once a step."""
        script = self._script
        if script.way != "hooks":
            if script.way is not None or self._first is not None or script.attempt is None:
                self._knows(optimizer)
                return
            self._first = optimizer
            first = _first_parameter(optimizer)
            self._first_part = (lambda: None) if first is None else ref(first)
            self._knows(optimizer)
            if script.begin("hooks") is None:
                return
        # ZeRO gives its optimizer one parameter group after another and steps it for each: the first one's turn counts.
        if optimizer is self._first and _first_parameter(optimizer) is self._first_part():
            script.end_step()

    def _knows(self, optimizer: Any) -> None:
        """Keep what the first optimizers train; the hook itself goes when another way counts and all is known."""
        self._trained.take(optimizer)
        if self._script.way not in (None, "hooks") and self.hooked is not None:
            self.hooked.remove()
            self.hooked = None

    # -- the group and the compiler

    def grouped(self, init: Callable[..., Any]) -> Callable[..., Any]:
        """`init_process_group` with a phase around it, and a claim behind it."""
        script = self._script

        @functools.wraps(init)
        def call(*args: Any, **kwargs: Any) -> Any:
            script.enter("init_process_group")
            made = init(*args, **kwargs)  # where it raises, the phase stays: that is where the rank failed
            try:
                known = self.group()
                if known is not None:
                    script.claim("process_group", rank=known[0], world_size=known[1])
                script.enter("build")
            except Exception as error:
                complain(error)
            return made

        return call

    def compiled(self, compile_: Callable[..., Any]) -> Callable[..., Any]:
        """`torch.compile`, remembered: what it was given decides the posture, and what it compiled is seen."""

        @functools.wraps(compile_)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                target = args[0] if args else kwargs.get("model")
                self._trained.compiled(target, backend=str(kwargs.get("backend", "inductor")))
                if not self._compiles:
                    self._compiles = True
                    if self._beacon is not None:
                        self._seen["compile_hooks"] = watch_compilations(self._beacon)
            except Exception as error:
                complain(error)
            return compile_(*args, **kwargs)

        return call

    def group(self) -> tuple[int, int] | None:
        dist = self._torch.distributed
        if not dist.is_available() or not dist.is_initialized():
            return None
        return int(dist.get_rank()), int(dist.get_world_size())

    def synchronize(self) -> None:
        cuda = self._torch.cuda
        if cuda.is_available() and cuda.is_initialized():
            cuda.synchronize()

    # -- looks

    def facts(self) -> dict[str, Any]:
        trained = self._trained
        self._data.look()
        doc: dict[str, Any] = dict(self._seen)
        doc |= torch_facts()
        device = trained.device()
        if device is None:
            none = unavailable("parameters of the optimizer that stepped", trained.nothing).to_json()
            doc |= dict.fromkeys(("device_class", "device_name", "device_uuid", "device_memory_bytes"), none)
        else:
            doc |= device_facts(device)
        doc["backend"] = guarded(self._backend, _GROUP)
        doc["world_size_observed"] = guarded(self._world_size, _GROUP)
        doc["mode_observed"] = guarded(lambda: trained.mode(self._world()), "the trained parameters and their modules")
        doc["compile_observed"] = guarded(lambda: trained.posture(self._compilations()), "calls of torch.compile")
        doc["parameters"] = guarded(trained.parameters, "parameters of the optimizer that stepped")
        doc["parameter_dtypes"] = guarded(trained.dtypes, "parameters of the optimizer that stepped")
        doc["threads"] = guarded(lambda: observed(int(self._torch.get_num_threads()), "torch.get_num_threads"), "torch")
        if "compile_hooks" not in doc:
            doc["compile_hooks"] = absent("torch.compile", "it was not called").to_json()
        doc["packages"] = {"torch": observed(value=True, source="imported by this rank").to_json()}
        doc["data_files"] = self._data.files()
        return doc

    def at_end(self) -> dict[str, Any]:
        self._data.look()
        found = guarded(lambda: self._trained.posture(self._compilations()), "calls of torch.compile")
        return {
            "compile_cache": cache_use(os.environ, compiled=self._compilations() > 0),
            "compile_observed": found,
            "data_files": self._data.files(),
        }

    def close(self) -> None:
        self._close()

    def _compilations(self) -> int:
        return 0 if self._beacon is None else self._beacon.compilations

    def _world(self) -> int:
        known = self.group()
        return 1 if known is None else known[1]

    def _backend(self) -> Observation[str]:
        if self.group() is None:
            return absent(f"{_GROUP}.is_initialized", "the command formed no process group")
        return observed(str(self._torch.distributed.get_backend()), f"{_GROUP}.get_backend")

    def _world_size(self) -> Observation[int]:
        if self.group() is None:
            return observed(1, f"{_GROUP}.is_initialized: the command formed no process group")
        return observed(self._world(), f"{_GROUP}.get_world_size")


def _first_parameter(optimizer: Any) -> Any:
    """What an optimizer holds first, now; None where it holds nothing."""
    return next((parameter for group in optimizer.param_groups for parameter in group["params"]), None)


def imported() -> bool:
    """Whether this process has torch."""
    return "torch" in sys.modules
