"""Asking a rank: what it answers is read, and whatever else comes back is a reason and never a crash."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.launch import asking
from lanemark.launch.asking import NoAnswerError, ask, parse_flight, parse_spied, parse_traceback, spy
from lanemark.launch.seeing import ask_rank
from lanemark.measure.control import open_control_plane
from lanemark.records.look import RankLook

STACKS = """Current thread 0x00007fe7bf4126c0 (most recent call first):
  <no Python frame>

Thread 0x00007fe7c0000000 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait

Thread 0x00007fe7dfe40b80 (most recent call first):
  File "/home/u/.venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 4394 in all_gather_single
  File "/home/u/deep/down/here/train.py", line 14 in <module>
"""


def row(number: int, *, retired: bool = False, state: str = "scheduled", **more: Any) -> dict[str, Any]:
    return {
        "collective_seq_id": number, "p2p_seq_id": 0, "is_p2p": False, "profiling_name": "gloo:all_gather",
        "state": state, "retired": retired, "time_created_ns": 1795372978499440348, **more,
    }  # fmt: skip


@contextmanager
def answering(path: Path, reply: bytes, delay_s: float = 0.0) -> Iterator[list[bytes]]:
    """A server on a unix socket that reads one request and sends one reply."""
    asked: list[bytes] = []
    directory = os.open(path.parent, os.O_RDONLY)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{directory}/{path.name}")
    server.listen(4)

    def serve() -> None:
        try:
            while True:
                client, _ = server.accept()
                with client:
                    asked.append(client.recv(4096))
                    time.sleep(delay_s)
                    client.sendall(reply)
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        os.close(directory)


def soon() -> float:
    return time.monotonic() + 2.0


def deep(tmp_path: Path) -> Path:
    """A path far longer than a socket's address may be."""
    place = tmp_path / ("d" * 120)
    place.mkdir()
    return place / "control.sock"


def test_an_answer_is_read_however_deep_the_socket_lies(tmp_path: Path) -> None:
    control = deep(tmp_path)
    with answering(control, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong") as asked:
        assert ask(control, "dump_traceback", soon()) == b"pong"
    assert asked[0].startswith(b"POST /handler/dump_traceback HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nHandler not found", "it answered Handler not found"),
        (b"HTTP/1.1 500 Oops\r\n\r\n", "with no success"),
        (b"", "with no success"),
        (b"\xff" * 50, "with no success"),
    ],
)
def test_an_answer_that_is_none_is_a_reason(tmp_path: Path, reply: bytes, says: str) -> None:
    control = tmp_path / "control.sock"
    with answering(control, reply), pytest.raises(NoAnswerError, match=says):
        ask(control, "fr_trace_json", soon())


def test_nobody_there_nobody_answering_and_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "control.sock"
    with pytest.raises(NoAnswerError, match="no control socket"):
        ask(control, "fr_trace_json", soon())
    with answering(control, b"HTTP/1.1 200 OK\r\n\r\n", delay_s=0.5), pytest.raises(NoAnswerError, match="in time"):
        ask(control, "fr_trace_json", time.monotonic() + 0.1)
    with pytest.raises(NoAnswerError, match="refused"):  # its name outlives a server that was killed
        ask(control, "fr_trace_json", soon())
    control.unlink()
    monkeypatch.setattr(asking, "_ANSWER_BYTES", 1000)
    with (
        answering(control, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000),
        pytest.raises(NoAnswerError, match="more than is kept"),
    ):
        ask(control, "fr_trace_json", soon())


def test_flight_recorder_of_gloo_is_read(tmp_path: Path) -> None:
    entries = parse_flight(json.dumps({"entries": [row(1, retired=True), row(2)]}).encode())
    assert [(e.seq, e.operation, e.state) for e in entries] == [
        (1, "gloo:all_gather", "completed"),
        (2, "gloo:all_gather", "scheduled"),
    ]
    assert entries[0].created_ns == 1795372978499440348


def test_a_recorder_that_has_seen_nothing_is_empty() -> None:
    assert parse_flight(b'{"pg_config":{},"pg_status":{},"version":"2.10"}') == ()


def test_rows_that_are_open_are_kept_before_those_that_are_done() -> None:
    rows = [row(1), *(row(n, retired=True) for n in range(2, 200)), row(200, state="started", time_created_ns=-1)]
    entries = parse_flight(json.dumps({"entries": rows}).encode())
    assert len(entries) == asking.FLIGHT_ROWS
    assert (entries[0].seq, entries[-1].seq, entries[-2].seq) == (1, 200, 199)
    assert entries[-1].created_ns is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"entries": 3}', '{"entries": [3]}', '{"entries": [{"state": "x"}]}', "[" * 100_000]
)
def test_what_is_no_flight_recorder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_flight(text.encode())


