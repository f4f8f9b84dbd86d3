"""Rows: skimming gives what parsing gives, and every filter answers as reading every row does."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.ledger import skim as skim_module
from lanemark.ledger import tables
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
    assert (skim("sha256:x", data) is not None) == (doc["predicate"]["lane"] == "training")


def training() -> dict:
    return json.loads((CORPUS / "good" / "fsdp2_regional_warm.json").read_bytes())


def test_what_stands_inside_text_is_no_head():
    doc = training()
    trap = ',"outcome":{"receipt":true,"receipt_reason":"x","state":"ok"},"plan_digest":"sha256:0","lane":"training"'
    doc["predicate"]["source"]["argv"] = [trap, '"sealed_at":"2000', "\\", '\\"commit":{']
    doc["predicate"]["environment"]["variables"] = {"A": trap, '","lane":"training","outcome":{': trap}
    doc["predicate"]["outcome"]["receipt_reason"] = f'"receipt":false,"state":"lost"}}{trap}'
    data = encode(doc)
    assert skim("sha256:x", data) is not None
    assert row_from_bytes("sha256:x", data) == row_of("sha256:x", doc)


@pytest.mark.parametrize("key", ["case", "data", "distributed", "hardware", "lane", "outcome", "times", "training"])
def test_a_part_that_is_missing_is_parsed_and_never_guessed(key):
    doc = training()
    del doc["predicate"][key]
    data = encode(doc)
    assert skim("sha256:x", data) is None
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
        assert row_from_bytes("sha256:x", encode(doc)) == row_of("sha256:x", doc)


def test_a_brace_in_a_text_is_not_taken_for_the_end():
    doc = training()
    doc["predicate"]["source"]["commit"]["source"] = "git } rev-parse"
    assert skim("sha256:x", encode(doc)) is None
    assert row_from_bytes("sha256:x", encode(doc)) == row_of("sha256:x", doc)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(skim_module, "_REMEMBERED", 10)
    doc = training()
    for number in range(60):
        doc["predicate"]["source"]["commit"]["value"] = f"{number:040x}"
        doc["predicate"]["case"]["command"] = ["x" * number * 100]
        assert row_from_bytes("sha256:x", encode(doc)) == row_of("sha256:x", doc)
        assert len(skim_module._cases) <= 10
        assert len(skim_module._texts) <= 10
    assert max(map(len, skim_module._cases)) <= skim_module._LONGEST


def paths(node: object, path: tuple = ()) -> list[tuple]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, child in children for found in ((*path, key), *paths(child, (*path, key)))]


def either(call) -> object:
    try:
        return call()
    except ValueError as error:
        return str(error)


def test_with_anything_taken_out_skimming_gives_what_parsing_gives():
    whole = training()
    del whole["predicate"]["training"]["samples"]["measured"][2:]
    skimmed = 0
    for path in paths(whole)[::2]:
        doc = json.loads(json.dumps(whole))
        inner = doc
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        data = encode(doc)
        skimmed += skim("sha256:x", data) is not None
        assert either(lambda: row_from_bytes("sha256:x", data)) == either(lambda: row_of("sha256:x", doc)), path  # noqa: B023
    assert skimmed > 100


SOURCES = st.text(min_size=1, max_size=40) | st.sampled_from(['"state":{', '},"x":{"', ',"tokens_per_s":{"', "\\", '"'])
NUMBERS = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 2**53 - 1)


def observation(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.fixed_dictionaries({"status": st.just("observed"), "source": SOURCES, "value": values}),
        st.fixed_dictionaries({"status": st.just("absent"), "source": SOURCES}),
        st.fixed_dictionaries({"status": st.just("unavailable"), "source": SOURCES, "reason": SOURCES}),
    )


TIMES = st.fixed_dictionaries(
    dict.fromkeys(("max_s", "mean_s", "min_s", "p50_s", "p95_s", "p99_s"), NUMBERS) | {"stalls": st.integers(0, 9)}
)
REPLACED = {
    ("distributed", "observed", "mode"): observation(SOURCES),
    ("distributed", "observed", "world_size"): observation(st.integers(1, 512)),
    ("hardware", "observed", "device_class"): observation(SOURCES),
    ("data", "path_class"): observation(SOURCES),
    ("source", "commit"): observation(SOURCES),
    ("startup", "state"): observation(SOURCES),
    ("training", "step_time"): observation(TIMES),
    ("training", "tokens_per_s"): observation(NUMBERS),
    ("outcome", "receipt_reason"): SOURCES,
    ("source", "argv"): st.lists(SOURCES, max_size=4),
    ("environment", "variables"): st.dictionaries(SOURCES, SOURCES, max_size=4),
    ("case", "preset"): SOURCES,
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=REPLACED))
def test_skimming_made_up_records_gives_what_parsing_gives(replaced):
    doc = training()
    for (*steps, last), value in replaced.items():
        inner = doc["predicate"]
        for step in steps:
            inner = inner[step]
        inner[last] = value
    data = encode(doc)
    assert row_from_bytes("sha256:x", data) == row_of("sha256:x", json.loads(data))


def test_a_case_that_is_followed_by_something_else_is_not_skimmed():
    data = encode(training())
    assert (
        skim("sha256:x", data.replace(b',"compile":{"observed":{', b',"cellar":{},"compile":{"observed":{', 1)) is None
    )


def test_other_writers_other_versions_and_broken_bytes_are_not_skimmed():
    doc = training()
    assert skim("sha256:x", json.dumps(doc).encode()) is None
    data = encode(doc)
    assert skim("sha256:x", data.replace(b'"record_version":"1.1"', b'"record_version":"1.2"')) is None
    assert skim("sha256:x", data[:-200]) is None
    assert skim("sha256:x", b"\xff" + data) is None
    assert skim("sha256:x", data.replace(b'"p50_s":', b'"p50_s":NaN,"x":')) is None
    assert skim("sha256:x", b"") is None


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


#: How a question with a limit goes about it when it does not find its rows among the newest: by the groups that may
#: match; with those read in their order; and with one byte for all values, so that everything seems to match.
WAYS = {
    "groups": {"_WALKED": 1, "_LOOKUP": 0},
    "order": {"_WALKED": 1, "_LOOKUP": 10**9},
    "alike": {"_WALKED": 20, "_mark_of": lambda value: 7},
}


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
        if limit == 7:
            assert index.query(wanted, latest=True) == select(rows, wanted, latest=True), wanted


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_asking_answers_as_reading_every_row(monkeypatch, tmp_path, way):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(tables, name, value)
    index, rows = Index(tmp_path / "index.sqlite", tmp_path), made_up(900)
    index._use(lambda db: insert(db, rows))
    singles = [{name: value} for name, values in CHOICES.items() for value in values[:2]]
    with index.kept_open():
        for place, (one, other) in enumerate(itertools.combinations([{}, *singles], 2)):
            wanted = Filters(**{**one, **other}, limit=(7, 300, 1)[place % 3])
            assert index.query(wanted) == select(rows, wanted), wanted


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


def test_groups_that_lost_their_newest_rows_still_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "_WALKED", 1)
    index, rows = Index(tmp_path / "index.sqlite", tmp_path), made_up(300)
    index._use(lambda db: insert(db, rows))
    gone = {row.id for row in rows if row.created > "2026-02-02"}
    index._use(lambda db: tables.remove(db, gone))
    left = [row for row in rows if row.id not in gone]
    for limit in (1, 5, 50):
        for wanted in (Filters(lane="training", limit=limit), Filters(gpu="cpu", outcome="ok", limit=limit)):
            assert index.query(wanted) == select(left, wanted)


def test_marks_that_are_not_those_of_the_groups_make_a_new_index(tmp_path):
    index, rows = Index(tmp_path / "index.sqlite", tmp_path), made_up(40)
    index._use(lambda db: insert(db, rows[:20]))
    index._use(lambda db: db.execute("UPDATE marks SET bytes = x'00' WHERE name = 'lane'"))
    index._use(lambda db: insert(db, rows[20:]))
    assert index.refresh().set_aside == "it is damaged (its marks are not those of its groups)"


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
