"""Rows: skimming gives what parsing gives, and every filter answers as reading every row does."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from lanemark.ledger import skim as skim_module
from lanemark.ledger.index import Index
from lanemark.ledger.rows import SERIES, Filters, IndexRow, is_wanted, latest_of, row_from_bytes, row_of, select
from lanemark.ledger.skim import skim
from lanemark.ledger.tables import insert
from lanemark.records.encoding import digest, encode

CORPUS = Path(__file__).parents[2] / "assets" / "records"
GOOD = sorted((CORPUS / "good").glob("*.json"))
FROZEN = sorted(path for path in (CORPUS / "versions").glob("*/*.json") if path.name != "index.json")


@pytest.mark.parametrize("path", [*GOOD, *FROZEN], ids=lambda path: path.stem[:24])
def test_skimming_gives_the_row_that_parsing_gives(path):
    data = path.read_bytes()
    doc = json.loads(data)
    assert row_from_bytes(digest(data), data) == row_of(digest(data), doc)
    assert (skim(data) is not None) == (doc["predicate"]["lane"] == "training")


def training() -> dict:
    return json.loads((CORPUS / "good" / "fsdp2_regional_warm.json").read_bytes())


def test_what_stands_inside_text_is_no_head():
    doc = training()
    trap = ',"outcome":{"receipt":true,"receipt_reason":"x","state":"ok"},"plan_digest":"sha256:0","lane":"training"'
    doc["predicate"]["source"]["argv"] = [trap, '"sealed_at":"2000', "\\", '\\"commit":{']
    doc["predicate"]["environment"]["variables"] = {"A": trap, '","lane":"training","outcome":{': trap}
    doc["predicate"]["outcome"]["receipt_reason"] = f'"receipt":false,"state":"lost"}}{trap}'
    data = encode(doc)
    assert skim(data) is not None
    assert row_from_bytes("sha256:x", data) == row_of("sha256:x", doc)


@pytest.mark.parametrize("key", ["case", "data", "distributed", "hardware", "lane", "outcome", "times", "training"])
def test_a_part_that_is_missing_is_parsed_and_never_guessed(key):
    doc = training()
    del doc["predicate"][key]
    data = encode(doc)
    assert skim(data) is None
    if key in ("case", "lane", "outcome", "times"):
        with pytest.raises(ValueError, match="it has no"):
            row_from_bytes("sha256:x", data)
    else:
        assert row_from_bytes("sha256:x", data) == row_of("sha256:x", doc)


def test_what_is_remembered_of_one_record_is_never_another_ones():
    docs = []
    for number in range(40):
        doc = training()
        predicate = doc["predicate"]
        predicate["case"]["preset"] = f"p{number % 3}"
        predicate["distributed"]["observed"]["mode"]["value"] = ("fsdp2", "ddp", "a } in it", '"}')[number % 4]
        predicate["source"]["commit"]["source"] = ("git", "git }", 'git "}"')[number % 3]
        predicate["hardware"]["observed"]["device_class"] = (
            {"status": "observed", "source": "torch", "value": "H100"},
            {"status": "unavailable", "source": "torch", "reason": "no } rank"},
        )[number % 2]
        docs.append(doc)
    for doc in [*docs, *docs]:
        assert skim(encode(doc)) is not None
        assert row_from_bytes("sha256:x", encode(doc)) == row_of("sha256:x", doc)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(skim_module, "_REMEMBERED", 10)
    doc = training()
    for number in range(60):
        doc["predicate"]["source"]["commit"]["value"] = f"{number:040x}"
        doc["predicate"]["case"]["command"] = ["x" * number * 100]
        assert row_from_bytes("sha256:x", encode(doc)) == row_of("sha256:x", doc)
        assert len(skim_module._known) <= 10
    assert max(map(len, skim_module._known)) <= skim_module._LONGEST


def test_a_case_that_is_followed_by_something_else_is_not_skimmed():
    data = encode(training())
    assert skim(data.replace(b',"compile":{"observed":{', b',"cellar":{},"compile":{"observed":{', 1)) is None


def test_other_writers_other_versions_and_broken_bytes_are_not_skimmed():
    doc = training()
    assert skim(json.dumps(doc).encode()) is None
    data = encode(doc)
    assert skim(data.replace(b'"record_version":"1.1"', b'"record_version":"1.2"')) is None
    assert skim(data[:-200]) is None
    assert skim(b"\xff" + data) is None
    assert skim(data.replace(b'"p50_s":', b'"p50_s":NaN,"x":')) is None
    assert skim(b"") is None


ROWS_SEED = 11


def made_up(count: int) -> list[IndexRow]:
    rng = random.Random(ROWS_SEED)
    return [
        IndexRow(
            "sha256:" + rng.randbytes(32).hex(), f"training-20260101T000000Z-{number:08d}",
            rng.choice(("training", "sparse")), rng.choice(("a", "b")),
            f"2026-0{rng.randrange(1, 4)}-0{rng.randrange(1, 4)}T00:00:0{rng.randrange(3)}.000Z",
            rng.choice(("ok", "error", "lost")), rng.random() < 0.5, rng.choice(("H100", "h100", "cpu", None)),
            rng.choice((1, 2, None)), rng.choice(("ddp", None)), rng.choice(("eager", "model")), "bf16",
            rng.choice(("local", "modal", None)), rng.choice(("cold", "warm", None)), "ram", rng.random(), None,
            rng.choice((None, "ab12", "ab34", "cd\u00e9f")), None,
        )
        for number in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    index, rows = Index(root / "index.sqlite", root), made_up(900)
    for row in rows[:20]:
        index.add(row)
    index._use(lambda db: insert(db, rows[10:]))
    return index, rows


CHOICES = {
    "lane": ("training", "promotion"),
    "gpu": ("H100", "cpu"),
    "preset": ("a", "x' OR 1=1 --"),
    "surface": ("local",),
    "mode": ("ddp",),
    "startup": ("warm",),
    "outcome": ("lost", "ok"),
    "since": ("2026-02", "2026-02-02T00:00:01"),
    "until": ("2026-02", "2026-02-02T00:00:01.000"),
    "commit": ("ab", "cd"),
    "run_id": ("training-20260101T000000Z-00000007",),
}


@pytest.mark.parametrize("limit", [None, 1, 7, 0, -1, 5000])
def test_every_pair_of_filters_answers_as_reading_every_row(filled, limit):
    index, rows = filled
    singles = [{name: value} for name, values in CHOICES.items() for value in values]
    for one, other in itertools.combinations([{}, *singles], 2):
        wanted = Filters(**{**one, **other}, limit=limit)
        assert index.query(wanted) == select(rows, wanted), wanted
        if limit in (None, 7):
            assert index.query(wanted, latest=True) == select(rows, wanted, latest=True), wanted


def test_a_stream_is_the_query(filled):
    index, rows = filled
    for wanted in (Filters(), Filters(lane="training"), Filters(until="2026-02", limit=5), Filters(commit="ab")):
        assert tuple(index.stream(wanted)) == select(rows, wanted)
    abandoned = index.stream(Filters())
    next(abandoned)
    abandoned.close()
    assert len(index.query(Filters())) == len(rows)


def test_each_filter_accepts_and_refuses():
    (row,) = [row for row in made_up(300) if row.surface == "local" and row.mode and row.device_class == "h100"][:1]
    assert is_wanted(row, Filters(surface="local", mode="ddp", gpu="H100", outcome=row.outcome, until=row.created[:7]))
    for name, value in (
        ("surface", "modal"), ("mode", "fsdp2"), ("startup", "seeded"), ("outcome", "cancelled"), ("until", "2025"),
        ("since", "2027"), ("commit", "ff"), ("lane", "promotion"), ("gpu", "B200"), ("run_id", "other"),
    ):  # fmt: skip
        assert not is_wanted(row, Filters(**{name: value})), name


def test_the_latest_of_a_series_is_one_row_each():
    rows = made_up(400)
    kept = latest_of(select(rows, Filters()))
    names = [tuple(getattr(row, name) for name in SERIES) for row in kept]
    assert len(names) == len(set(names))
    assert set(names) == {tuple(getattr(row, name) for name in SERIES) for row in rows}


def test_rows_removed_are_gone_from_every_answer(tmp_path):
    from lanemark.ledger.objects import publish

    index, doc, paths = Index(tmp_path / "index.sqlite", tmp_path), training(), []
    for number in range(6):
        doc["predicate"]["run_id"] = f"training-20260101T000000Z-{number:08d}"
        doc["predicate"]["times"]["sealed_at"] = f"2026-01-01T00:00:0{number}.000Z"
        paths.append(publish(tmp_path, encode(doc)))
    index.sync()
    newest = index.query(Filters(lane="training", limit=1))[0]
    os.unlink(paths[-1])
    index.sync()
    assert index.query(Filters(lane="training", limit=1))[0].id == f"sha256:{paths[-2].stem}" != newest.id
    assert [row.id for row in index.query(Filters(), latest=True)] == [f"sha256:{paths[-2].stem}"]
