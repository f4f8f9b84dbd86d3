"""Rungs are held by evidence, states follow from them, and less evidence never stands higher."""

from __future__ import annotations

import copy

import pytest
from promotion_results import CASES, FILES, asked, numbers, result

from lanemark.lanes.promotion_ladder import standing
from lanemark.lanes.promotion_parity import REJECTIONS, entry, judge
from lanemark.records.terms import RUNGS

SPARSE = "sparse_validation"


def held(stands):
    return [rung["rung"] for rung in stands.ladder if rung["held"]]


@pytest.mark.parametrize(("direction", "rungs"), [("forward", RUNGS[:-1]), ("backward", RUNGS)])
@pytest.mark.parametrize("mode", ["dense_attention", SPARSE])
def test_everything_that_is_asked_makes_ready(direction, rungs, mode):
    stands = standing(asked(direction, mode), result(direction, mode), FILES)
    assert held(stands) == list(rungs)
    assert (stands.state, stands.rejection) == ("ready", None)


def changed(path, value, mode="dense_attention"):
    doc = result("backward", mode)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    node = doc
    for step in parents:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return standing(asked("backward", mode), doc, FILES)


#: what is changed in a result that is ready, the state, and the slug that its reason begins with.
CHANGES = [
    ("applicability.applies", False, "blocked", "covered"),
    ("compiled.done", False, "planned", "owes compiled"),
    ("imported.done", False, "compiled", "owes imported"),
    ("executed", None, "imported", "owes executed"),
    ("executed", {"done": False, "reason": "raised", "words": "RuntimeError: no"}, "rejected", "raised"),
    ("witness", None, "inconclusive", "unobserved"),
    ("witness.level", "op", "inconclusive", "unobserved"),
    ("witness.names", [], "inconclusive", "unobserved"),
    ("witness.candidates", ["sdpa_flash", "fa2"], "inconclusive", "unobserved"),
    ("witness.candidates", ["sdpa_math"], "rejected", "another_backend_ran"),
    ("witness.forged", ["flash_fwd"], "rejected", "name_forged"),
    ("cases.0.forward.fro", 4e-3, "rejected", "frobenius_error"),
    ("cases.0.forward.row", 4e-2, "rejected", "row_error"),
    ("cases.0.forward.masks_equal", False, "rejected", "nonfinite_output"),
    ("cases.0.forward.lse_max_error", 0.1, "rejected", "lse_error"),
    ("cases.0.forward.bitwise_equal", False, "rejected", "not_repeatable"),
    ("cases.0.forward.max_difference", 0.02, "rejected", "stop_rule_broken"),
    ("cases.0.forward.num_nonfinite", 1, "rejected", "stop_rule_broken"),
    ("two_steps.failed_steps", 1, "rejected", "stop_rule_broken"),
    ("cases.0.forward.poisoned_output", False, "inconclusive", "no_power"),
    ("cases.0.forward.mutants.0.fro", 1e-4, "inconclusive", "no_power"),
    ("cases.0.backward.fro", 6e-3, "rejected", "frobenius_error"),
    ("cases.0.backward", None, "fwd_parity", "owes bwd_parity"),
    ("cases.1", None, "dispatch_confirmed", "owes fwd_parity"),
    ("cases", [], "dispatch_confirmed", "owes fwd_parity"),
]


@pytest.mark.parametrize(("path", "value", "state", "slug"), CHANGES)
def test_each_thing_that_is_missing_or_wrong_has_its_state_and_reason(path, value, state, slug):
    if path == "cases.0.forward.mutants.0.fro":
        doc = result()
        doc["cases"][0]["forward"]["mutants"][0].update(fro=1e-4, row=1e-4)
        stands = standing(asked(), doc, FILES)
    else:
        stands = changed(path, value)
    assert stands.state == state
    assert stands.reason.startswith(slug), stands.reason


