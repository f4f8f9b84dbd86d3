"""The contract of an index set: what it admits, what it refuses, and what backends make of padding and empty rows."""

import pytest
import torch

from lanemark.records.errors import DataError
from lanemark.stack.sparse.contract import check_indices, count_valid, indices_digest

GOOD = [[[0, -1, -1], [1, 0, -1], [-1, -1, -1], [3, 0, 2]]]


def check(rows: object, dtype: torch.dtype = torch.int32, queries: int = 4, keys: int = 4) -> None:
    check_indices(torch.tensor(rows, dtype=dtype), batch=1, queries=queries, keys=keys)


def test_padding_and_rows_that_hold_nothing_are_within_the_contract() -> None:
    check(GOOD)
    assert count_valid(torch.tensor(GOOD, dtype=torch.int32)) == 6


def test_queries_that_come_after_the_first_keys_may_attend_them() -> None:
    check([[[2, 1, 0], [3, 1, -1]]], queries=2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[[1, -1, -1], *GOOD[0][1:]]], "query 0 of sequence 0 attends a position later"),
        ([[GOOD[0][0], [1, 1, -1], *GOOD[0][2:]]], "query 1 of sequence 0 holds one index twice"),
        ([[*GOOD[0][:3], [3, -2, 0]]], "query 3 of sequence 0 holds a negative index"),
        ([GOOD[0][:3]], "does not fit"),
        (GOOD[0], "a tensor"),
    ],
)
def test_what_breaks_it_is_named(rows: object, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        check(rows)
    assert caught.value.slug == "indices-invalid"


def test_indices_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match="int64"):
        check(GOOD, torch.int64)


def test_the_digest_tells_index_sets_apart() -> None:
    one = torch.tensor(GOOD, dtype=torch.int32)
    assert indices_digest(one) == indices_digest(one.clone())
    other = one.clone()
    other[0, 3, 0] = 1
    assert indices_digest(other) != indices_digest(one)
    assert indices_digest(one.view(1, 3, 4)) != indices_digest(one)
