"""A ledger on S3-compatible storage against what storage does: busy, gone, half an answer, silence, wrong bytes, races."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import team_servers
from lanemark.cli.main import main
from lanemark.collect.sweep import attempts, seal_lost
from lanemark.ledger import remote
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.remote import Bucket
from lanemark.records.attempt import Home
from lanemark.records.encoding import digest
from lanemark.records.errors import LanemarkError, LedgerError, RecordError
from team_servers import Fault, FaultProxy

CORPUS = Path(__file__).parents[1] / "assets" / "records"
ONE = (CORPUS / "good" / "eager_ddp_cpu.json").read_bytes()
ID = digest(ONE)
NAME = f"objects/{ID[7:9]}/{ID[7:]}.json"
SAMPLES = [("ranks/0/samples.bin", CORPUS / "evidence" / "ranks" / "0" / "samples.bin")]
DEADLINE_S = 3.0


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture
def proxy(storage: int) -> Iterator[FaultProxy]:
    with FaultProxy(storage) as running:
        yield running


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return "faults/" + re.sub(r"[^a-z0-9_]+", "-", request.node.name.lower()).strip("-")


@pytest.fixture
def through(proxy: FaultProxy, prefix: str, tmp_path: Path) -> Callable[[str], Ledger]:
    """Opens the test's ledger through the proxy, with a short deadline, as from the host of that name."""
    return lambda host: open_ledger(Home(tmp_path / host), environment(proxy.port, prefix, deadline_s=DEADLINE_S))


def environment(port: int, prefix: str, **more: object) -> dict[str, str]:
    return {**team_servers.KEYS, "LANEMARK_LEDGER": team_servers.location(port, prefix, **more)}


def directly(storage: int, prefix: str) -> Bucket:
    """The bucket itself, to plant and to look."""
    from lanemark.ledger.s3_location import S3Location

    return Bucket(S3Location(team_servers.BUCKET, prefix, f"http://127.0.0.1:{storage}"), team_servers.KEYS)


def changed(number: int) -> bytes:
    doc = json.loads(ONE)
    doc["predicate"]["surface"]["hostname"]["value"] = f"box-{number}"
    return json.dumps(doc).encode()


