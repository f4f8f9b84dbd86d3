"""One rank as it is seen from outside: from its page, from the kernel, and from its own answers when it is asked.

Every field that could not be seen stays None and has its reason. Nothing here concludes anything: a rank that has new
files in its cache is a rank that has new files in its cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from lanemark.launch import asking
from lanemark.launch.cache_growth import CacheGrowth
from lanemark.launch.processes import read_wait_channel
from lanemark.launch.surface import RankStatus
from lanemark.measure.beacon import BeaconView
from lanemark.records.look import FlightEntry, RankLook

#: How much of a deep look one rank may take.
_RANK_ASKING_S: Final = 1.0
#: Ranks in these phases are on their way out, and an answer could meet an interpreter that is being torn down.
_LEAVING: Final = ("done", "failed")
_NOT_ASKED: Final = {"flight": "a shallow look asks nothing", "stack": "a shallow look asks nothing"}
_PAGE_FIELDS: Final = ("phase", "label", "since_ns", "step", "sequence", "collectives", "compilations", "compile_ns")
#: A rank with more programs below it than this is building something large, which fewer of them show as well.
_MAX_CHILDREN: Final = 64


def see(
    status: RankStatus,
    page: BeaconView | None,
    *,
    page_error: str,
    children: tuple[str, ...] | None,
    no_children: str,
    growth: CacheGrowth | None,
    no_growth: str,
) -> RankLook:
    """A shallow look at one rank. Reads only what the kernel says it sleeps in.

    Args:
        status: as just polled.
        page: as just read, or None.
        page_error: why there is none.
        children: commands of its live descendants, or None.
        no_children: why they could not be listed; empty when the rank has no process to list.
        growth: of its cache, just looked at; None where it has none.
        no_growth: why nothing can be counted there.
    """
    gone = "the surface shows no process" if status.alive else "the rank has ended"
    channel = read_wait_channel(status.pid) if status.alive and status.pid is not None else None
    new_files = None if growth is None else growth.count
    found: dict[str, tuple[object, str]] = {
        "wait_channel": (channel, gone if status.state is None else "the kernel does not say, or it is running"),
        "children": (children, no_children or gone),
        "new_cache_files": (new_files, no_growth),
        "cpu_s": (status.cpu_s, gone),
        "process_state": (status.state, gone),
    }
    not_seen = _NOT_ASKED | {name: why for name, (value, why) in found.items() if value is None}
    look = RankLook(
        rank=status.rank,
        alive=status.alive and status.state != "Z",
        cpu_s=status.cpu_s,
        process_state=status.state,
        wait_channel=channel,
        children=None if children is None else children[:_MAX_CHILDREN],
        new_cache_files=new_files,
        not_seen=not_seen,
    )
    if page is None:
        return replace(look, not_seen=not_seen | dict.fromkeys((*_PAGE_FIELDS, "waiting_for_data"), page_error))
    if page.waiting_for_data is None:
        not_seen["waiting_for_data"] = "its loop has not told of its data"
    return replace(
        look,
        phase=page.phase,
        label=page.label,
        since_ns=page.since_ns,
        step=page.step,
        sequence=page.sequence,
        collectives=page.collectives,
        compilations=page.compilations,
        compile_ns=page.compile_ns,
        waiting_for_data=page.waiting_for_data,
    )


def ask_rank(
    rank: RankLook,
    pid: int | None,
    control: Path,
    *,
    deadline_s: float,
    spy: str | None,
    keep: Callable[[str, bytes], None],
) -> RankLook:
    """The same look, deep: with the rank's flight recorder and stack, or why it did not show them.

    Args:
        rank: as seen.
        pid: of its process, where there is one here.
        control: its control socket.
        deadline_s: for the whole look, on `time.monotonic`.
        spy: the py-spy program, or None where it is not installed.
        keep: takes what it answered, verbatim, and a name for it.
    """
    not_seen = {name: why for name, why in rank.not_seen.items() if name not in _NOT_ASKED}
    refusal = _why_not_asked(rank)
    if refusal is not None:
        return replace(rank, not_seen=not_seen | dict.fromkeys(_NOT_ASKED, refusal))
    deadline_s = min(deadline_s, time.monotonic() + _RANK_ASKING_S)
    flight: tuple[FlightEntry, ...] | None = None
    stack: tuple[str, ...] | None = None
    try:
        data = asking.ask(control, "fr_trace_json", deadline_s)
        keep(f"{rank.rank}-flight.json", data)
        flight = asking.parse_flight(data)
    except (asking.NoAnswerError, ValueError) as error:
        not_seen["flight"] = str(error)[:300]
    try:
        data = asking.ask(control, "dump_traceback", deadline_s)
        keep(f"{rank.rank}-stack.txt", data)
        stack = asking.parse_traceback(data.decode("utf-8", "replace"))
    except (asking.NoAnswerError, ValueError) as error:
        stack, why = _spied(spy, rank.rank, pid, deadline_s, keep)
        if stack is None:
            not_seen["stack"] = f"{error}; {why}"[:300]
    return replace(rank, flight=flight, stack=stack, not_seen=not_seen)


def _spied(
    program: str | None, rank: int, pid: int | None, deadline_s: float, keep: Callable[[str, bytes], None]
) -> tuple[tuple[str, ...] | None, str]:
    """The stack as py-spy sees it, or None and why not."""
    if program is None or pid is None:
        return None, "py-spy is not installed"
    try:
        data = asking.spy(program, pid, max(0.1, deadline_s - time.monotonic()))
        keep(f"{rank}-stack.json", data)
        return asking.parse_spied(data), ""
    except (asking.NoAnswerError, ValueError) as error:
        return None, str(error)


def _why_not_asked(rank: RankLook) -> str | None:
    """Why a rank is not asked at all, or None."""
    if not rank.alive:
        return "the rank has ended"
    if rank.process_state in ("T", "t"):
        return "the rank is stopped and cannot answer"
    if rank.phase in _LEAVING:
        return "the rank is on its way out"
    return None
