"""Times of isolated calls, in nanoseconds: a device is drained before each stamp and its cache flushed between calls.

A CPU does the work inside the call, so that host stamps are the time. A CUDA kernel is only queued when the call
returns: there, events on the stream are recorded around the call, and read once the device is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch

from lanemark.records.observation import Observation, absent, observed

_HOST: Final = "CLOCK_MONOTONIC around isolated calls"
_EVENTS: Final = "CUDA events around isolated calls"
#: Written between calls so that nothing of the last one is left in the device's cache: twice an H100's L2 of 50 MB
#: where the device does not say how large its own is (NVIDIA H100 whitepaper).
_FLUSH_BYTES: Final = 2 * 50 * 1024 * 1024


def time_calls(
    call: Callable[[], object], device: torch.device, *, warmup: int, repeats: int, indexer_included: bool
) -> Observation[dict[str, Any]]:
    """Time `repeats` calls after `warmup` leading ones. What the call raises is raised.

    Returns:
        `warmup` and `samples` in nanoseconds, `synchronised`, `cache_flushed` (an observation), `indexer_included`.
    """
    if device.type == "cuda":
        one, source = _cuda_timer(call), _EVENTS
        flushed = observed(value=True, source="buffer of twice the L2 written between calls")
    else:
        one, source = _host_timer(call), _HOST
        flushed = absent("device", "a CPU has no device cache")
    leading = [one() for _ in range(warmup)]
    samples = [one() for _ in range(repeats)]
    doc = {
        "warmup": leading,
        "samples": samples,
        "synchronised": True,
        "cache_flushed": flushed.to_json(),
        "indexer_included": indexer_included,
    }
    return observed(doc, source)


def _host_timer(call: Callable[[], object]) -> Callable[[], int]:
    def one() -> int:
        began = time.perf_counter_ns()
        call()
        return time.perf_counter_ns() - began

    return one


def _cuda_timer(call: Callable[[], object]) -> Callable[[], int]:
    properties: Any = torch.cuda.get_device_properties()
    flush = torch.empty(max(_FLUSH_BYTES, 2 * getattr(properties, "L2_cache_size", 0)), dtype=torch.int8, device="cuda")
    new_event: Any = torch.cuda.Event  # untyped in torch's own annotations

    def one() -> int:
        begin, end = new_event(enable_timing=True), new_event(enable_timing=True)
        flush.zero_()
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        elapsed_ms: float = begin.elapsed_time(end)
        return round(elapsed_ms * 1e6)

    return one


def peak_memory(device: torch.device) -> Observation[int]:
    """What the device's allocator peaked at since it was last asked, bytes. Absent on a CPU."""
    source = "torch.cuda.max_memory_allocated"
    if device.type != "cuda":
        return absent(source, "no CUDA device was used")
    peak = int(torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    return observed(peak, source)
