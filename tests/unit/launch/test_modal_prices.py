"""Prices: dated, with a source, overridable; estimates that are never too low."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lanemark.launch.modal_prices import PRICES, dearest, read_prices, seconds_rented
from lanemark.records.case import GPU_NAMES
from lanemark.records.errors import UsageError


def test_every_class_but_the_one_without_a_known_price_has_one() -> None:
    assert [name for name in GPU_NAMES if PRICES.of(name) is None] == ["RTX-PRO-6000"]
    assert PRICES.of("cpu") == 0.0
    assert PRICES.of("H100!:8") == pytest.approx(8 * 0.001097)
    assert PRICES.to_json()["seen"] == "2026-08"


def test_a_class_that_may_be_served_by_another_costs_what_the_dearest_does() -> None:
    assert PRICES.of("H100") == PRICES.of("H200")
    assert PRICES.of("A100") == PRICES.of("A100-80GB")
    assert PRICES.of("B200+") == PRICES.of("B300")
    assert dearest(PRICES, ["H100!:2", "H200:2"]) == PRICES.of("H200:2")
    assert dearest(PRICES, ["RTX-PRO-6000", "T4"]) is None
    assert dearest(PRICES, []) == 0.0


def test_an_operator_s_own_list_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"source": "contract", "seen": "2026-11", "per_gpu_s": {"H100": 0.0005}}))
    own = read_prices(path)
    assert own.of("H100!:8") == pytest.approx(0.004)
    assert own.of("H200") is None
    assert own.to_json()["source"] == "contract"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": "x", "seen": "y", "per_gpu_s": {"H100": 3.95}}'])
def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path, text: str) -> None:
    """An hourly price where one a second is meant would be wrong by a factor of 3600."""
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_prices(path)
    assert caught.value.slug == "value-invalid"


def test_seconds_are_counted_from_the_first_beginning_to_the_end() -> None:
    begun = ["2026-01-01T00:00:10.000Z", "2026-01-01T00:01:00.000Z"]
    assert seconds_rented(begun, "2026-01-01T00:02:00.500Z") == 110.5
    assert seconds_rented(begun[:1], "not a time") is None
