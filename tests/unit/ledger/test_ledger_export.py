"""Exporting: exact content a line, the same columns in every format, nothing left out in silence."""

from __future__ import annotations

import csv
import importlib
import io
import json
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.ledger import export
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.rows import Filters
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import GateRefused

GOOD = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "assets/records/good").glob("*.json"))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    ledger = Ledger(tmp_path / "home" / "ledger", {})
    for data in GOOD:
        ledger.append(data)
    return ledger


def test_a_line_has_the_predicate_byte_for_byte(home, tmp_path, capsys):
    assert main(["export", "-o", str(tmp_path / "all.jsonl")]) == 0
    lines = (tmp_path / "all.jsonl").read_bytes().splitlines()
    by_id = {digest(data): data for data in GOOD}
    assert len(lines) == len(GOOD)
    for line in lines:
        doc = decode(line)
        data = by_id.pop(doc["id"])
        assert encode(doc["predicate"])[:-1] in data
        assert encode(doc["predicate"])[:-1] in line
    assert by_id == {}
    assert f"{len(GOOD)} records" in capsys.readouterr().err


def test_csv_has_the_columns_of_the_index(home, capfdbinary):
    assert main(["export", "--format", "csv", "--lane", "training", "--limit", "3"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
    expected = home.list(lane="training", limit=3).rows
    assert [row["id"] for row in rows] == [row.id for row in expected]
    assert tuple(rows[0]) == export.COLUMNS
    assert [row["tokens_per_s"] for row in rows] == [
        "" if e.tokens_per_s is None else str(e.tokens_per_s) for e in expected
    ]


def test_parquet_holds_what_the_index_holds(home, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    monkeypatch.setattr(export, "_GROUP_ROWS", 4)
    assert main(["export", "--format", "parquet", "-o", str(tmp_path / "all.parquet")]) == 0
    table = parquet.read_table(tmp_path / "all.parquet")
    expected = home.list().rows
    assert table.column_names == list(export.COLUMNS)
    assert [tuple(row.values()) for row in table.to_pylist()] == [tuple(row) for row in expected]
    assert parquet.ParquetFile(tmp_path / "all.parquet").num_row_groups == -(-len(expected) // 4)


def test_without_pyarrow_parquet_is_refused_before_anything_is_written(home, tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(GateRefused) as caught:
        export.check_parquet()
    assert caught.value.slug == "parquet-missing"
    monkeypatch.undo()
    assert main(["export", "--format", "parquet"]) == 2


def test_a_damaged_record_is_named_and_the_rest_is_written(home, tmp_path, capsys):
    path = home.find(digest(GOOD[0]))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":2'))
    assert main(["export", "-o", str(tmp_path / "some.jsonl")]) == 1
    assert len((tmp_path / "some.jsonl").read_bytes().splitlines()) == len(GOOD) - 1
    assert f"{digest(GOOD[0])} was left out" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_error_and_leaves_nothing(home, tmp_path, capsys):
    assert main(["export", "-o", str(tmp_path / "none" / "x.jsonl")]) == 1
    assert "[output-unwritable]" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    assert main(["export", "-o", str(tmp_path / "taken")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "taken"]


def test_lists_in_every_format_agree(home, capsys):
    outputs = {}
    for form in ("json", "jsonl", "csv"):
        assert main(["list", "--format", form, "--limit", "all", "--outcome", "ok"]) == 0
        outputs[form] = capsys.readouterr().out
    rows = json.loads(outputs["json"])["records"]
    assert rows
    assert rows == [json.loads(line) for line in outputs["jsonl"].splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in csv.DictReader(io.StringIO(outputs["csv"]))]
    assert {row["id"] for row in rows} == {row.id for row in home.list(outcome="ok").rows}


def test_the_latest_of_each_series_is_listed(home, capsys):
    assert main(["list", "--latest", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["records"]
    assert [row["id"] for row in rows] == [row.id for row in home.list(latest=True, limit=50).rows]
    assert len(rows) < len(GOOD)


@pytest.mark.parametrize(
    "args",
    [
        ["--since", "yesterday"], ["--until", "2026-13-1"], ["--commit", "xyz"], ["--outcome", "fine"], ["--lane", "x"],
        ["--limit", "0"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["list", "export"])
def test_a_filter_that_no_record_could_pass_is_refused(home, capsys, verb, args):
    assert main([verb, *args]) == 2
    assert "[value-invalid]" in capsys.readouterr().err


def test_a_day_until_counts_whole(home):
    day = home.list(limit=1).rows[0].created[:10]
    assert home.list(until=day).rows == home.list().rows
    assert tuple(home.stream(Filters(since=day, until=day)).rows) == home.list().rows
    assert home.list(until="2020").rows == ()
