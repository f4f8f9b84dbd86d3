"""The next step's batches, made ready while the device works on this one's.

One thread, one step ahead: when a step's batches are handed over, the thread begins to fill the other of two sets of
buffers. Every batch has the same shape, so the buffers are made once; for a CUDA device they are page-locked, and the
copy to the device is queued on the stream of the step, behind what is there.

Waiting for data means what it did without a thread: the loop's time between asking for a step's batches and having
them. What was read in the shadow of the step before cost the loop nothing, and is not counted; what was not read in
time is waited for, and is. Nothing is read ahead of the step after the last, and never two steps ahead: a deeper queue
would be filled before the window opens, and a short window would then measure how deep it is.

What goes wrong in the thread is raised where the batches are asked for, in the loop.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lanemark.stack.loader import Loader, split
from lanemark.stack.step import Batch


class Prefetch:
    """This rank's batches, step after step, each asked for once and in order. Use it in a `with` statement.

    Attributes:
        windows: of the batches handed over so far, by step (see `lanemark.stack.loader.Loader.fill`).
    """

    def __init__(
        self, loader: Loader, *, steps: int, grad_accum: int, micro_batch: int, sequence: int, device: torch.device
    ) -> None:
        self.windows: list[Sequence[int]] = []
        self._loader, self._steps, self._grad_accum, self._device = loader, steps, grad_accum, device
        on_gpu = device.type == "cuda"
        self._slots: list[list[Tensor]] = [
            [torch.empty((micro_batch, sequence + 1), dtype=torch.int64, pin_memory=on_gpu) for _ in range(grad_accum)]
            for _ in range(2)
        ]
        #: When the copies out of each set of buffers are done; None where nothing was queued.
        self._copied: list[Any] = [torch.cuda.Event() if on_gpu else None for _ in range(2)]  # type: ignore[no-untyped-call]
        self._room = threading.Semaphore(1)
        self._ready: queue.SimpleQueue[list[int] | BaseException] = queue.SimpleQueue()
        self._closed = False
        self._failure: BaseException | None = None
        # A daemon: a read that never comes back must not keep a rank from ending.
        self._thread = threading.Thread(target=self._work, name="lanemark-prefetch", daemon=True)

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._room.release()

    def _work(self) -> None:
        for step_index in range(self._steps):
            self._room.acquire()
            if self._closed:
                return
            try:
                self._ready.put(self._fill(step_index))
            except BaseException as error:
                self._ready.put(error)
                return

    def _fill(self, step_index: int) -> list[int]:
        slot = step_index % 2
        if self._copied[slot] is not None:
            self._copied[slot].synchronize()
        windows: list[int] = []
        for forward, rows in enumerate(self._slots[slot]):
            windows += self._loader.fill(step_index * self._grad_accum + forward, rows)
        return windows

    def take(self, step_index: int) -> list[Batch]:
        """The batches of the next step, on the device; on a processor they are valid until the step after is asked for.

        Raises:
            ValueError: the step is not the next one.
            Whatever the loader raised.
        """
        if step_index != len(self.windows) or step_index >= self._steps:
            raise ValueError(f"step {step_index} was asked for and step {len(self.windows)} of {self._steps} is next")
        if self._failure is not None:
            raise self._failure
        made = self._ready.get()
        if isinstance(made, BaseException):
            self._failure = made
            raise made
        self._room.release()  # the other set of buffers: the step that used it is over, or its copies are waited for
        self.windows.append(made)
        slot = step_index % 2
        if self._copied[slot] is None:
            return [split(rows) for rows in self._slots[slot]]
        batches = [split(rows.to(self._device, non_blocking=True)) for rows in self._slots[slot]]
        self._copied[slot].record()
        return batches
