"""Tokens of a window, as the training lane's figures need them: by the case, or as a command's ranks counted. Pure."""

from __future__ import annotations

from typing import Any

from lanemark.records.observation import value_of


def window_tokens(training: dict[str, Any]) -> int | None:
    """Tokens of the global batch in all measured steps together; None where a command's ranks did not count them.

    Args:
        training: a record's `training` part. The reference stack's tokens follow from its case, and a rule holds its
            ranks' counts to them; of a command there is nothing but what the ranks counted.
    """
    if training.get("script") is None:
        return int(training["tokens_per_step"]) * len(training["samples"]["measured"])
    counted = [value_of(rank["tokens"]) for rank in training["ranks"]]
    if not counted or any(not isinstance(count, int) for count in counted):
        return None
    return sum(count for count in counted if isinstance(count, int))


def window_rate(training: dict[str, Any]) -> float | None:
    """Tokens of the window over its measured time, tokens a second; None without tokens or time."""
    tokens, total_ns = window_tokens(training), sum(training["samples"]["measured"])
    return None if tokens is None or total_ns <= 0 else tokens / (total_ns / 1e9)
