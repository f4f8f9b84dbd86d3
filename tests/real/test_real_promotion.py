"""The promotion lane from the command line to the ledger: one real wave, and what every verb makes of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.collect.manifest import load
from lanemark.collect.sealing import Ending, gather
from lanemark.lanes.promotion_record import promotion_predicate
from lanemark.lanes.rules import broken_rules
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from lanemark.records.encoding import decode, encode
from lanemark.records.observation import value_of
from lanemark.records.terms import RUNGS

pytestmark = [pytest.mark.torch, pytest.mark.timeout(500)]
ZOO = Path(__file__).resolve().parents[2] / "benchmarks"
WAVE = {
    "candidates": ["sdpa_flash", "kernel_zoo:scale_up", "fa4", "missing_kernels:attend"],
    "dtypes": ["bf16"],
    "cases": ["causal-s48-d64-h2", "varlen-s40-d64-h2-b3"],
}
FLASH, SCALED, FA4, MISSING = range(4)


def lanemark(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LANEMARK_")}
    environ = {**kept, "LANEMARK_HOME": str(home), "PYTHONPATH": str(ZOO)}
    words = [sys.executable, "-m", "lanemark", *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=400, check=False, env=environ)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One wave: a right kernel, a broken one, one that does not apply here, one that is not there."""
    home = tmp_path_factory.mktemp("home")
    (home / "own.json").write_text(json.dumps(WAVE), encoding="utf-8")
    done = lanemark(home, "run", "promotion", "--preset", str(home / "own.json"), "--wave", "first", "--json")
    assert done.returncode == 1, done.stderr  # a candidate was rejected
    printed: dict[str, Any] = json.loads(done.stdout)
    assert [run["state"] for run in printed["runs"]] == ["ok"] * 4, done.stderr
    return home, printed