CANARY = [
    ("nan_rows", 400, "rejected", "silently_dense"),
    ("changed_rows", 3, "rejected", "selection_ignored"),
]


@pytest.mark.parametrize(("key", "value", "state", "slug"), CANARY)
def test_a_canary_speaks_whatever_the_numbers_say(key, value, state, slug):
    stands = changed(f"canary.value.0.{key}", value, SPARSE)
    assert (stands.state, stands.reason.partition(":")[0]) == (state, slug)


def test_without_a_canary_a_sparse_dispatch_is_not_confirmed():
    stands = changed("canary", None, SPARSE)
    assert stands.state == "inconclusive"
    assert "dispatch_confirmed" not in held(stands)


def test_the_most_telling_reason_speaks():
    doc = result()
    doc["cases"][0]["forward"].update(fro=0.5, looks_like="rerouted_to_full")
    doc["witness"]["forged"] = ["x"]
    assert standing(asked(), doc, FILES).reason.startswith("rerouted_to_full")
    assert REJECTIONS.index("rerouted_to_full") < REJECTIONS.index("name_forged")


def weakened(doc, files):
    """Every result that lacks one file, one key anywhere, or one entry of a list."""
    for name in files:
        yield f"file {name}", doc, [other for other in files if other != name]

    def walk(node, path):
        if isinstance(node, dict):
            for key in node:
                yield [*path, key]
                yield from walk(node[key], [*path, key])
        elif isinstance(node, list):
            for place, child in enumerate(node):
                yield [*path, place]
                yield from walk(child, [*path, place])

    for path in walk(doc, []):
        less = copy.deepcopy(doc)
        node = less
        for step in path[:-1]:
            node = node[step]
        del node[path[-1]]
        yield ".".join(map(str, path)), less, files


def rank_of(stands):
    return (stands.state == "ready", len(held(stands)))


@pytest.mark.parametrize("mode", ["dense_attention", SPARSE])
def test_taking_any_one_thing_away_never_raises_what_is_held(mode):
    """Exhaustive: every file, every key and every list entry of a ready result, of a rejected one, and of a weak one."""
    rejected, weak = result("backward", mode), result("backward", mode)
    rejected["cases"][0]["forward"]["fro"] = 0.5
    weak["cases"][1]["forward"]["mutants"][0].update(fro=1e-4, row=1e-4)
    tried = 0
    for doc in (result("backward", mode), rejected, weak):
        before = rank_of(standing(asked("backward", mode), doc, FILES))
        for what, less, files in weakened(doc, list(FILES)):
            try:
                after = rank_of(standing(asked("backward", mode), less, files))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                continue  # of another shape: the record is built as if nothing had been written
            assert after <= before, what
            tried += 1
    assert tried > 200


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_needed(name):
    stands = standing(asked(), result(), [other for other in FILES if other != name])
    assert stands.state != "ready"
    assert name.rpartition("/")[2].removesuffix(".json") not in held(stands)


def test_nothing_at_all_is_blocked_and_not_planned():
    stands = standing(asked(), {}, ())
    assert (stands.state, held(stands)) == ("blocked", [])


def test_a_worker_that_calls_itself_ready_changes_nothing():
    doc = {"state": "ready", "promotion_ready": True, "rungs": list(RUNGS)}
    assert standing(asked(), doc, FILES).state == "blocked"


def test_a_case_is_judged_by_its_record_alone_too():
    case = result()["cases"][0]
    made = entry(case, numbers("forward"))
    assert judge(made).verdict == made["verdict"] == "pass"
    assert made["fro_limit"] == pytest.approx(3e-3)
    assert CASES[0] == made["name"]


def test_an_lse_whose_infinities_stand_elsewhere_is_unavailable_and_fails():
    measured = {**numbers("forward"), "masks_equal": False}
    del measured["lse_max_error"]
    made = entry(result()["cases"][0], measured)
    assert made["lse_max_error"]["status"] == "unavailable"
    assert made["verdict"] == "fail"
