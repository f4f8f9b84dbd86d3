"""How the judge's word on a matrix cell is told: what changed besides what the cell sets, and what changed together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_records import admitted as admit_doc
from judge_records import another, put, quiet

from lanemark.cli import matrix
from lanemark.cli.matrix_file import grid_of
from lanemark.records.attempt import Home


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The row of a cell whose argument made the script compile, from records that differ in just that."""
    eager = quiet()
    eager["case"]["command"] = ["python", "train.py"]
    whole = another(eager)
    whole["case"]["command"] = ["python", "train.py", "--compile"]
    put(whole, "compile.observed.posture", "model")
    records = {"eager": admit_doc(eager), "whole": admit_doc(whole)}
    monkeypatch.setattr("lanemark.cli.admitting.admitted", lambda _ledger, name: records[name])

    def row_of(**more: Any) -> dict[str, Any]:
        axes = {"compile": {"eager": {}, "whole": {"args": ["--compile"]}}}
        doc = {"run": ["training"], "command": ["python", "train.py"], "axes": axes, **more}
        first, each = (matrix.Made(cell, [name]) for cell, name in zip(grid_of(doc).cells, records, strict=True))
        return matrix.row(first, each, Home(Path("nowhere")))

    return row_of


def test_what_a_cell_changed_without_setting_it_is_named_with_what_to_declare(compiled: Any) -> None:
    refused = compiled()
    assert (refused["verdict"], refused["vary"], refused["undeclared"]) == ("not_comparable", ["command"], ["compile"])
    assert "effect" not in refused
    lines = matrix.table([refused])
    assert lines[1].endswith("not comparable: UNDECLARED_FACTOR; besides what the cell sets, compile differed")
    assert lines[2] == 'to compare such a cell as a whole, add to the file: vary = ["compile"]'


def test_a_cell_that_is_compared_as_a_whole_says_that_two_things_changed_together(compiled: Any) -> None:
    told = compiled(vary=["compile"])
    assert (told["vary"], told["together"]) == (["command", "compile"], ["command", "compile"])
    assert "undeclared" not in told
    (line,) = matrix.table([told])[1:]
    assert line.endswith("; one ratio for command and compile together")
    # What is declared and did not differ is no part of the question.
    assert compiled(vary=["compile", "mode"])["vary"] == ["command", "compile"]


def test_a_cell_that_filled_its_cache_is_told_how_to_go_on_and_no_other_is() -> None:
    row = {"cell": "whole", "runs": 1, "failed": 0, "verdict": "not_comparable", "refused": ["SEEDING_PASS"]}
    assert "with --again" in matrix.table([row])[-1]
    assert not any("--again" in line for line in matrix.table([row | {"refused": ["KEY_MISMATCH"]}]))
