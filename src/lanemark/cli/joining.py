"""`lanemark run training --join RUN -- COMMAND`: this node's part of a run that another node's Lanemark supervises.

Several nodes meet by their launcher's own rendezvous; what they need here is one attempt's directory that all can reach
(a shared file system, or one host). The first node's `run` makes the attempt and seals the only record; the others join
it. Their ranks write into it like the first one's, and the record waits for the end of each.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.parsing import advise, home, print_json
from lanemark.collect.gathering import read_json
from lanemark.collect.sealing import load_case
from lanemark.collect.signals import StopSignals
from lanemark.launch.command import CommandSurface
from lanemark.launch.surface import Placement
from lanemark.measure.claim import host_id
from lanemark.measure.durable import replace_file
from lanemark.records.attempt import AttemptPaths
from lanemark.records.encoding import encode
from lanemark.records.errors import UsageError

_MOST_NODES: Final = 1024


def join(name: str, command: tuple[str, ...], *, as_json: bool) -> int:
    """Run this node's command in another's attempt. Exit 0, or 1 when it failed or was interrupted.

    Args:
        name: a run id of this home, or the attempt's directory.
        command: of this node.
        as_json: print node and status as JSON.

    Raises:
        UsageError: `join-invalid`: there is no such attempt, or it takes no command.
    """
    paths = _attempt(name)
    node = _number(paths)
    surface = CommandSurface(node=node)
    case = load_case(paths)
    request = surface.request(case, Placement(home()))
    status: Any = 1
    with StopSignals() as stop:
        try:
            launched = surface.launch(replace(request, argv=command), paths)
            try:
                advise(f"lanemark: node {node} of {paths.run_id}")
                while surface.poll(launched).alive:
                    if stop() is not None:
                        surface.stop(launched, "interrupted")
                        break
                    surface.wait(launched, 0.5)
                ended = surface.command_end(launched)
                status = ended.get("status", -1)
            finally:
                surface.cleanup(launched)
        finally:  # the record waits for this file: whatever went wrong here, it must not wait for ever
            doc = {"node": node, "status": status, "host": host_id(), "ended_ns": time.monotonic_ns()}
            replace_file(paths.node(node) / "end.json", encode(doc))
    if as_json:
        print_json({"run_id": paths.run_id, "node": node, "status": status})
    return 0 if status == 0 else 1


def _attempt(name: str) -> AttemptPaths:
    place = Path(name)
    paths = AttemptPaths(place.absolute()) if os.sep in name else home().attempt(name)
    case = read_json(paths.case)
    if case is None or "script" not in case:
        raise UsageError(
            "join-invalid",
            f"there is no attempt of a command at {str(paths.root)[:200]!r}",
            "give the run id that the first node printed, or the directory of its attempt",
        )
    if paths.record.exists():
        raise UsageError(
            "join-invalid", f"{paths.run_id} has its record already", "start the first node again, and join"
        )
    return paths


def _number(paths: AttemptPaths) -> int:
    """The next free node number; making its directory takes it."""
    for number in range(1, _MOST_NODES):
        try:
            os.makedirs(paths.node(number))
        except FileExistsError:
            continue
        return number
    raise UsageError("join-invalid", f"{_MOST_NODES} nodes have joined {paths.run_id}", "start the first node again")
