"""The log of a ledger on object storage: faults on the way, racing and killed writers, and every way to change history."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest

import team_servers
from lanemark.cli.main import main
from lanemark.ledger import remote_log
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.log import TransparencyLog
from lanemark.ledger.merkle import EMPTY_ROOT
from lanemark.ledger.remote import Bucket
from lanemark.ledger.remote_log import BucketLog, Commit, commit_name, parse_commit
from lanemark.ledger.s3_location import S3Location
from lanemark.records.attempt import Home
from lanemark.records.encoding import digest, encode
from lanemark.records.errors import LanemarkError, LedgerError
from team_servers import Fault, FaultProxy

pytestmark = pytest.mark.timeout(120)

CORPUS = Path(__file__).parents[1] / "assets" / "records" / "good"
RECORDS = [(CORPUS / f"{name}.json").read_bytes() for name in ("eager_ddp_cpu", "synthetic", "lost")]
DEADLINE_S = 3.0


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return "log/" + re.sub(r"[^a-z0-9_]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture
def proxy(storage: int) -> Iterator[FaultProxy]:
    with FaultProxy(storage) as running:
        yield running


@pytest.fixture
def bucket(storage: int, prefix: str) -> Bucket:
    """The bucket itself, to plant and to look."""
    return Bucket(S3Location(team_servers.BUCKET, prefix, f"http://127.0.0.1:{storage}"), team_servers.KEYS)


@pytest.fixture
def at(proxy: FaultProxy, prefix: str, tmp_path: Path) -> Callable[[str], BucketLog]:
    """The log as the host of that name sees it, through the proxy."""

    def log(host: str) -> BucketLog:
        location = team_servers.location(proxy.port, prefix, deadline_s=DEADLINE_S)
        found = open_ledger(Home(tmp_path / host), {**team_servers.KEYS, "LANEMARK_LEDGER": location}).log()
        assert isinstance(found, BucketLog)
        return found

    return log


def ids(count: int, first: int = 0) -> list[str]:
    return ["sha256:" + hashlib.sha256(b"%d" % number).hexdigest() for number in range(first, first + count)]


def naive(entries: list[bytes]) -> bytes:
    """RFC 6962, as it is written there."""
    if not entries:
        return EMPTY_ROOT
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\1" + naive(entries[:k]) + naive(entries[k:])).digest()


def slug_of(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(LanemarkError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return caught.value.slug


def entries(log: BucketLog) -> list[str]:
    return list(log.tree().entries())


def test_what_is_appended_is_there_for_every_host(at: Callable[[str], BucketLog]) -> None:
    assert not at("reader").exists()
    assert slug_of(at("reader").prove, ids(1)[0]) == "log-missing"
    done = at("writer").append(ids(300))
    assert (len(done.added), done.present, done.head.size) == (300, (), 300)
    assert done.head.root == naive([entry.encode() for entry in ids(300)])
    assert at("reader").audit() == done.head
    again = at("reader").append([*ids(2), *ids(1, 300)])
    assert (again.added, again.present, again.head.size) == (tuple(ids(1, 300)), tuple(ids(2)), 301)
    assert at("writer").prove(ids(1, 300)[0]).number == 300
    head, _ = at("writer").consistent_with(done.head)
    assert head == again.head
    assert slug_of(at("writer").prove, ids(1, 999)[0]) == "log-entry-missing"


def test_a_long_append_is_several_commits(at: Callable[[str], BucketLog], bucket: Bucket, monkeypatch: Any) -> None:
    monkeypatch.setattr(remote_log, "MAX_ENTRIES", 10)
    assert at("writer").append(ids(25)).head.root == naive([entry.encode() for entry in ids(25)])
    assert [named.name for named in bucket.names("log/commits")] == [commit_name(start) for start in (0, 10, 20)]
    assert entries(at("reader")) == ids(25)


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(kind, "PUT", "log/commits") for kind in ("busy", "reset", "lost_reply", "stall")),
        *(Fault(kind, "GET", "log/commits/") for kind in ("busy", "reset", "reset_body", "flip")),
        Fault("busy", "GET", "list-type"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}",
)
def test_a_fault_that_passes_is_not_noticed(at: Callable[[str], BucketLog], proxy: FaultProxy, fault: Fault) -> None:
    at("writer").append(ids(1))
    proxy.faults.append(fault)
    assert at("other").append(ids(1, 1)).added == tuple(ids(1, 1))
    assert proxy.faults == []
    assert entries(at("reader")) == ids(2)


def test_storage_that_is_gone_is_one_error_and_appends_nothing(
    at: Callable[[str], BucketLog], proxy: FaultProxy
) -> None:
    at("writer").append(ids(1))
    proxy.faults.append(Fault("busy", "PUT", for_ever=True))
    assert slug_of(at("writer").append, ids(2)) == "ledger-unreachable"
    proxy.faults[:] = [Fault("reset", "GET", for_ever=True)]
    assert slug_of(at("writer").prove, ids(1)[0]) == "ledger-unreachable"
    proxy.faults.clear()
    assert entries(at("reader")) == ids(1)


def test_writers_that_race_all_succeed_and_make_one_history(at: Callable[[str], BucketLog], proxy: FaultProxy) -> None:
    outcomes: list[object] = []
    proxy.faults += [Fault("lost_reply", "PUT"), Fault("busy", "PUT"), Fault("reset", "GET")]

    def write(number: int) -> None:
        try:
            log = at(f"host-{number % 4}")  # some of them share a machine's copy
            outcomes.extend(log.append(ids(1, 100 * number + place)).added for place in range(3))
            outcomes.append(log.append(ids(1)).head.size > 0)  # and all of them append one and the same
        except LanemarkError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each for each in outcomes if isinstance(each, LanemarkError)] == []
    expected = {entry for number in range(1, 5) for entry in ids(3, 100 * number)} | set(ids(1))
    found = entries(at("reader"))
    assert (len(found), set(found)) == (13, expected)
    assert at("reader").audit().root == naive([entry.encode() for entry in found])


WRITER = textwrap.dedent(
    """
    import hashlib, os, sys
    from pathlib import Path
    from lanemark.ledger.location import open_ledger
    from lanemark.records.attempt import Home

    log, who, number = open_ledger(Home(Path(sys.argv[1]))).log(), sys.argv[2], 0
    while True:
        mine = ["sha256:" + hashlib.sha256(f"{who} {number} {each}".encode()).hexdigest() for each in range(3)]
        log.append(mine)
        os.write(1, ("\\n".join(mine) + "\\n").encode())
        number += 1
    """
)


def test_no_acknowledged_entry_is_lost_when_writers_are_killed(
    storage: int, prefix: str, at: Callable[[str], BucketLog], tmp_path: Path
) -> None:
    environ = {**os.environ, **team_servers.KEYS, "LANEMARK_LEDGER": team_servers.location(storage, prefix)}
    chance, acknowledged = random.Random(7), set()  # when a process is killed is no secret
    for turn in range(3):
        writers = [
            # Two on one machine's copy and one on its own.
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path / f"host-{who // 2}"), f"{turn}-{who}"],
                stdout=subprocess.PIPE, text=True, env=environ,
            )
            for who in range(3)
        ]  # fmt: skip
        try:
            assert writers[0].stdout is not None
            writers[0].stdout.readline()
            time.sleep(chance.uniform(0.0, 0.4))
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
        for place, writer in enumerate(writers):
            said = writer.communicate()[0].splitlines()
            acknowledged |= {line for line in said if re.fullmatch(r"sha256:[0-9a-f]{64}", line)}
            assert said or place
    found = entries(at("reader"))
    assert len(acknowledged) >= 6
    assert acknowledged <= set(found)
    assert len(set(found)) == len(found)
    assert at("reader").audit().root == naive([entry.encode() for entry in found])
    for host in ("host-0", "host-1"):  # the copies of machines whose writers were killed
        shutil.copytree(tmp_path / host, tmp_path / f"{host}-again", dirs_exist_ok=True)
        assert entries(at(host)) == found


# -- history that was changed ------------------------------------------------------------------------------------------


def commit_of(start: int, added: list[str], before: list[str], origin: str = "lanemark/test") -> Commit:
    whole = [entry.encode() for entry in (*before, *added)]
    return Commit(start, tuple(added), remote_log.Head(origin, len(whole), naive(whole)))


def again(commit: Commit, **changes: object) -> bytes:
    """A commit with other fields, and the digest that belongs to them."""
    doc = {name: value for name, value in json.loads(commit.data).items() if name != "digest"} | changes
    return encode(doc | {"digest": digest(encode(doc))})


def replaced(bucket: Bucket, name: str, data: bytes | None) -> None:
    obstore.delete(bucket._client(0), name)
    if data is not None:
        assert bucket.create(name, data)


def planted(bucket: Bucket, *commits: Commit) -> None:
    for commit in commits:
        assert bucket.create(commit.name, commit.data)


A, B, C, D = (ids(2, 10 * number) for number in range(4))
FIRST = commit_of(0, A, [])
FALSE = {
    "garbage": (2, b"\xff\x00 no commit"),
    "empty": (2, b""),
    "another-root": (2, commit_of(2, B, C).data),
    "another-name": (2, commit_of(2, B, A, "lanemark/other").data),
    "another-size": (2, again(commit_of(2, B, A), size=5)),
    "true-as-size": (2, again(commit_of(2, B, A), size=True)),
    "another-digest": (2, encode(json.loads(commit_of(2, B, A).data) | {"digest": "sha256:" + "0" * 64})),
    "not-a-root": (2, again(commit_of(2, B, A), root="AAAA")),
    "no-entries": (2, again(FIRST, entries=[], size=2)),
    "entry-that-is-no-id": (2, commit_of(2, ["sha256:x", B[0]], A).data),
    "further-field": (2, again(commit_of(2, B, A), more=1)),
    "other-spelling": (2, commit_of(2, B, A).data + b"\n"),
    "entry-twice": (2, commit_of(2, [B[0], B[0]], A).data),
    "entry-again": (2, commit_of(2, [A[0], B[0]], A).data),
    "gap": (3, commit_of(3, B, [*A, *C[:1]]).data),
    "overlap": (1, commit_of(1, B, A[:1]).data),
    "too-large": (2, b"[" + b" " * remote_log.MAX_COMMIT_BYTES + b"]"),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_false_commit_is_damage_and_nothing_of_it_is_kept(
    at: Callable[[str], BucketLog], bucket: Bucket, tmp_path: Path, name: str
) -> None:
    planted(bucket, FIRST)
    assert entries(at("host")) == A
    start, data = FALSE[name]
    assert bucket.create(commit_name(start), data)
    for call in (at("host").append, at("new").append):
        assert slug_of(call, D) == "log-damaged"
    replaced(bucket, commit_name(start), None)
    assert entries(at("host")) == A
    assert [named.name for named in bucket.names("log")] == [FIRST.name]


def test_what_does_not_belong_among_the_commits_is_damage(at: Callable[[str], BucketLog], bucket: Bucket) -> None:
    planted(bucket, FIRST)
    assert bucket.create("log/commits/readme", b"x")
    assert slug_of(at("host").tree) == "log-damaged"


@pytest.mark.parametrize("removed", [[0], [2], [4], [2, 4], [0, 2, 4]])
def test_a_removed_commit_is_seen_by_who_read_it(
    at: Callable[[str], BucketLog], bucket: Bucket, removed: list[int]
) -> None:
    planted(bucket, FIRST, commit_of(2, B, A), commit_of(4, C, [*A, *B]))
    assert entries(at("host")) == [*A, *B, *C]
    for start in removed:
        replaced(bucket, commit_name(start), None)
    assert slug_of(at("host").tree) == "log-damaged"
    assert slug_of(at("host").append, D) == "log-damaged"


@pytest.mark.parametrize(
    "history",
    [
        [commit_of(0, C, []), commit_of(2, B, C)],  # altered
        [commit_of(0, A[::-1], []), commit_of(2, B, A[::-1])],  # reordered
        [commit_of(0, B, []), commit_of(2, A, B)],  # commits swapped
        [commit_of(0, A[:1], []), commit_of(1, [*B, *C], A[:1])],  # one record less, and others to make up for it
    ],
    ids=["altered", "reordered", "swapped", "removed"],
)
def test_another_history_does_not_pass_an_audit_nor_a_checkpoint(
    at: Callable[[str], BucketLog], bucket: Bucket, history: list[Commit]
) -> None:
    planted(bucket, FIRST, commit_of(2, B, A))
    before = at("host").audit()
    replaced(bucket, commit_name(0), None)
    replaced(bucket, commit_name(2), None)
    planted(bucket, *history)
    assert slug_of(at("host").audit) in ("log-inconsistent", "log-damaged")  # this machine has read the other one
    assert slug_of(at("new").consistent_with, before) == "log-inconsistent"  # this one holds a checkpoint
    at("newer").audit()  # who has nothing to hold it against sees a log that agrees with itself


@pytest.mark.parametrize("harm", ["head", "tile", "commit", "commits", "tree", "all"])
def test_a_damaged_copy_is_derived_again(
    at: Callable[[str], BucketLog], bucket: Bucket, tmp_path: Path, harm: str
) -> None:
    planted(bucket, FIRST, commit_of(2, B, A))
    assert entries(at("host")) == [*A, *B]
    (copy,) = (tmp_path / "host").glob("ledger-copies/*/log-copy")
    if harm == "head":
        (copy / "log" / "head").unlink()
    elif harm == "tile":
        (tile,) = (copy / "log" / "tile" / "0").glob("000.p/4")
        tile.unlink()
    elif harm == "commit":
        (copy / "commits" / f"{2:016d}").write_bytes(b"torn")
    else:
        shutil.rmtree({"commits": copy / "commits", "tree": copy / "log", "all": copy}[harm])
    planted(bucket, commit_of(4, C, [*A, *B]))
    assert entries(at("host")) == [*A, *B, *C]
    assert at("host").prove(C[1]).number == 5


def test_a_process_that_died_before_it_grew_the_tree_is_made_up_for(
    at: Callable[[str], BucketLog], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(bucket, FIRST)
    at("host").tree()
    planted(bucket, commit_of(2, B, A))

    def died(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TransparencyLog, "append", died)
        with pytest.raises(KeyboardInterrupt):
            at("host").tree()
    assert entries(at("host")) == [*A, *B]


def test_commits_read_back_as_they_were_written() -> None:
    for commit in (FIRST, commit_of(2, B, A)):
        assert parse_commit(commit.start, commit.data) == commit
        assert base64.b64encode(commit.head.root) in commit.data
    with pytest.raises(ValueError, match="size"):
        parse_commit(1, FIRST.data)


def test_who_always_loses_the_race_is_told(at: Callable[[str], BucketLog], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_log, "_RACES", 3)
    monkeypatch.setattr(Bucket, "create", lambda *_: False)
    with pytest.raises(LedgerError, match="took 3 appends of others") as caught:
        at("host").append(A)
    assert caught.value.slug == "ledger-unreachable"


# -- the verbs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def team(
    storage: int, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a verb against the test's ledger, which has three records, and returns what it printed."""
    keys = pytest.importorskip("lanemark.ledger.keys", reason="signing needs cryptography")
    keys.make_key(tmp_path / "key.pem")
    for name, value in {**team_servers.KEYS, "LANEMARK_LEDGER": team_servers.location(storage, prefix)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    ledger = open_ledger(Home(tmp_path / "home"))
    for data in RECORDS:
        ledger.append(data)

    def run(*args: str, ends: int = 0) -> str:
        assert main(list(args)) == ends, capsys.readouterr()
        said = capsys.readouterr()
        return said.out + said.err

    return run


def test_from_the_first_append_to_a_checkpoint_that_holds(
    team: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = digest(RECORDS[0])
    assert "[log-missing]" in team("log", "prove", one, ends=1)
    assert "11. log       skipped" in team("verify", one)
    assert "1 added" in team("log", "append", one)
    assert "11. log       ok" in team("verify", one)
    assert "[log-entry-missing]" in team("verify", digest(RECORDS[1]), ends=1)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "another"))
    assert "2 added, 1 already there; the log has 3 entries" in team("log", "append", "--all")
    note, key = tmp_path / "note", str(tmp_path / "key.pem")
    team("log", "checkpoint", "--key", key, "-o", str(note))
    team("log", "checkpoint", "--key", key)  # the same head and key make the same checkpoint
    assert "entry 0 of 3" in team("log", "prove", one)
    said = team("log", "verify", "--checkpoint", str(note), "--key", f"{key}.pub")
    assert "the log is verified" in said
    assert "every logged record is in the ledger" in said


