"""Importing: verified, complete, idempotent, and never a second story of one run."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.ledger import keys, signing
from lanemark.ledger.importing import import_records
from lanemark.ledger.ledger import Ledger
from lanemark.records.encoding import digest, encode
from lanemark.records.errors import DataError

CORPUS = Path(__file__).parents[2] / "assets" / "records"
GOOD = {path.stem: path.read_bytes() for path in sorted((CORPUS / "good").glob("*.json"))}
EVIDENCE = CORPUS / "evidence" / "ranks" / "0" / "samples.bin"


@pytest.fixture
def source(tmp_path):
    ledger = Ledger(tmp_path / "theirs", {})
    for data in GOOD.values():
        ledger.append(data, [("ranks/0/samples.bin", EVIDENCE)])
    return ledger


@pytest.fixture
def ours(tmp_path):
    return Ledger(tmp_path / "ours", {})


def statuses(outcomes) -> dict[str, int]:
    return {
        name: sum(o.status == name and o.kind == "record" for o in outcomes)
        for name in ("imported", "present", "refused")
    }


def other_of_the_same_run(name: str) -> bytes:
    doc = json.loads(GOOD[name])
    doc["predicate"]["surface"]["hostname"]["value"] = "another-host"
    return encode(doc)


def put(directory: Path, data: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{digest(data)[7:]}.json"
    path.write_bytes(data)
    return path


def test_a_ledger_is_taken_in_whole_and_only_once(source, ours):
    seen = []
    assert statuses(import_records(ours, [source.root], seen.append)) == {
        "imported": len(GOOD),
        "present": 0,
        "refused": 0,
    }
    assert seen == list(range(1, len(GOOD) + 1))
    assert ours.list().rows == source.list().rows
    for data in GOOD.values():
        assert ours.get(digest(data)).data == data
    assert {p.name for p in (ours.root / "evidence").glob("*/*")} == {
        p.name for p in (source.root / "evidence").glob("*/*")
    }
    assert ours.verify(digest(GOOD["eager_ddp_cpu"])).steps[7].status == "ok"
    assert statuses(import_records(ours, [source.root])) == {"imported": 0, "present": len(GOOD), "refused": 0}


def test_files_and_directories_of_files_are_taken_as_well(ours, tmp_path):
    one = put(tmp_path / "some", GOOD["synthetic"])
    put(tmp_path / "some", GOOD["lost"])
    assert statuses(import_records(ours, [one]))["imported"] == 1
    assert statuses(import_records(ours, [tmp_path / "some", one])) == {"imported": 1, "present": 1, "refused": 0}


def test_another_record_of_a_run_that_is_here_is_refused_and_named(ours, tmp_path):
    ours.append(GOOD["synthetic"])
    other = other_of_the_same_run("synthetic")
    (outcome,) = import_records(ours, [put(tmp_path / "x", other)])
    assert (outcome.status, outcome.slug, outcome.record_id) == ("refused", "import-conflict", digest(other))
    assert digest(GOOD["synthetic"]) in outcome.reason
    assert [row.id for row in ours.list().rows] == [digest(GOOD["synthetic"])]


def test_two_records_of_one_run_are_both_refused(ours, tmp_path):
    put(tmp_path / "x", GOOD["synthetic"])
    put(tmp_path / "x", other_of_the_same_run("synthetic"))
    put(tmp_path / "x", GOOD["lost"])
    outcomes = import_records(ours, [tmp_path / "x"])
    assert statuses(outcomes) == {"imported": 1, "present": 0, "refused": 2}
    assert {o.slug for o in outcomes if o.status == "refused"} == {"import-conflict"}


def broken_rule() -> bytes:
    doc = json.loads(GOOD["eager_ddp_cpu"])
    doc["predicate"]["training"]["step_time"]["value"]["mean_s"] *= 0.5
    return encode(doc)


@pytest.mark.parametrize(
    ("slug", "name", "data"),
    [
        ("record-corrupt", "0" * 64 + ".json", GOOD["lost"]),
        ("record-corrupt", "record.json", GOOD["lost"]),
        ("record-malformed", None, b"{"),
        ("record-foreign", None, b'{"_type":"x"}'),
        ("record-too-new", None, GOOD["lost"].replace(b'"record_version":"1.1"', b'"record_version":"2.0"')),
        ("lane-rule-broken", None, broken_rule()),
    ],
)
def test_what_does_not_verify_is_refused_and_keeps_nothing_good_out(ours, tmp_path, slug, name, data):
    path = put(tmp_path / "x", data)
    if name is not None:
        path.rename(path.with_name(name))
    put(tmp_path / "x", GOOD["synthetic"])
    outcomes = import_records(ours, [tmp_path / "x"])
    assert statuses(outcomes) == {"imported": 1, "present": 0, "refused": 1}
    assert [o.slug for o in outcomes if o.status == "refused"] == [slug]
    assert [row.id for row in ours.list().rows] == [digest(GOOD["synthetic"])]


def test_evidence_with_other_bytes_keeps_its_record_out(source, ours):
    (kept,) = (source.root / "evidence").glob("*/*")
    kept.chmod(0o644)
    kept.write_bytes(b"other bytes")
    outcomes = import_records(ours, [source.root])
    assert {o.slug for o in outcomes if o.status == "refused"} == {"evidence-mismatch"}
    assert not (ours.root / "evidence").exists()


def test_a_record_whose_evidence_is_not_at_hand_is_taken_without_it(source, ours):
    shutil.rmtree(source.root / "evidence")
    assert statuses(import_records(ours, [source.root]))["imported"] == len(GOOD)


def test_a_source_that_is_not_there_is_an_error_before_anything_is_taken(source, ours, tmp_path):
    with pytest.raises(DataError) as caught:
        import_records(ours, [source.root, tmp_path / "gone"])
    assert caught.value.slug == "data-missing"
    assert not ours.root.exists()


DATA = GOOD["eager_ddp_cpu"]


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "a.pem"
    keys.make_key(path)
    return keys.load_signing_key(path)


def signatures(outcomes) -> list[tuple[str, str | None]]:
    return [(o.status, o.slug) for o in outcomes if o.kind == "signature"]


def test_signatures_come_along_and_are_good_here(source, ours, signer):
    path = signing.sign(source.root, DATA, signer)
    assert signatures(import_records(ours, [source.root])) == [("imported", None)]
    assert Path(ours.signature_place(digest(DATA), signer.public.keyid)).read_bytes() == path.read_bytes()
    assert ours.verify(digest(DATA), keys=(signer.public,)).ok
    assert signatures(import_records(ours, [source.root])) == [("present", None)]


def test_a_new_signature_follows_a_record_that_is_here_already(ours, signer, tmp_path):
    ours.append(DATA)
    lone = put(tmp_path / "x", DATA)
    assert signatures(import_records(ours, [lone])) == []
    signing.sign(lone.parent, DATA, signer)
    outcomes = import_records(ours, [lone])
    assert (statuses(outcomes)["present"], signatures(outcomes)) == (1, [("imported", None)])
    assert ours.verify(digest(DATA), keys=(signer.public,)).ok


def test_the_signatures_of_a_refused_record_stay_out(ours, signer, tmp_path):
    ours.append(GOOD["synthetic"])
    other = other_of_the_same_run("synthetic")
    lone = put(tmp_path / "x", other)
    signing.sign(lone.parent, other, signer)
    assert signatures(import_records(ours, [lone])) == []
    assert not (ours.root / "sigs").exists()


def test_another_file_under_a_signers_name_is_a_conflict_and_nothing_is_replaced(source, ours, signer):
    signing.sign(source.root, DATA, signer)
    ours.append(DATA)
    mine = signing.sign(ours.root, DATA, signer)
    doc = json.loads(mine.read_bytes())
    doc["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    mine.write_bytes(encode(doc))
    outcomes = import_records(ours, [source.root])
    assert signatures(outcomes) == [("refused", "signature-conflict")]
    assert mine.read_bytes() == encode(doc)
    assert statuses(outcomes)["refused"] == 0


HOSTILE = {
    "empty": lambda good: b"",
    "garbage": lambda good: b"\xff" * 100,
    "cut-short": lambda good: good[:-20],
    "another-record": lambda good: good.replace(json.loads(good)["payload"].encode(), base64.b64encode(GOOD["lost"])),
    "another-type": lambda good: good.replace(b"vnd.in-toto+json", b"json"),
    "two-signatures": lambda good: encode(json.loads(good) | {"signatures": json.loads(good)["signatures"] * 2}),
    "short-signature": lambda good: encode(
        json.loads(good) | {"signatures": [json.loads(good)["signatures"][0] | {"sig": "AAAA"}]}
    ),
    "deep": lambda good: b"[" * 100_000,
    "another-key": lambda good: encode(
        json.loads(good) | {"signatures": [json.loads(good)["signatures"][0] | {"keyid": "0" * 64}]}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_signature_is_refused_and_its_record_is_not(source, ours, signer, name):
    path = signing.sign(source.root, DATA, signer)
    path.write_bytes(HOSTILE[name](path.read_bytes()))
    outcomes = import_records(ours, [source.root])
    assert signatures(outcomes) == [("refused", "signature-invalid")]
    assert statuses(outcomes) == {"imported": len(GOOD), "present": 0, "refused": 0}
    assert not (ours.root / "sigs").exists()


def test_what_is_no_signature_file_is_refused_at_once(source, ours, signer):
    directory = signing.sign(source.root, DATA, signer).parent
    (directory / "notes.txt").write_text("x")
    (directory / f".{'b' * 64}.1.tmp").write_text("a writer that died")
    os.mkfifo(directory / f"{'a' * 64}.json")
    (directory / f"{'c' * 64}.json").mkdir()
    outcomes = import_records(ours, [source.root])
    assert sorted(signatures(outcomes), key=str) == [("imported", None), *[("refused", "signature-invalid")] * 3]
    assert [path.name for path in (ours.root / "sigs").glob("*/*")] == [f"{signer.public.keyid}.json"]


def test_the_verb_says_what_became_of_each_file(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    assert main(["import", str(source.root), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["imported"], said["refused"], len(said["files"])) == (len(GOOD), 0, len(GOOD))
    assert said["signatures"] == {"imported": 0, "present": 0, "refused": 0}
    junk = signing.signature_directory(source.root, digest(DATA)) / "junk"
    junk.parent.mkdir(parents=True)
    junk.write_text("x")
    assert main(["import", str(source.root)]) == 1
    out, err = capsys.readouterr()
    assert "signatures: 0 imported, 0 here already, 1 refused" in out
    assert "[signature-invalid]" in err
    bad = put(tmp_path / "x", b"{}")
    assert main(["import", str(bad)]) == 1
    out, err = capsys.readouterr()
    assert "refused: 1" in out
    assert "[record-foreign]" in err
    assert main(["import", str(tmp_path / "gone")]) == 2
