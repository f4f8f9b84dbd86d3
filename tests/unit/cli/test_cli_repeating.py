"""`run --repeat --against`: which arguments the runs get, and what is refused before the first of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lanemark.cli.asked import add_arguments, understand
from lanemark.cli.main import main
from lanemark.cli.parsing import Parser, parser
from lanemark.cli.repeating import add_repeating, joined, other_side, question, without_own
from lanemark.lanes.shared_roles import PINNED_FLAGS
from lanemark.records.case import Case
from lanemark.records.errors import UsageError


@pytest.fixture
def verb() -> Parser:
    made = parser("run", "")
    add_arguments(made)
    add_repeating(made)
    return made


def case(verb: Parser, words: list[str]) -> Case:
    options: argparse.Namespace = verb.parse_args(words)
    return understand(options).case


def test_each_run_gets_the_arguments_without_ours() -> None:
    given = ["training", "--repeat", "5", "--preset", "moe-nano", "--against=--dtype bf16", "--json", "--", "--repeat"]
    assert without_own(given) == ["training", "--preset", "moe-nano", "--", "--repeat"]
    assert without_own(["training", "--against", "--compile regional", "--repeat=3"]) == ["training"]


def test_the_other_side_may_look_like_an_option(verb: Parser) -> None:
    for words in (["training", "--against", "--dtype=bf16"], ["training", "--against=--dtype=bf16"]):
        assert verb.parse_args(joined(words)).against == "--dtype=bf16"
    assert joined(["training", "--against"]) == ["training", "--against"]


def test_the_other_side_replaces_what_it_names(verb: Parser) -> None:
    words = ["training", "--preset", "diagnostic", "--compile", "eager"]
    other = other_side(words, "--compile regional")
    a, b = case(verb, words), case(verb, other)
    assert (a.compile, b.compile) == ("eager", "regional")
    assert question(a, b) == ("compile",)
    assert other_side([*words, "--", "x"], "--dtype bf16")[-4:] == ["--dtype", "bf16", "--", "x"]


def test_what_a_question_may_be_about(verb: Parser) -> None:
    words = ["training", "--preset", "diagnostic", "--micro-batch", "4"]
    both = other_side(words, "--compile regional --micro-batch 2 --grad-accum 2")
    assert question(case(verb, words), case(verb, both)) == ("batch", "compile")
    assert question(case(verb, words), case(verb, other_side(words, "--seed 3"))) == ()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("--preset dense-nano", "differ in preset"),
        ("--nproc 2", "differ in nproc"),
        ("--warmup 5", "differ in warmup"),
        ("--micro-batch 1", "tokens a step"),
        ("--data synthetic", "differ in data"),
        ("--preset diagnostic", "one case"),
        ("regional", "neither options nor a file"),
        ("", "neither options nor a file"),
        ("--compile 'regional", "does not parse"),
        ("--repeat 4", "only the first side"),
        ("--compile regional -- python x.py", "only the first side"),
    ],
)
def test_sides_that_no_comparison_would_admit_are_refused_before_a_run(verb: Parser, other: str, said: str) -> None:
    words = ["training", "--preset", "diagnostic", "--micro-batch", "4"]
    with pytest.raises(UsageError, match=said) as refused:
        question(case(verb, words), case(verb, other_side(words, other)))
    assert refused.value.slug == "against-invalid"


def test_a_file_of_a_plan_is_a_side(verb: Parser, tmp_path: Path) -> None:
    words = ["training", "--preset", "diagnostic", "--data", "synthetic"]
    planned = case(verb, [*words, "--dtype", "bf16", "--steps", "40"])
    file = tmp_path / "plan.json"
    for doc in ({"case": planned.to_json(), "reasons": {}}, planned.to_json()):
        file.write_text(json.dumps(doc), "utf-8")
        assert case(verb, other_side(words, str(file))) == planned
    for text in ("[]", "{", json.dumps({"case": {"lane": "training"}})):
        file.write_text(text, "utf-8")
        with pytest.raises(UsageError, match="holds no case"):
            other_side(words, str(file))


@pytest.mark.parametrize("arguments", [("--repeat", "1"), ("--repeat", "many"), ("--repeat", "3", "--detach")])
def test_counts_and_detaching_are_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    assert main(["run", "training", *arguments]) == 2
    assert "[value-invalid]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_our_flags_bear_on_no_comparison() -> None:
    assert {"--repeat", "--against"} <= PINNED_FLAGS
