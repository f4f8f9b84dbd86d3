"""Many runs on Modal at once: collected from manifests alone, each once, whatever is wrong with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch import modal_client
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from modal_many import Executed, Left, execute, leave, manifest_of, sha256
from modal_plane import ModalPlane, healed_plane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WELL = 49


plane = pytest.fixture(scope="module")(healed_plane)


@pytest.fixture(scope="module")
def one(plane: ModalPlane, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    return execute(plane, tmp_path_factory.mktemp("one"))


def collect(plane: ModalPlane, home: Home, *words: str) -> tuple[dict[str, dict[str, Any]], str]:
    """`lanemark collect` in a process of its own: its runs by id, and what it said."""
    env = {**os.environ, **plane.environment, "LANEMARK_HOME": str(home.root)}
    command = [sys.executable, "-m", "lanemark", "collect", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)
    assert "Traceback" not in done.stderr
    return {run["run_id"]: run for run in json.loads(done.stdout)["runs"]}, done.stderr


def other_bytes(files: dict[str, bytes], done: dict[str, Any]) -> None:
    files["ranks/0/samples.bin"] = bytes(len(files["ranks/0/samples.bin"]))


def longer(files: dict[str, bytes], done: dict[str, Any]) -> None:
    files["exits.json"] += b" " * 4096


def not_there(files: dict[str, bytes], done: dict[str, Any]) -> None:
    del files["host.json"]


def no_manifest(files: dict[str, bytes], done: dict[str, Any]) -> None:
    done["format"] = 99


def leaves_its_directory(files: dict[str, bytes], done: dict[str, Any]) -> None:
    done["files"].append({"name": "../../../escaped", "bytes": 1, "sha256": sha256(b"x")})


def test_sixty_manifests_are_collected_each_once_and_a_broken_run_stops_no_other(
    plane: ModalPlane, one: Executed, tmp_path: Path
) -> None:
    def another_s_record(files: dict[str, bytes], done: dict[str, Any]) -> None:
        files["record.json"] = one.files["record.json"]
        done.update(manifest_of(done, done["run_id"], files))

    wrong = {
        "raised": Left(call={"raised": "ValueError: planted"}),
        "no envelope": Left(call={"output": 7}),
        "expired": Left(call={"expired": True}),
        "unknown": Left(call={"unknown": True}),
        "other bytes": Left(other_bytes),
        "longer": Left(longer),
        "not there": Left(not_there),
        "no manifest": Left(no_manifest),
        "leaves its directory": Left(leaves_its_directory),
        "another's record": Left(another_s_record),
        "running": Left(call={"running": True}),
        "gone": Left(call={"unknown": True}, gone=True),
        "damaged here": Left(),
    }
    home = Home(tmp_path / "elsewhere")
    runs = [Left()] * WELL
    for place, left in enumerate(wrong.values()):
        runs.insert(4 * place, left)
    plane.order("fault", slow_file_s=0.02)
    ids = leave(plane, one, home, runs)
    named = {name: ids[4 * place] for place, name in enumerate(wrong)}
    assert all(sorted(p.name for p in home.attempt(run_id).root.iterdir()) == ["attempt.json"] for run_id in ids)
    home.attempt(named["damaged here"]).manifest.write_bytes(b"{")

    first, said = collect(plane, home)
    open_ = {named["running"], named["gone"]}
    ended = set(ids) - open_ - {named["damaged here"]}
    assert Counter((first[run_id]["state"], first[run_id]["outcome"]) for run_id in ended) == {
        ("ok", "sealed"): len(ended)
    }
    assert (first[named["running"]]["state"], first[named["running"]]["outcome"]) == ("running", "waiting")
    assert (first[named["gone"]]["state"], first[named["gone"]]["outcome"]) == ("detached", "problem")
    assert named["damaged here"] not in first
    assert f"{named['damaged here']} could not be collected" in said
    assert sorted(row.run_id for row in Ledger(home.ledger).list().rows) == sorted(ended), "none is lost, none doubled"
    # Small and large files have their own bounds, and one that a reader gave up may be served for a moment longer. Without
    # any bound it would be every file of every run.
    most = modal_client.SMALL_AT_ONCE + modal_client.LARGE_AT_ONCE + len(wrong)
    assert 1 < plane.order("look")["most_reading"] <= most
    assert not list(tmp_path.rglob("escaped"))
    for name, missing in (("other bytes", "ranks/0/samples.bin"), ("longer", "exits.json"), ("not there", "host.json")):
        assert not (home.attempt(named[name]).root / missing).exists(), "what is not as it was named is not taken"
    assert home.attempt(named["another's record"]).record.read_bytes() != one.files["record.json"]
    assert not [path for path in home.attempts.rglob("*") if path.name.endswith(".tmp")]

    kept = {run_id: home.attempt(run_id).record.read_bytes() for run_id in ended}
    asked = len(plane.requests("FunctionGetOutputs")), len(plane.requests("VolumeGetFile2"))
    again, _ = collect(plane, home)
    assert {again[run_id]["outcome"] for run_id in ended} == {"done"}
    assert {run_id: home.attempt(run_id).record.read_bytes() for run_id in ended} == kept
    assert len(Ledger(home.ledger).list().rows) == len(ended)
    assert len(plane.requests("FunctionGetOutputs")) <= asked[0] + 2, "who has ended is not asked about again"
    assert len(plane.requests("VolumeGetFile2")) <= asked[1] + 2


def test_files_of_several_blocks_come_whole_and_none_that_is_larger_than_it_was_named(
    plane: ModalPlane, one: Executed, tmp_path: Path
) -> None:
    """What is not brought leaves nothing behind, and stops no other file."""
    large = os.urandom(modal_client.BLOCK_BYTES + 4096) + bytes(4096)  # zeros at a block's end are left out on the way
    modal_client.write_volume("lanemark-results", None, {"/large/a": large, "/large/b": b"small", "/large/c": b""})
    wanted = [
        modal_client.Wanted(f"large/{name}", tmp_path / str(number), limit)
        for number, (name, limit) in enumerate(
            [("a", len(large)), ("a", len(large) - 1), ("b", 5), ("b", 4), ("c", 0), ("none", 5)]
        )
    ]
    brought = modal_client.bring("lanemark-results", None, wanted)
    assert [type(found) for found in brought] == [str, ValueError, str, ValueError, str, FileNotFoundError]
    assert [brought[0], brought[2], brought[4]] == [sha256(large), sha256(b"small"), sha256(b"")]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"0": large, "2": b"small", "4": b""}


def test_a_volume_that_was_made_again_is_looked_up_again(plane: ModalPlane, tmp_path: Path) -> None:
    """A collector that waits for days outlives a Volume that somebody deletes and makes again."""
    modal_client.write_volume("short-lived", None, {"/x": b"one"})
    assert modal_client.read_volume("short-lived", None, "x", 9) == b"one"
    plane.order("forget_volume", name="short-lived")
    assert modal_client.list_volume("short-lived", None, "/") == {}
    modal_client.write_volume("short-lived", None, {"/x": b"two"})
    assert modal_client.read_volume("short-lived", None, "x", 9) == b"two"
