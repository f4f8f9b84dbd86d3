"""Verification: eleven numbered steps, closed by any failure, for a ledger's record and for a lone file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lanemark.ledger import verify as verify_module
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.verify import STEPS, verify_bytes, verify_file
from lanemark.records.encoding import MAX_RECORD_BYTES, digest, encode
from lanemark.records.errors import SLUGS

CORPUS = Path(__file__).parents[2] / "assets" / "records"
DATA = (CORPUS / "good" / "eager_ddp_cpu.json").read_bytes()
SAMPLES = CORPUS / "evidence" / "ranks" / "0" / "samples.bin"


def statuses(report):
    return [step.status for step in report.steps]


def attempt(root: Path, data: bytes = DATA) -> Path:
    (root / "ranks" / "0").mkdir(parents=True)
    (root / "ranks" / "0" / "samples.bin").write_bytes(SAMPLES.read_bytes())
    (root / "record.json").write_bytes(data)
    return root / "record.json"


def test_a_record_in_a_ledger_passes_every_step(tmp_path):
    ledger = Ledger(tmp_path, {})
    appended = ledger.append(DATA, [("ranks/0/samples.bin", SAMPLES)])
    report = ledger.verify(appended.id)
    assert report.ok
    assert statuses(report) == [*["ok"] * 8, *["skipped"] * 3]
    assert [(step.number, step.name) for step in report.steps] == list(enumerate(STEPS, 1))
    assert verify_file(appended.path) == report
    report.raise_if_failed()
    doc = report.to_json()
    assert (doc["ok"], doc["record_id"], len(doc["steps"])) == (True, digest(DATA), 11)


def test_a_lone_file_beside_its_evidence_passes_but_for_its_name(tmp_path):
    report = verify_file(attempt(tmp_path))
    assert report.ok
    assert statuses(report) == ["ok", "skipped", *["ok"] * 6, *["skipped"] * 3]
    assert digest(DATA) in report.steps[1].detail


def test_bytes_may_be_held_against_an_id():
    assert verify_bytes(DATA, expected_id=digest(DATA)).ok
    assert verify_bytes(DATA).ok
    assert verify_bytes(DATA + b" ", expected_id=digest(DATA)).failure.name == "digest"


def test_evidence_that_is_not_at_hand_is_no_failure(tmp_path):
    (tmp_path / "lone.json").write_bytes(DATA)
    report = verify_file(tmp_path / "lone.json")
    assert report.ok
    assert report.steps[7].status == "skipped"
    assert report.not_at_hand == ("ranks/0/samples.bin",)


@pytest.mark.parametrize("content", [b"", b"other bytes", SAMPLES.read_bytes() + b"\0"])
def test_evidence_with_other_bytes_is_a_failure(tmp_path, content):
    path = attempt(tmp_path)
    (tmp_path / "ranks" / "0" / "samples.bin").write_bytes(content)
    report = verify_file(path)
    assert not report.ok
    assert (report.failure.name, report.failure.slug) == ("evidence", "evidence-mismatch")


def test_evidence_changed_inside_the_ledger_is_a_failure(tmp_path):
    ledger = Ledger(tmp_path, {})
    appended = ledger.append(DATA, [("ranks/0/samples.bin", SAMPLES)])
    (kept,) = (tmp_path / "evidence").glob("*/*")
    kept.chmod(0o644)
    kept.write_bytes(b"x")
    assert ledger.verify(appended.id).failure.slug == "evidence-mismatch"


def test_evidence_is_never_followed_out_of_the_attempt(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(SAMPLES.read_bytes())
    path = attempt(tmp_path / "attempt")
    inside = tmp_path / "attempt" / "ranks" / "0" / "samples.bin"
    inside.unlink()
    inside.symlink_to(secret)
    assert verify_file(path).not_at_hand == ("ranks/0/samples.bin",)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        report = verify_file(path)
        assert (report.ok, report.record_id, report.failure.number) == (False, None, 1)
        assert report.failure.slug == "record-missing"


def test_a_file_larger_than_any_record_is_refused_unread(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MAX_RECORD_BYTES + 1)
    report = verify_file(path)
    assert (report.failure.slug, report.record_id) == ("record-too-large", None)
    assert statuses(report) == ["failed", *["skipped"] * 10]


def test_a_case_changed_after_the_run_does_not_pass():
    doc = json.loads(DATA)
    doc["predicate"]["case"]["seed"] = 1
    assert verify_bytes(encode(doc)).failure.slug == "plan-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda doc: doc["subject"].pop(),
        lambda doc: doc["subject"].append(doc["subject"][0]),
        lambda doc: doc["subject"].append({"name": "image", "digest": {"sha256": "0" * 64}}),
        lambda doc: doc["subject"][1]["digest"].update(gitCommit="0" * 40),
        lambda doc: doc["subject"][0].update(name="plan"),
    ],
)
def test_subjects_are_exactly_what_the_record_observed(change):
    doc = json.loads(DATA)
    change(doc)
    assert verify_bytes(encode(doc)).failure.slug == "plan-mismatch"


def test_a_defect_of_ours_does_not_pass_for_a_verified_record(monkeypatch):
    def broken(_doc, _survey):
        raise ZeroDivisionError

    monkeypatch.setattr(verify_module, "broken_rules", broken)
    report = verify_bytes(DATA)
    assert not report.ok
    assert report.failure.name == "rules"
    assert "ZeroDivisionError" in report.failure.detail


def test_every_slug_of_a_step_is_one_that_is_documented():
    used = {
        "record-missing",
        "record-too-large",
        "record-corrupt",
        "record-malformed",
        "record-foreign",
        "record-unfit",
        "record-too-new",
    }
    assert used | {"plan-mismatch", "lane-rule-broken", "evidence-mismatch"} <= set(SLUGS)


def test_details_can_be_printed_whatever_the_record_holds():
    doc = json.loads(DATA)
    doc["predicate"]["evidence"][0]["name"] = "a\x1b[31m\nb"
    report = verify_bytes(encode(doc))
    assert report.not_at_hand[0].isprintable()
    assert all(step.detail.isprintable() for step in report.steps)
