"""The shared index on a real PostgreSQL: restarted in the middle of writing, gone, newer, empty; records never suffer."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import team_servers
from lanemark.cli.main import main
from lanemark.ledger import postgres
from lanemark.ledger.index import IndexUnusableError
from lanemark.ledger.ledger import Ledger
from lanemark.ledger.location import open_ledger
from lanemark.ledger.postgres import MIGRATIONS, PostgresIndex
from lanemark.ledger.rows import Filters, is_wanted, latest_of, newest_first, row_of
from lanemark.records.attempt import Home
from lanemark.records.encoding import digest
from lanemark.records.errors import LedgerError

CORPUS = Path(__file__).parents[1] / "assets" / "records"
#: The corpus is longer than the point that is made with it.
GOOD = [path.read_bytes() for path in sorted((CORPUS / "good").glob("*.json"))[:9]]
ONE = (CORPUS / "good" / "eager_ddp_cpu.json").read_bytes()


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def running() -> Iterator[team_servers.Postgres]:
    with team_servers.postgres_server() as server:
        yield server


@pytest.fixture
def server(running: team_servers.Postgres) -> Iterator[team_servers.Postgres]:
    """The server, up at the beginning of a test and without our tables."""
    with psycopg.connect(running.url, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS lanemark_records, lanemark_index_version")
    yield running
    try:
        psycopg.connect(running.url).close()
    except psycopg.OperationalError:
        running.start()


@pytest.fixture
def environ(request: pytest.FixtureRequest, storage: int, server: team_servers.Postgres) -> dict[str, str]:
    prefix = "postgres/" + re.sub(r"[^a-z0-9_]+", "-", request.node.name.lower()).strip("-")
    place = team_servers.location(storage, prefix, deadline_s=10)
    return {**team_servers.KEYS, "LANEMARK_LEDGER": place, "LANEMARK_INDEX_URL": server.url}


@pytest.fixture
def on(environ: dict[str, str], tmp_path: Path) -> Callable[[str], Ledger]:
    """Opens the test's ledger as from the host of that name."""
    return lambda host: open_ledger(Home(tmp_path / host), environ)


def changed(number: object) -> bytes:
    doc = json.loads(ONE)
    doc["predicate"]["surface"]["hostname"]["value"] = f"box-{number}"
    return json.dumps(doc).encode()


def asked(server: team_servers.Postgres, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.url, autocommit=True) as db:
        return db.execute(text.encode()).fetchall()


def index_of(ledger: Ledger) -> PostgresIndex:
    assert isinstance(ledger._index, PostgresIndex)
    return ledger._index


def test_rows_come_from_the_database_and_no_record_is_fetched(on: Callable[[str], Ledger], tmp_path: Path) -> None:
    for data in GOOD:
        assert on("writer").append(data).notices == ()
    rows = on("reader").list().rows
    assert {row.id for row in rows} == {digest(data) for data in GOOD}
    assert list((tmp_path / "reader").rglob("*.json")) == []


def test_both_indexes_give_the_same_answers(on: Callable[[str], Ledger]) -> None:
    writer = on("writer")
    for data in GOOD:
        writer.append(data)
    rows = newest_first(row_of(digest(data), json.loads(data)) for data in GOOD)
    shared, own = index_of(writer), writer._spare[0]
    own.refresh()
    questions = [Filters()]
    for row in rows:
        questions += [
            Filters(lane=row.lane, preset=row.preset), Filters(since=row.created), Filters(until=row.created[:16]),
            Filters(gpu=(row.device_class or "none").swapcase()), Filters(surface=row.surface, mode=row.mode),
            Filters(startup=row.startup_state), Filters(outcome=row.outcome, limit=2),
            Filters(commit=(row.git_commit or "f")[:7]), Filters(run_id=row.run_id),
            Filters(commit="0_%"), Filters(preset="it's %s \0 ü"), Filters(until=row.created), Filters(limit=0),
        ]  # fmt: skip
    for wanted in questions:
        expected = [row for row in rows if is_wanted(row, wanted)]
        limited = tuple(expected if wanted.limit is None else expected[: wanted.limit])
        assert shared.query(wanted) == limited == own.query(wanted), wanted
        assert tuple(shared.stream(wanted)) == limited, wanted
    assert shared.query(Filters(), latest=True) == tuple(latest_of(rows)) == own.query(Filters(), latest=True)


