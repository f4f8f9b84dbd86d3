"""The device's own clock: when it is done, and how long it worked on each step.

A CUDA kernel is only queued when the host's call returns, so host stamps show the queueing. `synchronize` waits until
the device is done and stands at both ends of the measured window; CUDA events, one a step, show the steps between
without stopping the device.
"""

from __future__ import annotations

from typing import Any, Protocol


class DeviceClock(Protocol):
    """What a measured loop asks of its device."""

    def synchronize(self) -> None:
        """Return when everything queued so far is done."""

    def mark_step(self) -> None:
        """Called before the first step and after every step, on the stream that runs it."""

    def step_ns(self) -> list[int]:
        """Device nanoseconds between consecutive marks; empty where the device has no clock of its own."""


class HostClock:
    """A CPU does the work inside the call: there is nothing to wait for, and no second clock to read."""

    def synchronize(self) -> None:
        return

    def mark_step(self) -> None:
        return

    def step_ns(self) -> list[int]:
        return []


class CudaClock:
    """Events on the current stream of the current CUDA device."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        self._new_event: Any = torch.cuda.Event  # untyped in torch's own annotations
        self._marks: list[Any] = []

    def synchronize(self) -> None:
        self._cuda.synchronize()

    def mark_step(self) -> None:
        event: Any = self._new_event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def step_ns(self) -> list[int]:
        """Waits for the device; the events' resolution is about 0.5 µs (source: CUDA runtime, cudaEventElapsedTime)."""
        self._cuda.synchronize()
        return [
            round(before.elapsed_time(after) * 1e6) for before, after in zip(self._marks, self._marks[1:], strict=False)
        ]


def device_clock(kind: str) -> DeviceClock:
    """The clock of a device type as torch names it (`cpu`, `cuda`). Raises ValueError for any other."""
    if kind == "cpu":
        return HostClock()
    if kind == "cuda":
        return CudaClock()
    raise ValueError(f"no device clock for {kind!r}; cpu or cuda")
