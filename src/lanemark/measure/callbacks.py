"""Steps counted by a framework's own callback: Hugging Face Trainer, Lightning, a loop with Accelerate.

```
Trainer(..., callbacks=[lanemark.hf_callback(tokens=4096)])
L.Trainer(..., callbacks=[lanemark.lightning_callback(tokens=4096)])
for batch in lanemark.accelerate_steps(accelerator, loader, tokens=1024): ...
```

Each is made when it is asked for, so that none of the frameworks is imported by anybody who does not use it. Outside a
run they do nothing. `tokens` is what this rank takes in one optimizer step; of `accelerate_steps`, in one batch.

A framework knows its steps better than a hook does: it calls after the optimizer's step and its scheduler's, and leaves
out batches whose gradients are only accumulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Final, TypeVar

from lanemark.measure.script import Script, script

Batch = TypeVar("Batch")
#: A loss on a device is waited for when it is read, so it is not read at every step.
_LOSS_EVERY: Final = 10


def hf_callback(*, tokens: int | None = None) -> Any:
    """A `transformers.TrainerCallback`.

    Args:
        tokens: of this rank in one optimizer step, accumulated batches included; None: not counted.

    Raises:
        ImportError: transformers is not installed.
    """
    base: Any = import_module("transformers").TrainerCallback
    counted = _Counted(tokens)

    class LanemarkCallback(base):  # type: ignore[misc]  # the framework is imported when this is called
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            counted.begin()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            counted.ready()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            counted.end()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **__: Any) -> None:
            if isinstance(logs, dict) and isinstance(logs.get("loss"), (int, float)):
                counted.mine.reported.take(loss=float(logs["loss"]), tokens_per_s=None)

    return LanemarkCallback()


def lightning_callback(*, tokens: int | None = None) -> Any:
    """A Lightning `Callback`, of `lightning` or `pytorch_lightning`, whichever is installed.

    Args:
        tokens: of this rank in one optimizer step, accumulated batches included; None: not counted.

    Raises:
        ImportError: neither is installed.
    """
    try:
        base: Any = import_module("lightning.pytorch").Callback
    except ImportError:
        base = import_module("pytorch_lightning").Callback
    counted = _Counted(tokens)

    class LanemarkCallback(base):  # type: ignore[misc]  # the framework is imported when this is called
        def __init__(self) -> None:
            super().__init__()
            self._step = 0
            self._waiting = True

        def on_train_start(self, trainer: Any, _module: Any) -> None:
            self._step = int(trainer.global_step)
            counted.begin()

        def on_train_batch_start(self, *_: Any) -> None:
            if self._waiting:
                counted.ready()
                self._waiting = False

        def on_train_batch_end(self, trainer: Any, _module: Any, outputs: Any, *_: Any) -> None:
            step = int(trainer.global_step)
            if step == self._step:
                return  # gradients were only accumulated
            self._step, self._waiting = step, True
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            counted.end(loss)

    return LanemarkCallback()


def accelerate_steps(
    accelerator: Any, loader: Iterable[Batch], *, tokens: int | Callable[[Any], int] | None = None
) -> Iterable[Batch]:
    """Take batches from a prepared loader; a step ends with each batch after which gradients were synchronised.

    Args:
        accelerator: an `accelerate.Accelerator`, whose `sync_gradients` tells which batches those are.
        loader: what `accelerator.prepare` made of the loader.
        tokens: of this rank in one batch: a number, or a function of the batch that gives one; None: not counted.
    """
    return loader if script().attempt is None else _accelerated(accelerator, loader, tokens)


def _accelerated(accelerator: Any, loader: Iterable[Batch], tokens: Any) -> Iterator[Batch]:
    counted = _Counted(None)
    counted.begin()
    counted.mine.counts_tokens = tokens is not None
    waiting, total = True, 0
    for batch in loader:
        if waiting:
            counted.ready()
            waiting = False
        total += tokens(batch) if callable(tokens) else tokens or 0
        yield batch
        if accelerator.sync_gradients:
            counted.end(tokens=total)
            waiting, total = True, 0


class _Counted:
    """What the callbacks share: the script, its recorder, and the tokens of a step."""

    def __init__(self, tokens: int | None) -> None:
        self.mine: Script = script()
        self._tokens = tokens
        self._ready: Callable[[], None] | None = None
        self._steps = 0

    def begin(self) -> None:
        recorder = self.mine.begin("callback")
        if recorder is not None:
            self._ready = recorder.data_ready
            self.mine.counts_tokens = self._tokens is not None

    def ready(self) -> None:
        if self._ready is not None and self.mine.boundary:
            self._ready()

    def end(self, loss: Any = None, tokens: int | None = None) -> None:
        if self._ready is None or self.mine.way != "callback":
            return
        self._steps += 1
        if loss is not None and self._steps % _LOSS_EVERY == 0:
            self.mine.reported.take(loss=float(loss), tokens_per_s=None)
        self.mine.end_step(self._tokens or 0 if tokens is None else tokens)