def test_the_schema_is_made_once_by_many_and_recorded(
    server: team_servers.Postgres, on: Callable[[str], Ledger]
) -> None:
    threads = [threading.Thread(target=lambda host=f"host-{n}": index_of(on(host)).query(Filters())) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked(server, "SELECT version FROM lanemark_index_version") == [
        (number,) for number in range(1, len(MIGRATIONS) + 1)
    ]


def test_a_migration_goes_forward_and_keeps_the_rows(
    server: team_servers.Postgres, on: Callable[[str], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    on("old").append(ONE)
    later = (*MIGRATIONS, ("ALTER TABLE lanemark_records ADD COLUMN remark text",))
    monkeypatch.setattr(postgres, "MIGRATIONS", later)
    assert [row.id for row in on("new").list().rows] == [digest(ONE)]
    assert asked(server, "SELECT max(version) FROM lanemark_index_version") == [(len(later),)]
    assert asked(server, "SELECT remark FROM lanemark_records") == [(None,)]
    monkeypatch.undo()
    ledger = on("old")  # which finds a schema of a newer version, and leaves it alone
    listing = ledger.list()
    assert [row.id for row in listing.rows] == [digest(ONE)]
    assert f"schema is version {len(later)}" in listing.notices[0]
    with pytest.raises(LedgerError) as caught:
        ledger.sync()
    assert caught.value.slug == "index-unusable"


def test_a_broken_migration_leaves_nothing_behind(
    server: team_servers.Postgres, on: Callable[[str], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    on("old").append(ONE)
    monkeypatch.setattr(postgres, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE lanemark_half (a int)", "BROKEN")))
    with pytest.raises(IndexUnusableError):
        index_of(on("new")).query(Filters())
    assert asked(server, "SELECT to_regclass('lanemark_half')") == [(None,)]
    assert asked(server, "SELECT max(version) FROM lanemark_index_version") == [(len(MIGRATIONS),)]


def test_two_ledgers_share_a_database_and_not_their_rows(environ: dict[str, str], tmp_path: Path) -> None:
    other = {**environ, "LANEMARK_LEDGER": environ["LANEMARK_LEDGER"].replace("postgres/", "postgres/other-")}
    one, two = open_ledger(Home(tmp_path / "one"), environ), open_ledger(Home(tmp_path / "two"), other)
    one.append(GOOD[0])
    two.append(GOOD[1])
    two.sync()
    assert [row.id for row in one.list().rows] == [digest(GOOD[0])]
    assert [row.id for row in two.list().rows] == [digest(GOOD[1])]


def test_a_dropped_connection_is_made_anew_once(server: team_servers.Postgres, on: Callable[[str], Ledger]) -> None:
    ledger = on("writer")
    assert ledger.append(changed(0)).notices == ()
    asked(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lanemark'")
    assert ledger.append(changed(1)).notices == ()
    server.stop("immediate")
    server.start()
    assert ledger.append(changed(2)).notices == ()
    assert len(ledger.list().rows) == 3


def test_a_server_that_is_gone_costs_a_notice_and_no_record(
    server: team_servers.Postgres, on: Callable[[str], Ledger]
) -> None:
    ledger = on("writer")
    ledger.append(changed(0))
    server.stop("immediate")
    appended = ledger.append(changed(1))
    assert "kept but not indexed" in appended.notices[0]
    assert team_servers.PASSWORD not in str(appended.notices)
    listing = on("reader").list()  # by an index of its own
    assert {row.id for row in listing.rows} == {digest(changed(0)), digest(changed(1))}
    assert "the shared index postgresql://127.0.0.1" in listing.notices[0]
    assert team_servers.PASSWORD not in str(listing.notices)
    with pytest.raises(LedgerError) as caught:
        on("reader").sync()
    assert caught.value.slug == "index-unusable"
    assert team_servers.PASSWORD not in str(caught.value)
    server.start()
    listing = on("reader").list()  # which brings in the row that was missed
    assert (len(listing.rows), listing.notices) == (2, ())
    assert asked(server, "SELECT count(*) FROM lanemark_records") == [(2,)]


def test_a_server_that_stops_answering_is_not_waited_for(
    server: team_servers.Postgres, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["LANEMARK_LEDGER"] = environ["LANEMARK_LEDGER"].replace("deadline_s=10", "deadline_s=2")
    ledger = open_ledger(Home(tmp_path / "a"), environ)
    ledger.append(changed(0))
    pids = asked(server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'lanemark'")
    stopped = [int((server.data / "postmaster.pid").read_text().split()[0]), *(pid for (pid,) in pids)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        appended = ledger.append(changed(1))
        assert time.monotonic() - began < 20
        assert "kept but not indexed" in appended.notices[0]
        assert len(open_ledger(Home(tmp_path / "b"), environ).list().rows) == 2
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert [row.id for row in ledger.list(limit=1).rows]
    assert asked(server, "SELECT count(*) FROM lanemark_records") == [(2,)]


def test_restarts_in_the_middle_of_writing_lose_no_acknowledged_record(
    server: team_servers.Postgres, on: Callable[[str], Ledger]
) -> None:
    acknowledged: list[str] = []
    missed: list[str] = []
    failures: list[BaseException] = []
    enough = threading.Event()

    def write(host: int) -> None:
        try:
            ledger, number = on(f"writer-{host}"), 0
            while not enough.is_set():
                appended = ledger.append(changed(f"{host}-{number}"))
                acknowledged.append(appended.id)
                missed.extend(appended.notices)
                number += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(host,)) for host in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            before = len(acknowledged)
            team_servers.until(lambda before=before: len(acknowledged) > before + 9 or failures)
            server.stop("immediate")
            during = len(acknowledged)
            team_servers.until(lambda during=during: len(acknowledged) > during + 5 or failures)
            server.start()
    finally:
        enough.set()
        for thread in threads:
            thread.join(timeout=60)
    assert failures == []
    assert missed  # the restarts really came between record and row
    assert all("index sync" in notice and team_servers.PASSWORD not in notice for notice in missed)
    report = on("reader").sync()
    assert report.bad == ()
    assert report.healed >= 1
    assert {row.id for row in on("reader").list().rows} == set(acknowledged)
    assert asked(server, "SELECT count(*) FROM lanemark_records") == [(len(acknowledged),)]
    again = on("reader").sync()
    assert (again.healed, again.removed) == (0, 0)


def test_sync_rebuilds_an_index_that_was_emptied_or_changed(
    server: team_servers.Postgres, on: Callable[[str], Ledger]
) -> None:
    for data in GOOD:
        on("writer").append(data)
    before = on("reader").list().rows
    asked(server, "DELETE FROM lanemark_records RETURNING 1")
    assert on("reader").sync().added == len(GOOD)
    forged = (
        "UPDATE lanemark_records SET tokens_per_s = 1e9, preset = 'x' WHERE id = (SELECT min(id) FROM lanemark_records)"
    )
    asked(server, forged + " RETURNING 1")
    asked(
        server,
        "INSERT INTO lanemark_records (ledger, id, run_id, lane, preset, created, outcome, receipt)"
        f" SELECT min(ledger), 'sha256:{'0' * 64}', 'r', 'l', 'p', 'c', 'o', true FROM lanemark_records RETURNING 1",
    )
    report = on("reader").sync()
    assert (report.healed, report.removed) == (1, 1)
    assert on("reader").list().rows == before


def test_a_wrong_password_is_one_notice_without_it(
    environ: dict[str, str], server: team_servers.Postgres, tmp_path: Path
) -> None:
    wrong = "another-pass"
    environ = {**environ, "LANEMARK_INDEX_URL": server.url.replace(team_servers.PASSWORD, wrong)}
    appended = open_ledger(Home(tmp_path / "a"), environ).append(ONE)
    assert "kept but not indexed" in appended.notices[0]
    assert wrong not in appended.notices[0]


def test_a_url_that_the_driver_cannot_read_is_one_notice_without_it(environ: dict[str, str], tmp_path: Path) -> None:
    secret = "s3cr3tly"
    environ = {**environ, "LANEMARK_INDEX_URL": f"postgresql://me:{secret}@host:port:1/db"}
    appended = open_ledger(Home(tmp_path / "a"), environ).append(ONE)
    assert "kept but not indexed" in appended.notices[0]
    assert secret not in appended.notices[0]


def test_the_password_may_come_from_the_usual_places(
    environ: dict[str, str], server: team_servers.Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: value for name, value in environ.items() if name != "LANEMARK_INDEX_URL"}
    given["LANEMARK_LEDGER"] += f"&index={server.url_without_password}"
    monkeypatch.setenv("PGPASSWORD", team_servers.PASSWORD)
    assert open_ledger(Home(tmp_path / "a"), given).append(ONE).notices == ()
    monkeypatch.delenv("PGPASSWORD")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:*:*:postgres:{team_servers.PASSWORD}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert [row.id for row in open_ledger(Home(tmp_path / "b"), given).list().rows] == [digest(ONE)]


def test_index_sync_is_a_verb_over_the_shared_index(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_ledger(Home(tmp_path / "elsewhere"), {**environ, "LANEMARK_INDEX_URL": ""}).append(ONE)
    for name, value in {**environ, "LANEMARK_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    assert main(["index", "sync", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 1
    assert main(["list", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)["records"]] == [digest(ONE)]
