"""Bad input to the promotion lane: one sentence, its slug, nothing started."""

import json
from pathlib import Path

import pytest

from lanemark.cli.main import main

WAVE = {"candidates": ["sdpa_math"], "dtypes": ["bf16"], "cases": ["causal-s48-d64-h2"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    return tmp_path


def slug_of(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    assert main([*args]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1].rpartition(" [")[2].rstrip("]")


@pytest.mark.parametrize(
    ("slug", "args"),
    [
        ("preset-unknown", ["--preset", "dense-nano"]),
        ("preset-unknown", ["--preset", ""]),
        ("candidate-unknown", ["--candidate", "fa5"]),
        ("candidate-unknown", ["--candidate", "a/b.py:f"]),
        ("value-invalid", ["--dtype", "fp8"]),
        ("value-invalid", ["--direction", "sideways"]),
        ("value-invalid", ["--family", "medium"]),
        ("value-invalid", ["--wave", "../out"]),
        ("value-invalid", ["--steps", "9"]),
        ("value-invalid", ["--backends", "gather"]),
        ("nproc-invalid", ["--nproc", "2"]),
        ("surface-unavailable", ["--surface", "moon"]),
        ("modal-image-unpinned", ["--surface", "modal"]),
        ("value-invalid", ["--", "python", "train.py"]),
        ("wave-invalid", ["--preset", "missing.json"]),
    ],
)
def test_a_request_that_cannot_be_meant(capsys: pytest.CaptureFixture[str], slug: str, args: list[str]) -> None:
    assert slug_of(capsys, "plan", "promotion", *args) == slug


@pytest.mark.parametrize("lane", ["training", "sparse"])
def test_other_lanes_take_none_of_its_arguments(capsys: pytest.CaptureFixture[str], lane: str) -> None:
    assert slug_of(capsys, "plan", lane, "--candidate", "fa4") == "value-invalid"


@pytest.mark.parametrize(
    ("slug", "text"),
    [
        ("wave-invalid", "{"),
        ("wave-invalid", "[]"),
        ("wave-invalid", json.dumps({**WAVE, "cases": []})),
        ("promotion-case-invalid", json.dumps({**WAVE, "cases": ["causal-s48"]})),
        ("candidate-unknown", json.dumps({**WAVE, "candidates": ["fa5"]})),
        ("wave-empty", json.dumps({**WAVE, "cases": ["topk8-s48-d64-h2"]})),
    ],
)
def test_a_wave_file_that_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, slug: str, text: str
) -> None:
    path = tmp_path / "own.json"
    path.write_text(text, encoding="utf-8")
    assert slug_of(capsys, "plan", "promotion", "--preset", str(path)) == slug


def test_a_run_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert slug_of(capsys, "run", "promotion", "--repeat", "3") == "value-invalid"


def test_a_left_wave_that_is_not_there_or_has_a_name_already(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert slug_of(capsys, "promotion", "resume", code=2) == "arguments-invalid"
    assert slug_of(capsys, "promotion", "resume", "first", code=1) == "wave-missing"
    there = home / "home" / "left-waves" / "first"
    there.mkdir(parents=True)
    (there / "wave.json").write_text('{"format": 2}', encoding="utf-8")
    assert slug_of(capsys, "promotion", "resume", "first", code=1) == "wave-missing"
    assert slug_of(capsys, "run", "promotion", "--gpu", "cpu", "--detach", "--wave", "first") == "value-invalid"


def test_a_wave_that_is_not_there(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert slug_of(capsys, "promotion", "wave", code=1) == "wave-missing"
    assert slug_of(capsys, "promotion", "wave", "first", code=1) == "wave-missing"
    whole = {"format": 1, "wave": "w", "preset": "p", "created_at": "x", "whole": True, "records": [], "left_out": []}
    for broken in ({}, [], {**whole, "format": 2}, {**whole, "records": [{}]}, {**whole, "left_out": [{}]}):
        (home / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
        assert slug_of(capsys, "promotion", "wave", str(home / "broken.json"), code=1) == "wave-missing"
    assert slug_of(capsys, "promotion", "everything") == "arguments-invalid"


def test_a_promotion_of_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert slug_of(capsys, "promote", "abc", "--because", "x", code=1) == "record-missing"
    assert slug_of(capsys, "promote", "abc") == "arguments-invalid"


def test_a_plan_says_what_would_be_asked_and_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "promotion", "--gpu", "cpu"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["arch"] == "cpu"
    asked = {case["case"]["promotion"]["candidate"] for case in plan["cases"]}
    assert asked == {"sdpa_math", "sdpa_flash", "gather", "union", "sdpa_masked"}
    assert {"candidate", "dtype", "direction", "case", "reason", "words"} == set(plan["left_out"][0])
    assert all(case["request"]["argv"][-1] == "lanemark.stack.promotion_rank" for case in plan["cases"])
