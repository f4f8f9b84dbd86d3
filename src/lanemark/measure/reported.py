"""What a script says of itself: its losses, and its own tokens per second. Kept, and never believed over the clock."""

from __future__ import annotations

import math
from typing import Any, Final

from lanemark.records.observation import Observation, observed, unavailable

_SOURCE: Final = "lanemark.note"


class Reported:
    """The words of one rank, as they come.

    Attributes:
        late: something was said that the end marker does not have yet.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._last: float | None = None
        self._finite = True
        self._rates: list[float] = []
        self.late = False

    def take(self, *, loss: float | None, tokens_per_s: float | None) -> None:
        """Take in one report. What is no number is not taken for one."""
        if isinstance(loss, (int, float)) and not isinstance(loss, bool):
            self._finite &= math.isfinite(loss)
            self._first = float(loss) if self._first is None else self._first
            self._last = float(loss)
            self.late = True
        if isinstance(tokens_per_s, (int, float)) and math.isfinite(tokens_per_s) and tokens_per_s > 0:
            self._rates.append(float(tokens_per_s))
            self.late = True

    def rate(self) -> dict[str, Any]:
        """The script's own tokens per second, the mean of what it said, as an observation in JSON form."""
        self.late = False
        made: Observation[float] = unavailable(_SOURCE, "the command reported none")
        if self._rates:
            made = observed(math.fsum(self._rates) / len(self._rates), f"{_SOURCE}, mean of {len(self._rates)} reports")
        return made.to_json()

    def losses(self) -> dict[str, Any]:
        """First, last and whether all were finite, as observations in JSON form."""
        none = unavailable(_SOURCE, "the command reported no loss").to_json()
        if self._first is None or self._last is None:
            return {"first": none, "last": none, "finite": none}

        def seen(value: float) -> dict[str, Any]:
            if math.isfinite(value):
                return observed(value, _SOURCE).to_json()
            return unavailable(_SOURCE, "the loss is not a finite number").to_json()

        finite = observed(self._finite, f"{_SOURCE}, every loss that was reported").to_json()
        return {"first": seen(self._first), "last": seen(self._last), "finite": finite}
