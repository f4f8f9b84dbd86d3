"""The local surface, left alone: a supervisor in a session of its own, which holds the attempt's lock from the start.

What makes it outlive the shell: it leads a new session, so it has no terminal that could hang up; it ignores SIGHUP and
SIGINT from before it is born; its standard streams are `/dev/null` and `supervisor.log`; and of the launcher's open
files it inherits one, the attempt's lock. It is started by name and notes its own ids (pid, start time in ticks, boot
id) under that lock: between the launcher's last word and the supervisor's first there is nothing that could be lost.

A run is found again by these ids. A pid alone may be recycled; with its start time and the boot id it names a process
for good. On another machine nothing can be said about a process, which is `unreachable` and not an end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import lanemark
from lanemark.launch.detached import Fetched, Handle, Note, Status, Submission, plain_names
from lanemark.launch.processes import Descendants, read_stat
from lanemark.measure.durable import replace_files
from lanemark.observe.host import boot_id
from lanemark.observe.reading import reason_of
from lanemark.records.attempt import AttemptPaths
from lanemark.records.errors import RunFailed

SUPERVISOR: Final = "lanemark.collect.supervisor"
#: Files that are whoever's who holds the lock, and never fetched; and what only means something where it lies.
_STAYS: Final = frozenset({"attempt.json", "case.json", "polls.jsonl", "reserve", "record.json", "supervisor.lock"})
#: What takes time here is fsync, and those that wait for it at once share one commit of the file system's journal
#: (measured on ext4: 14 ms for a durable file alone, 0.6 ms each for 16 at once).
_CONCURRENCY: Final = 16


def machine_id() -> str:
    """What tells this machine from another: systemd's machine id (machine-id(5)), or `unknown`."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"


def own_ids() -> dict[str, str]:
    """The ids by which this process is found again."""
    stat = read_stat(os.getpid())
    return {
        "pid": str(os.getpid()),
        "start_ticks": str(stat.start_ticks) if stat is not None else "unknown",
        "boot_id": boot_id().value or "unknown",
        "machine": machine_id(),
    }


class LocalDetached:
    """Supervisors on this host."""

    name = "local"
    supervised_here = True
    concurrency = _CONCURRENCY

    def submit(self, submission: Submission, note: Note) -> Handle:  # noqa: ARG002 - the supervisor notes its own ids
        """See `DetachedSurface.submit`. Once this returns, the supervisor alone writes in the attempt directory."""
        paths = submission.paths
        command = [sys.executable, "-m", SUPERVISOR, str(paths.root.absolute()), str(submission.lock_fd)]
        try:
            start_left(command, paths.root, paths.supervisor_log, submission.lock_fd)
        except (OSError, subprocess.SubprocessError) as error:
            raise RunFailed(
                "run-failed",
                f"the supervisor of {paths.run_id} could not be started ({reason_of(error)})",
                "check that this user may start processes",
            ) from error
        return Handle(paths.run_id, self.name, {}, str(paths.root))

    def probe(self, handle: Handle) -> Status:
        """See `DetachedSurface.probe`. Who holds the lock is not asked here: whoever asks holds it."""
        ids = handle.ids
        if handle.directory is not None and Path(handle.directory, "record.json").is_file():
            return Status("finished", "its record is sealed")
        if "pid" not in ids:
            return Status("absent", "no supervisor ever wrote down that it had begun")
        here = machine_id()
        if "unknown" not in (here, ids.get("machine", "unknown")) and ids["machine"] != here:
            return Status("unreachable", f"it runs on another machine (machine id {ids['machine'][:40]})")
        if ids.get("boot_id") != (boot_id().value or "unknown"):
            return Status("failed", "the host was booted since it was started", "gone")
        return Status("running", f"its supervisor is process {ids['pid']}") if _lives(ids) else _GONE

    def fetch(self, handle: Handle, into: AttemptPaths) -> Fetched:
        """See `DetachedSurface.fetch`. Everything is here already, unless `into` is a copy of another directory."""
        if handle.directory is None or not os.path.isdir(handle.directory):
            return Fetched(tuple(_fetched_names(into.root)))
        origin = Path(handle.directory)
        if os.path.realpath(origin) == os.path.realpath(into.root):
            return Fetched(tuple(_fetched_names(into.root)))
        files, problems = [], []
        for name in _fetched_names(origin):
            try:
                files.append((name, (origin / name).read_bytes()))
            except OSError as error:
                problems.append(f"{name} could not be copied: {reason_of(error)}")
        return Fetched(tuple(replace_files(into.root, files)), tuple(problems))

    def cancel(self, handle: Handle, reason: str) -> None:  # noqa: ARG002 - a signal carries no words
        """See `DetachedSurface.cancel`: the supervisor is asked by SIGTERM, and ends and seals the run itself."""
        if handle.ids.get("boot_id") == (boot_id().value or "unknown"):
            signal_supervisor(handle.ids, signal.SIGTERM)

    def call_graph(self, handle: Handle) -> dict[str, Any]:
        """See `DetachedSurface.call_graph`: the supervisor and the programs below it."""
        if not _lives(handle.ids):
            return {"supervisor": dict(handle.ids), "alive": False}
        pid = int(handle.ids["pid"])
        programs = Descendants().commands([pid])[pid]
        return {"supervisor": dict(handle.ids), "alive": True, "programs": list(programs)}


