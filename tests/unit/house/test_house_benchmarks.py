"""The benchmark runner judges results by itself, and drops nothing silently."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUNNER = ROOT / "benchmarks" / "run.py"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import figures

    return figures


def result(name: str, value: object, **more: object) -> dict[str, object]:
    return {"name": name, "value": value, "unit": "ms", "target": "<= 1", "ok": True, "method": "m", **more}


def test_a_value_is_held_to_our_target_whatever_the_benchmark_says(figures: ModuleType) -> None:
    assert figures.judged(result("cli.help_cpu_ms", 99.0))["ok"] is True
    assert figures.judged(result("cli.help_cpu_ms", 101.0))["ok"] is False
    assert figures.judged(result("training.loop_vs_bare", 0.99))["ok"] is True
    assert figures.judged(result("training.loop_vs_bare", 0.98))["ok"] is False


def test_a_benchmark_may_be_stricter_than_the_target(figures: ModuleType) -> None:
    assert figures.judged(result("cli.help_cpu_ms", 50.0, ok=False))["ok"] is False


@pytest.mark.parametrize("value", [None, "fast", True, float("nan"), float("inf")])
def test_what_is_no_finite_number_is_an_error_row(figures: ModuleType, value: object) -> None:
    row = figures.judged(result("cli.help_cpu_ms", value))
    assert row["ok"] is False
    assert row["value"] is None
    assert "not a finite number" in row["error"]


def test_an_undeclared_name_is_an_error_row(figures: ModuleType) -> None:
    row = figures.judged(result("cli.unheard_of", 1.0))
    assert row["ok"] is False
    assert "not declared" in row["error"]
    assert figures.judged(["not a result"])["ok"] is False


def test_a_figure_left_out_is_a_row(figures: ModuleType) -> None:
    rows = figures.rows_of("training_loop", [result("training.loop_vs_bare", 1.0)])
    assert [(row["name"], row["ok"]) for row in rows] == [
        ("training.loop_vs_bare", True),
        ("training.loop_vs_nanogpt", False),
    ]
    assert all(not row["ok"] for row in figures.rows_of("training_loop", None))


def test_names_are_declared_once_and_the_files_exist(figures: ModuleType) -> None:
    names = [figure.name for figure in figures.FIGURES]
    assert sorted(set(names)) == names
    assert [f.module for f in figures.FIGURES if not (ROOT / "benchmarks" / f"{f.module}.py").exists()] == []


def test_the_page_shows_failures_and_escapes_cells(figures: ModuleType) -> None:
    origin = {"commit": "abc", "machine": "a | b"}
    good = {**figures.judged(result("cli.help_cpu_ms", 34.0, method="one | two\nlines")), **origin}
    bad = {**figures.failed("training.step_record_us", "it broke"), **origin}
    page = figures.page("head\n<!-- table -->\n", [good, bad])
    assert "| `cli.help_cpu_ms` | 34 ms | <= 100 | yes |" in page
    assert "| `training.step_record_us` | not measured | <= 1 | **no** |" in page
    assert "- `training.step_record_us`: it broke" in page
    assert "one \\| two lines" in page
    with pytest.raises(ValueError, match="no line"):
        figures.page("no mark", [])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the runner among benchmarks of our own, in a place where it may write."""
    there = tmp_path / "benchmarks"
    there.mkdir()
    (tmp_path / "docs").mkdir()
    for name in ("run.py", "figures.py", "template.md"):
        (there / name).write_bytes((ROOT / "benchmarks" / name).read_bytes())
    (there / "cli_help.py").write_text(
        "def results():\n    return [dict(name='cli.help_cpu_ms', value=50.0, ok=True, method='made up')]\n", "utf-8"
    )
    (there / "record_cost.py").write_text("def results():\n    raise OSError('no disk')\n", "utf-8")
    (there / "step_record.py").write_text("import os\ndef results():\n    os._exit(7)\n", "utf-8")
    (there / "helper.py").write_text("raise SystemExit('a helper is not run')\n", "utf-8")
    return there


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def test_every_figure_has_a_row_whatever_broke(folder: Path) -> None:
    status, _ = run(folder)
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text("utf-8"))}
    assert status == 1
    assert rows["cli.help_cpu_ms"]["ok"] is True
    assert rows["record.seal_append_cpu_ms"]["error"] == "OSError: no disk"
    assert rows["training.step_record_us"]["error"] == "benchmarks/step_record.py ended with status 7"
    assert rows["training.loop_vs_bare"]["error"] == "benchmarks/training_loop.py does not exist"
    assert {"name", "value", "unit", "target", "ok", "method", "commit", "machine"} <= set(rows["cli.help_cpu_ms"])
    assert "no disk" in (folder.parent / "docs" / "BENCHMARKS.md").read_text("utf-8")


def test_only_keeps_the_other_rows(folder: Path) -> None:
    assert run(folder, "--only", "record_cost")[0] == 1
    assert run(folder, "--only", "cli.help_cpu_ms")[0] == 0
    rows = json.loads((folder / "results.json").read_text("utf-8"))
    assert [row["name"] for row in rows] == ["cli.help_cpu_ms", "record.seal_append_cpu_ms"]


def test_an_unknown_name_is_refused(folder: Path) -> None:
    status, said = run(folder, "--only", "nothing")
    assert status == 2
    assert "names no benchmark" in said
    assert not (folder / "results.json").exists()


def test_a_figure_without_a_target_is_kept_and_said_to_meet_none(figures: ModuleType) -> None:
    row = figures.judged(result("modal.collect_thousand_s", 1e9))
    assert (row["ok"], row["target"]) == (True, "none")
    shown = figures.page("<!-- table -->", [{**row, "commit": "c", "machine": "m"}])
    assert "| `modal.collect_thousand_s` | 1e+09 s | none |  |" in shown
    assert figures.judged(result("modal.collect_thousand_s", None))["ok"] is False, "one that was not measured is none"
    assert figures.judged(result("modal.collect_lost", 1))["ok"] is False
    assert figures.judged(result("modal.collect_lost", 0))["ok"] is True
