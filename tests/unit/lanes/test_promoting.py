"""A person's word: a promotion needs what is ready, a rejection what failed or who declares it; nothing observed changes."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import pytest

from lanemark.judge.promotions import standings
from lanemark.lanes.promoting import Said, promoted, refusal_of, rejected, scope_of, shadowed, word_of
from lanemark.lanes.promotion_record import evidence_key, expired_components, rule_tables
from lanemark.lanes.readiness import owed
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


def said(named, because="the matrix passed", at=AT):
    return Said(because, RUN, at, [entry(record_id) for record_id, _ in named])


def promote(*named, because="the matrix passed", at=AT, after=None):
    return promoted(named, said((*named, *([after] if after else [])), because, at), after=after)


def reject(*named, because="it broke a training", at=AT, declared=False):
    return rejected(named, said(named, because, at), declared=declared)


def shadow(*named, because="its owner is away", at=AT):
    return shadowed(named, said(named, because, at))


def failing(sealed_at=None):
    """A run whose one case failed: what the good record would have been with an error over its limit."""
    doc = ready(sealed_at=sealed_at)
    part = doc["promotion"]
    part["parity"][0].update(fro=0.02, row=0.03, verdict="fail")
    for rung in part["ladder"]:
        if rung["rung"] in ("fwd_parity", "bwd_parity"):
            rung.pop("proof_class", None)
            rung.update(held=False, evidence=[], reason="a case failed")
    part.update(state="rejected", state_reason="wrong_scale: forward: over its limit", promotion_ready=False)
    assert broken_rules(doc) == ()
    return doc


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
    with pytest.raises(RecordError, match="one scope at a time"):
        promote((ID, ready()), (OTHER, ready("promotion_sparse_kernel")))

    with pytest.raises(RecordError, match="one scope at a time"):
        reject((ID, failing()), (OTHER, ready("promotion_sparse_kernel")))


@pytest.mark.parametrize("because", ["", "  ", "x" * 1001])
def test_a_promotion_needs_a_reason(because):
    with pytest.raises(RecordError, match="needs a reason"):
        promote((ID, ready()), because=because)
    with pytest.raises(RecordError, match="needs a reason"):
        reject((ID, failing()), because=because)
    with pytest.raises(RecordError, match="needs a reason"):
        shadow((ID, ready()), because=because)


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


# -- rejecting, and the shadow ------------------------------------------------------------------------------------------

SAME = (
    "parity",
    "ladder",
    "execute_proof",
    "evidence_key",
    "scope",
    "stop_rules",
    "candidate",
    "import_health",
    "remote",
)


@pytest.mark.parametrize(
    ("say", "run", "state", "status", "reason"),
    [
        (reject, failing, "rejected", "rejected", "wrong_scale: forward: over its limit"),
        (lambda item: reject(item, declared=True), ready, "rejected", "rejected", "declared: it broke a training"),
        (
            lambda item: reject(item, declared=True), lambda: ready("promotion_compiled_only"), "rejected", "rejected",
            "declared: it broke a training",
        ),
        (shadow, ready, "shadow", "none", "declared: its owner is away"),
        (shadow, failing, "shadow", "none", "declared: its owner is away"),
    ],
)  # fmt: skip
def test_a_word_states_the_evidence_again_and_says_what_it_rests_on(say, run, state, status, reason):
    before = run()
    kept = copy.deepcopy(before)
    doc = say((ID, before))
    part = doc["promotion"]
    assert before == kept, "the named record is not touched"
    assert broken_rules(doc) == ()
    assert (part["state"], part["promotion_status"], part["state_reason"]) == (state, status, reason)
    assert part["promotion_ready"] is False
    assert part["promoted_on"] == [ID]
    assert all(part[key] == before["promotion"][key] for key in SAME), "nothing observed is changed"
    spoken = doc["findings"][-1]
    assert spoken["kind"] == {"rejected": "rejected_by_person", "shadow": "shadowed_by_person"}[state]
    assert spoken["evidence"][0].startswith("declared by a person" if "declared" in reason else f"observed in {ID}")


def test_a_rejection_is_shown_or_declared_and_never_both():
    with pytest.raises(RecordError, match="no named record shows a failure"):
        reject((ID, ready()))
    with pytest.raises(RecordError, match="which is no mere word"):
        reject((ID, failing()), declared=True)
    doc = reject((ID, ready()), (OTHER, failing()))
    assert doc["promotion"]["state_reason"].startswith("wrong_scale: "), "the one that failed is stated again"
    assert doc["promotion"]["promoted_on"] == [ID, OTHER]


@pytest.mark.parametrize("say", [reject, shadow])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("itself a word", lambda: ready("promotion_promoted")),
        ("itself a word", lambda: shadow((ID, ready()))),
        ("no record of the promotion lane", lambda: {"lane": "training"}),
        ("breaks the rule", lambda: lacking("evidence", [])),
    ],
)
def test_what_no_word_can_rest_on(say, words, named):
    with pytest.raises(RecordError, match=words):
        say((ID, named()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda doc: doc["findings"].pop(), "nobody says so"),
        (lambda doc: doc["evidence"].pop(), "not in the evidence"),
        (lambda doc: doc["promotion"]["promoted_on"].append(OTHER), "not in the evidence"),
        (lambda doc: doc["promotion"].update(state_reason="it looked wrong"), "nothing that is observed"),
        (lambda doc: doc["promotion"]["parity"][0].update(verdict="no_power"), "no parity case failed"),
        (lambda doc: doc["promotion"].update(state_reason="stop_rule_broken: x"), "none is"),
        (lambda doc: doc["promotion"].update(promoted_on=[], state_reason="declared: x"), "nobody declared it"),
    ],
)
def test_a_rejection_that_poses_as_observed_breaks_a_rule(change, problem):
    doc = reject((ID, failing()))
    change(doc)
    broken = {item.rule: item.problem for item in broken_rules(doc)}
    assert problem in broken["word-shows-its-basis"]


def test_a_shadow_never_poses_as_observed():
    doc = shadow((ID, failing()))
    doc["promotion"]["state_reason"] = "wrong_scale: x"
    assert "as if it had been observed" in str(broken_rules(doc))


def test_a_rejection_holds_until_a_later_run_is_promoted():
    first = ready(sealed_at="2026-11-22T15:22:44.020Z")
    word = (OTHER, reject((ID, first), declared=True, at="2026-11-25T00:00:00.000Z"))
    stands = standing_of(first, word[1])
    assert (stands.status, stands.basis, stands.because) == ("rejected", "declared", "it broke a training")
    assert (stands.ready, stands.promotion_id) == (False, None)
    assert stands.owed == ("a run that begins after the rejection of 2026-11-25T00:00:00",)
    with pytest.raises(RecordError, match="begun before"):
        promote((ID, first), after=word)

    sealed_later = ready(sealed_at="2026-11-26T00:00:00.000Z")
    with pytest.raises(RecordError, match="begun before"):
        promote((ID, sealed_later), after=word)  # it began before, and only ended later
    later = later_run()
    assert refusal_of([(ID, first), word, (ID, later)], scope_of(first)) == word
    stands = standing_of(first, word[1], later)
    assert (stands.status, stands.ready, stands.owed) == ("rejected", True, ())
    moved = promote((ID, later), after=word)
    assert broken_rules(moved) == ()
    assert word[0] in {item["digest"] for item in moved["evidence"]}, "no rejection is hidden by a promotion"
    assert word[0] in moved["findings"][-1]["evidence"][0]
    assert standing_of(first, word[1], later, moved).status == "promoted"
    with pytest.raises(RecordError, match="begun before"):
        promote((ID, later), (OTHER, first), after=word)


def later_run(began="2026-11-27T00:00:00.000Z", ended="2026-11-27T00:01:00.000Z"):
    doc = ready(sealed_at=ended)
    doc["times"]["prepared_at"] = began
    return doc


def test_a_rejection_on_evidence_says_both_reasons_and_never_expires():
    old = failing()
    word = reject((ID, old), at="2026-11-25T00:00:00.000Z")
    word["promotion"]["evidence_key"] = evidence_key({**word["promotion"]["evidence_key"]["components"], "driver": "1"})
    stands = standing_of(old, word)
    assert (stands.status, stands.basis, stands.expired) == ("rejected", "observed", ())
    assert stands.because == "wrong_scale: forward: over its limit; it broke a training"


def test_of_two_words_in_one_moment_the_refusing_one_stands():
    run = ready()
    assert standing_of(run, reject((ID, run), declared=True), promote((ID, run))).status == "rejected"
    assert standing_of(run, promote((ID, run)), shadow((ID, run))).status == "shadow"


#: What a status is worth; removing what was shown must never lead upwards.
WORTH = {"rejected": 0, "shadow": 1, "none": 2, "expired": 2, "promoted": 3}


def histories():
    """Every order of up to four runs and words, each at a time of its own; words rest on the run before them."""
    for length in range(1, 5):
        for kinds in itertools.product(("ready", "failing", "promote", "reject", "declare", "shadow"), repeat=length):
            out, last = [], None
            for hour, kind in enumerate(kinds):
                at = f"2026-11-23T{hour:02d}:30:00.000Z"
                if kind in ("ready", "failing"):
                    doc = ready(sealed_at=at) if kind == "ready" else failing(at)
                    doc["times"]["prepared_at"] = f"2026-11-23T{hour:02d}:00:00.000Z"
                    last = (f"sha256:{hour:064x}", doc)
                elif last is None:
                    break
                else:
                    try:
                        doc = word(kind, last, at, refusal_of(out, scope_of(last[1])))
                    except RecordError:
                        break
                out.append((f"sha256:{hour:064x}", doc))
            else:
                yield kinds, out


def word(kind, last, at, after):
    if kind == "promote":
        return promote(last, at=at, after=after)
    return shadow(last, at=at) if kind == "shadow" else reject(last, at=at, declared=kind == "declare")


def test_taking_evidence_away_never_raises_where_a_scope_stands(monkeypatch):
    """Over every history: without any one good run or promotion it stands no higher; and no rejection is lifted by
    taking away the run that it rests on, nor by a promotion that leaves it unsaid."""
    monkeypatch.setattr("lanemark.lanes.promoting.broken_rules", lambda _: ())  # each is held to them above
    num_histories = 0
    for kinds, records in histories():
        num_histories += 1
        (whole,) = standings(records)
        refused = [item for item in records if word_of(item[1]) in ("rejected", "shadow")]
        for place, (_, doc) in enumerate(records):
            left = records[:place] + records[place + 1 :]
            if not left or word_of(doc) in ("rejected", "shadow"):
                continue
            (less,) = standings(left)
            if kinds[place] != "failing":
                assert WORTH[less.status] <= WORTH[whole.status], kinds
                assert whole.ready or not less.ready, kinds
            if whole.status in ("rejected", "shadow") and word_of(doc) is None:
                assert less.status == whole.status, kinds
        if whole.status == "promoted" and refused:
            named = {item["digest"] for _, doc in records if word_of(doc) == "promoted" for item in doc["evidence"]}
            assert refused[-1][0] in named, kinds
    assert num_histories > 100


@pytest.mark.parametrize(
    "say", [lambda: promote((ID, ready())), lambda: reject((ID, failing())), lambda: shadow((ID, ready()))]
)
def test_a_word_with_less_in_it_supports_no_more(say):
    """Of each word's record every piece is taken away: it becomes no promotion, nothing ready, and names no run."""
    whole = say()
    assert owed(whole) == () or whole["promotion"]["promotion_status"] != "promoted"
    for place in range(len(whole["evidence"])):
        doc = copy.deepcopy(whole)
        doc["evidence"].pop(place)
        assert owed(whole) == () or owed(doc) != ()
        assert word_of(doc) == word_of(whole)
        with pytest.raises(RecordError):
            promote((ID, doc))
