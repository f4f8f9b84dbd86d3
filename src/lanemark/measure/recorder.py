"""The recorder a training loop calls: two stamps and one row a step, no allocation, no system call, no formatting.

```
recorder.begin()
for step in range(steps):
    if step == warmup:
        clock.synchronize(); recorder.open_window()
    batch = next(batches); recorder.data_ready()
    ...                    # forward, backward, optimizer
    recorder.end_step()
clock.synchronize(); recorder.close_window()
```

A step begins where the one before it ended, so nothing between two steps can hide: what the loop does there is part
of the next step. Only `begin` and `open_window` set a new beginning. The budget is 1 µs for `data_ready` and `end_step`
together (`benchmarks/step_record.py` holds it), which is why stores go through pre-bound locals and the row is packed
in one call.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final

from lanemark.measure.beacon import DATA_READY_WORD, Beacon
from lanemark.measure.samples import (
    HEADER_BYTES,
    ROW_BYTES,
    ROWS_WRITTEN_WORD,
    WINDOW_BEGIN_WORD,
    WINDOW_END_WORD,
    SampleFile,
)

#: Native words, not "<": the native form copies each number whole, the portable one byte by byte. `SampleFile.create`
#: has made sure that native is little-endian.
_PACK_ROW: Final = struct.Struct("@qqqqqqq").pack_into


class StepRecorder:
    """Records the steps of one rank. Not for use from more than one thread: a training loop has one."""

    __slots__ = (
        "_at_step", "_beacon", "_begin_ns", "_boundary", "_data_ready_ns", "_file", "_page", "_rows", "_stamps_data",
        "_step", "_words",
    )  # fmt: skip

    def __init__(self, file: SampleFile, beacon: Beacon, *, stamps_data: bool = False) -> None:
        self._file = file
        self._page = file.page
        self._words = file.words
        self._rows = file.rows
        self._beacon = beacon
        self._at_step = beacon.at_step
        self._stamps_data = stamps_data
        #: Where the loop will not take tokens next but wait for its device: the end of the warm-up, then of all steps.
        self._boundary = file.warmup or file.rows
        self._step = 0
        self._begin_ns = 0
        self._data_ready_ns = 0

    @property
    def step(self) -> int:
        """The step that is under way, which is also the number of steps recorded."""
        return self._step

    def begin(self, since_ns: int | None = None) -> None:
        """The first step begins now, or began at `since_ns` where only its end could be seen; phase `warmup`."""
        self._beacon.enter("warmup")
        self._begin_ns = self._data_ready_ns = monotonic_ns() if since_ns is None else since_ns
        if self._stamps_data:
            self._beacon.words[DATA_READY_WORD] = self._begin_ns - 1  # before the step: its tokens are not in hand yet
        self._at_step(self._step, self._begin_ns)

    def open_window(self) -> None:
        """The measured window begins now, and with it a step; phase `window`. The device must be synchronised."""
        if self._begin_ns == 0:
            raise ValueError("open_window() comes after begin()")
        self._beacon.enter("window")
        self._begin_ns = self._data_ready_ns = now_ns = monotonic_ns()
        if self._beacon.words[DATA_READY_WORD]:
            self._beacon.words[DATA_READY_WORD] = now_ns - 1  # before the step, as in `begin`
        self._words[WINDOW_BEGIN_WORD] = now_ns
        self._at_step(self._step, now_ns)

    def data_ready(self) -> None:
        """The step's tokens are in hand: what passed since its beginning was waiting for data.

        May be left out by a loop that cannot tell; the step then counts as having waited for none. The page shows it
        as it happens, so that a rank inside its loader is seen from outside.
        """
        self._data_ready_ns = ready_ns = monotonic_ns()
        self._beacon.words[DATA_READY_WORD] = ready_ns

    def end_step(self) -> None:
        """The step is over, and the next begins.

        Raises:
            ValueError: more steps than were declared, or no `begin()`.
        """
        end_ns = monotonic_ns()
        step = self._step
        begin_ns = self._begin_ns
        beacon = self._beacon
        arrived_ns = beacon.arrived_ns
        if step >= self._rows or not begin_ns:
            raise ValueError(f"step {step} was recorded without begin(), or beyond the {self._rows} declared steps")
        _PACK_ROW(
            self._page,
            HEADER_BYTES + ROW_BYTES * step,
            step,
            begin_ns,
            self._data_ready_ns,
            end_ns,
            beacon.compile_ns,
            0,
            arrived_ns if arrived_ns >= begin_ns else 0,
        )
        self._step = step = step + 1
        self._words[ROWS_WRITTEN_WORD] = step
        self._begin_ns = self._data_ready_ns = end_ns
        if step == self._boundary:
            self._boundary = self._rows
            if beacon.words[DATA_READY_WORD]:
                beacon.words[DATA_READY_WORD] = end_ns
        self._at_step(step, end_ns)

    def close_window(self) -> None:
        """Write the end marker; phase `drain`. The device must be synchronised: what it still owes is not measured."""
        if self._words[WINDOW_BEGIN_WORD] == 0:
            raise ValueError("close_window() comes after open_window()")
        self._words[WINDOW_END_WORD] = monotonic_ns()
        self._beacon.enter("drain")

    def record_device_times(self, step_ns: Sequence[int]) -> None:
        """Add each step's device time, from `device_clock(...).step_ns()`, once the device was synchronised."""
        for step, device_ns in enumerate(step_ns):
            self._file.set_device_ns(step, device_ns)

    def close(self) -> None:
        """Let go of the sample file."""
        self._file.close()
