"""`lanemark promote` and `lanemark promotion status` over a real ledger: one promotion from evidence to expiry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.lanes.promotion_record import evidence_key, rule_tables
from lanemark.ledger.ledger import Ledger
from lanemark.records.attempt import Home
from lanemark.records.observation import value_of
from lanemark.records.statement import seal, subjects

READY = Path(__file__).parents[2] / "assets" / "records" / "good" / "promotion_ready_fa4.json"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    for name in ("LANEMARK_LEDGER", "LANEMARK_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    return Ledger(Home(tmp_path).ledger)


def append(ledger: Ledger, run: str, sealed_at: str, *, fails: bool = False, **components: str) -> str:
    """A ready record of the corpus, as today's matrix and rule tables would have it, under another run id."""
    doc: dict[str, Any] = json.loads(READY.read_bytes())["predicate"]
    if fails:
        part = doc["promotion"]
        part["parity"][0].update(fro=0.02, row=0.03, verdict="fail")
        part["ladder"][5] = {"rung": "fwd_parity", "held": False, "evidence": [], "reason": "a case failed"}
        part.update(state="rejected", state_reason="wrong_scale: over its limit", promotion_ready=False)
    key = {**doc["promotion"]["evidence_key"]["components"], "matrix": rule_tables(), **components}
    doc["promotion"]["evidence_key"] = evidence_key(key)
    doc["run_id"], doc["times"]["sealed_at"] = f"promotion-20261122T152233Z-{run}", sealed_at
    doc["times"]["prepared_at"] = sealed_at
    about = subjects(
        plan_digest=doc["plan_digest"], image_digest=value_of(doc["image"]["digest"]),
        commit=value_of(doc["source"]["commit"]),
    )  # fmt: skip
    return ledger.append(seal(doc, about).data).id


