"""The sparse lane from the command line to the ledger: one real run, and what every verb makes of its record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from lanemark.records.observation import value_of
from lanemark.records.reading import read_record

pytestmark = [pytest.mark.torch, pytest.mark.timeout(200)]
CASES = """
backends = ["gather", "union", "triton"]
repeats = 3

[[cases]]
name = "local"
sequence = 400
topk = 32
heads = 2
kv_heads = 1
head_dim = 32
index_set = "local"
empty_rows = 3

[[cases]]
name = "short"
sequence = 24
topk = 32
heads = 2
kv_heads = 2
index_set = "indexer"
"""


def lanemark(home: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANEMARK_", "TRITON_"))}
    environ = {**kept, "LANEMARK_HOME": str(home), **more}
    words = [sys.executable, "-m", "lanemark", *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=150, check=False, env=environ)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run over a user's own case set, with a threshold that reroutes the short case: home, and what was printed."""
    home = tmp_path_factory.mktemp("home")
    cases = home / "own.toml"
    cases.write_text(CASES, encoding="utf-8")
    done = lanemark(home, "run", "sparse", "--preset", str(cases), "--json", LANEMARK_SPARSE_FULL_BELOW="24")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed["receipt"] is True, printed
    return home, printed


@pytest.fixture(scope="module")
def predicate(ran: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    data = Path(ran[1]["record_path"]).read_bytes()
    read_record(data)
    found: dict[str, Any] = json.loads(data)["predicate"]
    return found


def test_the_record_verifies_by_every_step(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    done = lanemark(home, "verify", printed["record_id"], "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"failed"' not in done.stdout


def test_what_ran_is_told_beside_what_was_asked_for(predicate: dict[str, Any]) -> None:
    told = {
        (each["case"]["name"], each["backend_identity"]["requested"]): tuple(
            value_of(each["backend_identity"][name]) for name in ("actual", "runtime_mode", "fallback_reason")
        )
        for each in predicate["sparse"]["results"]
    }
    assert told == {
        ("local", "gather"): ("gather", "exact_token", None),
        ("local", "union"): ("union", "block_superset", None),
        ("local", "triton"): ("gather", "exact_token", "backend_unavailable"),
        ("short", "gather"): ("dense", "reroute_to_full", "threshold_env"),
        ("short", "union"): ("dense", "reroute_to_full", "threshold_env"),
        ("short", "triton"): ("dense", "reroute_to_full", "threshold_env"),
    }


def test_the_record_carries_what_the_lane_must(predicate: dict[str, Any]) -> None:
    part = predicate["sparse"]
    switched = {each["name"]: value_of(each["value"]) for each in part["selectors"]}
    assert switched["LANEMARK_SPARSE_FULL_BELOW"] == "24"
    assert part["launcher_args"][-1] == "lanemark.stack.sparse_rank"
    assert value_of(part["remote"]["lanemark_digest"]) == value_of(predicate["source"]["lanemark_digest"])
    assert part["collector"]["lifecycle"] == "blocking"
    assert value_of(part["collector"]["completed_at"]) is not None
    for each in part["results"]:
        assert len(value_of(each["latency"])["samples"]) == 3  # type: ignore[index]
        assert value_of(each["indexer_digest"]).startswith("sha256:")  # type: ignore[union-attr]
    digests = {value_of(each["indexer_digest"]) for each in part["results"] if each["case"]["name"] == "local"}
    assert len(digests) == 1, "every backend had the same indices"
    names = {entry["name"] for entry in predicate["evidence"]}
    assert {f"ranks/0/{name}.json" for name in ("result", "bench_telemetry", "backend_identity", "end")} <= names
    assert [step["state"] for step in predicate["transitions"]] == ["prepared", "running", "ok"]


def test_padding_and_empty_rows_are_no_work(predicate: dict[str, Any]) -> None:
    first = predicate["sparse"]["results"][0]
    work = value_of(first["work"])
    most = sum(min(row + 1, 32) for row in range(400))
    assert work is not None
    assert most - 3 * 32 <= work["valid_indices"] < most
    assert work["flops"] == 4 * work["valid_indices"] * 2 * 32


@pytest.mark.parametrize("verb", [["show"], ["cite"], ["doctor"]])
def test_every_verb_takes_it(ran: tuple[Path, dict[str, Any]], verb: list[str]) -> None:
    home, printed = ran
    done = lanemark(home, *verb, printed["run_id"] if verb == ["doctor"] else printed["record_id"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tok/s" not in done.stdout
    if verb == ["cite"]:
        assert "gather ran, triton asked for because backend_unavailable" in done.stdout.replace("(exact_token) ", "")
        assert "no training throughput follows" in done.stdout


def test_a_claim_of_a_throughput_overreaches(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    done = lanemark(home, "cite", printed["record_id"], "--check", "the triton kernel ran at 12,000 tok/s")
    assert done.returncode == 1
    assert "never shows a throughput" in done.stdout
    assert "triton was requested" in done.stdout


def test_two_runs_compare_by_latency(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    again = lanemark(
        home, "run", "sparse", "--preset", str(home / "own.toml"), "--json", LANEMARK_SPARSE_FULL_BELOW="24"
    )
    other = json.loads(again.stdout)["record_id"]
    done = lanemark(home, "compare", printed["record_id"], other, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["metric"] == "latency_p50_ns"


def test_the_ledger_lists_it_by_lane(ran: tuple[Path, dict[str, Any]]) -> None:
    home, printed = ran
    rows = Ledger(Home(home).ledger).list(lane="sparse").rows
    assert printed["record_id"] in {row.id for row in rows}
    done = lanemark(home, "list", "--lane", "sparse")
    assert "no receipt" not in done.stdout