PASSING = [
    *(Fault(kind, method) for kind in ("busy", "reset") for method in ("PUT", "GET")),
    Fault("lost_reply", "PUT"),
    Fault("reset_body", "GET"),
    Fault("stall", "PUT"),
    Fault("stall", "GET"),
    Fault("stall_body", "GET"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.method}")
def test_a_fault_that_passes_is_not_noticed(through: Callable[[str], Ledger], proxy: FaultProxy, fault: Fault) -> None:
    twice = 1 if fault.kind.startswith("stall") else 2
    proxy.faults += [fault] * twice
    assert through("writer").append(ONE, SAMPLES).notices == ()
    ledger = through("reader")
    assert [row.id for row in ledger.list().rows] == [ID]
    assert ledger.get(ID).data == ONE
    assert proxy.faults == []
    assert sum(line.endswith(fault.kind) for line in proxy.seen) == twice


@pytest.mark.parametrize("kind", ["busy", "reset", "stall", "reset_body", "stall_body"])
def test_a_fault_for_ever_is_one_error_within_the_deadline(
    through: Callable[[str], Ledger], proxy: FaultProxy, kind: str
) -> None:
    through("writer").append(ONE)
    proxy.faults.append(Fault(kind, for_ever=True))  # type: ignore[arg-type]
    calls = [lambda: through("new").list(), lambda: through("new").append(changed(1))]
    for call in calls[:1] if kind.endswith("_body") else calls:  # the answer to a PUT has no body to break
        began = time.monotonic()
        with pytest.raises(LedgerError, match="cannot be reached") as caught:
            call()
        assert caught.value.slug == "ledger-unreachable"
        assert time.monotonic() - began < 2 * DEADLINE_S + 2
        assert "\n" not in str(caught.value)


def test_a_listing_that_breaks_half_way_is_an_error_and_not_a_shorter_list(
    through: Callable[[str], Ledger], proxy: FaultProxy
) -> None:
    for number in range(3):
        through("writer").append(changed(number))
    proxy.faults.append(Fault("reset", "GET", r"/objects/../", for_ever=True))  # names come, the second record does not
    with pytest.raises(LedgerError) as caught:
        through("reader").list()
    assert caught.value.slug == "ledger-unreachable"
    proxy.faults.clear()
    assert len(through("reader").list().rows) == 3


def test_a_flipped_byte_on_the_way_is_fetched_again(through: Callable[[str], Ledger], proxy: FaultProxy) -> None:
    through("writer").append(ONE)
    proxy.faults.append(Fault("flip", "GET", re.escape(NAME)))
    assert through("reader").get(ID).data == ONE
    assert any(line.endswith("flip") for line in proxy.seen)


def test_bytes_that_stay_wrong_are_caught_by_their_digest(through: Callable[[str], Ledger], proxy: FaultProxy) -> None:
    through("writer").append(ONE, SAMPLES)
    proxy.faults.append(Fault("flip", "GET", re.escape(NAME), for_ever=True))
    ledger = through("reader")
    with pytest.raises(RecordError) as caught:
        ledger.get(ID)
    assert caught.value.slug == "record-corrupt"
    listing = ledger.list()
    assert listing.rows == ()
    assert [bad.name for bad in listing.bad] == [NAME]
    report = ledger.verify(ID)
    assert (report.ok, report.failure and report.failure.name) == (False, "digest")
    assert [bad.name for bad in through("writer").sync().bad] == [NAME]  # its own copy is good, and says nothing of it
    assert not through("writer").verify(ID).ok


def test_flipped_evidence_is_caught(through: Callable[[str], Ledger], proxy: FaultProxy) -> None:
    through("writer").append(ONE, SAMPLES)
    proxy.faults.append(Fault("flip", "GET", "evidence/", for_ever=True))
    report = through("reader").verify(ID)
    assert report.failure is not None
    assert report.failure.slug == "evidence-mismatch"


def test_a_signature_that_was_copied_into_the_bucket_is_checked(
    through: Callable[[str], Ledger], storage: int, prefix: str, tmp_path: Path
) -> None:
    keys = pytest.importorskip("lanemark.ledger.keys", reason="signing needs cryptography")
    from lanemark.ledger.signing import sign

    public, _ = keys.make_key(tmp_path / "key.pem")
    path = sign(tmp_path / "signed", ONE, keys.load_signing_key(tmp_path / "key.pem"))
    through("writer").append(ONE)
    assert not through("reader").verify(ID, keys=(public,)).ok
    bucket = directly(storage, prefix)
    bucket.create(f"sigs/{ID[7:]}/{path.name}", path.read_bytes())
    bucket.create(f"sigs/{ID[7:]}/junk", b"x")
    report = through("reader").verify(ID, keys=(public,))
    assert report.ok, report.steps


@pytest.fixture
def team(
    proxy: FaultProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a verb against the test's ledger, through the proxy, and returns what it printed; a key is at `key.pem`."""
    keys = pytest.importorskip("lanemark.ledger.keys", reason="signing needs cryptography")
    keys.make_key(tmp_path / "key.pem")
    for name, value in environment(proxy.port, prefix, deadline_s=DEADLINE_S).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))

    def run(*args: str, ends: int = 0) -> str:
        assert main(list(args)) == ends, capsys.readouterr()
        said = capsys.readouterr()
        return said.out + said.err

    return run


@pytest.mark.parametrize("kind", ["busy", "reset", "lost_reply", "stall"])
def test_signing_in_storage_survives_what_passes(
    through: Callable[[str], Ledger], proxy: FaultProxy, team: Callable[..., str], tmp_path: Path, kind: str
) -> None:
    through("writer").append(ONE)
    proxy.faults.append(Fault(kind, "PUT", "sigs/"))  # type: ignore[arg-type]
    key = str(tmp_path / "key.pem")
    (made,) = json.loads(team("sign", ID, "--key", key, "--json"))["signatures"]
    assert made["signature"].startswith(f"s3://{team_servers.BUCKET}/")
    assert made["signature"].endswith(f"/sigs/{ID[7:]}/{made['keyid']}.json")
    assert proxy.faults == []
    team("sign", ID, "--key", key)
    assert "10. signature ok" in team("verify", ID, "--key", f"{key}.pub")


def test_a_signature_that_storage_does_not_take_is_one_error(
    through: Callable[[str], Ledger], proxy: FaultProxy, team: Callable[..., str], tmp_path: Path
) -> None:
    through("writer").append(ONE)
    key = str(tmp_path / "key.pem")
    proxy.faults.append(Fault("busy", "PUT", "sigs/", for_ever=True))
    assert "[ledger-unreachable]" in team("sign", ID, "--key", key, ends=1)
    proxy.faults.clear()
    assert "[signature-missing]" in team("verify", ID, "--key", f"{key}.pub", ends=1)


def test_another_file_under_the_signers_name_stays_in_storage(
    through: Callable[[str], Ledger], storage: int, prefix: str, team: Callable[..., str], tmp_path: Path
) -> None:
    from lanemark.ledger.keys import load_public_key

    name = f"sigs/{ID[7:]}/{load_public_key(tmp_path / 'key.pem.pub').keyid}.json"
    through("writer").append(ONE)
    bucket = directly(storage, prefix)
    assert bucket.create(name, b"{}")
    assert "[signature-conflict]" in team("sign", ID, "--key", str(tmp_path / "key.pem"), ends=1)
    assert bucket.read(name, 100) == b"{}"
    assert "[signature-invalid]" in team("verify", ID, "--key", str(tmp_path / "key.pem.pub"), ends=1)