def test_records_that_are_gone_or_altered_are_named(team: Callable[..., str], bucket: Bucket) -> None:
    team("log", "append", "--all")
    first, second, _ = sorted(map(digest, RECORDS))
    name = f"objects/{second[7:9]}/{second[7:]}.json"
    replaced(bucket, name, b"{}")
    said = team("log", "verify", ends=1)
    assert second in said
    assert "[record-corrupt]" in said
    name = f"objects/{first[7:9]}/{first[7:]}.json"
    replaced(bucket, name, None)
    said = team("log", "verify", ends=1)
    assert first in said
    assert "[record-missing]" in said


def test_two_histories_are_never_signed(team: Callable[..., str], bucket: Bucket, tmp_path: Path) -> None:
    key = str(tmp_path / "key.pem")
    team("log", "append", "--all")
    team("log", "checkpoint", "--key", key)
    for named in list(bucket.names("log/commits")):
        obstore.delete(bucket._client(0), named.name)
    shutil.rmtree(tmp_path / "home" / "ledger-copies")
    team("log", "append", "--all")
    assert "[log-inconsistent]" in team("log", "checkpoint", "--key", key, ends=1)
    assert bucket.create(f"log/checkpoints/{99:016d}-{'0' * 16}", b"junk")
    assert "[checkpoint-invalid]" in team("log", "checkpoint", "--key", key, ends=1)


def test_a_ledger_without_a_log_leaves_nothing_on_the_machine(team: Callable[..., str], tmp_path: Path) -> None:
    team("verify", digest(RECORDS[0]))
    assert list((tmp_path / "home").glob("ledger-copies/*/log-copy")) == []
    assert Ledger(tmp_path / "x", {}).log().exists() is False