@pytest.fixture(scope="module")
def parts(ran: tuple[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(Path(run["record_path"]).read_bytes())["predicate"]["promotion"] for run in ran[1]["runs"]]


def held(part: dict[str, Any]) -> list[str]:
    return [rung["rung"] for rung in part["ladder"] if rung["held"]]


def test_every_record_verifies_by_every_step(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    done = lanemark(home, "verify", *(run["record_id"] for run in printed["runs"]), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"failed"' not in done.stdout


def test_a_right_kernel_on_a_cpu_passes_and_is_not_ready(parts: list[dict[str, Any]]) -> None:
    part = parts[FLASH]
    assert (part["state"], part["promotion_ready"]) == ("inconclusive", False)
    assert part["state_reason"].startswith("unobserved: ")
    assert held(part) == ["planned", "compiled", "imported", "executed"]
    assert {(case["name"], case["direction"], case["verdict"]) for case in part["parity"]} == {
        (name, direction, "pass") for name in WAVE["cases"] for direction in ("forward", "backward")
    }
    who = value_of(part["execute_proof"])
    assert value_of(who["actual"]) == "sdpa_flash"
    assert who["names"]["level"] == "op"
    assert {case["repeats"] for case in part["parity"]} == {20, 3}
    assert all(case["poisoned_output"] for case in part["parity"])
    assert len({case["seed"] for case in part["parity"]}) == len(WAVE["cases"])
    stops = {stop["rule"]: value_of(stop["broken"]) for stop in part["stop_rules"]}
    assert stops["max_abs_difference"] is stops["nan_or_inf"] is stops["two_step_train"] is False
    assert stops["slower_than_dense"] is None


def test_a_broken_kernel_is_rejected_with_the_reason(parts: list[dict[str, Any]]) -> None:
    part = parts[SCALED]
    assert part["state"] == "rejected"
    assert part["state_reason"].startswith("wrong_scale: ")
    assert part["promotion_status"] == "none", "only a person moves it"


def test_what_does_not_apply_or_is_not_there_is_blocked(parts: list[dict[str, Any]]) -> None:
    assert parts[FA4]["state"] == "blocked"
    assert parts[FA4]["state_reason"].startswith("arch_unsupported: ")
    assert value_of(parts[FA4]["candidate"]["applicable"]) is False
    assert parts[MISSING]["state"] == "blocked"
    assert parts[MISSING]["state_reason"].startswith("module_missing: ")
    health = {each["module"]: value_of(each["imported"]) for each in parts[MISSING]["import_health"]}
    assert health == {"torch": True, "missing_kernels": False}
    for part in (parts[FA4], parts[MISSING]):
        assert part["parity"] == []
        assert "executed" not in held(part)


def test_the_manifest_names_each_record_and_says_what_it_says(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    manifest = decode((home / "waves" / "first.json").read_bytes())
    assert [row["record_id"] for row in manifest["records"]] == [run["record_id"] for run in printed["runs"]]
    assert manifest["summary"]["states"] == {"inconclusive": 1, "rejected": 1, "blocked": 2}
    page = home / "wave.html"
    shown = lanemark(home, "promotion", "wave", "first", "-o", str(page))
    assert shown.returncode == 0, shown.stderr
    assert "0 of 4 records ready" in shown.stdout
    assert "✗" in page.read_text(encoding="utf-8")
    again = lanemark(home, "run", "promotion", "--wave", "first", "--preset", str(home / "own.json"))
    assert again.returncode == 2
    assert "[value-invalid]" in again.stderr


def test_a_manifest_that_says_more_than_its_records_is_found_out(ran: tuple[Path, dict[str, Any]]) -> None:
    home, _ = ran
    manifest = decode((home / "waves" / "first.json").read_bytes())
    manifest["records"][SCALED].update(ready=True, state="ready")
    forged = home / "forged.json"
    forged.write_bytes(encode(manifest))
    done = lanemark(home, "promotion", "wave", str(forged))
    assert done.returncode == 1
    assert "ready, state is not what the record says" in done.stderr


def test_status_says_what_is_owed_and_promoting_is_refused(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    told = json.loads(lanemark(home, "promotion", "status", "--json").stdout)["standings"]
    assert {each["candidate"]: each["state"] for each in told}["sdpa_flash"] == "inconclusive"
    flash = next(each for each in told if each["candidate"] == "sdpa_flash")
    assert "dispatch_confirmed is not held" in flash["owed"]
    assert (flash["status"], flash["ready"]) == ("none", False)
    assert "only a run on a device can be ready" in lanemark(home, "promotion", "status").stdout
    done = lanemark(home, "promote", printed["runs"][FLASH]["record_id"], "--because", "it looked fine")
    assert done.returncode == 1
    assert "[promotion-refused]" in done.stderr
    assert len(Ledger(Home(home).ledger).list(lane="promotion").rows) == 4, "nothing was sealed"


def test_show_and_compare_take_the_records(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    shown = lanemark(home, "show", printed["runs"][SCALED]["record_id"])
    assert shown.returncode == 0, shown.stderr
    assert "Rejected" in shown.stdout or "rejected" in shown.stdout
    two = [printed["runs"][place]["record_id"] for place in (FLASH, SCALED)]
    assert lanemark(home, "compare", *two).returncode == 3


def test_the_same_attempt_with_a_file_less_never_stands_higher(ran: tuple[Path, dict[str, Any]]) -> None:
    """Over the real attempt: every piece of evidence is taken away in turn, and the record made again."""
    home, printed = ran
    paths = Home(home).attempt(printed["runs"][FLASH]["run_id"])
    manifest = load(paths)
    *earlier, last = manifest.transitions
    assert last.state is manifest.state
    unsealed = dataclasses.replace(manifest, state=earlier[-1].state, transitions=tuple(earlier))
    whole = gather(paths, unsealed, Ending())
    before = held(promotion_predicate(whole)["promotion"])
    assert before == list(RUNGS[:4])
    for item in whole.evidence:
        less = dataclasses.replace(whole, evidence=tuple(other for other in whole.evidence if other != item))
        predicate = promotion_predicate(less)
        assert len(held(predicate["promotion"])) <= len(before), item.name
        assert predicate["promotion"]["promotion_ready"] is False
        assert broken_rules(predicate) == (), item.name
    forged = dataclasses.replace(whole.ranks[0], result={"cases": "none", "executed": [], "promotion_ready": True})
    predicate = promotion_predicate(dataclasses.replace(whole, ranks=(forged,)))
    assert (predicate["promotion"]["state"], held(predicate["promotion"])) == ("blocked", [])
    assert broken_rules(predicate) == ()
