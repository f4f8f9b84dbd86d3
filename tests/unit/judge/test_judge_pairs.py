"""Pairs with a right answer: ours is right on all, and the figures alone are not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def judged() -> Any:
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "peers")]
    try:
        import judge

        yield judge
    finally:
        del sys.path[:2]


def test_there_are_enough_pairs_and_most_mislead(judged: Any) -> None:
    pairs = judged.pairs()
    assert len(pairs) >= 30
    assert len({pair.name for pair in pairs}) == len(pairs)
    assert sum(1 for pair in pairs if pair.trap) >= 20
    assert {pair.verdict for pair in pairs} == {"comparable", "comparable_with_caveats", "not_comparable"}


def test_ours_is_right_on_every_pair_and_no_other_is(judged: Any) -> None:
    answers = judged.answers()
    assert [answer.pair.name for answer in answers if not answer.ours_right] == []
    assert any(not answer.benchstat_right for answer in answers)
    assert any(not answer.pytest_right for answer in answers)
    for peer in ("benchstat", "pytest"):
        assert sum(getattr(answer, f"{peer}_right") for answer in answers) < len(answers)


def test_what_a_refusal_offers_really_admits(judged: Any) -> None:
    offered = [pair for pair in judged.pairs() if pair.unblock]
    assert len(offered) >= 5
    for pair in offered:
        found = judged.compared(pair, vary=(*pair.vary, *pair.unblock))
        assert found.verdict.comparable, pair.name


def test_the_rank_test_is_exact(judged: Any) -> None:
    import figures_only

    # Two sets of five that do not overlap: 2 of the 252 splits are as extreme.
    assert figures_only.mann_whitney([1.0, 2, 3, 4, 5], [6.0, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert figures_only.mann_whitney([1.0], [2.0]) == 1.0


def test_the_page_has_the_tables_that_the_code_gives(judged: Any, update_golden: bool) -> None:
    from lanemark.judge.page import filled

    path = ROOT / "docs" / "comparing.md"
    text = path.read_text(encoding="utf-8")
    expected = filled(text, {"pairs": judged.table()})
    if update_golden:
        path.write_text(expected, encoding="utf-8")
        text = path.read_text(encoding="utf-8")
    assert text == expected, "run pytest with --update-golden if this change is meant"


def test_a_page_that_lags_behind_would_be_noticed(judged: Any) -> None:
    from lanemark.judge.page import filled

    page = "# x\n<!-- pairs -->\nold\n<!-- end pairs -->\n<!-- roles shared -->\n<!-- end roles shared -->\n"
    text = filled(page, {"pairs": "new"})
    assert "\nold\n" not in text
    assert "| `lane` | gate |" in text
    assert filled(text, {"pairs": "new"}) == text
    with pytest.raises(ValueError, match="no mark"):
        filled("# x\n", {"pairs": "new"})
    with pytest.raises(ValueError, match="nobody writes"):
        filled("<!-- moon -->\n<!-- end moon -->\n", {})
