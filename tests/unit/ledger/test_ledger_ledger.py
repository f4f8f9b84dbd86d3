"""`Ledger`: appending succeeds once the record is safe; listing misses nothing; every refusal has its slug."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lanemark.ledger import ledger as ledger_module
from lanemark.ledger.index import IndexUnusableError
from lanemark.ledger.ledger import Ledger, index_path
from lanemark.ledger.objects import publish
from lanemark.records.encoding import digest
from lanemark.records.errors import LedgerError, RecordError

CORPUS = Path(__file__).parents[2] / "assets" / "records"
GOOD = {path.stem: path.read_bytes() for path in sorted((CORPUS / "good").glob("*.json"))}
EVIDENCE = [("ranks/0/samples.bin", CORPUS / "evidence" / "ranks" / "0" / "samples.bin")]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger", {})


@pytest.fixture
def full(ledger):
    for data in GOOD.values():
        assert ledger.append(data, EVIDENCE).notices == ()
    return ledger


def test_appended_records_come_back_byte_for_byte(full):
    for data in GOOD.values():
        for asked in (digest(data), digest(data)[7:27], json.loads(data)["predicate"]["run_id"]):
            assert full.get(asked).data == data
    assert len(full.list().rows) == len(GOOD)
    assert full.list().notices == ()


def test_appending_again_changes_nothing(full):
    data = GOOD["synthetic"]
    appended = full.append(data)
    assert appended.id == digest(data)
    assert appended.path.read_bytes() == data
    assert len(full.list().rows) == len(GOOD)


def test_an_empty_ledger_is_empty_and_stays_unmade(ledger):
    assert ledger.list().rows == ()
    assert ledger.sync().bad == ()
    with pytest.raises(RecordError):
        ledger.get("ab")
    with pytest.raises(RecordError):
        ledger.get("training-20261122T152233Z-0000none")
    assert not ledger.root.exists()


def test_a_record_is_safe_although_its_index_is_not(ledger, monkeypatch):
    def refuse(*_args):
        raise IndexUnusableError("database is locked")

    monkeypatch.setattr(ledger_module.Index, "add", refuse)
    appended = ledger.append(GOOD["lost"])
    assert "index sync" in appended.notices[0]
    monkeypatch.undo()
    assert [row.outcome for row in ledger.list().rows] == ["lost"]


def test_a_record_is_safe_although_its_evidence_is_not(ledger, tmp_path):
    appended = ledger.append(GOOD["eager_ddp_cpu"], [("ranks/9/samples.bin", tmp_path / "gone"), *EVIDENCE])
    assert len(appended.notices) == 1
    assert "ranks/9/samples.bin" in appended.notices[0]
    assert ledger.get(appended.id).data == GOOD["eager_ddp_cpu"]
    assert ledger.verify(appended.id).steps[7].status == "ok"


def test_where_sqlite_cannot_be_used_the_files_are_read(full):
    before = full.list(limit=4).rows
    index = full.index_file
    index.unlink()
    index.mkdir()
    listing = full.list(limit=4)
    assert listing.rows == before
    assert "every record was read" in listing.notices[0]
    assert full.list(gpu="h100").rows == tuple(row for row in full.list().rows if row.device_class == "H100")
    torn = next((full.root / "objects").glob("*/*.json"))
    torn.chmod(0o644)
    torn.write_bytes(b"{")
    (full.root / "objects" / "junk").write_bytes(b"")
    assert {bad.name for bad in full.list().bad} == {str(torn.relative_to(full.root)), "objects/junk"}
    with pytest.raises(LedgerError) as caught:
        full.sync()
    assert caught.value.slug == "ledger-unwritable"


def test_a_rebuilt_index_says_so(full):
    full.index_file.write_bytes(b"garbage" * 1000)
    listing = full.list()
    assert len(listing.rows) == len(GOOD)
    assert "rebuilt" in listing.notices[0]


def test_filters_reach_the_index(full):
    assert [row.preset for row in full.list(preset="dense-1b").rows] == ["dense-1b"]
    assert {row.lane for row in full.list(lane="training").rows} == {"training"}
    assert full.list(lane="no-such-lane").rows == ()
    assert full.list(since="2027").rows == ()
    assert len(full.list(since="2026-11-22", limit=2).rows) == 2
    assert full.list(preset="\udce9").rows == ()


def test_a_damaged_record_is_never_handed_out(full):
    path = full.find(digest(GOOD["lost"]))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":2'))
    with pytest.raises(RecordError) as caught:
        full.get(path.stem)
    assert caught.value.slug == "record-corrupt"
    assert full.verify(path.stem).failure.name == "digest"


def test_a_whole_file_that_is_no_record_is_refused_by_the_reader(full):
    for data, slug in ((b"{}", "record-foreign"), (b'{"predicate":{"record_version":"2.0"}}', "record-too-new")):
        path = publish(full.root, data)
        with pytest.raises(RecordError) as caught:
            full.get(path.stem)
        assert caught.value.slug == slug
    assert len(full.sync().bad) == 2


def test_a_newer_record_is_indexed_by_what_it_shares(full):
    doc = json.loads(GOOD["synthetic"])
    doc["predicate"]["record_version"] = "2.3"
    appended = full.append(json.dumps(doc).encode())
    assert appended.notices == ()
    assert appended.id in {row.id for row in full.list().rows}


def test_ids_that_name_nothing_or_too_much(full):
    with pytest.raises(RecordError) as caught:
        full.get("nonsense")
    assert caught.value.slug == "record-missing"
    for serial in range(40):
        publish(full.root, b"%d" % serial)
    with pytest.raises(RecordError) as caught:
        full.get(digest(GOOD["lost"])[7:8])
    assert caught.value.slug == "record-ambiguous"


def test_a_ledger_that_cannot_be_read_is_not_an_empty_one(full, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    for call in (full.list, lambda: full.get("ab")):
        with pytest.raises(LedgerError) as caught:
            call()
        assert caught.value.slug == "ledger-unreadable"


def test_the_index_may_lie_elsewhere(tmp_path):
    environ = {"LANEMARK_INDEX": str(tmp_path / "cache")}
    one, two = Ledger(tmp_path / "one", environ), Ledger(tmp_path / "two", environ)
    one.append(GOOD["lost"])
    two.append(GOOD["cancelled"])
    assert one.index_file != two.index_file
    assert one.index_file.parent == tmp_path / "cache"
    assert [row.outcome for row in one.list().rows] == ["lost"]
    assert [row.outcome for row in two.list().rows] == ["cancelled"]
    assert not list((tmp_path / "one").glob("*.sqlite"))
    assert index_path(tmp_path, {}) == tmp_path / "index.sqlite"