def test_a_signature_with_a_flipped_byte_is_not_believed(
    through: Callable[[str], Ledger], proxy: FaultProxy, team: Callable[..., str], tmp_path: Path
) -> None:
    through("writer").append(ONE)
    team("sign", ID, "--key", str(tmp_path / "key.pem"))
    proxy.faults.append(Fault("flip", "GET", r"/sigs/.*\.json", for_ever=True))
    assert "[signature-invalid]" in team("verify", ID, "--key", str(tmp_path / "key.pem.pub"), ends=1)


def test_signatures_travel_from_a_directory_into_storage(
    team: Callable[..., str], storage: int, prefix: str, tmp_path: Path
) -> None:
    from lanemark.ledger.keys import load_signing_key
    from lanemark.ledger.signing import sign

    theirs = Ledger(tmp_path / "theirs", {})
    theirs.append(ONE, SAMPLES)
    path = sign(theirs.root, ONE, load_signing_key(tmp_path / "key.pem"))
    for expected in ("imported", "present"):
        assert json.loads(team("import", str(theirs.root), "--json"))["signatures"][expected] == 1
    assert directly(storage, prefix).read(f"sigs/{ID[7:]}/{path.name}", 100_000) == path.read_bytes()
    team("verify", ID, "--key", str(tmp_path / "key.pem.pub"))


def test_other_bytes_under_a_name_are_damage_and_stay(
    through: Callable[[str], Ledger], storage: int, prefix: str
) -> None:
    bucket = directly(storage, prefix)
    assert bucket.create(NAME, b"{}")
    with pytest.raises(RecordError) as caught:
        through("writer").append(ONE)
    assert caught.value.slug == "record-corrupt"
    assert bucket.read(NAME, 100) == b"{}"


def test_what_does_not_belong_there_is_named(through: Callable[[str], Ledger], storage: int, prefix: str) -> None:
    bucket = directly(storage, prefix)
    for name in ("objects/readme.txt", "objects/ab/" + "a" * 64 + ".json", "objects/zz/x.json"):
        bucket.create(name, b"x")
    through("writer").append(ONE)
    listing = through("reader").list()
    assert [row.id for row in listing.rows] == [ID]
    assert len(listing.bad) == 3


def test_removed_records_are_not_listed_and_copies_are_not_believed(
    through: Callable[[str], Ledger], storage: int, prefix: str
) -> None:
    import obstore

    ledger = through("writer")
    ledger.append(ONE)
    ledger.append(changed(1))
    bucket = directly(storage, prefix)
    obstore.delete(bucket._client(0), NAME)
    assert [row.id for row in ledger.list().rows] == [digest(changed(1))]
    with pytest.raises(RecordError) as caught:
        ledger.verify(ID)
    assert caught.value.slug == "record-missing"


def test_a_damaged_copy_is_fetched_again(through: Callable[[str], Ledger]) -> None:
    ledger = through("writer")
    ledger.append(ONE)
    path = ledger.find(ID)
    path.chmod(0o644)
    path.write_bytes(b"torn")
    assert ledger.get(ID).data == ONE
    path = ledger.find(ID)
    path.chmod(0o644)
    path.write_bytes(b"torn")
    ledger.index_file.unlink()
    listing = ledger.list()
    assert ([row.id for row in listing.rows], listing.bad) == ([ID], ())


def test_a_bucket_that_does_not_exist_is_not_an_empty_ledger(storage: int, tmp_path: Path) -> None:
    location = f"s3://no-such-bucket/x?endpoint=http://127.0.0.1:{storage}"
    ledger = open_ledger(Home(tmp_path), {**team_servers.KEYS, "LANEMARK_LEDGER": location})
    for call in (ledger.list, lambda: ledger.get(ID), lambda: ledger.append(ONE), ledger.sync):
        with pytest.raises(LedgerError) as caught:
            call()
        assert caught.value.slug == "ledger-unreachable"


def test_nobody_listening_is_one_error_within_the_deadline(tmp_path: Path) -> None:
    ledger = open_ledger(Home(tmp_path), environment(1, "x", deadline_s=1.5))
    began = time.monotonic()
    with pytest.raises(LedgerError, match="refused"):
        ledger.list()
    assert time.monotonic() - began < 10


def test_refused_keys_are_not_tried_again(through: Callable[[str], Ledger], proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("denied", for_ever=True))
    with pytest.raises(LedgerError) as caught:
        through("writer").append(ONE, SAMPLES)
    assert caught.value.slug == "ledger-denied"
    assert len(proxy.seen) == 1


