"""Memory peaks of this rank: from the CUDA caching allocator where there is one, and from the kernel.

The two answer different questions and are never added up. Peak RSS is the process's own high-water mark, so it also
covers imports and compilation; the allocator's peak covers what tensors needed since the process began.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lanemark.records.observation import Observation, absent, observed, unavailable

_STATUS = Path("/proc/self/status")


def memory_peaks() -> dict[str, dict[str, Any]]:
    """`allocated_peak_bytes`, `reserved_peak_bytes`, `rss_peak_bytes`, each an `Observation` in its JSON form."""
    allocated, reserved = _allocator_peaks()
    return {
        "allocated_peak_bytes": allocated.to_json(),
        "reserved_peak_bytes": reserved.to_json(),
        "rss_peak_bytes": _rss_peak().to_json(),
    }


def _allocator_peaks() -> tuple[Observation[int], Observation[int]]:
    source = "torch.cuda memory statistics"
    torch = sys.modules.get("torch")  # never imported for this: a program without torch has no allocator to ask
    if torch is None:
        nothing: Observation[int] = absent(source, "torch is not loaded in this process")
        return nothing, nothing
    try:
        if not torch.cuda.is_initialized():
            nothing = absent(source, "CUDA was not initialised in this process")
            return nothing, nothing
        return (
            observed(int(torch.cuda.max_memory_allocated()), "torch.cuda.max_memory_allocated"),
            observed(int(torch.cuda.max_memory_reserved()), "torch.cuda.max_memory_reserved"),
        )
    except Exception as error:  # a device that failed cannot be asked; the rank's own error says why it failed
        failed: Observation[int] = unavailable(source, f"{type(error).__name__}: {error}"[:300])
        return failed, failed


def _rss_peak() -> Observation[int]:
    source = "VmHWM in /proc/self/status"
    try:
        text = _STATUS.read_text("ascii", "replace")
    except OSError as error:
        return unavailable(source, f"{error.strerror}")
    return parse_rss_peak(text, source)


def parse_rss_peak(status: str, source: str) -> Observation[int]:
    """Peak resident bytes from the text of `/proc/PID/status` (source: proc_pid_status(5): VmHWM, in kB)."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            words = line.split()
            if len(words) == 3 and words[1].isdigit() and words[2] == "kB":
                return observed(int(words[1]) * 1024, source)
            return unavailable(source, f"the line reads {line!r}")
    return absent(source, "the kernel reports no VmHWM for this process")
