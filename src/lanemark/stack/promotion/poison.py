"""Memory that a kernel has not written holds NaN, so that a row which nobody computed cannot look computed.

An output buffer that is not written keeps what lay there before, which after a correct call is very often the correct
answer. torch fills what `torch.empty` and its like give with NaN when it is asked to be deterministic (source:
torch.utils.deterministic.fill_uninitialized_memory), and does so inside operators as well. Whether it did is looked at,
not assumed: a build that ignores the switch leaves the case without poison, and such a case does not count.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, memory that torch hands out holds NaN. Operators without a deterministic form run as they are."""
    switch: Any = torch.utils.deterministic  # a module that answers as an object; its stubs do not say so
    fill = switch.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each operator without a deterministic form warns once
        try:
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
            switch.fill_uninitialized_memory = True
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            switch.fill_uninitialized_memory = fill


def is_poisoned(like: Tensor) -> bool:
    """Whether memory of this size, type and device comes poisoned at this moment."""
    return bool(torch.empty_like(like).isnan().all())
