"""Reading what ranks said: which words are a cause of their own, and which only report that a peer is gone. Pure.

The first rank to complain is rarely the one at fault, so every text is sorted before anything is concluded from it.
`peer_gone` comes first for a reason: a healthy rank whose peer died says "connection closed" or "timed out", and NCCL
prints several hundred lines around it. Such words accuse nobody. With one rank compiling longer than the others will
wait, that one says "connection closed by peer" *after* it has finished, and the innocent ones "timed out".
"""

from __future__ import annotations

import re
from typing import Final

from lanemark.diagnose.snapshot import RankState
from lanemark.observe.packages import DEFAULT

#: What gloo, NCCL and TCPStore say when a *peer* is gone or late (seen with torch 2.13 on gloo; NCCL from its source).
_PEER_GONE: Final = re.compile(
    r"connection (was )?(closed|reset) by (remote )?peer|connection reset|broken pipe|timed out (waiting|after)"
    r"|wait timeout|socket timeout|timeout while|recvbytes|sendbytes|failed to recv|watchdog caught collective"
    r"|communicator was aborted|remote process exited|nccl (system|remote) error|distnetworkerror|connectfullmesh"
    r"|store.*(closed|timeout)|heartbeat",
    re.IGNORECASE,
)
_OUT_OF_MEMORY: Final = re.compile(
    r"memoryerror|out of memory|can't allocate memory|cannot allocate memory|std::bad_alloc|enomem", re.IGNORECASE
)
_DISK_FULL: Final = re.compile(r"no space left on device|enospc|errno 28|disk quota exceeded|errno 122", re.IGNORECASE)
_REFUSED: Final = re.compile(
    r"connection refused|address already in use|could not connect|name resolution", re.IGNORECASE
)
#: ProcessGroupNCCL's heartbeat monitor as it ends its process (source: torch's ProcessGroupNCCL.cpp, HeartbeatMonitor).
_WATCHDOG: Final = re.compile(
    r"heartbeat monitor timed out|watchdog (hang|got stuck|thread (is )?stuck)|due to processgroupnccl watchdog",
    re.IGNORECASE,
)
#: `torch.compiler.set_stance("fail_on_recompile")` (source: torch/_dynamo/eval_frame.py, 2.11 to 2.13).
_RECOMPILED: Final = re.compile(r"detected recompile when torch\.compile stance is", re.IGNORECASE)
#: gloo when two ranks meet in one exchange with unlike sizes (source: gloo/transport/tcp/pair.cc).
_UNLIKE_SIZES: Final = re.compile(
    r"collective mismatch in your code|op\.preamble\.(length|nbytes)|received data size doesn't match", re.IGNORECASE
)
#: A network that cannot be set up at all, in the words of NCCL, gloo and libibverbs.
_NETWORK: Final = re.compile(
    r"failed to (initialize|load) (any )?net(work)? plugin|net/plugin|ncclsystemerror|unhandled system error"
    r"|no (socket )?interface found|unable to find (address|interface) for|ibv_|ifname|could not find (any )?interface"
    r"|no such device|unable to resolve hostname to a \(local\) address|socket interface",
    re.IGNORECASE,
)
_TRACEBACK_COLLECTIVE: Final = re.compile(r"distributed_c10d\.py\", line \d+, in (\w+)")
_NO_MODULE: Final = re.compile(r"No module named '([\w.]+)'")
_BROKEN_LIBRARY: Final = re.compile(
    r"undefined symbol|cannot open shared object file|GLIBCXX_[\d.]+' not found|DLL load failed|no kernel image",
    re.IGNORECASE,
)
_PATH_WORD: Final = re.compile(r"[\w.-]+")


def peer_gone(text: str) -> bool:
    """Whether this is what a healthy rank says when another is gone or late."""
    return _PEER_GONE.search(text) is not None


def out_of_memory(text: str) -> bool:
    """Whether an allocation failed."""
    return _OUT_OF_MEMORY.search(text) is not None


def disk_full(text: str) -> bool:
    """Whether a file system had no room (or a quota none)."""
    return _DISK_FULL.search(text) is not None


def refused(text: str) -> bool:
    """Whether a connection was refused, or an address could not be had."""
    return _REFUSED.search(text) is not None


