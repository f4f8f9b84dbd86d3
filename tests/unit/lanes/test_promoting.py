"""Promoting: only what is ready, of one scope and one evidence key, for a reason, moves; and nothing observed changes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from lanemark.judge.promotions import standings
from lanemark.lanes.promoting import promoted
from lanemark.lanes.promotion_record import evidence_key, expired_components, rule_tables
from lanemark.lanes.rules import broken_rules
from lanemark.records.errors import RecordError

CORPUS = Path(__file__).parents[2] / "assets" / "records" / "good"
AT = "2026-11-29T00:00:00.000Z"
RUN = "promotion-20261129T000000Z-aaaaaaaa"
ID, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def ready(name="promotion_ready_fa4", sealed_at=None, **components):
    """A good record of the corpus, as today's matrix and rule tables would have it."""
    doc = json.loads((CORPUS / f"{name}.json").read_bytes())["predicate"]
    key = {**doc["promotion"]["evidence_key"]["components"], "matrix": rule_tables(), **components}
    doc["promotion"]["evidence_key"] = evidence_key(key)
    if sealed_at is not None:
        doc["times"]["sealed_at"] = sealed_at
    return doc


def entry(record_id):
    return {
        "name": f"records/{record_id[7:]}.json", "digest": record_id, "bytes": 9, "media_type": "application/json",
    }  # fmt: skip


def promote(*named, because="the matrix passed"):
    return promoted(named, because, run_id=RUN, at=AT, evidence=[entry(record_id) for record_id, _ in named])


def test_a_ready_record_is_promoted_and_every_rule_holds():
    before = ready()
    kept = copy.deepcopy(before)
    doc = promote((ID, before))
    assert before == kept, "the named record is not touched"
    assert broken_rules(doc) == ()
    part = doc["promotion"]
    assert (part["state"], part["promotion_status"], part["promoted_on"]) == ("promoted", "promoted", [ID])
    assert "the matrix passed" in part["state_reason"]
    assert doc["run_id"] == RUN
    same = ("parity", "ladder", "execute_proof", "evidence_key", "scope", "stop_rules", "promotion_ready")
    assert all(part[key] == before["promotion"][key] for key in same)


def test_several_records_of_one_scope_and_key():
    doc = promote((ID, ready()), (OTHER, ready()))
    assert doc["promotion"]["promoted_on"] == [ID, OTHER]
    assert broken_rules(doc) == ()


def lacking(path, value):
    doc = ready()
    node = doc
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in parents:
        node = node[step]
    node[last] = value
    return doc


REFUSED = [
    ("not ready", lambda: (ready("promotion_no_power"),)),
    ("not ready", lambda: (ready("promotion_compiled_only"),)),
    ("itself a word on a promotion", lambda: (ready("promotion_rejected"),)),
    ("itself a word on a promotion", lambda: (ready("promotion_promoted"),)),
    ("no record of the promotion lane", lambda: ({"lane": "training"},)),
    ("breaks the rule", lambda: (lacking("promotion.parity.0.verdict", "fail"),)),
    ("breaks the rule", lambda: (lacking("evidence", []),)),
    ("matrix and rule tables", lambda: (ready(matrix="attention-v0"),)),
    ("rest on different things (driver)", lambda: (ready(), ready(driver="580.1"))),
    ("rest on different things (torch)", lambda: (ready(torch="unavailable"), ready(torch="unavailable"))),
]


@pytest.mark.parametrize(("words", "named"), REFUSED)
def test_what_does_not_support_a_promotion_is_refused(words, named):
    with pytest.raises(RecordError) as caught:
        promote(*zip((ID, OTHER), named(), strict=False))
    assert caught.value.slug == "promotion-refused"
    assert words in str(caught.value)


def test_another_scope_is_another_promotion():
    with pytest.raises(RecordError, match="promote them one by one"):
        promote((ID, ready()), (OTHER, ready("promotion_sparse_kernel")))


@pytest.mark.parametrize("because", ["", "  ", "x" * 1001])
def test_a_promotion_needs_a_reason(because):
    with pytest.raises(RecordError, match="needs a reason"):
        promote((ID, ready()), because=because)


COMPONENTS = ("image", "driver", "torch", "cuda", "packages", "kernel_source", "selectors", "matrix")


@pytest.mark.parametrize("name", COMPONENTS)
def test_any_change_of_a_component_expires(name):
    then = ready()["promotion"]["evidence_key"]["components"]
    assert expired_components(then, then) == ()
    assert expired_components(then, {**then, name: "another"}) == (name,)
    gone = {key: value for key, value in then.items() if key != name}
    assert expired_components(then, gone) == (name,)
    unseen = {**then, name: "unavailable"}
    assert expired_components(unseen, unseen) == (() if name == "image" else (name,))


def standing_of(*records):
    found = standings([(f"sha256:{place:064x}", doc) for place, doc in enumerate(records)])
    assert len(found) == 1
    return found[0]


def test_a_promotion_stands_while_nothing_it_rests_on_changed():
    first = ready(sealed_at="2026-11-01T00:00:00.000Z")
    moved = promote((ID, first))
    stands = standing_of(first, moved)
    assert (stands.status, stands.expired, stands.ready, stands.owed) == ("promoted", (), True, ())
    assert stands.because is not None
    later = ready(sealed_at="2026-12-01T00:00:00.000Z", driver="580.1")
    stands = standing_of(first, moved, later)
    assert (stands.status, stands.expired, stands.ready) == ("expired", ("driver",), True)


def test_evidence_from_before_the_promotion_expires_nothing():
    old = ready(sealed_at="2026-10-01T00:00:00.000Z", driver="550")
    first = ready(sealed_at="2026-11-01T00:00:00.000Z")
    assert standing_of(old, first, promote((ID, first))).status == "promoted"


def test_later_evidence_that_rejects_expires_a_promotion():
    moved = promote((ID, ready()))
    later = ready(sealed_at="2026-12-01T00:00:00.000Z")
    later["promotion"].update(state="rejected", promotion_ready=False)
    stands = standing_of(moved, later)
    assert (stands.status, stands.expired) == ("expired", ("later_evidence_rejects",))


def test_another_matrix_of_this_version_expires_everything_accepted_under_the_old_one():
    moved = json.loads((CORPUS / "promotion_promoted.json").read_bytes())["predicate"]
    stands = standing_of(moved)
    assert stands.status == "expired"
    assert "matrix" in stands.expired
    assert stands.owed == ("no evidence is left in this ledger",)


def test_what_is_owed_is_told_and_scopes_stand_apart():
    found = standings([(ID, ready("promotion_no_power")), (OTHER, ready("promotion_sparse_kernel"))])
    assert [each.candidate for each in found] == ["fa4", "triton"]
    assert found[0].status == "none"
    assert any("no_power" in what for what in found[0].owed)
    assert found[1].ready
    assert "evidence_at" in found[0].to_json()
    assert "promotion_id" not in found[0].to_json()
