"""The log: what it shows of removed, moved and altered records, and what nobody can see without a checkpoint."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.ledger import checkpoint, keys, merkle
from lanemark.ledger.checkpoint import Head
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.log import TransparencyLog
from lanemark.ledger.objects import object_path, publish
from lanemark.ledger.tiles import pack, right_edge, unpack
from lanemark.ledger.verify import verify_bytes, verify_file
from lanemark.records.errors import LanemarkError, LedgerError, RecordError

GOOD = Path(__file__).parents[2] / "assets" / "records" / "good"
DATA = (GOOD / "eager_ddp_cpu.json").read_bytes()
OTHER = (GOOD / "synthetic.json").read_bytes()
SIZE = 600


def ids(count, first=0):
    return ["sha256:" + hashlib.sha256(f"record {n}".encode()).hexdigest() for n in range(first, first + count)]


def slug_of(call, *args, **kwargs):
    with pytest.raises(LanemarkError) as caught:
        call(*args, **kwargs)
    return caught.value.slug


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A ledger of `SIZE` small files with a log of all of them."""
    root = tmp_path_factory.mktemp("full")
    for number in range(SIZE):
        publish(root, f"record {number}".encode())
    TransparencyLog(root).append(ids(SIZE))
    return root


@pytest.fixture
def ledger_root(full, tmp_path):
    """A copy of it to be tampered with."""
    shutil.copytree(full, tmp_path / "ledger")
    return tmp_path / "ledger"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "log.pem"
    keys.make_key(path)
    return keys.load_signing_key(path)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


# -- growing -----------------------------------------------------------------------------------------------------------


def test_a_log_begins_with_its_first_entry(tmp_path):
    log = TransparencyLog(tmp_path / "ledger")
    assert not log.exists()
    assert slug_of(log.head) == slug_of(log.prove, ids(1)[0]) == slug_of(log.audit) == "log-missing"
    assert slug_of(log.sign, ()) == "log-missing"
    assert not (tmp_path / "ledger").exists()
    done = log.append(ids(1))
    assert (done.added, done.present, done.head.size) == (tuple(ids(1)), (), 1)
    assert log.head() == log.audit() == done.head
    assert done.head.root == merkle.leaf_hash(ids(1)[0].encode())
    assert done.head.origin != TransparencyLog(tmp_path / "other").append(ids(1)).head.origin


@pytest.mark.parametrize("few", [3, 40])
def test_appending_again_changes_nothing(tmp_path, few):
    log = TransparencyLog(tmp_path)
    head = log.append(ids(few) * 2).head
    assert head.size == few
    again = log.append([*ids(few), *ids(few)])
    assert (again.added, again.present, again.head) == ((), tuple(ids(few)), head)
    mixed = log.append([ids(few)[0], *ids(2, first=few)])
    assert (mixed.added, mixed.present) == (tuple(ids(2, first=few)), (ids(few)[0],))
    assert log.append([]).head == mixed.head


def test_what_is_appended_one_by_one_is_what_is_appended_at_once(tmp_path):
    one, all_at_once = TransparencyLog(tmp_path / "one"), TransparencyLog(tmp_path / "all")
    one.append(ids(250))
    for record_id in ids(270)[250:]:
        one.append([record_id])
    all_at_once.append(ids(270))
    assert one.head().root == all_at_once.head().root
    left = {str(p.relative_to(one.directory)) for p in one.directory.rglob("*") if p.is_file()}
    assert left == {str(p.relative_to(all_at_once.directory)) for p in all_at_once.directory.rglob("*") if p.is_file()}


def test_every_entry_is_proved_and_no_other(full):
    log = TransparencyLog(full)
    head = log.head()
    for number in (0, 255, 256, SIZE - 1):
        found = log.prove(ids(SIZE)[number])
        assert (found.number, found.head) == (number, head)
        assert merkle.included(merkle.leaf_hash(found.record_id.encode()), number, SIZE, found.proof, head.root)
    with pytest.raises(RecordError, match="not among the 600 entries") as caught:
        log.prove(ids(1, first=SIZE)[0])
    assert caught.value.slug == "log-entry-missing"


