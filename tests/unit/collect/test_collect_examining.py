"""Reading an attempt that may be running, sealed, copied, damaged or forged: facts and problems, never a crash."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lanemark.cli.doctor import find
from lanemark.cli.main import main
from lanemark.collect.examining import attempt_of_record, read_attempt
from lanemark.collect.looks import read_looks, read_named
from lanemark.collect.manifest import Manifest, Supervisor, save
from lanemark.diagnose.examination import examine
from lanemark.measure.beacon import Beacon
from lanemark.observe.host import boot_id
from lanemark.records.attempt import AttemptPaths, Home, State, Transition
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode
from lanemark.records.errors import LedgerError
from lanemark.records.look import Look, RankLook

RUN = "training-20261122T152233Z-7k3f9q2x"
CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="ddp", compile="eager", dtype="fp32", steps=9, warmup=2,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"),
)  # fmt: skip
NAMES = ("attempt.json", "case.json", "launch.json", "exits.json", "looks.jsonl", "named.jsonl", "record.json")
RANK_NAMES = ("beacon.page", "samples.bin", "observed.json", "end.json", "error.json", "stderr.log")


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[19])


def made(home: Path, *, state: State = State.RUNNING, supervisor: Supervisor | None = None) -> AttemptPaths:
    """An attempt of two ranks in their window, supervised by this very process unless told otherwise."""
    paths = Home(home).attempt(RUN)
    here = boot_id().value or "unknown"
    for rank in range(2):
        paths.rank(rank).root.mkdir(parents=True)
        beacon = Beacon.create(paths.rank(rank).beacon, rank=rank, world_size=2)
        beacon.enter("window")
        beacon.at_step(4)
        beacon.close()
    paths.case.write_bytes(encode(CASE.to_json()))
    who = supervisor or Supervisor(os.getpid(), start_ticks(os.getpid()), here)
    save(paths, Manifest(
        run_id=RUN, plan_digest=CASE.digest, lane="training", preset=CASE.preset, surface="local", argv=("lanemark",),
        argv_redacted=False, placement={}, state=state, prepared_ns=1, boot_id=here, supervisor=who,
        transitions=(Transition(State.PREPARED, "2026-11-22T15:22:33.000Z", 0.0, "made"),),
    ))  # fmt: skip
    return paths


def test_an_attempt_whose_supervisor_is_at_work_is_running_and_healthy(tmp_path: Path) -> None:
    seen = examine(read_attempt(made(tmp_path).root))
    assert (seen.life, seen.stage, seen.healthy) == ("running", "measured window", True)
    assert seen.ranks[1] == "rank 1: last seen in phase window, step 4"


def test_an_attempt_whose_supervisor_is_gone_was_lost(tmp_path: Path) -> None:
    gone = Supervisor(os.getpid(), 1, boot_id().value or "unknown")  # this pid, but another process's start
    seen = examine(read_attempt(made(tmp_path, supervisor=gone).root))
    assert seen.finding is not None
    assert (seen.life, seen.finding.kind) == ("ended", "supervisor_lost")


def test_an_attempt_of_another_host_is_neither_running_nor_lost(tmp_path: Path) -> None:
    paths = made(tmp_path, supervisor=Supervisor(os.getpid(), start_ticks(os.getpid()), "another-boot"))
    copy = shutil.copytree(paths.root, tmp_path / "copied elsewhere")
    seen = examine(read_attempt(copy))
    assert seen.finding is not None
    assert (seen.run_id, seen.life, seen.finding.kind) == (RUN, "unknown", "undecided")


def test_a_sealed_cause_and_its_caveats_come_from_the_record(tmp_path: Path) -> None:
    paths = made(tmp_path, state=State.ERROR)
    cause = {"kind": "rank_killed", "summary": "rank 1 was killed by SIGKILL", "evidence": ["a line"], "rank": 1}
    note = {"kind": "clock_stepped", "severity": "caveat", "summary": "stepped", "evidence": []}
    paths.record.write_text(
        json.dumps({"predicate": {"outcome": {"state": "error", "first_cause": cause}, "findings": [note]}})
    )
    attempt = read_attempt(paths.root)
    assert attempt.sealed_cause is not None
    assert (attempt.sealed_cause.kind, attempt.sealed_cause.rank) == ("rank_killed", 1)
    assert [one.kind for one in attempt.sealed_caveats] == ["clock_stepped"]
    assert attempt.record_id is not None


def test_a_class_of_a_later_version_is_undecided_with_its_own_words(tmp_path: Path) -> None:
    paths = made(tmp_path, state=State.ERROR)
    cause = {"kind": "cosmic_ray", "summary": "a bit flipped", "evidence": []}
    paths.record.write_text(json.dumps({"predicate": {"outcome": {"state": "error", "first_cause": cause}}}))
    seen = examine(read_attempt(paths.root))
    assert seen.finding is not None
    assert (seen.finding.kind, seen.finding.summary) == ("undecided", "a bit flipped")


def test_a_record_without_its_attempt_still_tells(tmp_path: Path) -> None:
    predicate: dict[str, Any] = {
        "run_id": RUN, "lane": "training", "case": CASE.to_json(), "findings": [],
        "outcome": {
            "state": "error", "first_cause": {"kind": "stalled", "summary": "no progress", "evidence": []},
            "ranks": [{"rank": 0, "last_phase": {"status": "observed", "value": "window", "source": "beacon"}}],
        },
    }  # fmt: skip
    seen = examine(attempt_of_record("sha256:ab", predicate))
    assert seen.finding is not None
    assert (seen.finding.kind, seen.stage) == ("stalled", "measured window")
    assert seen.notes == ("could not be read: its attempt directory is not here: the record alone is read",)


# --- damage and forgery --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *(f"ranks/1/{name}" for name in RANK_NAMES)])
@pytest.mark.parametrize("what", ["garbage", "empty", "directory", "fifo", "link", "deep"])
def test_a_damaged_file_is_a_fact_and_not_a_crash(tmp_path: Path, name: str, what: str) -> None:
    """A pipe is the worst of them: opening it waits for ever."""
    root = made(tmp_path).root
    path = root / name
    path.unlink(missing_ok=True)
    if what == "garbage":
        path.write_bytes(os.urandom(5000))
    if what == "empty":
        path.touch()
    if what == "directory":
        path.mkdir()
    if what == "fifo":
        os.mkfifo(path)
    if what == "link":
        path.symlink_to("/etc/passwd")
    if what == "deep":
        path.write_text("[" * 100_000)
    examine(read_attempt(root)).to_json()


HOSTILE: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["ranks", "rank", "evidence", "states", "state", "oom_before", "cgroup", "status", "signal",
                         "reason", "predicate", "outcome", "findings", "first_cause", "kind", "summary", "settings",
                         "name", "origin", "value", "ended_ns", "free_disk_bytes", "nproc", "data", "finding"]),
        inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, "ranks/0/error.json"]), HOSTILE, min_size=1, max_size=4))
def test_forged_documents_of_any_shape_are_read_to_the_end(tmp_path: Path, forged: dict[str, Any]) -> None:
    root = tmp_path / "attempts" / RUN
    if not root.exists():
        made(tmp_path)
    for name, doc in forged.items():
        (root / name).write_text(json.dumps(doc))
    seen = examine(read_attempt(root))
    assert json.dumps(seen.to_json())


def test_a_case_with_an_absurd_number_of_ranks_is_refused_and_said(tmp_path: Path) -> None:
    paths = made(tmp_path)
    paths.case.write_text(json.dumps({**CASE.to_json(), "nproc": 10**9}))
    attempt = read_attempt(paths.root)
    assert attempt.case is None
    assert len(attempt.snapshot.ranks) == 2
    assert any("case.json" in problem for problem in attempt.problems)


# --- looks ---------------------------------------------------------------------------------------------------------


def test_looks_are_read_back_and_a_half_written_last_line_is_no_damage(tmp_path: Path) -> None:
    paths = AttemptPaths(tmp_path)
    looks = [Look(n, n, 0, 1.0, "shallow", (RankLook(0, alive=True),)) for n in (1, 2)]
    whole = "".join(json.dumps(look.to_json()) + "\n" for look in looks)
    paths.looks.write_text(whole + '{"number": 3, "at_')
    assert read_looks(paths) == (tuple(looks), None)
    paths.looks.write_text("not json\n" + whole)
    assert read_looks(paths) == (tuple(looks), "looks.jsonl: 1 lines are damaged")
    paths.looks.unlink()
    assert read_looks(paths) == ((), None)


def test_of_a_file_that_is_far_too_long_the_end_is_read(tmp_path: Path) -> None:
    paths = AttemptPaths(tmp_path)
    line = json.dumps({"finding": {"summary": "x" * 900}}) + "\n"
    paths.named.write_text(line * 12_000)
    named, damage = read_named(paths)
    assert damage is None
    assert 5_000 < len(named) < 12_000


# --- the verb ------------------------------------------------------------------------------------------------------


def test_exit_codes_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    root = made(tmp_path).root
    assert main(["doctor", RUN]) == 0
    assert "nothing is wrong so far" in capsys.readouterr().out
    assert main(["doctor", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True
    gone = tmp_path / "elsewhere"
    shutil.copytree(root, gone)
    (gone / "attempt.json").unlink()
    assert main(["doctor", str(gone)]) == 1


@pytest.mark.parametrize("word", ["training-20991122T152233Z-7k3f9q2x", "0123456789ab", "no/such/place", "--"])
def test_an_unknown_name_is_attempt_missing(tmp_path: Path, word: str) -> None:
    with pytest.raises(LedgerError) as caught:
        find(word, Home(tmp_path))
    assert caught.value.slug == "attempt-missing"


def test_a_directory_that_is_no_attempt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError) as caught:
        find(str(tmp_path), Home(tmp_path))
    assert caught.value.slug == "attempt-missing"


def test_no_diagnostic_run_beside_a_running_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    paths = made(tmp_path)
    assert main(["doctor", RUN, "--run-diagnostic"]) == 2
    assert "still running" in capsys.readouterr().err
    paths.case.unlink()
    assert main(["doctor", RUN, "--run-diagnostic"]) == 2
