"""Prepare an attempt: its directory, its case and its manifest, before anything is started."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from lanemark.collect.lock import AttemptLock
from lanemark.collect.manifest import Manifest, Supervisor, save
from lanemark.measure.durable import preallocate, replace_file
from lanemark.observe.clock import stamp
from lanemark.observe.host import boot_id
from lanemark.observe.redaction import redact_argv
from lanemark.records.attempt import AttemptPaths, Home, State, Transition, new_run_id
from lanemark.records.case import Case
from lanemark.records.encoding import encode, safe_text
from lanemark.records.errors import GateRefused

#: Given back when the record must be written to a full disk. A record of 64 ranks and 1,000 steps is about 150 KiB;
#: the ledger's copy and its directory entries come on top.
RESERVE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Attempt:
    """One prepared attempt.

    Attributes:
        lock: the attempt's lock, held; None where whoever conducts it is to take it.
    """

    paths: AttemptPaths
    case: Case
    manifest: Manifest
    lock: AttemptLock | None = None


def prepare(
    home: Home,
    case: Case,
    *,
    argv: Sequence[str],
    placement: dict[str, str],
    data: dict[str, Any],
    hold: bool = False,
) -> Attempt:
    """Make the attempt's directory and write down what is about to be tried, durably.

    Args:
        home: where attempts are.
        case: the question.
        argv: the client's command line; what looks like a secret is redacted.
        placement: where things lie on this host.
        data: what was seen of the data.
        hold: take the attempt's lock before anything is written, and give it along: then no collector ever finds the
            attempt without somebody who is at it.

    Raises:
        GateRefused: `disk-short` or `home-unwritable` when the directory cannot be made or filled.
    """
    redacted, was_redacted = redact_argv(list(argv))
    lock: AttemptLock | None = None
    try:
        for _ in range(16):
            run_id = new_run_id(case.lane, datetime.now(timezone.utc))
            paths = home.attempt(run_id)
            try:
                os.makedirs(paths.root, mode=0o755)
            except FileExistsError:
                continue
            break
        else:
            raise FileExistsError(errno.EEXIST, "no free run id was found")
        lock = AttemptLock(paths.lock) if hold else None
        if lock is not None and not lock.take():
            raise BlockingIOError(errno.EAGAIN, "somebody holds the lock of an attempt that was just made")
        for rank in range(case.nproc):
            os.makedirs(paths.rank(rank).root)
        preallocate(paths.reserve, RESERVE_BYTES)
        replace_file(paths.case, encode(case.to_json()))
        manifest = Manifest(
            run_id=run_id,
            plan_digest=case.digest,
            lane=case.lane,
            preset=case.preset,
            surface=case.surface,
            argv=tuple(safe_text(word) for word in redacted),
            argv_redacted=was_redacted,
            placement={key: safe_text(value) for key, value in placement.items()},
            state=State.PREPARED,
            transitions=(Transition(State.PREPARED, stamp(), 0.0, "the attempt's directory was made"),),
            prepared_ns=time.monotonic_ns(),
            boot_id=boot_id().value or "unknown",
            data=data,
            supervisor=this_process(),
            case=case.to_json(),
            directory=safe_text(str(paths.root.absolute())),
        )
        save(paths, manifest)
    except OSError as error:
        if lock is not None:
            lock.release()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise GateRefused(
            "disk-short" if full else "home-unwritable",
            f"the attempt could not be prepared under {str(home.attempts)!r} ({error.strerror})",
            "free some space there, or set LANEMARK_HOME to another directory",
        ) from None
    return Attempt(paths, case, manifest, lock)


def this_process() -> Supervisor:
    """The calling process, as a manifest names it."""
    with open("/proc/self/stat", "rb") as file:
        # Field 22 is starttime, counted after the command name, which may itself hold spaces and parentheses.
        start_ticks = int(file.read().rsplit(b")", 1)[1].split()[19])
    return Supervisor(os.getpid(), start_ticks, boot_id().value or "unknown")
