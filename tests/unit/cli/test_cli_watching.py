"""`watch`: what it prints and writes over a ledger of corpus records, and how it exits."""

from __future__ import annotations

import json
import random
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.ledger.ledger import Ledger
from lanemark.records.encoding import encode

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks"))
from judge_runs import hidden, made, mode, put  # noqa: E402 - the folder is found first

OLD, NEW = "1" * 40, "f" * 40


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    return Ledger(tmp_path / "ledger")


def history(ledger: Ledger, num: int = 24, *, drop: float = 0.0, at: int = 16, seed: int = 1, **more: Any) -> None:
    """Append runs a minute apart, of another commit from `at` on."""
    drawn = random.Random(seed)
    with ledger.many():
        for place in range(num):
            speed = drawn.lognormvariate(0.0, 0.003) * (1.0 - drop if place >= at else 1.0)
            stamp = put("times.sealed_at", f"2026-11-22T10:{place:02d}:00.000Z")
            commit = put("source.commit", NEW if place >= at else OLD)
            doc = made("cuda_h100_8", f"{seed}{place:04d}", stamp, commit, *more.get("changes", ()), speed=speed)
            ledger.append(encode(doc))


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["watch", *args])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_confirmed_regression_fails_and_says_where_to_look(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    history(ledger, drop=0.1)
    junit, markdown = tmp_path / "watch.xml", tmp_path / "watch.md"
    code, out, _ = said(capsys, "--junit", str(junit), "--markdown", str(markdown))
    assert code == 1
    assert out.startswith("regressed: training dense-1b, fsdp2 over 8 ranks, regional, bf16, H100 on local (24 runs)")
    assert "confirmed regression: tokens_per_s -10" in out
    flat = " ".join(out.split())
    assert f"commit {NEW[:12]}" in flat
    assert f"source.commit {OLD} → {NEW}" in flat
    assert "need not be the cause" in flat
    root = ET.fromstring(junit.read_text("utf-8"))
    assert (root.get("tests"), root.get("failures")) == ("1", "1")
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("type") == "regressed"
    text = markdown.read_text("utf-8")
    assert text.startswith("## Lanemark watch: regressed\n")
    assert "| 24 |" in text
    assert "confirmed regression" in text


def test_no_change_is_quiet(ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    history(ledger)
    junit, markdown = tmp_path / "watch.xml", tmp_path / "watch.md"
    code, out, _ = said(capsys, "--junit", str(junit), "--markdown", str(markdown))
    assert code == 0
    assert out.startswith("no regression: ")
    assert "8 runs of a new level would confirm a change of" in " ".join(out.split())
    assert ET.fromstring(junit.read_text("utf-8")).get("failures") == "0"
    assert "no confirmed regression" in markdown.read_text("utf-8")


def test_a_suspicion_is_said_and_fails_only_when_strict(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    history(ledger, 18, drop=0.1)
    junit = tmp_path / "watch.xml"
    code, out, _ = said(capsys, "--junit", str(junit))
    assert code == 0
    assert "suspected regression" in out
    root = ET.fromstring(junit.read_text("utf-8"))
    assert root.get("failures") == "0"
    assert "suspected" in str(root.findtext("testsuite/testcase/system-out"))
    code, _, _ = said(capsys, "--strict", "--junit", str(junit))
    assert code == 1
    assert ET.fromstring(junit.read_text("utf-8")).get("failures") == "1"


def test_as_json(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    history(ledger, drop=0.1)
    code, out, _ = said(capsys, "--json")
    doc = json.loads(out)
    assert (code, doc["exit_code"], doc["left_out"]) == (1, 1, {})
    [series] = doc["series"]
    assert series["verdict"] == "regressed"
    assert series["unit"] == "tok/s"
    assert len(series["runs"]) == 24
    [change] = [each for each in series["changes"] if each["standing"]]
    assert change["record"] == series["runs"][change["at"]]["id"]
    assert "source.commit" in [reason["path"] for reason in change["between"]]


def test_other_modes_are_other_series_and_a_later_start_is_another_baseline(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    history(ledger, drop=0.1)
    history(ledger, 4, seed=7, changes=(mode("ddp"),))
    code, out, _ = said(capsys, "--json")
    assert code == 1
    assert [one["verdict"] for one in json.loads(out)["series"]] == ["too_few", "regressed"]
    assert said(capsys, "--mode", "ddp")[0] == 0
    assert said(capsys, "--since", "2026-11-22T10:16")[0] == 0
    code, out, _ = said(capsys, "--runs", "8", "--mode", "fsdp2", "--json")
    assert code == 0
    assert len(json.loads(out)["series"][0]["runs"]) == 8


def test_the_time_that_grows_is_the_same_regression(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    history(ledger, drop=0.1)
    code, out, _ = said(capsys, "--metric", "step_mean_s")
    assert code == 1
    assert "step_mean_s +11" in out


def test_series_that_are_too_short_are_skipped(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    history(ledger, 3)
    junit = tmp_path / "watch.xml"
    code, out, _ = said(capsys, "--junit", str(junit))
    assert code == 0
    assert "too few runs" in out
    assert ET.fromstring(junit.read_text("utf-8")).get("skipped") == "1"


def test_nothing_to_watch_is_an_error_and_not_a_green_light(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys)
    assert code == 2
    assert "[watch-empty]" in err
    history(ledger, 2, changes=(hidden("hardware.observed.mig"),))
    code, _, err = said(capsys)
    assert code == 2
    assert "2 without an observation that a series is named by" in err
    history(ledger, 6, seed=3)
    code, out, _ = said(capsys)
    assert code == 0
    assert "left out: 2 without an observation" in out


def test_a_damaged_record_is_passed_over_and_said(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    history(ledger, 8)
    ledger.list()
    victim = ledger.find(ledger.list().rows[3].id)
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes().replace(b"regional", b"regionaI"))
    code, out, err = said(capsys, "--json")
    assert code == 0
    left = json.loads(out)["left_out"]
    assert left == {"refused": 1} or "cannot be read" in err
    assert len(json.loads(out)["series"][0]["runs"]) == 7


def test_what_cannot_be_asked_is_refused(ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    history(ledger, 6)
    for arguments, slug in (
        (("--runs", "2"), "value-invalid"),
        (("--lane", "promotion"), "value-invalid"),
        (("--metric", "feelings"), "metric-unknown"),
        (("--lane", "sparse", "--metric", "tokens_per_s"), "metric-unknown"),
    ):
        code, _, err = said(capsys, *arguments)
        assert code == 2, arguments
        assert f"[{slug}]" in err
    code, _, err = said(capsys, "--junit", str(tmp_path / "nowhere" / "watch.xml"))
    assert code == 1
    assert "[output-unwritable]" in err


def test_hostile_names_stay_text(ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    history(ledger, 8, drop=0.2, at=4, changes=(put("environment.python", "3.11|<b>\x1b[31m"),))
    junit, markdown = tmp_path / "watch.xml", tmp_path / "watch.md"
    said(capsys, "--strict", "--junit", str(junit), "--markdown", str(markdown))
    ET.fromstring(junit.read_text("utf-8"))
    assert "\x1b" not in markdown.read_text("utf-8")
