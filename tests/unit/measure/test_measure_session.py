"""A rank's session: what it reads, what it leaves, and that it never hides the exception it reports."""

import contextlib
import json
import os
import sys
import types
from pathlib import Path

import pytest

from lanemark.measure import session as session_module
from lanemark.measure.beacon import read_beacon
from lanemark.measure.durable import preallocate, replace_file
from lanemark.measure.session import ERROR_BYTES, RankSession, error_document
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.errors import UsageError

CASE = Case(
    lane="training", preset="none", nproc=2, mode="ddp", compile="eager", dtype="fp32", steps=4, warmup=1, sequence=8,
    micro_batch=1, data=DataAsked("synthetic"),
)  # fmt: skip


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    paths = AttemptPaths(tmp_path)
    paths.rank(1).root.mkdir(parents=True)
    paths.case.write_bytes(encode(CASE.to_json()))
    return {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LANEMARK_ATTEMPT_DIR": str(tmp_path),
        "LANEMARK_RANK_DIR": str(paths.rank(1).root),
    }  # fmt: skip


def test_session_is_what_the_environment_says(env: dict[str, str], tmp_path: Path) -> None:
    session = RankSession.from_environment(env | {"LANEMARK_DATA_DIR": "/shards", "LANEMARK_LISTEN_FD": "7"})
    assert (session.rank, session.world_size, session.local_rank) == (1, 2, 1)
    assert session.case == CASE
    assert (session.data_dir, session.listen_fd) == (Path("/shards"), 7)
    assert session.attempt.root == tmp_path
    view = read_beacon(session.paths.beacon)
    assert (view.phase, view.rank, view.world_size, view.pid) == ("start", 1, 2, os.getpid())


def test_what_is_not_set_is_none(env: dict[str, str]) -> None:
    session = RankSession.from_environment(env)
    assert session.data_dir is None
    assert session.listen_fd is None


class Server:
    """Stands in for torch's worker server: it makes its socket's name and nothing else."""

    def __init__(self, path: str) -> None:
        assert len(path.encode()) < 107  # what a socket's address holds
        Path(path).touch()


@pytest.mark.parametrize("ending", ["end", "exception", "neither"])
def test_a_rank_can_be_asked_for_as_long_as_it_works(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    module = types.ModuleType("torch._C._distributed_c10d")
    module._WorkerServer = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch._C._distributed_c10d", module)
    for name in ("torch", "torch._C"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    seen_in: list[bool] = []
    with contextlib.suppress(RuntimeError), RankSession.from_environment(env) as session:
        assert session.open_to_looks()["status"] == "observed"
        seen_in.append(session.paths.control.exists())
        if ending == "end":
            session.write_end({})
            seen_in.append(session.paths.control.exists())
        if ending == "exception":
            raise RuntimeError("planted")
    assert seen_in == ([True, False] if ending == "end" else [True])
    assert not session.paths.control.exists()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RANK", "", "RANK is not set"),
        ("WORLD_SIZE", "two", "'two', which is no number"),
        ("LOCAL_RANK", "-1", "no number"),
        ("LANEMARK_ATTEMPT_DIR", "", "no rank of an attempt"),
        ("LANEMARK_ATTEMPT_DIR", "/nonexistent", "cannot be read"),
        ("LANEMARK_LISTEN_FD", "x", "no number"),
    ],
)
def test_environment_of_nobody_is_refused(env: dict[str, str], name: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        RankSession.from_environment(env | {name: value})
    assert caught.value.slug == "value-invalid"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"lane": 1}'])
def test_broken_case_is_refused(env: dict[str, str], tmp_path: Path, text: bytes) -> None:
    AttemptPaths(tmp_path).case.write_bytes(text)
    with pytest.raises(UsageError, match="cannot be read"):
        RankSession.from_environment(env)


def test_clean_session_leaves_its_documents_and_no_error(env: dict[str, str]) -> None:
    with RankSession.from_environment(env) as session:
        session.write_observed({"a": 1})
        session.write_observed({"a": 2})
        session.recorder()
        session.write_end({"tokens": 3})
    assert json.loads(session.paths.observed.read_bytes()) == {"a": 2}
    assert json.loads(session.paths.end.read_bytes()) == {"tokens": 3}
    assert read_beacon(session.paths.beacon).phase == "done"
    names = {entry.name for entry in session.paths.root.iterdir()}
    assert names == {"beacon.page", "observed.json", "end.json", "samples.bin"}


def test_failure_is_written_in_torchelastics_layout_and_goes_on(env: dict[str, str]) -> None:
    session = RankSession.from_environment(env)
    with pytest.raises(ZeroDivisionError), session:
        _ = 1 // 0
    message = json.loads(session.paths.error.read_bytes())["message"]
    assert message["message"] == "ZeroDivisionError: integer division or modulo by zero"
    assert "1 // 0" in message["extraInfo"]["py_callstack"]
    assert message["extraInfo"]["timestamp"].isdigit()
    view = read_beacon(session.paths.beacon)
    assert (view.phase, view.label) == ("failed", "ZeroDivisionError")


def test_interrupt_is_a_failure_and_a_clean_exit_is_none(env: dict[str, str]) -> None:
    session = RankSession.from_environment(env)
    with pytest.raises(KeyboardInterrupt), session:
        raise KeyboardInterrupt
    assert session.paths.error.exists()
    session.paths.error.unlink()
    session = RankSession.from_environment(env)
    with pytest.raises(SystemExit), session:
        sys.exit(0)
    assert not session.paths.error.exists()
    session = RankSession.from_environment(env)
    with pytest.raises(SystemExit), session:
        sys.exit("no such shard")
    assert "no such shard" in session.paths.error.read_text()


def test_error_that_cannot_be_written_does_not_hide_the_exception(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session_module, "write_all", fail)
    session = RankSession.from_environment(env)
    with pytest.raises(RuntimeError, match="the real one"), session:
        raise RuntimeError("the real one")
    assert not session.paths.error.exists()


def test_one_recorder_a_session(env: dict[str, str]) -> None:
    session = RankSession.from_environment(env)
    session.recorder()
    with pytest.raises(ValueError, match="one recorder"):
        session.recorder()


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "\U0001f600" * 100_000, "\udc80" * 100_000, "\x00" * 100_000, '"' * 100_000]
)
def test_error_document_fits_what_was_set_aside(text: str) -> None:
    data = error_document(RuntimeError(text), None, at=1)
    assert len(data) <= ERROR_BYTES
    assert json.loads(data)["message"]["message"].startswith("RuntimeError: ")


def test_replaced_file_is_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "doc.json"
    replace_file(path, b"one")
    replace_file(path, b"two" * 100_000)
    assert path.read_bytes() == b"two" * 100_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["doc.json"]


def test_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "folder", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "doc.json", b"x")


def test_preallocated_file_has_blocks_and_is_new(tmp_path: Path) -> None:
    preallocate(tmp_path / "reserve", 1 << 20)
    assert os.stat(tmp_path / "reserve").st_blocks * 512 >= 1 << 20
    with pytest.raises(FileExistsError):
        preallocate(tmp_path / "reserve", 1)
    assert os.stat(tmp_path / "reserve").st_size == 1 << 20
