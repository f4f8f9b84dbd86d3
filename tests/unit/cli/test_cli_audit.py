"""The audit of the window where records are compared and cited: from the record's own samples, by the command line."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.ledger.ledger import Ledger
from lanemark.records.encoding import digest, encode

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "benchmarks"))
from judge_runs import Change, made, settled  # noqa: E402 - the folder is found first

STEPS = 120


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    return Ledger(tmp_path / "ledger")


def stepping(late: float, seed: int) -> Change:
    """120 measured steps around 300 ms, the last 90 of them `late` times as long."""
    drawn = random.Random(seed)
    measured = [
        round(300e6 * drawn.lognormvariate(0.0, 0.005) * (late if step >= 30 else 1.0)) for step in range(STEPS)
    ]

    def change(predicate: dict[str, Any]) -> None:
        predicate["training"]["samples"]["measured"] = measured
        settled(predicate)

    return change


def kept(ledger: Ledger, *docs: dict[str, Any]) -> list[str]:
    out = []
    for doc in docs:
        data = encode(doc)
        ledger.append(data)
        out.append(digest(data))
    return out


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(list(args))
    printed = capsys.readouterr()
    return code, " ".join(printed.out.split()), printed.err


def test_a_steady_window_is_compared_and_cited_without_a_word(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = (made("cuda_h100_8", f"{n}", stepping(1.0, n), steps=STEPS) for n in (1, 2))
    a, b = kept(ledger, *docs)
    code, out, _ = said(capsys, "compare", a, b)
    assert (code, out.startswith("comparable (tokens_per_s)")) == (0, True)
    code, out, _ = said(capsys, "cite", a)
    assert code == 0
    assert "too few steps" not in out


def test_a_window_of_two_levels_is_neither(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    docs = (made("cuda_h100_8", f"{n}", stepping(late, n), steps=STEPS) for n, late in ((1, 1.0), (2, 1.2)))
    a, b = kept(ledger, *docs)
    code, out, _ = said(capsys, "compare", a, b)
    assert code == 3
    assert "NO_STEADY_STATE" in out
    assert "it was steady from step 30 of 120 on; what came before moves its mean by -4." in out
    assert said(capsys, "cite", a)[0] == 0
    code, _, err = said(capsys, "cite", b)
    assert code == 1
    assert "[cite-refused]" in err


def test_a_window_too_short_to_tell_is_said_in_both(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "1"), made("cuda_h100_8", "2"))
    code, out, _ = said(capsys, "compare", a, b)
    assert code == 0
    assert "STEADINESS_UNKNOWN" in out
    assert "12 measured steps are too few to tell" in out
    assert "too few steps to tell whether it was steady" in said(capsys, "cite", a)[1]
