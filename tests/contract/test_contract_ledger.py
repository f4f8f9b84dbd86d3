"""What every ledger holds to, wherever its truth lies: one suite over a directory, S3, and S3 with a shared index."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import team_servers
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.rows import Filters, is_wanted, newest_first, row_of
from lanemark.records.attempt import Home
from lanemark.records.encoding import digest
from lanemark.records.errors import RecordError

CORPUS = Path(__file__).parents[1] / "assets" / "records"
#: Records that differ in what a listing filters by; the whole corpus would only take longer.
NAMES = ("eager_ddp_cpu", "fsdp2_regional_warm", "lost", "cancelled", "synthetic")
GOOD = {name: (CORPUS / "good" / f"{name}.json").read_bytes() for name in NAMES}
ONE = GOOD["eager_ddp_cpu"]
SAMPLES = [("ranks/0/samples.bin", CORPUS / "evidence" / "ranks" / "0" / "samples.bin")]


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def database() -> Iterator[team_servers.Postgres]:
    with team_servers.postgres_server() as server:
        yield server


@pytest.fixture(params=["local", "s3", "s3+postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Ledger]:
    """Opens the test's one ledger as from the host of that name: a home of its own, the truth shared."""
    if request.param == "local":
        environ = {"LANEMARK_LEDGER": str(tmp_path / "share")}
    else:
        prefix = f"contract/{tmp_path.name}".replace("[", "").replace("]", "").replace("+", "")
        environ = {
            **team_servers.KEYS,
            "LANEMARK_LEDGER": team_servers.location(request.getfixturevalue("storage"), prefix),
        }
    if request.param == "s3+postgres":
        environ["LANEMARK_INDEX_URL"] = request.getfixturevalue("database").url
    return lambda host: open_ledger(Home(tmp_path / host), environ)


@pytest.fixture
def full(opened: Callable[[str], Ledger]) -> Callable[[str], Ledger]:
    ledger = opened("writer")
    for data in GOOD.values():
        assert ledger.append(data, SAMPLES).notices == ()
    return opened


def changed(data: bytes, number: int) -> bytes:
    doc = json.loads(data)
    doc["predicate"]["surface"]["hostname"]["value"] = f"box-{number}"
    return json.dumps(doc).encode()


def test_records_come_back_byte_for_byte_on_any_host(full: Callable[[str], Ledger]) -> None:
    for host in ("writer", "reader"):
        ledger = full(host)
        for data in GOOD.values():
            for asked in (digest(data), digest(data)[7:27], digest(data)[7:8] + digest(data)[8:40]):
                assert ledger.get(asked).data == data
        assert ledger.find(digest(ONE)).read_bytes() == ONE


def test_a_run_id_finds_its_record(full: Callable[[str], Ledger]) -> None:
    run_id = json.loads(ONE)["predicate"]["run_id"]
    assert full("reader").get(run_id).id in {row.id for row in full("reader").list(run_id=run_id).rows}


def test_every_host_lists_the_same_rows_in_the_same_order(full: Callable[[str], Ledger]) -> None:
    expected = tuple(newest_first(row_of(digest(data), json.loads(data)) for data in GOOD.values()))
    for host in ("writer", "reader"):
        listing = full(host).list()
        assert (listing.rows, listing.bad, listing.notices) == (expected, (), ())


def test_filters_answer_as_the_rule_says(full: Callable[[str], Ledger]) -> None:
    rows = [row_of(digest(data), json.loads(data)) for data in GOOD.values()]
    some = next(row for row in rows if row.device_class and row.mode)
    asked = [
        {"lane": some.lane}, {"lane": "sparse"}, {"gpu": str(some.device_class).lower()}, {"preset": some.preset},
        {"since": some.created}, {"since": some.created[:10]}, {"since": "2027"}, {"run_id": some.run_id},
    ]  # fmt: skip
    ledger = full("reader")
    for filters in asked:
        expected = newest_first(row for row in rows if is_wanted(row, Filters(**filters)))
        assert list(ledger.list(**filters).rows) == expected, filters
    assert len(ledger.list(limit=2).rows) == 2
    assert ledger.list(limit=2).rows == ledger.list().rows[:2]


def test_appending_again_changes_nothing(full: Callable[[str], Ledger]) -> None:
    before = full("reader").list().rows
    again = full("other").append(ONE, SAMPLES)
    assert (again.id, again.notices) == (digest(ONE), ())
    assert full("reader").list().rows == before


def test_an_empty_ledger_is_empty(opened: Callable[[str], Ledger]) -> None:
    ledger = opened("reader")
    assert ledger.list().rows == ()
    assert ledger.sync().bad == ()
    for asked in ("ab", "0" * 64, "training-20261122T152233Z-0000none", "nonsense"):
        with pytest.raises(RecordError) as caught:
            ledger.get(asked)
        assert caught.value.slug == "record-missing"


def test_a_beginning_of_too_many_is_ambiguous(opened: Callable[[str], Ledger]) -> None:
    ledger = opened("writer")
    ids = [ledger.append(changed(ONE, number)).id for number in range(17)]
    first = next(one[7] for one in ids if sum(other[7] == one[7] for other in ids) > 1)
    with pytest.raises(RecordError) as caught:
        opened("reader").get(first)
    assert caught.value.slug == "record-ambiguous"


def test_verifying_walks_from_the_record_to_its_evidence(full: Callable[[str], Ledger]) -> None:
    for host in ("writer", "reader"):
        report = full(host).verify(digest(ONE))
        assert report.ok, report.steps
        evidence = next(step for step in report.steps if step.name == "evidence")
        assert evidence.status == "ok", evidence
    assert digest(ONE)[7:] in full("reader").verify(digest(ONE)).subject


def test_evidence_that_cannot_be_read_is_a_notice(opened: Callable[[str], Ledger], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(SAMPLES[0][1])
    planted = [("ranks/1/samples.bin", tmp_path / "link"), ("ranks/2/samples.bin", tmp_path / "gone")]
    appended = opened("writer").append(ONE, [*planted, *SAMPLES])
    assert len(appended.notices) == 2
    assert opened("reader").verify(digest(ONE)).ok


def test_what_is_too_large_is_refused(opened: Callable[[str], Ledger]) -> None:
    with pytest.raises(RecordError) as caught:
        opened("writer").append(b"x" * (16 * 1024 * 1024 + 1))
    assert caught.value.slug == "record-too-large"


def test_many_writers_of_many_records_lose_none(opened: Callable[[str], Ledger]) -> None:
    records = [changed(ONE, number) for number in range(6)]
    failures: list[BaseException] = []

    def write(host: int) -> None:
        try:
            for data in records:
                assert opened(f"host-{host}").append(data).notices == ()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(host,)) for host in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {row.id for row in opened("reader").list().rows} == {digest(data) for data in records}


def test_sync_fills_an_index_that_has_nothing_yet(full: Callable[[str], Ledger]) -> None:
    ledger = full("reader")
    report = ledger.sync()
    assert report.bad == ()
    assert len(ledger.list().rows) == len(GOOD)
    again = ledger.sync()
    assert (again.added, again.healed, again.removed) == (0, 0, 0)
