"""`lanemark matrix`: a grid read from a file, run in turns with real programs, resumed, and judged from its records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli import matrix
from lanemark.cli.main import main
from lanemark.cli.matrix_file import grid_of, read_grid
from lanemark.records.errors import UsageError

RANK = str(Path(__file__).parent / "programs" / "light_rank.py")
GRID = f"""
run = ["training", "--steps", "10", "--warmup", "2", "--gpu", "cpu"]
command = [{json.dumps(sys.executable)}, {json.dumps(RANK)}]
repeat = 1

[axes.length]
short = {{ args = ["12"] }}
long = {{ args = ["14"] }}
failing = {{ args = ["4"] }}
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    file = tmp_path / "grid.toml"
    file.write_text(GRID)
    return file


def test_a_grid_is_run_once_resumed_and_judged(grid: Path, capsys: Any) -> None:
    assert main(["matrix", str(grid), "--json"]) == 1  # one cell takes too few steps for a receipt
    table = json.loads(capsys.readouterr().out)
    assert table["complete"] is True
    short, long, failing = table["cells"]
    assert (short["runs"], long["runs"], failing["runs"], failing["failed"]) == (1, 1, 0, 1)
    assert short["metric"] == "tokens_per_s"
    assert long["verdict"] in ("comparable", "comparable_with_caveats", "not_comparable")
    assert failing["verdict"] == "no record"
    attempts = sorted((grid.parent / "home" / "attempts").iterdir())
    assert len(attempts) == 3
    # Typed again it has nothing to do, and says the same.
    assert main(["matrix", str(grid)]) == 1
    said = capsys.readouterr().out
    assert "length=long" in said
    assert sorted((grid.parent / "home" / "attempts").iterdir()) == attempts


def test_turns_are_taken_and_a_cut_line_is_run_again(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def once(words: list[str], _stop: Any, _env: Any) -> tuple[int, dict[str, Any]]:
        run.append(words[-1])
        return 0, {"record_id": f"sha256:{len(run)}", "run_id": "x"}

    monkeypatch.setattr(matrix, "run_once", once)
    monkeypatch.setattr(
        matrix, "row", lambda _first, each, _place: {"cell": each.cell.name, "failed": 0, "runs": 1, "verdict": "x"}
    )
    grid.write_text(GRID.replace("repeat = 1", "repeat = 2"))
    assert main(["matrix", str(grid)]) == 0
    assert run == ["12", "14", "4", "12", "14", "4"]
    journal = next((grid.parent / "home" / "matrices").iterdir())
    journal.write_text(journal.read_text()[:-20])
    assert main(["matrix", str(grid)]) == 0
    assert run[6:] == ["4"]
    assert main(["matrix", str(grid), "--again"]) == 0
    assert len(run) == 13


def test_a_plan_runs_nothing_and_shows_every_cell(grid: Path, capsys: Any) -> None:
    assert main(["matrix", str(grid), "--plan"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [cell["cell"] for cell in plan] == ["length=short", "length=long", "length=failing"]
    assert plan[1]["run"][-3:] == [sys.executable, RANK, "14"]
    assert not (grid.parent / "home").exists()


def test_axes_multiply_and_their_points_add_up() -> None:
    axes = {
        "threads": {"one": {"env": {"OMP_NUM_THREADS": "1"}}, "two": {"env": {"OMP_NUM_THREADS": "2"}}},
        "steps": {"few": {"flags": ["--steps", "20"]}, "many": {"flags": ["--steps", "40"]}},
    }
    grid = grid_of({"run": ["training"], "axes": axes})
    assert [cell.name for cell in grid.cells] == [
        "threads=one, steps=few", "threads=one, steps=many", "threads=two, steps=few", "threads=two, steps=many",
    ]  # fmt: skip
    last = grid.cells[3]
    assert (last.words, dict(last.env)) == (("training", "--steps", "40"), {"OMP_NUM_THREADS": "2"})
    assert last.varied == {"environment", "flags"}
    assert grid.repeat == 3
    assert grid_of({"run": ["training"]}).cells[0].name == "the only one"


@pytest.mark.parametrize(
    "doc",
    [
        {},
        {"run": "training"},
        {"run": ["training", "--"]},
        {"run": ["training"], "repeat": 0},
        {"run": ["training"], "repeats": 3},
        {"run": ["training"], "vary": "compile"},
        {"run": ["training"], "axes": {"a": {}}},
        {"run": ["training"], "axes": {"a": {"b": {"environ": {}}}}},
        {"run": ["training"], "axes": {"a": {"b": {"env": {"X": 1}}}}},
        {"run": ["training"], "axes": {"a": {"b": {"args": ["x"]}}}},
        {"run": ["training"], "axes": {name: {str(n): {} for n in range(9)} for name in "ab"}},
    ],
)
def test_what_is_no_grid_is_refused(doc: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        grid_of(doc)
    assert caught.value.slug == "matrix-invalid"


def test_a_file_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("run = [")
    for name in ("bad.toml", "missing.toml"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_grid(tmp_path / name)
