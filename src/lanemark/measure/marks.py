"""The lines that a script may carry, so that its steps are known by name and its tokens are counted. No torch.

```
for batch in lanemark.steps(loader, tokens=8192):     # a step a batch; or accumulate=4: a step every 4 batches
    ...

with lanemark.step(tokens=8192):                      # or around whatever a step is
    ...

lanemark.note(loss=loss.item(), tokens_per_s=rate)  # what the script says of itself: kept, and never believed
```

Tokens are this rank's own, per batch in `steps` and per step in `step`; a callable is given the batch. The record adds
them up over the ranks. Outside a run `steps` returns the loader itself and `step` an object that does nothing.

A step that is left with `break` is not counted: nobody can tell whether it was over. End the loader instead, for
instance with `itertools.islice(loader, steps)`.

A step begins where the one before it ended, so that nothing between two steps can hide. `steps` also stamps when the
batch was in hand: what passed before is waiting for data. The cost of a step is held by `benchmarks/script.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Union

from lanemark.measure.script import Script, script

Batch = TypeVar("Batch")
Tokens = Union[int, Callable[[Any], int], None]  # noqa: UP007 - evaluated when imported, on Python 3.10 as well


def steps(loader: Iterable[Batch], *, tokens: Tokens = None, accumulate: int = 1) -> Iterable[Batch]:
    """Take batches from `loader`, each of them a step, or every `accumulate` of them.

    Args:
        loader: anything to iterate over. It may be passed again for another epoch; steps go on where they were.
        tokens: of this rank in one batch: a number, or a function of the batch that gives one; None: not counted.
        accumulate: batches to an optimizer step.

    Raises:
        ValueError: `accumulate` is below 1, or `tokens` a negative number.
    """
    if accumulate < 1 or (isinstance(tokens, int) and tokens < 0):
        raise ValueError(f"{accumulate} batches to a step with {tokens} tokens each is no way to count")
    mine = script()
    if mine.attempt is None:
        return loader
    return _marked(mine, loader, tokens, accumulate)


def _marked(mine: Script, loader: Iterable[Batch], tokens: Tokens, accumulate: int) -> Iterator[Batch]:
    recorder = mine.begin("marks")
    if recorder is None:
        yield from loader
        return
    mine.counts_tokens = tokens is not None
    count = tokens if callable(tokens) else None
    constant = (tokens if isinstance(tokens, int) else 0) * accumulate
    ready, end = recorder.data_ready, recorder.end_step
    # An epoch may end in the middle of a step: its batches are part of the next one.
    batches = 0
    boundary = mine.boundary
    batch_iterator = iter(loader)
    if boundary and accumulate == 1 and count is None:
        # The common case, as short as it can be: no call but the two stamps, and tokens are counted in multiplication.
        step = first = recorder.step
        for batch in batch_iterator:
            ready()
            yield batch
            end()
            step += 1
            if step == boundary:
                mine.tokens += (step - first) * constant
                first = step
                boundary = mine.at_boundary()
                if not boundary:
                    break
        else:
            mine.tokens += (step - first) * constant
            return
    for batch in batch_iterator:
        if boundary and not batches:
            ready()
        if count is not None:
            mine.tokens += count(batch)
        yield batch
        batches += 1
        if batches == accumulate:
            batches = 0
            mine.end_step(constant)
            boundary = mine.boundary


class _Step:
    """What `step` gives: entered when a step's batch is in hand, left when the step is over."""

    __slots__ = ("_mine", "_ready", "tokens")

    def __init__(self, mine: Script, ready: Callable[[], None]) -> None:
        self._mine = mine
        self._ready = ready
        self.tokens = 0

    def __enter__(self) -> _Step:
        if self._mine.boundary:
            self._ready()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._mine.end_step(self.tokens)


class _Nothing:
    """`step` where nothing is recorded."""

    __slots__ = ("tokens",)

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return


_NOTHING = _Nothing()
_STEP: _Step | None = None


def step(*, tokens: int | None = None) -> _Step | _Nothing:
    """One step, around whatever it is; what passed since the one before counts as waiting for its data.

    Args:
        tokens: of this rank in this step; None: not counted.
    """
    global _STEP  # noqa: PLW0603 - made once: a step must not cost an allocation
    if _STEP is None:
        mine = script()
        recorder = mine.begin("marks")
        if recorder is None:
            return _NOTHING
        _STEP = _Step(mine, recorder.data_ready)
        mine.counts_tokens = tokens is not None
    _STEP.tokens = tokens or 0
    return _STEP


def note(*, loss: float | None = None, tokens_per_s: float | None = None) -> None:
    """Say what the script itself found: the loss of a step, or its own throughput (of the global batch).

    A loss is what a receipt is asked for, so note it now and then, the last one at least. A throughput stands in the
    record beside the measured one; where the two differ by more than 2 %, the record says so.
    """
    mine = script()
    if mine.attempt is not None:
        mine.reported.take(loss=loss, tokens_per_s=tokens_per_s)