def test_no_keys_at_all_is_one_error_soon(storage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    environ = {"LANEMARK_LEDGER": team_servers.location(storage, "x", deadline_s=2), "HOME": str(tmp_path)}
    began = time.monotonic()
    with pytest.raises(LedgerError) as caught:
        open_ledger(Home(tmp_path), environ).list()
    assert caught.value.slug == "ledger-denied"
    assert time.monotonic() - began < 15


RACER = textwrap.dedent(
    """
    import os, sys
    from lanemark.ledger.s3_location import S3Location
    from lanemark.ledger.remote import Bucket

    bucket = Bucket(S3Location(sys.argv[1], sys.argv[2], sys.argv[3]), os.environ)
    bucket.read("warm", 10)
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(bucket.create(f"race/{number}", f"{os.getpid()}-{number}".encode()) for number in range(25)), flush=True)
    """
)


def test_of_eight_writers_of_one_name_exactly_one_creates_it(storage: int, prefix: str) -> None:
    arguments = [sys.executable, "-c", RACER, team_servers.BUCKET, prefix, f"http://127.0.0.1:{storage}"]
    racers = [
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **team_servers.KEYS}
        )
        for _ in range(8)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        wins = []
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for racer in racers:
            assert racer.stdout is not None
            wins.append(int(racer.stdout.readline()))
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert sum(wins) == 25, wins
    names = {named.name for named in directly(storage, prefix).names("race")}
    assert names == {f"race/{number}" for number in range(25)}


def test_eight_writers_of_one_record_all_succeed_and_it_is_there_once(
    through: Callable[[str], Ledger], proxy: FaultProxy
) -> None:
    proxy.faults += [Fault("lost_reply", "PUT"), Fault("busy", "PUT")]
    outcomes: list[object] = []

    def write(host: int) -> None:
        try:
            outcomes.append(through(f"host-{host}").append(ONE).notices)
        except LanemarkError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(host,)) for host in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [()] * 8
    assert [row.id for row in through("reader").list().rows] == [ID]


def test_a_listing_goes_over_pages(storage: int, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAGE", 7)
    bucket = directly(storage, prefix)
    for count in (6, 7, 8, 14, 15):
        for number in range(count):
            bucket.create(f"page-{count}/{number:04d}", b"x")
        expected = [f"page-{count}/{number:04d}" for number in range(count)]
        assert [named.name for named in bucket.names(f"page-{count}")] == expected


def test_the_verbs_work_against_storage(
    storage: int, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(storage, prefix).items():
        monkeypatch.setenv(name, value)
    open_ledger(Home(tmp_path / "elsewhere")).append(ONE, SAMPLES)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))

    def said(*args: str) -> str:
        assert main(list(args)) == 0, capsys.readouterr()
        return capsys.readouterr().out

    assert [row["id"] for row in json.loads(said("list", "--json"))["records"]] == [ID]
    assert json.loads(said("show", ID[7:20], "--json"))["record_id"] == ID
    assert json.loads(said("verify", ID, "--json"))["verified"] is True
    assert json.loads(said("index", "sync", "--json"))["bad"] == []
    assert "report.html" in said("report", ID, "-o", str(tmp_path / "report.html"))
    assert not (tmp_path / "home" / "ledger").exists()


PROGRAMS = Path(__file__).parent / "programs"


def test_a_record_that_did_not_reach_storage_waits_in_its_attempt_and_is_collected(
    storage: int, proxy: FaultProxy, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    environ = environment(proxy.port, prefix, deadline_s=4)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    proxy.faults.append(Fault("busy", for_ever=True))
    command = [sys.executable, str(PROGRAMS / "conduct_program.py"), str(home.root), "1", "4", "30"]
    rank = [sys.executable, str(PROGRAMS / "rank_program.py"), "raise", "0"]
    done = subprocess.run([*command, *rank], capture_output=True, text=True, timeout=60, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert "could not be appended" in said["notice"]
    assert "cannot be reached" in said["notice"]
    (attempt,) = home.attempts.iterdir()
    assert digest((attempt / "record.json").read_bytes()) == said["record_id"]
    (manifest,), _ = attempts(home)
    assert (manifest.state.value, manifest.appended) == ("error", False)
    (again,) = seal_lost(home)  # storage is still busy: nothing changes, and nothing breaks
    assert "could not be appended" in again.line
    proxy.faults.clear()
    monkeypatch.setenv("LANEMARK_HOME", str(home.root))
    assert main(["collect"]) == 1  # the run itself failed, and that does not change
    (manifest,), _ = attempts(home)
    assert manifest.appended
    reader = open_ledger(Home(tmp_path / "elsewhere"), environ)
    assert [row.id for row in reader.list().rows] == [said["record_id"]]
    assert reader.verify(said["record_id"]).ok
    assert seal_lost(home) == []
