"""What is known to work: each cell from its own runs alone, ageing with the stack; and where questions are answered."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from judge_records import predicate, put

from lanemark.judge.frontier import NEWEST, Cell, Frontier, gather, settle, stack_of
from lanemark.judge.metrics import METRICS
from lanemark.judge.routing import ROUTES, route, to_json


class Row(NamedTuple):
    """As much of an index row as the frontier reads."""

    id: str
    created: str
    lane: str = "training"
    outcome: str = "ok"
    receipt: bool = True
    device_class: str | None = "H100"
    mode: str | None = "fsdp2"
    compile: str | None = "regional"


STACK = {"image": "sha256:1", "driver": "570", "cuda": "12.8", "torch": "2.13", "nccl": "2.27"}


def frontier(rows: list[Row], stacks: dict[str, dict[str, str]] | None = None) -> Frontier:
    newest_first = sorted(rows, key=lambda row: row.created, reverse=True)
    return settle(gather(newest_first), {row.id: STACK for row in rows} | (stacks or {}))


def only(found: Frontier) -> Cell:
    assert len(found.cells) == 1
    return found.cells[0]


def test_good_runs_make_a_cell_alive() -> None:
    cell = only(frontier([Row("a", "1"), Row("b", "2")]))
    assert (cell.state, cell.newest, cell.runs, cell.recent) == ("alive", "b", 2, (True, True))
    assert cell.place == ("training", "fsdp2", "regional", "H100")


def test_mixed_runs_make_it_unstable_and_bad_ones_failing() -> None:
    assert only(frontier([Row("a", "1"), Row("b", "2", outcome="error")])).state == "unstable"
    assert only(frontier([Row("a", "1", outcome="error"), Row("b", "2", receipt=False)])).state == "failing"


def test_only_the_newest_runs_decide() -> None:
    rows = [Row("old", "0", outcome="error"), *(Row(f"n{number}", f"{number}1") for number in range(1, NEWEST + 1))]
    cell = only(frontier(rows))
    assert cell.state == "alive"
    assert cell.runs == NEWEST + 1


@pytest.mark.parametrize("part", STACK)
def test_a_changed_stack_makes_older_evidence_stale_and_says_what_changed(part: str) -> None:
    rows = [Row("old", "1", mode="ddp"), Row("new", "2")]
    found = {cell.place.mode: cell for cell in frontier(rows, {"new": STACK | {part: "changed"}}).cells}
    assert found["ddp"].state == "stale"
    assert part in found["ddp"].reason
    assert "changed" in found["ddp"].reason
    assert found["fsdp2"].state == "alive"


def test_a_part_that_only_one_of_them_knows_makes_it_stale() -> None:
    rows = [Row("old", "1", mode="ddp"), Row("new", "2")]
    without = {name: value for name, value in STACK.items() if name != "image"}
    found = {cell.place.mode: cell for cell in frontier(rows, {"new": without}).cells}
    assert found["ddp"].state == "stale"
    assert "its image is not known" in found["fsdp2"].reason


def test_another_devices_stack_ages_nothing() -> None:
    rows = [Row("old", "1"), Row("new", "2", device_class="B200")]
    assert {cell.state for cell in frontier(rows, {"new": STACK | {"driver": "580"}}).cells} == {"alive"}


def test_a_cell_never_inherits_from_its_neighbours() -> None:
    rows = [Row("a", "1", mode="ddp", compile="eager"), Row("b", "2", mode="fsdp2", compile="regional")]
    states = {(cell.place.mode, cell.place.compile): cell.state for cell in frontier(rows).cells}
    assert states == {
        ("ddp", "eager"): "alive", ("fsdp2", "regional"): "alive",
        ("ddp", "regional"): "unknown", ("fsdp2", "eager"): "unknown",
    }  # fmt: skip
    nobody = next(cell for cell in frontier(rows).cells if cell.state == "unknown")
    assert (nobody.newest, nobody.runs, "newest" in nobody.to_json()) == (None, 0, False)


def test_other_lanes_prove_nothing() -> None:
    rows = [Row("a", "1"), Row("b", "2", lane="sparse", outcome="error", receipt=False)]
    assert {cell.place.lane: cell.state for cell in frontier(rows).cells} == {"training": "alive", "sparse": "failing"}


def test_a_run_that_did_not_see_its_device_is_evidence_for_no_cell() -> None:
    found = frontier([Row("a", "1", device_class=None, outcome="error"), Row("b", "2", mode=None), Row("c", "3")])
    assert found.unplaced == 2
    assert only(found).newest == "c"


def test_a_record_that_cannot_be_read_makes_its_cell_unknown() -> None:
    cell = only(settle(gather([Row("a", "1")]), {}))
    assert cell.state == "unknown"
    assert "cannot be read" in cell.reason


def test_a_stack_is_what_was_observed() -> None:
    doc = predicate("cuda_h100_8")
    assert set(stack_of(doc)) == set(STACK)
    put(doc, "image.digest", {"status": "unavailable", "source": "s", "reason": "r"})
    assert "image" not in stack_of(doc)
    assert stack_of(predicate("synthetic"))["driver"] == "none"
    assert stack_of({}) == {}
    assert stack_of({"image": []}) == {}


# -- routes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROUTES, ids=[row.name for row in ROUTES])
def test_every_route_answers_its_own_example(row: object) -> None:
    assert route(row.example) is row  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Is FSDP2 still worth it against DDP?", "modes"),
        ("did the fa4 kernel actually get used", "backend"),
        ("which sparse backend ran", "backend"),
        ("may this image be promoted", "promotion"),
        ("is torch 2.14 slower than 2.13", "packages"),
        ("what is the throughput of moe-52", "throughput"),
        ("eager or compiled?", "compile"),
        ("how cold is a cold boot", "startup"),
        ("what is stale", "works"),
    ],
)
def test_questions_find_their_lane(question: str, name: str) -> None:
    found = route(question)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("question", ["", "why is the sky blue", "???", "42", "\x00"])
def test_a_question_that_fits_nothing_is_not_answered(question: str) -> None:
    assert route(question) is None


def test_every_route_is_whole() -> None:
    from lanemark.ledger.rows import Filters

    for row in ROUTES:
        assert row.lane in ("", *METRICS)
        assert row.commands
        assert all(command.startswith("lanemark ") for command in row.commands)
        assert row.why.endswith(".")
        for wanted in row.answered_by:
            Filters(**wanted)
        assert to_json(row)["lane"] == row.lane
    assert len({row.name for row in ROUTES}) == len(ROUTES)
