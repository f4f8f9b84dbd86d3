"""Signals to the supervisor become a flag that its loop reads: a run that is told to stop still leaves its record."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Final

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """`with StopSignals() as stop:` remembers the first stopping signal instead of raising.

    The previous handlers come back on exit. A handler does one assignment, so nothing it interrupts can break.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.name is None:
            self.name = signal.Signals(number).name

    def __enter__(self) -> StopSignals:
        for number in _STOPPING:
            # A signal that was ignored stays ignored: `nohup` means what it says.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> str | None:
        """The name of the signal that told us to stop, or None."""
        return self.name
