"""Case, observation, finding, attempt, shard header, statement, errors."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.records import errors
from lanemark.records.attempt import RUN_ID, AttemptPaths, Home, State, Transition, new_run_id
from lanemark.records.case import GPU_NAMES, Case, DataAsked, parse_gpu
from lanemark.records.encoding import decode, digest, encode
from lanemark.records.errors import SLUGS, GateRefused, LanemarkError, UsageError
from lanemark.records.finding import Finding
from lanemark.records.observation import Observation, absent, observed, unavailable, value_of
from lanemark.records.shards import HEADER_BYTES, ShardError, header, token_count
from lanemark.records.statement import SealedRecord, seal, subjects

CASE = Case(
    "training",
    "dense-nano",
    2,
    "ddp",
    "eager",
    "fp32",
    20,
    5,
    256,
    4,
    DataAsked("shards", "sha256:" + "a" * 64),
    grad_accum=3,
)


def test_a_case_is_named_by_its_content_alone():
    again = Case.from_json(decode(encode(CASE.to_json())))
    assert again == CASE
    assert again.digest == CASE.digest == digest(encode(CASE.to_json()))
    assert Case.from_json({**CASE.to_json(), "seed": 1}).digest != CASE.digest


def test_derived_figures_of_a_case():
    assert CASE.tokens_per_step == 2 * 4 * 3 * 256
    assert CASE.measured_steps == 15


def test_synthetic_data_has_no_digest_key():
    assert Case.from_json({**CASE.to_json(), "data": {"kind": "synthetic"}}).to_json()["data"] == {"kind": "synthetic"}


@pytest.mark.parametrize("doc", [{}, {"lane": "training"}, {**CASE.to_json(), "host": "here"}, []])
def test_what_is_no_case_is_refused(doc):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Case.from_json(doc)


@pytest.mark.parametrize("name", GPU_NAMES)
@pytest.mark.parametrize("mark", ["", "!", "+"])
@pytest.mark.parametrize("count", ["", ":1", ":8"])
def test_gpu_specifications_read_back(name, mark, count):
    spec = parse_gpu(name + mark + count)
    assert str(spec) == name + mark + count
    assert parse_gpu(str(spec).lower()) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "H101",
        "H100!!",
        "H100:0",
        "H100:9",
        "H100:",
        "any!",
        "any:2",
        "cpu:0",
        "8xH100",
        "H100 ",
        "H100\n",
        "H100!+",
    ],
)
def test_what_is_no_gpu_specification_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse_gpu(text)
    assert caught.value.slug == "gpu-spec-invalid"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_gpu_specification_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        parse_gpu(text)


@pytest.mark.parametrize(
    "made",
    [observed(0, "nvml"), observed(value=False, source="x"), absent("x"), absent("x", "y"), unavailable("x", "y")],
)
def test_observations_read_back(made):
    assert Observation.from_json(made.to_json()) == made
    assert value_of(made.to_json()) == made.value


@pytest.mark.parametrize(
    "arguments",
    [
        ("observed", "x"), ("observed", "x", 1, "why"), ("absent", "x", 1), ("unavailable", "x"), ("observed", "", 1),
        ("unavailable", "x", None, ""), ("unavailable", "x", 3, "why"),
    ],
)  # fmt: skip
def test_a_status_that_does_not_fit_is_refused(arguments):
    with pytest.raises(ValueError, match="observ"):
        Observation(*arguments)


@pytest.mark.parametrize(
    "doc", [{}, [], {"status": "guessed", "source": "x"}, {"status": "absent", "source": "x", "by": 1}]
)
def test_what_is_no_observation_is_refused(doc):
    with pytest.raises(ValueError, match="not an observation"):
        Observation.from_json(doc)
    assert value_of(doc if isinstance(doc, dict) else None) is None


def test_findings_are_declared():
    assert Finding("disk_full", "failure", "full", rank=0).to_json()["rank"] == 0
    assert "rank" not in Finding("disk_full", "failure", "full").to_json()
    with pytest.raises(ValueError, match="undeclared"):
        Finding("gremlins", "failure", "who knows")


def test_run_ids_sort_by_time_and_do_not_repeat():
    early, late = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), datetime(2026, 1, 2, 3, 4, 6, tzinfo=timezone.utc)
    ids = [new_run_id("training", early) for _ in range(50)]
    assert all(RUN_ID.fullmatch(run_id) for run_id in ids)
    assert len(set(ids)) == 50
    assert max(ids) < new_run_id("training", late)


def test_only_states_that_end_are_final():
    assert {state.value for state in State if state.final} == {"ok", "error", "cancelled", "lost"}


def test_file_names_belong_to_one_attempt():
    paths = Home(Path("/h")).attempt("training-x")
    assert paths == AttemptPaths(Path("/h/attempts/training-x"))
    assert paths.run_id == "training-x"
    assert paths.rank(3).samples == Path("/h/attempts/training-x/ranks/3/samples.bin")
    inside = [
        getattr(paths, name) for name in ("case", "manifest", "host", "launch", "exits", "reserve", "lock", "record")
    ]
    ranks = [getattr(paths.rank(0), n) for n in ("beacon", "samples", "observed", "end", "error", "stdout", "stderr")]
    assert len(set(inside + ranks)) == 15


def test_a_transition_of_another_clock_has_no_monotonic_time():
    assert "monotonic_s" not in Transition(State.LOST, "2026-11-22T15:22:33.104Z", None, "found later").to_json()
    assert Transition(State.OK, "2026-11-22T15:22:33.104Z", 1.5, "done").to_json()["monotonic_s"] == 1.5


def test_shard_headers_read_back():
    assert token_count(header(12), HEADER_BYTES + 24) == 12
    with pytest.raises(ShardError, match="shorter than"):
        token_count(header(12)[:100], 100)
    with pytest.raises(ShardError) as caught:
        token_count(header(12), HEADER_BYTES + 22)
    assert caught.value.slug == "shard-truncated"
    with pytest.raises(ShardError) as caught:
        token_count(header(12), HEADER_BYTES + 26)
    assert caught.value.slug == "shard-mislabelled"


def test_sealing_names_a_record_by_its_bytes():
    about = subjects(plan_digest=CASE.digest, image_digest=None, commit="abc")
    record = seal({"a": 1}, about)
    assert record == SealedRecord(digest(record.data), record.data)
    assert [subject["name"] for subject in decode(record.data)["subject"]] == ["case", "source"]
    with pytest.raises(ValueError, match="JSON"):
        seal({"a": float("nan")}, about)


def test_every_error_says_what_and_what_to_do():
    error = GateRefused("disk-short", "2 GiB are free in /x and 8 are needed", "free some space")
    assert str(error) == "2 GiB are free in /x and 8 are needed; free some space."
    assert (error.slug, error.exit_code) == ("disk-short", 4)
    with pytest.raises(AssertionError, match="undeclared"):
        LanemarkError("no-such-slug", "a", "b")
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LanemarkError)]
    assert {c.exit_code for c in classes} == {1, 2, 4}
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)
    assert all(slug == slug.lower() and title[0].isupper() for slug, title in SLUGS.items())
