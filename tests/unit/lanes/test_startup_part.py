"""The starting line of a record from an attempt's facts: what is claimed, and what is said instead where nobody looked."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from lanemark.lanes.reports import AttemptFacts, RankReport
from lanemark.lanes.startup import cache_word, rank_cache, startup_part, used_cache
from lanemark.observe.startup import purpose_of
from lanemark.records.case import Case, DataAsked
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.schema_startup import RankCachePart, StartupPart

CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="fsdp2", compile="regional", dtype="fp32", steps=5, warmup=2,
    sequence=64, micro_batch=2, data=DataAsked("synthetic"), cache_policy="require",
)  # fmt: skip
EAGER = Case(**{**CASE.__dict__, "compile": "eager", "cache_policy": "seed"})
COLD = Case(**{**CASE.__dict__, "cache_policy": "cold"})
SEED = Case(**{**CASE.__dict__, "cache_policy": "seed"})


def seen(value: Any) -> dict[str, Any]:
    return observed(value, "a test").to_json()


COMPILED = {"posture": seen("regional"), "compilations": seen(3)}
FULL = seen({"files": 9, "bytes": 99, "keys": 3, "binaries": 4, "digest": "sha256:" + "a" * 64})
EMPTY = seen({"files": 0, "bytes": 0, "keys": 0, "binaries": 0, "digest": "sha256:" + "0" * 64})
WHOLE = seen({"covered": True, "required": 7, "missing": [], "mismatches": []})
SHORT = seen({"covered": False, "required": 7, "missing": ["rank 1: graph f is missing"], "mismatches": []})
USED = {
    "source": "/seed.tar.zst", "kind": "archive", "outcome": "used", "reason": "9 files added", "files": 9, "bytes": 99,
    "digest": "sha256:" + "b" * 64, "seconds": 0.5,
}  # fmt: skip
WARMED = {"done": True, "planned": True, "reason": "2 ranks compile first", "seconds": 2.5, "compilations": 2}
WORD = {
    "fx": ["k2", "k1", "k1"], "aot": ["a1"], "binaries": ["24/c.so"], "hits": {"fx": 2, "aot": 1},
    "misses": {"fx": 0, "aot": 0}, "bypasses": {"fx": 0, "aot": 0},
}  # fmt: skip
HOST = {
    "cache_before": FULL, "coverage_before": WHOLE, "layers": [], "host_uptime_s": seen(5.0),
    "clocks": {
        "container_age_s": seen(4.0), "asleep_s": seen(0.0), "time_shift_s": seen(0.0),
        "earlier_run": absent("attempts", "none was started with this cache").to_json(),
    },
}  # fmt: skip
AFTER = {"cache_after": FULL, "new_files": seen(0), "new_files_by_rank": {"0": seen(0), "1": seen(0)}}
LAUNCH = {"cache": {"directory": "/cache", "layout": "shared", "reason": "asked for"}}


def rank(number: int, **changes: Any) -> RankReport:
    fields: dict[str, Any] = {
        "observed": {"prewarm": WARMED, "compile_cache": seen(WORD)}, "beacon": {"anchor_ns": 2_000}, **changes,
    }  # fmt: skip
    return RankReport(number, **fields)


def facts(*ranks: RankReport, case: Case = CASE, launched_ns: int | None = 1_000, **changes: Any) -> AttemptFacts:
    return AttemptFacts(
        manifest={}, case=case, host=changes.get("host", HOST), host_end=changes.get("host_end", AFTER),
        launch=changes.get("launch", LAUNCH), ranks=ranks or (rank(0), rank(1)), findings=(), cause=None, state="ok",
        reason="", launched_ns=launched_ns, duration_s=observed(1.0, "x"), sealed_at="",
    )  # fmt: skip


def part(*ranks: RankReport, compiled: dict[str, Any] = COMPILED, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """The part, which the strict schema accepts, and the kinds of its findings."""
    built, findings = startup_part(facts(*ranks, **changes), compiled)
    TypeAdapter(StartupPart).validate_python(built)
    return built, [finding.kind for finding in findings]


def test_a_covered_run_that_adds_nothing_is_a_warm_benchmark() -> None:
    built, findings = part()
    assert value_of(built["state"]) == "warm"
    assert value_of(built["purpose"])["kind"] == "benchmark"
    assert built["layers"]["status"] == "absent"
    assert value_of(built["layout"]) == "shared"
    assert value_of(built["coverage_before"])["covered"] is True
    assert findings == []


def test_a_layer_that_was_used_makes_a_seeded_start() -> None:
    tried = [{**USED, "outcome": "unreachable", "reason": "", "digest": None}, USED]
    built, findings = part(host={**HOST, "layers": tried})
    assert value_of(built["state"]) == "seeded"
    first, second = value_of(built["layers"])
    assert "digest" not in first
    assert first["reason"] == "unreachable"
    assert second == USED
    assert findings == []


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"host_end": {**AFTER, "new_files": seen(2)}}, "partly_warm"),
        ({"host": {**HOST, "cache_before": EMPTY}}, "cold"),
    ],
)
def test_coverage_that_the_observation_contradicts_is_a_finding(changes: dict[str, Any], state: str) -> None:
    built, findings = part(**changes)
    assert value_of(built["state"]) == state
    assert findings == ["cache_state_contradicted"]


def test_one_ranks_misses_are_enough_to_be_partly_warm() -> None:
    missed = rank(1, observed={"compile_cache": seen({**WORD, "misses": {"fx": 1, "aot": 0}})})
    assert value_of(part(rank(0), missed, case=SEED)[0]["state"]) == "partly_warm"


def test_short_coverage_is_a_seeding_pass_and_is_said() -> None:
    built, findings = part(case=SEED, host={**HOST, "coverage_before": SHORT, "cache_before": EMPTY})
    assert value_of(built["purpose"]) == {
        "kind": "seeding_pass",
        "reason": "coverage is short: rank 1: graph f is missing",
    }
    assert findings == ["seeding_pass"]
    assert part(case=SEED, host={**HOST, "coverage_before": SHORT}, launch={})[1] == [], "nothing was started"


def test_a_cold_measurement_needs_a_cache_that_was_seen_empty() -> None:
    built, findings = part(case=COLD, host={**HOST, "cache_before": EMPTY})
    assert value_of(built["purpose"])["kind"] == "cold_measurement"
    assert findings == []
    warm, said = part(case=COLD)
    assert value_of(warm["purpose"])["kind"] == "seeding_pass"
    assert said == ["seeding_pass", "cache_state_contradicted"]


def test_an_eager_run_has_no_cache() -> None:
    gone = absent("compile cache directory", "the attempt has none").to_json()
    built, findings = part(
        case=EAGER, compiled={"posture": seen("eager"), "compilations": seen(0)}, launch={"cache": {"reason": "x"}},
        host={**HOST, "cache_before": gone, "coverage_before": gone}, host_end={**AFTER, "cache_after": gone},
    )  # fmt: skip
    assert (value_of(built["state"]), value_of(built["purpose"])["kind"]) == ("not_compiled", "not_compiled")
    assert (built["layout"]["status"], built["cache_directory"]["status"]) == ("absent", "absent")
    assert findings == []


def test_a_rank_older_than_its_launch_came_out_of_a_snapshot() -> None:
    built, _ = part(rank(0), rank(1, beacon={"anchor_ns": 10}))
    assert value_of(built["state"]) == "snapshot_restored"
    assert value_of(part(rank(0, beacon={}), rank(1, beacon=None))[0]["state"]) == "warm"
    assert value_of(part(rank(0, beacon={"anchor_ns": 10}), launched_ns=None)[0]["state"]) == "warm"


def test_where_nothing_was_written_nothing_is_claimed() -> None:
    built, findings = part(host={}, host_end={}, launch={})
    assert built["state"]["status"] == "unavailable"
    assert {built[name]["status"] for name in ("layers", "coverage_before", "cache_before")} == {"unavailable"}
    assert {seen["status"] for seen in built["clocks"].values()} == {"unavailable"}
    assert value_of(built["purpose"])["kind"] == "seeding_pass", "what was not seen to be covered is not"
    assert findings == []


@pytest.mark.parametrize("tried", ["all", [1], {"a": 1}])
def test_layers_in_another_form_are_not_believed(tried: Any) -> None:
    assert part(host={**HOST, "layers": tried})[0]["layers"]["status"] == "unavailable"


def test_prewarming_is_done_when_every_rank_says_so() -> None:
    said = value_of(part()[0]["prewarm"])
    assert (said["policy"], said["planned"], said["reason"]) == ("auto", True, "2 ranks compile first")
    assert (value_of(said["done"]), value_of(said["seconds"]), value_of(said["compilations"])) == (True, 2.5, 2)
    one = rank(1, observed={"prewarm": {**WARMED, "done": False}})
    assert value_of(value_of(part(rank(0), one)[0]["prewarm"])["done"]) is False
    silent = value_of(part(rank(0), rank(1, observed=None))[0]["prewarm"])
    assert silent["done"] == unavailable("observed.json of every rank", "1 of 2 ranks reported").to_json()
    skipped = {
        "done": False,
        "planned": False,
        "reason": "one rank waits for nobody",
        "seconds": 0.0,
        "compilations": 0,
    }
    none = value_of(part(rank(0, observed={"prewarm": skipped}), rank(1, observed={"prewarm": skipped}))[0]["prewarm"])
    assert (none["planned"], none["done"]["status"], none["seconds"]["status"]) == (False, "absent", "absent")
    assert part(rank(0, observed={}), rank(1, observed=None))[0]["prewarm"]["status"] == "unavailable"


def test_odd_words_on_prewarming_do_not_pass() -> None:
    odd = {"done": True, "planned": True, "reason": None, "seconds": "long", "compilations": -1}
    said = value_of(part(rank(0, observed={"prewarm": odd}), rank(1, observed={"prewarm": odd}))[0]["prewarm"])
    assert (said["seconds"]["status"], said["compilations"]["status"]) == ("unavailable", "unavailable")
    assert said["reason"] == "no reason was given"


def test_what_a_rank_used_is_counted_and_named_by_a_digest() -> None:
    used = value_of(used_cache(rank(0)))
    assert (used["fx_keys"], used["aot_keys"], used["binaries"]) == (2, 1, 1)
    assert used["hits"] == {"fx": 2, "aot": 1}
    other = {**WORD, "fx": ["k1", "k2"]}
    assert value_of(used_cache(rank(0, observed={"compile_cache": seen(other)})))["digest"] == used["digest"]
    fewer = {**WORD, "binaries": []}
    assert value_of(used_cache(rank(0, observed={"compile_cache": seen(fewer)})))["digest"] != used["digest"]


def test_the_last_word_counts() -> None:
    last = rank(0, end={"compile_cache": seen({**WORD, "fx": []})})
    assert cache_word(last)["value"]["fx"] == []
    assert cache_word(rank(0, observed={}, end={})) is None


@pytest.mark.parametrize(
    "word",
    [
        None, "all", {"status": "odd"}, seen([]), seen({}), seen({**WORD, "fx": "k1"}), seen({**WORD, "aot": [1]}),
        seen({**WORD, "misses": {"fx": -1, "aot": 0}}), seen({**WORD, "hits": {"fx": 1}}), seen({**WORD, "hits": None}),
    ],
)  # fmt: skip
def test_a_word_in_another_form_is_not_believed(word: Any) -> None:
    seen_ = used_cache(rank(0, observed={} if word is None else {"compile_cache": word}))
    assert seen_["status"] == "unavailable"


def test_a_rank_that_could_not_look_says_why_and_its_new_files_are_counted_from_outside() -> None:
    why = unavailable("torch", "AttributeError: gone").to_json()
    built = rank_cache(rank(0, observed={"compile_cache": why}), {"new_files_by_rank": {"0": seen(4)}})
    TypeAdapter(RankCachePart).validate_python(built)
    assert (built["used"], value_of(built["new_files"])) == (why, 4)
    for host_end in ({}, {"new_files_by_rank": [1]}, {"new_files_by_rank": {"1": seen(1)}}):
        assert rank_cache(rank(0), host_end)["new_files"]["status"] == "unavailable"


def test_the_purpose_is_decided_from_coverage_alone() -> None:
    assert purpose_of("seed", WHOLE, {}, compiled=True)[0] == "benchmark"