def printed(capsys: Capture, *args: str, code: int = 0) -> dict[str, Any]:
    assert main([*args, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_promotion_from_evidence_to_expiry(ledger: Ledger, capsys: Capture) -> None:
    first = append(ledger, "aaaaaaaa", "2026-11-22T15:22:44.020Z")
    before = printed(capsys, "promotion", "status")["standings"][0]
    assert (before["status"], before["ready"], before["owed"]) == ("none", True, [])

    done = printed(capsys, "promote", first[7:19], "--because", "the matrix passed on the canonical host")
    assert done["promoted_on"] == [first]
    assert main(["verify", done["record_id"]]) == 0
    shown = capsys.readouterr().out
    assert "ok" in shown
    assert "no rule of the lane is broken" in shown
    kept = json.loads(Path(done["record_path"]).read_bytes())["predicate"]
    assert kept["promotion"]["promotion_status"] == "promoted"
    assert any(item["digest"] == first for item in kept["evidence"]), "the evidence is named by its digest"
    assert (ledger.root / "evidence" / first[7:9] / first[7:]).exists(), "and kept"
    assert kept["findings"][-1]["kind"] == "promoted_by_person"

    stands = printed(capsys, "promotion", "status", "--candidate", "fa4")["standings"][0]
    assert (stands["status"], stands["expired"], stands["promotion_id"]) == ("promoted", [], done["record_id"])
    assert printed(capsys, "promotion", "status", "--candidate", "fa2") == {"standings": []}

    append(ledger, "bbbbbbbb", "2099-01-01T00:00:00.000Z", driver="999.1")
    stands = printed(capsys, "promotion", "status")["standings"][0]
    assert (stands["status"], stands["expired"]) == ("expired", ["driver"])
    assert main(["promotion", "status"]) == 0
    told = capsys.readouterr().out
    assert "expired    driver" in told
    assert "promoted by a person: the matrix passed" in told

    again = printed(capsys, "promote", done["record_id"], "--because", "once more", code=1)
    assert again["error"]["slug"] == "promotion-refused"


def test_a_promotion_of_records_that_rest_on_different_things_seals_nothing(ledger: Ledger, capsys: Capture) -> None:
    ids = [append(ledger, run, "2026-11-22T15:22:44.020Z", cuda=run) for run in ("aaaaaaaa", "bbbbbbbb")]
    assert printed(capsys, "promote", *ids, "--because", "x", code=1)["error"]["slug"] == "promotion-refused"
    assert len(ledger.list(lane="promotion").rows) == 2


def test_a_rejection_on_evidence_is_kept_told_and_outlived(ledger: Ledger, capsys: Capture) -> None:
    failed = append(ledger, "aaaaaaaa", "2026-11-22T15:22:44.020Z", fails=True)
    why = ("--because", "it broke the nightly training")
    done = printed(capsys, "promote", failed, "--status", "rejected", *why)
    assert (done["word"], done["promotion_status"], done["state"]) == ("rejected", "rejected", "rejected")
    assert done["reason"] == "wrong_scale: over its limit", "what was observed stays the reason"
    assert main(["verify", done["record_id"]]) == 0
    assert "no rule of the lane is broken" in capsys.readouterr().out
    assert main(["show", done["record_id"]]) == 0
    assert "rejected: it broke the nightly training" in capsys.readouterr().out
    assert main(["promotion", "status"]) == 0
    told = capsys.readouterr().out
    assert "direction" not in told
    assert f"on {done['record_id'][7:19]}, observed: wrong_scale: over its limit; it broke the nightly training" in told

    old = append(ledger, "bbbbbbbb", "2026-11-23T15:22:44.020Z")  # ready, and begun before the rejection
    assert printed(capsys, "promote", old, "--because", "it passed", code=1)["error"]["slug"] == "promotion-refused"
    later = append(ledger, "cccccccc", "2099-01-01T00:00:00.000Z")
    stands = printed(capsys, "promotion", "status")["standings"][0]
    assert (stands["status"], stands["ready"], stands["owed"]) == ("rejected", True, [])
    moved = printed(capsys, "promote", later, "--because", "mended and run again")
    assert (ledger.root / "evidence" / done["record_id"][7:9] / done["record_id"][7:]).exists(), (
        "it names the rejection"
    )
    assert main(["verify", moved["record_id"]]) == 0


def test_a_declared_rejection_and_a_shadow_say_so_everywhere(ledger: Ledger, capsys: Capture) -> None:
    run = append(ledger, "aaaaaaaa", "2026-11-22T15:22:44.020Z")
    why = ("--because", "its licence changed")
    refused = printed(capsys, "promote", run, "--status", "rejected", *why, code=1)
    assert "no named record shows a failure" in refused["error"]["message"]
    done = printed(capsys, "promote", run, "--status", "rejected", "--declared", *why)
    assert done["reason"] == "declared: its licence changed"
    assert main(["cite", done["record_id"]]) == 0
    assert "declared: its licence changed" in capsys.readouterr().out
    assert printed(capsys, "promotion", "status")["standings"][0]["basis"] == "declared"
    done = printed(capsys, "promote", run, "--status", "shadow", *why)
    assert (done["word"], done["promotion_status"], done["state"]) == ("shadow", "none", "shadow")
    assert main(["verify", done["record_id"]]) == 0
    capsys.readouterr()
    stands = printed(capsys, "promotion", "status")["standings"][0]
    assert (stands["status"], stands["ready"]) == ("shadow", False)
    assert stands["owed"][-1].startswith("a run that begins after the shadow of ")


@pytest.mark.parametrize("words", [("--status", "blocked"), ("--declared",), ("--status", "shadow", "--declared")])
def test_what_nobody_can_say(ledger: Ledger, capsys: Capture, words: tuple[str, ...]) -> None:
    run = append(ledger, "aaaaaaaa", "2026-11-22T15:22:44.020Z")
    assert printed(capsys, "promote", run, *words, "--because", "x", code=2)["error"]["slug"] == "value-invalid"
    assert len(ledger.list(lane="promotion").rows) == 1


def test_an_empty_ledger_says_how_to_begin(ledger: Ledger, capsys: Capture) -> None:
    assert main(["promotion", "status"]) == 0
    assert "lanemark run promotion" in capsys.readouterr().out


def test_a_wave_that_was_left_detached_is_summed_up_from_its_records(ledger: Ledger, capsys: Capture) -> None:
    record = append(ledger, "aaaaaaaa", "2026-11-22T15:22:44.020Z")
    made = printed(capsys, "promotion", "wave", "smoke-1")
    assert [row["record_id"] for row in made["manifest"]["records"]] == [record]
    assert made["contradicted"] == []
    assert printed(capsys, "promotion", "wave")["digest"] == made["digest"], "it is kept"
