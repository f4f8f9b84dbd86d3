"""The local surface's request, and what it refuses before anything is started."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lanemark
from lanemark.launch.local import LocalSurface
from lanemark.launch.surface import LaunchRequest, Placement
from lanemark.records.attempt import Home
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import GateRefused

CASE = Case(
    lane="training", preset="none", nproc=2, mode="ddp", compile="regional", dtype="fp32", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"), gpu="cpu",
)  # fmt: skip


def ask(case: Case = CASE, operator: dict[str, str] | None = None, **placement: Path) -> LaunchRequest:
    home = placement.pop("home", Path("/srv/home"))
    return LocalSurface(operator or {}, usable_cores=4).request(case, Placement(Home(home), **placement))


def values(request: LaunchRequest) -> dict[str, str | None]:
    return {setting.name: setting.value for setting in request.settings}


def test_reference_stack_runs_in_the_ranks_own_directory() -> None:
    request = ask()
    assert request.argv == (sys.executable, "-m", "lanemark.stack.train")
    assert request.reference_stack
    assert request.working_directory is None
    assert request.to_json()["working_directory"] == "the rank's directory"
    assert values(request)["OMP_NUM_THREADS"] == "2"


def test_command_runs_where_it_was_asked_for() -> None:
    request = ask(replace(CASE, command=("python", "train.py")))
    assert request.argv == ("python", "train.py")
    assert request.working_directory == os.getcwd()
    assert not request.reference_stack


def test_relative_directories_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = ask(data_dir=Path("shards"), cache_dir=Path("cache"))
    assert request.rank_variables[0]["LANEMARK_DATA_DIR"] == str(tmp_path / "shards")
    assert values(request)["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache/inductor")


def test_eager_case_has_no_cache_directory() -> None:
    request = ask(replace(CASE, compile="eager"))
    assert request.cache_dir is None
    assert request.to_json()["cache"] == {"reason": "nothing is compiled"}


def test_ranks_import_the_lanemark_that_launched_them() -> None:
    beside = Path(lanemark.__file__).parents[1]
    if beside.name == "site-packages":
        pytest.skip("Lanemark is installed into site-packages, where ranks find it by themselves")
    request = ask(operator={"PYTHONPATH": f"/other{os.pathsep}{beside}{os.pathsep}relative"})
    assert values(request)["PYTHONPATH"] == os.pathsep.join([str(beside), "/other", os.path.abspath("relative")])


def test_cache_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    surface = LocalSurface({}, usable_cores=1)
    request = surface.request(CASE, Placement(Home(tmp_path), cache_dir=tmp_path / "file"))
    with pytest.raises(GateRefused, match="cannot be used") as caught:
        surface.launch(request, Home(tmp_path).attempt("training-20260101T000000Z-00000000"))
    assert caught.value.slug == "home-unwritable"


def test_first_rank_of_the_reference_stack_inherits_a_listening_socket(tmp_path: Path) -> None:
    program = (
        "import os, socket; s = socket.socket(fileno=int(os.environ['LANEMARK_LISTEN_FD'])); "
        "print(os.environ['MASTER_PORT'], s.getsockname()[1], s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))"
    )
    other = "import os; print('LANEMARK_LISTEN_FD' in os.environ)"
    command = (sys.executable, "-c", f"import os\nexec({program!r} if os.environ['RANK'] == '0' else {other!r})")
    surface = LocalSurface(usable_cores=1)
    request = replace(
        surface.request(replace(CASE, command=command, compile="eager"), Placement(Home(tmp_path))),
        reference_stack=True,
    )
    paths = Home(tmp_path).attempt("training-20260101T000000Z-00000000")
    launched = surface.launch(request, paths)
    try:
        while surface.poll(launched).alive:
            surface.wait(launched, 1.0)
    finally:
        surface.cleanup(launched)
    port, bound, listening = paths.rank(0).stdout.read_text().split()
    assert (port, listening) == (bound, "1")
    assert paths.rank(1).stdout.read_text() == "False\n"
    with pytest.raises(ConnectionRefusedError):  # the supervisor does not hold it open behind a dead rank
        socket.create_connection(("127.0.0.1", int(port)), timeout=5)