_GONE: Final = Status("failed", "its supervisor is gone and sealed no record", "gone")


def start_left(command: list[str], directory: Path, log: Path, lock_fd: int) -> None:
    """Start a program that is left for good: nobody waits for it, and whoever inherits it when we are gone reaps it.

    Args:
        command: what is started, `-m` of a module of ours.
        directory: where; `-m` looks for modules there first, so it is one in which nobody's file can pass for one.
        log: takes its standard streams.
        lock_fd: the one open file that it inherits.

    Raises:
        OSError: it was not started.
    """
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        with _not_hung_up():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=_with_import_path(os.environ),
                cwd=directory,
                start_new_session=True,
                pass_fds=(lock_fd,),
            )
    finally:
        os.close(stream)
    # Popen warns of a child that is still running when its object goes; this one is meant to.
    process.returncode = 0


def _with_import_path(environ: Mapping[str, str]) -> dict[str, str]:
    """Let the supervisor import the Lanemark that launched it, also when it was laid beside the image."""
    beside = Path(lanemark.__file__).absolute().parents[1]
    if beside.name in ("site-packages", "dist-packages"):
        return dict(environ)
    # Relative entries mean this directory, and the supervisor starts in another.
    others = [os.path.abspath(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {**environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(beside), *others]))}


@contextlib.contextmanager
def _not_hung_up() -> Iterator[None]:
    """What is ignored when a process is made stays ignored in it: no moment is left in which a hang-up could hit."""
    before = {}
    for number in (signal.SIGHUP, signal.SIGINT):
        try:
            before[number] = signal.signal(number, signal.SIG_IGN)
        except ValueError:  # not the main thread: the supervisor then ignores them once it runs
            break
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lives(ids: Mapping[str, str]) -> bool:
    try:
        stat = read_stat(int(ids["pid"]))
    except (KeyError, ValueError):
        return False
    return stat is not None and stat.state != "Z" and str(stat.start_ticks) == ids.get("start_ticks")


def signal_supervisor(ids: Mapping[str, str], number: signal.Signals) -> bool:
    """Send a signal to exactly the process that the ids name; False when it is not there any more."""
    try:
        pid = int(ids["pid"])
        pidfd = os.pidfd_open(pid)
    except (KeyError, ValueError, OSError):
        return False
    except AttributeError:  # a Python without pidfd: the check just before is all there is
        if not _lives(ids):
            return False
        with contextlib.suppress(OSError):
            os.kill(pid, number)
        return True
    try:
        if not _lives(ids):
            return False
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _fetched_names(root: Path) -> list[str]:
    return [name for name in plain_names(root) if name not in _STAYS and not name.rpartition("/")[2].startswith(".")]