def watchdog(text: str) -> bool:
    """Whether the process group's heartbeat monitor says that it ends the process."""
    return _WATCHDOG.search(text) is not None


def recompiled(text: str) -> bool:
    """Whether a recompilation was refused by the stance."""
    return _RECOMPILED.search(text) is not None


def unlike_sizes(text: str) -> bool:
    """Whether two ranks met in one exchange with unlike sizes."""
    return _UNLIKE_SIZES.search(text) is not None


def network_failed(text: str) -> bool:
    """Whether the network itself could not be set up."""
    return _NETWORK.search(text) is not None


def kernel_modules() -> frozenset[str]:
    """Top-level modules of the kernel packages whose absence has a class of its own; torch itself is not one."""
    named = {module.split(".")[0] for module in DEFAULT.values() if module is not None}
    return frozenset(named - {"numpy", "tokenizers", "torch"})


def missing_kernel(text: str) -> str | None:
    """The kernel package that an import error is about, or None when it is about something else.

    A module of the user's own that is missing is not a kernel: only the packages that records list count.
    """
    kernels = kernel_modules()
    absent = _NO_MODULE.search(text)
    if absent is not None:
        top = absent[1].split(".")[0]
        return top if top in kernels else None
    if _BROKEN_LIBRARY.search(text) is None:
        return None
    words = {word.split(".")[0] for word in _PATH_WORD.findall(text)}
    for kernel in sorted(kernels):
        # Extension modules carry the package's name with a suffix: flash_attn_2_cuda.cpython-312.so.
        if any(word == kernel or word.startswith(f"{kernel}_") for word in words):
            return kernel
    return None


def collective_of(traceback: str) -> str | None:
    """The collective that a printed traceback was in, or None."""
    names = [name for name in _TRACEBACK_COLLECTIVE.findall(traceback) if name != "wrapper" and name[0] != "_"]
    return names[-1] if names else None


def said(rank: RankState) -> str:
    """What the rank gave as its reason: its exception, else the last lines it printed."""
    return rank.exception or rank.stderr_tail


def all_said(rank: RankState) -> str:
    """Exception and last printed lines together, for signs that native threads print and no exception carries."""
    return f"{rank.exception or ''}\n{rank.stderr_tail}"


def where(rank: RankState) -> str:
    """Where the rank was last seen, as a phrase."""
    if rank.phase is None:
        return "it left no beacon"
    stepping = rank.step is not None and rank.step >= 0 and rank.phase in ("warmup", "window")
    about = f" ({rank.label})" if rank.label and rank.phase in ("collective", "compile") else ""
    return f"last seen in phase {rank.phase}{about}{f', step {rank.step}' if stepping else ''}"


def evidence(rank: RankState, *extra: str) -> tuple[str, ...]:
    """Lines about one rank: where it was, what it said, and what else bears on the conclusion."""
    lines = [f"rank {rank.rank}: {where(rank)}"]
    if rank.exception:
        lines.append(f"rank {rank.rank} reported: {rank.exception[:300]}")
    elif rank.stderr_tail.strip():
        lines.append(f"rank {rank.rank} stderr ends: {rank.stderr_tail.strip().splitlines()[-1][:300]}")
    return (*lines, *(line for line in extra if line))


def earliest(ranks: list[RankState]) -> RankState | None:
    """The rank the supervisor saw end first; one that never ended sorts last."""
    return min(ranks, key=lambda rank: (rank.ended_ns is None, rank.ended_ns or 0, rank.rank), default=None)


def ranks_text(ranks: list[int]) -> str:
    """`rank 1`, `ranks 0 and 2`, `ranks 0, 2-7`."""
    numbers = sorted(set(ranks))
    parts: list[str] = []
    start = 0
    while start < len(numbers):
        end = start
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1:
            end += 1
        if end - start >= 2:
            parts.append(f"{numbers[start]}-{numbers[end]}")
        else:
            parts += [str(number) for number in numbers[start : end + 1]]
        start = end + 1
    if len(numbers) == 1:
        return f"rank {parts[0]}"
    if len(parts) == 2 and not any("-" in part for part in parts):
        return f"ranks {parts[0]} and {parts[1]}"
    return f"ranks {', '.join(parts)}"
