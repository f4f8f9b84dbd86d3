"""`ScriptAsked`: what a case says of a command of the user's own, beyond the command itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScriptAsked:
    """The part of a case that only a command of the user's own has.

    Attributes:
        tokens_per_step: tokens of the global batch in one optimizer step, as the user declares them; None where the
            script counts them, or where nobody does.
    """

    tokens_per_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {} if self.tokens_per_step is None else {"tokens_per_step": self.tokens_per_step}

    @classmethod
    def from_json(cls, doc: Any) -> ScriptAsked:
        """Read back `to_json`. Raises ValueError or TypeError for anything else."""
        if not isinstance(doc, dict):
            raise TypeError("not what a case says of a command")
        return cls(**doc)
