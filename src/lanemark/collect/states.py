"""The life of an attempt as one guarded table. Pure: no clock, no file.

    prepared ──▶ detached ──▶ running ──▶ ok | error | cancelled | lost
        └──────────────────────▶┘  └ any state that is not final may also end as error, cancelled or lost

A final state is never left, so one attempt has one record.
"""

from __future__ import annotations

from typing import Final

from lanemark.records.attempt import State

MOVES: Final[dict[State, frozenset[State]]] = {
    State.PREPARED: frozenset({State.DETACHED, State.RUNNING, State.ERROR, State.CANCELLED, State.LOST}),
    State.DETACHED: frozenset({State.RUNNING, State.ERROR, State.CANCELLED, State.LOST}),
    State.RUNNING: frozenset({State.OK, State.ERROR, State.CANCELLED, State.LOST}),
    State.OK: frozenset(),
    State.ERROR: frozenset(),
    State.CANCELLED: frozenset(),
    State.LOST: frozenset(),
}


class IllegalMoveError(ValueError):
    """A move that the table does not allow: a defect of ours, never of a user's."""


def check_move(present: State, target: State) -> None:
    """Raise IllegalMoveError unless `present → target` is in the table."""
    if target not in MOVES[present]:
        allowed = ", ".join(sorted(state.value for state in MOVES[present])) or "nothing: it is final"
        raise IllegalMoveError(
            f"an attempt that is {present.value} cannot become {target.value}; it may become {allowed}"
        )