def test_a_log_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "log").write_text("in the way")
    assert slug_of(TransparencyLog(tmp_path).append, ids(1)) == "ledger-unwritable"


def test_what_a_dead_writer_left_ahead_of_the_head_is_written_over(tmp_path):
    log = TransparencyLog(tmp_path)
    log.append(ids(3))
    for name in (
        "tile/0/000.p/4",
        "tile/entries/000.p/4",
        "tile/0/000",
        "tile/entries/000",
        "tile/1/000.p/1",
        "staged",
    ):
        path = log.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left behind")
        path.chmod(0o444)
    assert log.audit().size == 3
    assert log.append(ids(1, first=3)).head == log.audit()
    assert log.append(ids(300, first=4)).head == log.audit()


def test_tiles_of_the_signed_checkpoint_are_kept_and_others_are_not(tmp_path, key):
    log = TransparencyLog(tmp_path)
    for count in (2, 5):
        log.append(ids(count))
    log.sign([key])
    for count in (7, 9):
        log.append(ids(count))
    kept = {str(p.relative_to(log.directory)) for p in (log.directory / "tile").rglob("*") if p.is_file()}
    assert kept == {file.name for size in (5, 9) for file in right_edge(size)}


# -- tampering ---------------------------------------------------------------------------------------------------------


def entries_of(log: TransparencyLog, number: int) -> tuple[Path, list[bytes]]:
    name, width = ("tile/entries/000", 256) if number < 2 else ("tile/entries/002.p/88", 88)
    path = log.directory / name.replace("000", f"{number:03d}")
    return path, list(unpack(path.read_bytes(), width, "bundle"))


def drop_entry(log):
    path, entries = entries_of(log, 1)
    overwrite(path, pack(entries[:7] + entries[8:]))


def swap_entries(log):
    path, entries = entries_of(log, 1)
    entries[7], entries[8] = entries[8], entries[7]
    overwrite(path, pack(entries))


def alter_entry(log):
    path, entries = entries_of(log, 0)
    entries[0] = ids(1, first=9999)[0].encode()
    overwrite(path, pack(entries))


def alter_last_entry(log):
    path, entries = entries_of(log, 2)
    entries[-1] = ids(1, first=9999)[0].encode()
    overwrite(path, pack(entries))


def flip(name):
    def tamper(log):
        path = log.directory / name
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        overwrite(path, bytes(data))

    return tamper


def cut(name):
    return lambda log: overwrite(log.directory / name, (log.directory / name).read_bytes()[:-32])


def gone(name):
    return lambda log: (log.directory / name).unlink()


def swap_tiles(log):
    first, second = log.directory / "tile/0/000", log.directory / "tile/0/001"
    kept = first.read_bytes()
    overwrite(first, second.read_bytes())
    overwrite(second, kept)


def other_head(**changes):
    def tamper(log):
        overwrite(log.directory / "head", log.head()._replace(**changes).text.encode())

    return tamper


