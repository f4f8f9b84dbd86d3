"""The parity matrix: names that say everything, and tables in which every pair of values stands together."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from lanemark.lanes.promotion_matrix import DENSE, DENSE_SMOKE, SPARSE, SPARSE_SMOKE, length_of, problem_of
from lanemark.records.errors import UsageError

EVERY = (*DENSE, *SPARSE, *DENSE_SMOKE, *SPARSE_SMOKE)


def axes(name):
    p = problem_of(name)
    shared = {
        "length": length_of(p),
        "dim": f"{p.head_dim}x{p.head_dim_v}",
        "grouping": p.grouping,
        "scale": p.input_scale,
    }
    if p.masking == "sparse":
        return {**shared, "topk": p.topk, "empty": p.empty_rows > 0}
    return {**shared, "masking": p.masking}


def missing_pairs(table):
    rows = [axes(name) for name in table]
    values = {axis: {row[axis] for row in rows} for axis in rows[0]}
    out = []
    for one, other in combinations(values, 2):
        there = {(row[one], row[other]) for row in rows}
        out += [(one, other, pair) for pair in product(values[one], values[other]) if pair not in there]
    return values, out


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        (DENSE, {"length": {"127", "128", "1000", "4096", "unequal"}, "dim": {"64x64", "128x128", "192x128"},
                 "grouping": {"mha", "gqa", "mqa"}, "scale": {1.0, 1.5},
                 "masking": {"full", "causal", "window", "varlen"}}),
        (SPARSE, {"length": {"127", "128", "1000", "4096"}, "dim": {"64x64", "128x128", "192x128"},
                  "grouping": {"mha", "gqa", "mqa"}, "scale": {1.0, 1.5}, "topk": {64, 256, 2048},
                  "empty": {True, False}}),
    ],
)  # fmt: skip
def test_every_pair_of_values_stands_together_in_some_case(table, wanted):
    values, missing = missing_pairs(table)
    assert values == wanted
    assert missing == []


def test_a_table_without_one_of_its_cases_misses_pairs():
    assert missing_pairs(DENSE[1:])[1]


@pytest.mark.parametrize("name", EVERY)
def test_a_name_reads_back(name):
    assert problem_of(name).name == name


def test_cases_stand_once():
    assert len(set(DENSE)) == len(DENSE)
    assert len(set(SPARSE)) == len(SPARSE)


@pytest.mark.parametrize(
    "name",
    [
        "", "causal", "causal-s128-d64", "causal-d64-s128-h8", "causal-s0-d64-h8", "causal-s128-d64-h8x3", "topk0-s8-d64-h1",
        "causal-s128-d64-h8-b1", "causal-s128x128-d64-h8", "causal-s128-d64x64-h8", "causal-s128-d64-h8-x1.0",
        "causal-s128-d64-h8-x0", "varlen-s128-d64-h8", "topk8-s8x9-d64-h1", "causal-s128-d64-h8-e2", "topk8-s8-d64-h1-e8",
        "causal-s128-d64-h8\n", "window-s128-d64-h8",
    ],
)  # fmt: skip
def test_what_says_nothing_or_not_canonically_is_no_case(name):
    with pytest.raises(UsageError) as caught:
        problem_of(name)
    assert caught.value.slug == "promotion-case-invalid"
