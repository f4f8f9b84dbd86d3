"""Asking a hung rank what it is doing: its flight recorder and its Python stacks. Reading is thin, parsing is pure.

The rank's own server answers on a unix socket (`lanemark.measure.control`). A rank that has none, because its torch is
too old or its program is not ours, is looked at with py-spy where that is installed.

What comes back was written by a rank and is taken for nothing more: it is bounded in time and size, and whatever does
not parse is a reason. Dumps have to be taken while the rank waits: once its collective has failed, the flight recorder
shows the failed operation as completed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.records.look import FlightEntry

#: A flight recorder of 512 operations is about 200 KiB, a stack of 100 frames in 40 threads about as much.
_ANSWER_BYTES: Final = 4 * 1024 * 1024
_CHUNK_BYTES: Final = 1 << 16
#: Rows and frames that a look keeps; what was answered in full lies beside it.
FLIGHT_ROWS: Final = 32
STACK_FRAMES: Final = 40
_TEXT_CHARS: Final = 200

Question = Literal["fr_trace_json", "dump_traceback"]

_FRAME: Final = re.compile(r'\s+File "(?P<file>[^"]*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')


class NoAnswerError(Exception):
    """The rank did not answer; the text says why, in one phrase."""


def ask(control: Path, question: Question, deadline_s: float) -> bytes:
    """Put one question to the server behind the socket at `control`.

    Args:
        control: the socket's path, of any length.
        question: which handler of torch's worker server.
        deadline_s: on `time.monotonic`.

    Returns:
        The body of the answer.

    Raises:
        NoAnswerError: there is no socket, nobody answers in time, or the answer is no success.
    """
    request = f"POST /handler/{question} HTTP/1.1\r\nHost: rank\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    try:
        with contextlib.ExitStack() as held:
            directory = os.open(control.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, directory)
            asking = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            _patience(asking, deadline_s)
            asking.connect(f"/proc/self/fd/{directory}/{control.name}")
            asking.sendall(request.encode("ascii"))
            answer = _read_all(asking, deadline_s)
    except FileNotFoundError:
        raise NoAnswerError("it has no control socket") from None
    except TimeoutError:
        raise NoAnswerError("it did not answer in time") from None
    except OSError as error:
        raise NoAnswerError(f"its control socket: {error.strerror or error}") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or status[1] != b"200":
        raise NoAnswerError(f"it answered {body[:100].decode('utf-8', 'replace').strip() or 'with no success'}")
    return body


def _patience(asking: socket.socket, deadline_s: float) -> None:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    asking.settimeout(left_s)


def _read_all(asking: socket.socket, deadline_s: float) -> bytes:
    answer = bytearray()
    while True:
        _patience(asking, deadline_s)
        chunk = asking.recv(_CHUNK_BYTES)
        if not chunk:
            return bytes(answer)
        answer += chunk
        if len(answer) > _ANSWER_BYTES:
            raise NoAnswerError("it answered more than is kept")


def find_py_spy() -> str | None:
    """The py-spy program on PATH, or None. It is used where it is, and never installed."""
    return shutil.which("py-spy")


def spy(program: str, pid: int, timeout_s: float) -> bytes:
    """What py-spy sees of a process, as JSON, without stopping it. Raises NoAnswerError."""
    command = [program, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise NoAnswerError("py-spy was not done in time") from None
    except OSError as error:
        raise NoAnswerError(f"py-spy: {error.strerror or error}") from None
    if done.returncode != 0:
        raise NoAnswerError(f"py-spy: {done.stderr[-200:].decode('utf-8', 'replace').strip() or done.returncode}")
    return done.stdout[:_ANSWER_BYTES]


def parse_flight(data: bytes) -> tuple[FlightEntry, ...]:
    """The recorder's last rows, oldest first (source: torch/csrc/distributed/c10d/FlightRecorder.hpp).

    Every row that is not completed is kept, and the completed ones before it up to `FLIGHT_ROWS` in all. gloo never
    moves a row on from `scheduled`; that it is over shows in `retired`.

    Raises:
        ValueError: the text is no such dump.
    """
    try:
        dump = json.loads(data)
        # A recorder that has seen nothing yet leaves the list out.
        rows = dump["entries"] if "entries" in dump or "version" not in dump else []
        entries = [_flight_entry(row) for row in rows]
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a flight recorder's dump ({type(error).__name__})") from None
    open_rows = [entry for entry in entries if entry.state != "completed"][-FLIGHT_ROWS:]
    room = FLIGHT_ROWS - len(open_rows)
    closed = [entry for entry in entries if entry.state == "completed"]
    kept = {id(entry) for entry in [*open_rows, *(closed[-room:] if room else [])]}
    return tuple(entry for entry in entries if id(entry) in kept)


def _flight_entry(row: dict[str, Any]) -> FlightEntry:
    state = row.get("state")
    if row.get("retired") is True:
        state = "completed"
    seq = row["p2p_seq_id"] if row.get("is_p2p") is True else row["collective_seq_id"]
    created_ns = row.get("time_created_ns")
    if type(seq) is not int or not isinstance(state, str) or not isinstance(row["profiling_name"], str):
        raise ValueError("a row of the flight recorder's dump has another form")
    return FlightEntry(
        seq=seq,
        operation=row["profiling_name"][:_TEXT_CHARS],
        state=state[:_TEXT_CHARS],
        created_ns=created_ns if type(created_ns) is int and 0 < created_ns < 2**63 else None,
    )


def parse_traceback(text: str) -> tuple[str, ...]:
    """The main thread's frames, innermost first, from what faulthandler writes of all threads.

    Threads are written newest first, so the main one is the last that has a frame of Python.

    Raises:
        ValueError: no thread has one.
    """
    frames: list[str] = []
    last: list[str] = []
    for line in text.splitlines():
        if line.startswith(("Thread 0x", "Current thread 0x")):
            last, frames = frames or last, []
        elif (found := _FRAME.match(line)) and len(frames) < STACK_FRAMES:
            frames.append(_frame(found["function"], found["file"], found["line"]))
    if not (frames or last):
        raise ValueError("no Python frame was shown")
    return tuple(frames or last)


def parse_spied(data: bytes) -> tuple[str, ...]:
    """The main thread's frames, innermost first, from py-spy's JSON (source: py-spy's `--json`).

    Raises:
        ValueError: the text is no such dump, or shows no frame.
    """
    try:
        threads = json.loads(data)
        main = next((t for t in threads if t.get("thread_name") == "MainThread"), threads[-1])
        frames = [_frame(str(f["name"]), str(f["filename"]), str(f["line"])) for f in main["frames"][:STACK_FRAMES]]
    except (TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not what py-spy writes ({type(error).__name__})") from None
    if not frames:
        raise ValueError("py-spy saw no Python frame")
    return tuple(frames)


def _frame(function: str, file: str, line: str) -> str:
    """`function (file:line)`, the file from its package on: where a virtual environment lies says nothing of a hang."""
    for mark in ("/site-packages/", "/dist-packages/"):
        file = file.rpartition(mark)[2]
    if file.startswith("/"):
        file = "/".join(file.split("/")[-3:])
    return f"{function.strip()[:80]} ({file[-_TEXT_CHARS:]}:{line})"
