"""Cases of the lanes without steps: their JSON is the record's contract, and a training case knows nothing of them."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from lanemark.lanes.sparse_presets import SPARSE_PRESETS
from lanemark.launch.programs import RANK_PROGRAMS
from lanemark.records.case import LANES, STEP_FIELDS, Case, DataAsked
from lanemark.records.encoding import decode, encode
from lanemark.records.questions import PromotionAsked, SparseAsked
from lanemark.records.schema_promotion import PromotionCasePart
from lanemark.records.schema_sparse import SparseCasePart

#: The digest of this case before other lanes had questions: a training case's name never changes.
BEFORE = "sha256:216ba2bea6c40ad8afe2c8ceadf1c80e074bfd6cb12ef27b00bf8c06d988bd2b"


def training() -> Case:
    return Case(
        lane="training", preset="dense-nano", nproc=1, mode="single", compile="eager", dtype="fp32", steps=5, warmup=2,
        sequence=256, micro_batch=4, data=DataAsked("synthetic"),
    )  # fmt: skip


def sparse(**changes: object) -> Case:
    smoke = SPARSE_PRESETS["smoke"]
    asked = SparseAsked(smoke.backends, smoke.cases, smoke.warmup, smoke.repeats, indexer_timed=False)
    case = Case(
        lane="sparse", preset="smoke", nproc=1, mode="single", compile="eager", dtype="fp32",
        steps=0, warmup=0, sequence=0, micro_batch=0, data=DataAsked("synthetic"), sparse=asked,
    )  # fmt: skip
    return replace(case, **changes)  # type: ignore[arg-type]


def promotion() -> Case:
    asked = PromotionAsked("dense_attention", "fa4", "forward", "dense-1", ("causal-128",))
    return Case(
        lane="promotion", preset="smoke", nproc=1, mode="single", compile="eager", dtype="fp16",
        steps=0, warmup=0, sequence=0, micro_batch=0, data=DataAsked("synthetic"), promotion=asked,
    )  # fmt: skip


def test_a_training_case_is_what_it_was() -> None:
    case = training()
    assert case.digest == BEFORE
    assert not {"sparse", "promotion"} & set(case.to_json())
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize(("case", "part"), [(sparse(), SparseCasePart), (promotion(), PromotionCasePart)])
def test_a_case_of_another_lane_is_the_records_contract(case: Case, part: type) -> None:
    doc = decode(encode(case.to_json()))
    part.model_validate(doc)  # type: ignore[attr-defined]
    assert not set(STEP_FIELDS) & set(doc)
    assert Case.from_json(doc) == case
    assert Case.from_json(doc).digest == case.digest
    with pytest.raises(ValidationError):
        part.model_validate({**doc, "steps": 5})  # type: ignore[attr-defined]


def test_another_question_is_another_case() -> None:
    asked = sparse().sparse
    assert asked is not None
    assert sparse(sparse=replace(asked, repeats=9)).digest != sparse().digest


@pytest.mark.parametrize(
    "broken",
    [
        {**sparse().to_json(), "steps": 5},
        {**training().to_json(), "sparse": sparse().to_json()["sparse"]},
        {key: value for key, value in training().to_json().items() if key != "steps"},
        {key: value for key, value in sparse().to_json().items() if key != "sparse"},
        {**sparse().to_json(), "sparse": {**sparse().to_json()["sparse"], "throughput": 1}},
        {**sparse().to_json(), "sparse": {**sparse().to_json()["sparse"], "cases": [{"name": "short"}]}},
        {**promotion().to_json(), "promotion": []},
    ],
)
def test_what_is_no_case_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Case.from_json(broken)


def test_every_lane_has_its_program() -> None:
    assert tuple(RANK_PROGRAMS) == LANES
