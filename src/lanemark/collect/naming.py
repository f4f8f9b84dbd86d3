"""Naming a hang while it lasts: every look goes to the detectors, and what they first conclude is kept and told.

A name given live ends nothing: the supervisor's limits do, and a run that recovers keeps no failure finding. It is
there so that a person who watches learns in seconds what the time-out would have told in ten minutes, and told wrongly.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from lanemark.diagnose.hang import HangContext, name_hang
from lanemark.measure.durable import write_all
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case
from lanemark.records.finding import Finding
from lanemark.records.look import Look

#: Looks that the detectors are given: two minutes of them at their fastest.
_KEPT_LOOKS: Final = 240
#: Different things that one run is told to be; beyond that something is wrong with us.
_MAX_NAMED: Final = 64


class LiveNaming:
    """What a supervision passes as `on_look`.

    Args:
        paths: of the attempt, for `named.jsonl`.
        case: what the ranks were asked.
        on_named: told each finding once, when it is first concluded.
    """

    def __init__(self, paths: AttemptPaths, case: Case, on_named: Callable[[Finding], None] | None = None) -> None:
        self._paths = paths
        self._context = HangContext(
            collective_timeout_s=None if case.command else case.collective_timeout_s,
            preset=case.preset,
            warmup=case.warmup,
        )
        self._on_named = on_named
        self._looks: deque[Look] = deque(maxlen=_KEPT_LOOKS)
        self._named: set[tuple[str, int | None]] = set()

    def __call__(self, look: Look) -> None:
        """Take in one look."""
        self._looks.append(look)
        finding = name_hang(tuple(self._looks), self._context)
        if finding is None or (finding.kind, finding.rank) in self._named or len(self._named) >= _MAX_NAMED:
            return
        self._named.add((finding.kind, finding.rank))
        self._keep(look, finding)
        if self._on_named is not None:
            self._on_named(finding)

    def _keep(self, look: Look, finding: Finding) -> None:
        doc: dict[str, Any] = {
            "look": look.number,
            "named_ns": time.monotonic_ns(),
            "quiet_s": look.quiet_s,
            "finding": finding.to_json(),
        }
        line = json.dumps(doc, separators=(",", ":")).encode("ascii") + b"\n"
        with contextlib.suppress(OSError):  # a full disk: it is told, and the record comes to it from the looks again
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._paths.named, flags, 0o644)
            try:
                write_all(fd, line)
            finally:
                os.close(fd)