TAMPERED = {
    "an entry removed from its bundle": drop_entry,
    "two entries moved": swap_entries,
    "an entry altered": alter_entry,
    "the last entry altered": alter_last_entry,
    "a leaf hash altered": flip("tile/0/000"),
    "a leaf hash of the right edge altered": flip("tile/0/002.p/88"),
    "a hash of the upper level altered": flip("tile/1/000.p/2"),
    "a tile cut": cut("tile/0/001"),
    "a tile removed": gone("tile/0/001"),
    "a bundle removed": gone("tile/entries/000"),
    "the upper level removed": gone("tile/1/000.p/2"),
    "two tiles moved": swap_tiles,
    "another root": other_head(root=bytes(32)),
    "a larger size": other_head(size=SIZE + 1),
    "a smaller size": other_head(size=SIZE - 1),
    "a head that is no head": lambda log: overwrite(log.directory / "head", b"hello\n"),
    "a head that is no text": lambda log: overwrite(log.directory / "head", b"\xff\n0\n\n"),
    "no head": gone("head"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_log_that_was_tampered_with_contradicts_itself(ledger_root, name):
    log = TransparencyLog(ledger_root)
    log.audit()
    TAMPERED[name](log)
    assert slug_of(log.audit) == "log-damaged"


@pytest.mark.parametrize(
    "name",
    ["the last entry altered", "a leaf hash of the right edge altered", "another root", "a smaller size", "no head"],
)
def test_nothing_is_built_on_a_damaged_right_edge(ledger_root, name):
    log = TransparencyLog(ledger_root)
    TAMPERED[name](log)
    before = {p: p.read_bytes() for p in log.directory.rglob("*") if p.is_file()}
    assert slug_of(log.append, ids(1, first=SIZE)) == "log-damaged"
    assert {p: p.read_bytes() for p in log.directory.rglob("*") if p.is_file()} == before


def test_a_record_whose_path_to_the_root_is_broken_is_not_proved(ledger_root):
    log = TransparencyLog(ledger_root)
    flip("tile/0/000")(log)  # the hash of entry 1
    for number in (0, 2, 200):
        assert slug_of(log.prove, ids(SIZE)[number]) == "log-damaged"
    log.prove(ids(SIZE)[1])  # its own leaf comes from the entry, and every hash beside its path is whole


def test_tiles_that_cannot_be_read_are_neither_damage_nor_absence(ledger_root):
    log = TransparencyLog(ledger_root)
    path = log.directory / "tile/0/001"
    path.unlink()
    path.mkdir()
    assert slug_of(log.audit) == "ledger-unreadable"
    edge = log.directory / "tile/0/002.p/88"
    edge.unlink()
    edge.mkdir()
    assert slug_of(log.append, ids(1, first=SIZE)) == "ledger-unreadable"


def test_a_removed_or_altered_record_is_found_from_the_log(ledger_root):
    log = TransparencyLog(ledger_root)
    assert list(log.lost_records()) == []
    object_path(ledger_root, ids(SIZE)[3]).unlink()
    overwrite(object_path(ledger_root, ids(SIZE)[500]), b"another number")
    found = [(lost.record_id, lost.number, lost.slug) for lost in log.lost_records()]
    assert found == [(ids(SIZE)[3], 3, "record-missing"), (ids(SIZE)[500], 500, "record-corrupt")]


def forged(where: Path, origin: str, record_ids) -> TransparencyLog:
    """A log that its owner made anew, without a flaw, around another history."""
    log = TransparencyLog(where)
    log.append(record_ids)
    overwrite(log.directory / "head", log.head()._replace(origin=origin).text.encode())
    return log


def test_only_a_checkpoint_shows_that_the_owner_rewrote_history(full, tmp_path):
    old = TransparencyLog(full).head()
    kept = ids(SIZE)
    histories = {
        "removed": kept[:10] + kept[11:] + ids(50, first=SIZE),
        "moved": [*kept[:10], kept[11], kept[10], *kept[12:], *ids(50, first=SIZE)],
        "altered": [*kept[:10], ids(1, first=9999)[0], *kept[11:], *ids(50, first=SIZE)],
        "moved, same size": [*kept[:-2], kept[-1], kept[-2]],
        "cut back": kept[:-1],
    }
    for name, history in histories.items():
        log = forged(tmp_path / name, old.origin, history)
        log.audit()  # by itself there is nothing to see
        assert slug_of(log.consistent_with, old) == "log-inconsistent"
    other = forged(tmp_path / "other", "lanemark/elsewhere", kept)
    with pytest.raises(LedgerError, match="is of the log") as caught:
        other.consistent_with(old)
    assert caught.value.slug == "log-inconsistent"
    honest = forged(tmp_path / "honest", old.origin, kept + ids(50, first=SIZE))
    head, proof = honest.consistent_with(old)
    assert merkle.consistent(old.size, head.size, old.root, head.root, proof)
    assert honest.consistent_with(Head(old.origin, 0, merkle.EMPTY_ROOT))[1] == ()


def test_a_log_never_signs_two_histories(tmp_path, key):
    log = TransparencyLog(tmp_path)
    log.append(ids(5))
    first = log.sign([key])
    origin = log.head().origin
    shutil.rmtree(log.directory / "tile")
    (log.directory / "head").unlink()
    forged(tmp_path, origin, ids(6, first=1))
    assert slug_of(log.sign, [key]) == "log-inconsistent"
    assert (log.directory / "checkpoint").read_bytes() == first


# -- checkpoints -------------------------------------------------------------------------------------------------------

HEAD = Head("example.com/log", 42, hashlib.sha256(b"x").digest())


def test_a_note_of_the_format_s_own_documentation_verifies():
    """Key and signature of the example in the documentation of Go's golang.org/x/mod/sumdb/note."""
    name, key_id, encoded = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    public = keys.PublicKey(base64.b64decode(encoded)[1:], "example")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signed = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    assert checkpoint.note_key_id(name, public).hex() == key_id == signed[:4].hex()
    assert public.verifies(signed[4:], text.encode())
    assert checkpoint.verifier_key(name, public) == f"{name}+{key_id}+{encoded}"


def test_the_example_of_the_checkpoint_specification_is_read():
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    read = checkpoint.parse_checkpoint(note.encode())
    assert (read.head.origin, read.head.size) == ("example.com/behind-the-sofa", 20852163)
    assert read.head.text + "\n" == note.partition("—")[0]
    assert [(name, len(rest)) for name, _, rest in read.signatures] == [("example.com/behind-the-sofa", 64)]


def test_a_checkpoint_holds_for_the_key_that_signed_it(key, tmp_path):
    keys.make_key(tmp_path / "b.pem")
    second = keys.load_signing_key(tmp_path / "b.pem")
    data = checkpoint.sign_checkpoint(HEAD, [key, second])
    read = checkpoint.parse_checkpoint(data)
    assert read.head == HEAD
    checkpoint.require_signature(read, key.public)
    checkpoint.require_signature(read, second.public)
    alone = checkpoint.parse_checkpoint(checkpoint.sign_checkpoint(HEAD, [key]))
    assert slug_of(checkpoint.require_signature, alone, second.public) == "checkpoint-invalid"


CHANGES = {
    "another size": lambda note: note.replace("\n42\n", "\n43\n"),
    "another root": lambda note: note.replace(
        base64.b64encode(HEAD.root).decode(), base64.b64encode(bytes(32)).decode()
    ),
    "another origin in the text": lambda note: note.replace("example.com/log\n", "example.com/lag\n", 1),
    "another origin everywhere": lambda note: note.replace("example.com/log", "example.com/lag"),
    "a false line beside the true one": lambda note: note + note.rpartition("\n\n")[2][:-4] + "A==\n",
    "no signature": lambda note: note.rpartition("— ")[0],
    "no blank line": lambda note: note.replace("\n\n", "\n"),
    "no last line end": lambda note: note[:-1],
    "an extension line": lambda note: note.replace("\n\n", "\nextension\n\n"),
    "a leading zero": lambda note: note.replace("\n42\n", "\n042\n"),
    "a negative size": lambda note: note.replace("\n42\n", "\n-42\n"),
    "a size of other digits": lambda note: note.replace("\n42\n", "\n٤٢\n"),
    "a short root": lambda note: note.replace(base64.b64encode(HEAD.root).decode(), "AAAA"),
    "a root that is no base64": lambda note: note.replace(base64.b64encode(HEAD.root).decode(), "é" * 44),
    "no origin": lambda note: note.replace("example.com/log\n", "\n", 1),
    "an origin with a space": lambda note: note.replace("example.com/log\n", "example.com log\n", 1),
    "a control character": lambda note: note.replace("\n42\n", "\n42\r\n"),
    "a line that is no signature": lambda note: note + "— somebody\n",
    "a signature that is no base64": lambda note: note[:-2] + "!\n",
    "nothing": lambda note: "",
    "too much": lambda note: note + note.rpartition("\n\n")[2] * 1500,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_was_changed_is_refused(key, name):
    note = checkpoint.sign_checkpoint(HEAD, [key]).decode()
    changed = CHANGES[name](note)
    assert changed != note

    def read_and_check():
        checkpoint.require_signature(checkpoint.parse_checkpoint(changed.encode()), key.public)

    assert slug_of(read_and_check) == "checkpoint-invalid"


def test_bytes_that_are_no_text_are_no_checkpoint():
    assert slug_of(checkpoint.parse_checkpoint, b"\xff\xfe") == "checkpoint-invalid"


def test_lines_of_unknown_keys_are_not_looked_at(key):
    note = checkpoint.sign_checkpoint(HEAD, [key]) + "— witness.example/w AAAAAAAA\n".encode()
    read = checkpoint.parse_checkpoint(note)
    checkpoint.require_signature(read, key.public)
    assert len(read.signatures) == 2


# -- step 11 and the verb ----------------------------------------------------------------------------------------------


def test_verifying_asks_the_log_where_there_is_one(tmp_path):
    ledger = Ledger(tmp_path, {})
    record_id = ledger.append(DATA).id
    step = ledger.verify(record_id).steps[10]
    assert (step.name, step.status, "no log" in step.detail) == ("log", "skipped", True)
    log = TransparencyLog(tmp_path)
    log.append(ids(300))
    report = ledger.verify(record_id)
    assert (report.ok, report.failure.number, report.failure.slug) == (False, 11, "log-entry-missing")
    log.append([record_id])
    report = ledger.verify(record_id)
    assert report.ok
    assert report.steps[10].status == "ok"
    assert "entry 300 of 301" in report.steps[10].detail
    assert "somebody else keeps" in report.steps[10].detail
    flip("tile/0/001.p/45")(log)
    assert ledger.verify(record_id).failure.slug == "log-damaged"
    (log.directory / "head").unlink()
    assert ledger.verify(record_id).failure.slug == "log-damaged"


def test_the_log_of_a_ledger_says_nothing_about_a_file_from_elsewhere(tmp_path):
    TransparencyLog(tmp_path / "ledger").append(ids(1))
    (tmp_path / "record.json").write_bytes(DATA)
    report = verify_file(tmp_path / "record.json", ledger_root=tmp_path / "ledger")
    assert (report.ok, report.steps[10].status) == (True, "skipped")
    assert "not one of this ledger" in report.steps[10].detail
    assert "not read from a ledger" in verify_bytes(DATA).steps[10].detail


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    (tmp_path / "keys").mkdir()
    keys.make_key(tmp_path / "keys" / "signing.pem")
    for data in (DATA, OTHER):
        Ledger(tmp_path / "ledger", {}).append(data)
    return tmp_path


def printed(capsys, *args, code=0):
    assert main(list(args)) == code
    return capsys.readouterr()


def test_from_the_first_entry_to_a_checkpoint_kept_elsewhere(place, capsys):
    record_id = "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert "[log-missing]" in printed(capsys, "log", "prove", record_id, code=1).err
    assert "1 added, 0 already there" in printed(capsys, "log", "append", record_id[:20]).out
    out = printed(capsys, "log", "checkpoint", "-o", str(place / "old"))
    assert "verifier key: lanemark/" in out.err
    done = json.loads(printed(capsys, "log", "append", "--all", "--json").out)
    assert (len(done["added"]), done["present"], done["size"]) == (1, [record_id], 2)
    proof = json.loads(printed(capsys, "log", "prove", record_id, "--json").out)["proofs"][0]
    path = [base64.b64decode(part) for part in proof["proof"]]
    leaf = merkle.leaf_hash(record_id.encode())
    assert merkle.included(leaf, proof["index"], proof["size"], path, base64.b64decode(proof["root"]))
    public = str(place / "keys" / "signing.pem.pub")
    out = printed(capsys, "log", "verify", "--checkpoint", str(place / "old"), "--key", public)
    assert "the log is verified" in out.out
    assert out.err == ""
    out = printed(capsys, "log", "verify", "--checkpoint", str(place / "old"))
    assert "not checked" in out.out
    assert "proves nothing against its owner" in printed(capsys, "log", "verify").err
    newest = printed(capsys, "log", "checkpoint").out
    assert (place / "ledger" / "log" / "checkpoint").read_text() == newest
    doc = json.loads(printed(capsys, "log", "verify", "--json").out)
    assert (doc["verified"], [check["check"] for check in doc["checks"]]) == (True, ["tree", "records"])


def test_a_check_that_fails_is_named_and_ends_in_1(place, capsys):
    printed(capsys, "log", "append", "--all")
    printed(capsys, "log", "checkpoint", "-o", str(place / "old"))
    keys.make_key(place / "other.pem")
    other = str(place / "other.pem.pub")
    out = printed(capsys, "log", "verify", "--checkpoint", str(place / "old"), "--key", other, code=1)
    assert "[checkpoint-invalid]" in out.out
    object_path(place / "ledger", hashlib.sha256(DATA).hexdigest()).unlink()
    assert "[record-missing]" in printed(capsys, "log", "verify", code=1).out
    shutil.rmtree(place / "ledger" / "log")
    printed(capsys, "log", "append", "--all")
    out = printed(capsys, "log", "verify", "--checkpoint", str(place / "old"), code=1)
    assert "[log-inconsistent]" in out.out
    shutil.rmtree(place / "ledger" / "log")
    doc = json.loads(printed(capsys, "log", "verify", "--json", code=1).out)
    assert (doc["verified"], doc["checks"][0]["slug"]) == (False, "log-missing")


def test_a_damaged_record_is_not_logged(place, capsys):
    overwrite(object_path(place / "ledger", hashlib.sha256(DATA).hexdigest()), b"damaged")
    out = printed(capsys, "log", "append", "--all", "--json", code=1)
    done = json.loads(out.out)
    assert [refused["slug"] for refused in done["refused"]] == ["record-corrupt"]
    assert done["added"] == ["sha256:" + hashlib.sha256(OTHER).hexdigest()]
    assert "[record-corrupt]" in out.err


@pytest.mark.parametrize(
    ("args", "code", "slug"),
    [
        (["log"], 2, "arguments-invalid"),
        (["log", "forget"], 2, "value-invalid"),
        (["log", "append"], 2, "arguments-invalid"),
        (["log", "append", "--all", "abc"], 2, "arguments-invalid"),
        (["log", "append", "--all", "--key", "x"], 2, "arguments-invalid"),
        (["log", "append", "abcdef"], 1, "record-missing"),
        (["log", "prove"], 2, "arguments-invalid"),
        (["log", "prove", "--all"], 2, "arguments-invalid"),
        (["log", "verify", "abc"], 2, "arguments-invalid"),
        (["log", "verify", "-o", "x"], 2, "arguments-invalid"),
        (["log", "verify", "--key", "x"], 2, "arguments-invalid"),
        (["log", "verify", "--checkpoint", "/nonexistent/checkpoint"], 2, "data-missing"),
        (["log", "verify", "--checkpoint", "/dev/null"], 2, "data-missing"),
        (["log", "checkpoint", "--checkpoint", "x"], 2, "arguments-invalid"),
        (["log", "checkpoint"], 1, "log-missing"),
    ],
)
def test_requests_that_cannot_be_met(place, capsys, args, code, slug):
    assert f"[{slug}]" in printed(capsys, *args, code=code).err


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(place, capsys):
    printed(capsys, "log", "append", "--all")
    out = printed(capsys, "log", "checkpoint", "-o", str(place / "none" / "old"), code=1)
    assert "[output-unwritable]" in out.err
