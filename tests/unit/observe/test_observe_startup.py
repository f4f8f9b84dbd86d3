"""Start-up states from everything that is seen of a start, what a run is good for, and who ran before."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from lanemark.observe.startup import Origin, contradicts, earlier_run, purpose_of, startup_state, used_layer
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.records.terms import WARM_STATES, Purpose, StartupKind


def cache(keys: int = 3, binaries: int = 10, digest: str = "sha256:a") -> Observation[dict[str, Any]]:
    return observed({"files": 13, "bytes": 1, "keys": keys, "binaries": binaries, "digest": digest}, "walk")


def layer(kind: str, outcome: str) -> dict[str, Any]:
    return {"kind": kind, "outcome": outcome, "source": "/seed.tar.zst"}


FULL, EMPTY = cache(), cache(0, 0)
ARCHIVE = [layer("object_storage", "unreachable"), layer("archive", "used")]
BAKED = [layer("image_directory", "used")]
RAN = observed("training-20261122T152233Z-aaaaaaaa", "attempts")
#: state, before, after, what else was seen
STATES: list[tuple[str, Observation[Any], Observation[Any], Origin]] = [
    ("cold", EMPTY, FULL, Origin()),
    ("cold", absent("walk"), FULL, Origin(earlier_run=RAN)),
    ("cold", EMPTY, FULL, Origin(layers=[layer("archive", "incompatible")], new_files=observed(13, "listings"))),
    ("warm", FULL, FULL, Origin()),
    ("warm", FULL, FULL, Origin(layers=[layer("archive", "already_covered")], new_files=observed(0, "listings"))),
    ("warm", FULL, FULL, Origin(misses=observed(0, "ranks"), earlier_run=absent("attempts"))),
    ("partly_warm", FULL, cache(digest="sha256:b"), Origin()),
    ("partly_warm", FULL, FULL, Origin(misses=observed(2, "ranks"))),
    ("partly_warm", FULL, FULL, Origin(new_files=observed(1, "listings"), layers=ARCHIVE)),
    ("partly_warm", FULL, cache(digest="sha256:b"), Origin(layers=BAKED)),
    ("seeded", FULL, FULL, Origin(layers=ARCHIVE)),
    ("seeded", FULL, FULL, Origin(layers=ARCHIVE, earlier_run=RAN, older_ranks=(0,))),
    ("seeded", FULL, FULL, Origin(layers=[layer("per_file", "used")])),
    ("image_seed", FULL, FULL, Origin(layers=BAKED)),
    ("snapshot_restored", FULL, FULL, Origin(older_ranks=(3,), earlier_run=RAN)),
    ("snapshot_restored", FULL, FULL, Origin(time_shift_s=observed(-86_400.0, "timens"))),
    ("long_lived", FULL, FULL, Origin(earlier_run=RAN, time_shift_s=observed(0.0, "timens"))),
]


@pytest.mark.parametrize(("state", "before", "after", "origin"), STATES)
def test_each_state(state: str, before: Observation[Any], after: Observation[Any], origin: Origin) -> None:
    seen = startup_state(before, after, compiled=True, origin=origin)
    assert seen.value == state
    assert startup_state(before, after, compiled=False, origin=origin).value == "not_compiled"


def test_every_state_has_a_case() -> None:
    assert {state for state, *_ in STATES} | {"not_compiled"} == set(get_args(StartupKind))
    assert set(get_args(StartupKind)) - {"cold", "partly_warm", "not_compiled"} == WARM_STATES


def test_the_source_says_what_it_rests_on() -> None:
    assert "seed.tar.zst" in startup_state(FULL, FULL, compiled=True, origin=Origin(layers=ARCHIVE)).source
    assert str(RAN.value) in startup_state(FULL, FULL, compiled=True, origin=Origin(earlier_run=RAN)).source
    assert "rank 3" in startup_state(FULL, FULL, compiled=True, origin=Origin(older_ranks=(3,))).source


def test_hits_alone_make_nothing_warm() -> None:
    """Keys without binaries, unchanged: everything may have been rebuilt in memory or nothing been used."""
    for held in (cache(3, 0), cache(0, 4)):
        assert startup_state(held, held, compiled=True, origin=Origin(layers=ARCHIVE)).status == "unavailable"


@pytest.mark.parametrize("state", sorted(WARM_STATES | {"partly_warm"}))
def test_no_warm_state_is_the_cold_start_that_was_declared(state: str) -> None:
    assert contradicts("cold", observed(state, "x")) is not None
    assert contradicts("seed", observed(state, "x")) is None


def coverage(**changes: Any) -> dict[str, Any]:
    value = {"covered": False, "required": 12, "missing": ["rank 1: graph f is missing"], "mismatches": [], **changes}
    return observed(value, "manifest").to_json()


#: purpose, policy, coverage, compiled, a part of the reason
PURPOSES = [
    ("not_compiled", "seed", absent("x").to_json(), False, "nothing is compiled"),
    ("not_compiled", "cold", coverage(), False, "nothing is compiled"),
    ("cold_measurement", "cold", coverage(covered=True, missing=[]), True, "was empty"),
    ("benchmark", "require", coverage(covered=True, missing=[]), True, "all 12 keys"),
    ("benchmark", "seed", coverage(covered=True, missing=[]), True, "all 12 keys"),
    ("seeding_pass", "seed", coverage(), True, "graph f is missing"),
    ("seeding_pass", "seed", coverage(mismatches=["torch was 1, and here it is 2"]), True, "torch was 1"),
    ("seeding_pass", "seed", coverage(missing=[], required=0), True, "nothing says"),
    ("seeding_pass", "require", unavailable("x", "it could not be read").to_json(), True, "could not be read"),
    ("seeding_pass", "seed", absent("x").to_json(), True, "absent"),
]


@pytest.mark.parametrize(("kind", "policy", "seen", "compiled", "said"), PURPOSES)
def test_what_a_run_is_good_for(kind: str, policy: str, seen: dict[str, Any], compiled: bool, said: str) -> None:
    found, why = purpose_of(policy, seen, absent("x").to_json(), compiled=compiled)
    assert found == kind
    assert said in why


@pytest.mark.parametrize(
    ("before", "kind", "said"),
    [
        (absent("x").to_json(), "cold_measurement", "was empty"),
        (observed({"keys": 0, "binaries": 0}, "x").to_json(), "cold_measurement", "was empty"),
        (observed({"keys": 3, "binaries": 0}, "x").to_json(), "seeding_pass", "held 3 keys and 0 binaries"),
        (unavailable("x", "it is not ours").to_json(), "seeding_pass", "could not be seen"),
    ],
)
def test_asking_for_a_cold_start_makes_none(before: dict[str, Any], kind: str, said: str) -> None:
    found, why = purpose_of("cold", coverage(), before, compiled=True)
    assert found == kind
    assert said in why


def test_every_purpose_has_a_case() -> None:
    assert {kind for kind, *_ in PURPOSES} == set(get_args(Purpose))


def manifest(number: int, **changes: Any) -> dict[str, Any]:
    steps = [{"state": "prepared"}, {"state": "running"}, {"state": "ok"}]
    return {
        "run_id": f"run-{number}",
        "boot_id": "b",
        "placement": {"cache_dir": "/c"},
        "transitions": steps,
        **changes,
    }


@pytest.mark.parametrize(
    ("manifests", "found"),
    [
        ([], None),
        ([manifest(2), manifest(1)], "run-2"),
        ([manifest(2, boot_id="other"), manifest(1)], "run-1"),
        ([manifest(2, placement={"cache_dir": "/elsewhere"}), manifest(1, placement={})], None),
        ([manifest(1, transitions=[{"state": "prepared"}, {"state": "error"}])], None),
        ([manifest(1, transitions=["odd"], placement="odd")], None),
    ],
)
def test_the_run_before(manifests: list[dict[str, Any]], found: str | None) -> None:
    seen = earlier_run(manifests, boot_id="b", cache_dir="/c")
    assert (seen.value, seen.status) == (found, "absent" if found is None else "observed")


def test_which_layer_was_used() -> None:
    assert used_layer(ARCHIVE) == ARCHIVE[1]
    assert used_layer([layer("archive", "not_tried")]) is None