def test_the_main_thread_is_the_last_and_paths_begin_at_the_package() -> None:
    assert parse_traceback(STACKS) == (
        "all_gather_single (torch/distributed/distributed_c10d.py:4394)",
        "<module> (down/here/train.py:14)",
    )


def test_a_main_thread_without_python_frames_leaves_the_thread_before_it() -> None:
    assert parse_traceback(STACKS.rsplit("  File", 2)[0]) == ("wait (lib/python3.11/threading.py:327)",)
    with pytest.raises(ValueError, match="no Python frame"):
        parse_traceback("Current thread 0x1 (most recent call first):\n  <no Python frame>\n")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_answer_crashes_a_parser(data: bytes) -> None:
    for parse in (parse_flight, parse_spied, lambda text: parse_traceback(text.decode("utf-8", "replace"))):
        try:
            parse(data)
        except ValueError:
            continue


SPIED = [
    {"thread_name": "helper", "frames": [{"name": "wait", "filename": "a.py", "line": 1}]},
    {"thread_name": "MainThread", "frames": [{"name": "step", "filename": "/x/site-packages/t/loop.py", "line": 7}]},
]


def test_what_py_spy_sees_is_read() -> None:
    assert parse_spied(json.dumps(SPIED).encode()) == ("step (t/loop.py:7)",)
    for text in (b"", b"[]", b"{}", b'[{"frames": []}]', b'[{"frames": [1]}]'):
        with pytest.raises(ValueError, match=r".+"):
            parse_spied(text)


def program(folder: Path, body: str) -> str:
    """A py-spy of ours on PATH: what is tested is how it is called and what becomes of its ends."""
    path = folder / "py-spy"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_py_spy_is_used_where_it_is_and_its_absence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    rank = RankLook(0, alive=True, phase="window", not_seen={"flight": "a", "stack": "b", "children": "c"})

    def asked(found: str | None) -> RankLook:
        return ask_rank(
            rank, 4, tmp_path / "control.sock", deadline_s=soon(), spy=found, keep=kept.__setitem__
        )  # fmt: skip

    without = asked(None)
    assert without.stack is None
    assert without.not_seen == {
        "children": "c",
        "flight": "it has no control socket",
        "stack": "it has no control socket; py-spy is not installed",
    }
    path = program(tmp_path, f"test \"$*\" = 'dump --nonblocking --json --pid 4' && echo '{json.dumps(SPIED)}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert asking.find_py_spy() == path
    seen = asked(path)
    assert seen.stack == ("step (t/loop.py:7)",)
    assert "stack" not in seen.not_seen
    assert json.loads(kept["0-stack.json"]) == SPIED
    with pytest.raises(NoAnswerError, match="permission"):
        spy(program(tmp_path, "echo no permission >&2; exit 1"), 4, 5.0)
    with pytest.raises(NoAnswerError, match="in time"):
        spy(program(tmp_path, "exec sleep 30"), 4, 0.2)
    with pytest.raises(NoAnswerError, match="py-spy"):
        spy(str(tmp_path / "none"), 4, 5.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"alive": False}, "has ended"),
        ({"process_state": "T"}, "stopped and cannot answer"),
        ({"phase": "failed"}, "on its way out"),
        ({"phase": "done"}, "on its way out"),
    ],
)
def test_ranks_that_cannot_answer_are_not_asked(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    control = tmp_path / "control.sock"
    rank = replace(RankLook(0, alive=True, phase="window"), **change)
    with answering(control, b"") as requests:
        seen = ask_rank(rank, 4, control, deadline_s=soon(), spy=None, keep=lambda name, data: None)
    assert requests == []
    assert says in seen.not_seen["stack"]
    assert says in seen.not_seen["flight"]


@pytest.mark.torch
def test_torch_answers_for_this_very_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    control = deep(tmp_path)
    close, seen = open_control_plane(control)
    assert seen["status"] == "observed", seen
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    try:
        assert parse_flight(ask(control, "fr_trace_json", soon())) == ()
        text = ask(control, "dump_traceback", time.monotonic() + 5.0).decode()
        assert any("test_torch_answers" in frame for frame in parse_traceback(text))
    finally:
        close()
    assert not control.exists()
    close()
    with pytest.raises(NoAnswerError, match="no control socket"):
        ask(control, "fr_trace_json", soon())


def test_a_rank_that_cannot_be_asked_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch._C._distributed_c10d", None)
    close, seen = open_control_plane(tmp_path / "control.sock")
    close()
    assert seen["status"] == "unavailable"
    assert seen["reason"]
