"""Progress: rich on a terminal, plain lines elsewhere, always on stderr, never more often than a person can read."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Plain lines go to logs: one every few seconds is enough to see that something lives.
_PLAIN_EVERY_S: Final = 5.0


def on_terminal() -> bool:
    """Whether stderr is a terminal that can redraw a line."""
    import os

    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Bar:
    """One piece of long work. `advance` for work with a known length, `line` to say what is happening now."""

    def __init__(self, title: str, total: float | None = None) -> None:
        self._title = title
        self._total = total
        self._done = 0.0
        self._said_s = 0.0
        self._text = ""
        self._rich: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
            if self._total is not None:
                columns.append(BarColumn())
            columns.append(TimeElapsedColumn())
            # Two redraws a second: the supervisor's own share of a core is part of what we promise.
            self._rich = Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._rich.start()
            self._task = self._rich.add_task(self._title, total=self._total)
        else:
            print(f"lanemark: {self._title}", file=sys.stderr, flush=True)
            self._said_s = time.monotonic()
        return self

    def advance(self, amount: float) -> None:
        """Some of `total` is done."""
        self._done += amount
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=self._done)
        elif self._total and time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            print(f"lanemark: {self._title}: {100 * self._done / self._total:.0f} %", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Say what is happening now. On a terminal the line is redrawn; elsewhere one is printed every few seconds."""
        if self._rich is not None and self._task is not None:
            if text != self._text:
                self._rich.update(self._task, description=f"{self._title}: {text}")
        elif time.monotonic() - self._said_s >= _PLAIN_EVERY_S and text != self._text:
            self._said_s = time.monotonic()
            print(f"lanemark: {text}", file=sys.stderr, flush=True)
        self._text = text

    def say(self, text: str) -> None:
        """Say something that is to stay: above the redrawn line on a terminal, at once elsewhere."""
        if self._rich is not None:
            self._rich.console.print(f"lanemark: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"lanemark: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
