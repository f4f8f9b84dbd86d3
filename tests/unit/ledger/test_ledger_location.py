"""`LANEMARK_LEDGER`: what each form means, what is refused and by which slug, and that no secret is ever shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lanemark.cli.main import main
from lanemark.ledger import remote
from lanemark.ledger.index import Index
from lanemark.ledger.location import ledger_location, open_ledger
from lanemark.ledger.postgres import CONDITIONS
from lanemark.ledger.remote import reason_of, static_keys
from lanemark.ledger.rows import Filters
from lanemark.ledger.s3_location import DEADLINE_S, IndexURL, S3Location
from lanemark.records.attempt import Home
from lanemark.records.errors import LanemarkError

HOME = Home(Path("/home/of/lanemark"))
SECRET = "hunter2-and-more"


def located(text: str, **environ: str) -> Path | S3Location:
    return ledger_location(HOME, {"LANEMARK_LEDGER": text, **environ})


def test_unset_and_empty_mean_the_home() -> None:
    assert ledger_location(HOME, {}) == HOME.ledger
    assert located("") == HOME.ledger


def test_a_path_is_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert located("/srv/share/led ger") == Path("/srv/share/led ger")
    assert located("here/it is") == tmp_path / "here" / "it is"
    assert located("~/ledger") == Path("/home/someone/ledger")
    assert located("C:odd") == tmp_path / "C:odd"
    assert located("~no-such-user/x") == tmp_path / "~no-such-user" / "x"


def test_a_bucket_with_everything() -> None:
    place = located(
        "s3://team-bench/gpu/ledger/?endpoint=http://127.0.0.1:9000&region=eu-west-1&deadline_s=2.5"
        "&index=postgresql://bench@db.example/records%3Fsslmode=require"
    )
    assert isinstance(place, S3Location)
    assert (place.bucket, place.prefix, place.name) == ("team-bench", "gpu/ledger", "s3://team-bench/gpu/ledger")
    assert (place.endpoint, place.region, place.deadline_s) == ("http://127.0.0.1:9000", "eu-west-1", 2.5)
    assert place.shared_index is not None
    assert place.shared_index.conninfo == "postgresql://bench@db.example/records?sslmode=require"


def test_a_bucket_alone() -> None:
    assert located("s3://bucket") == S3Location("bucket", deadline_s=DEADLINE_S)
    assert located("S3://bucket/") == S3Location("bucket")


def test_one_ledger_has_one_key_and_two_have_two() -> None:
    same = {located(text).key for text in ("s3://bucket/a", "s3://bucket/a/", "s3://bucket/a?deadline_s=3")}  # type: ignore[union-attr]
    others = {located(f"s3://{text}").key for text in ("bucket/b", "bucket", "other/a", "bucket/a?endpoint=http://h:1")}  # type: ignore[union-attr]
    assert len(same) == 1
    assert len(others) == 4
    assert not same & others


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/a", "http://host/a", "file:///a", "s3://", "s3://UPPER", "s3://a", "s3://bucket/..", "s3://bucket/a//b",
        "s3://bucket/a b", "s3://bucket/a%00b", "s3://bucket/%2e%2e/b", "s3://bucket#frag", "s3://bucket?endpont=http://h",
        "s3://bucket?endpoint=", "s3://bucket?endpoint=ftp://h", "s3://bucket?endpoint=host:9000", "s3://bucket?endpoint",
        "s3://bucket?endpoint=http://h:99999", "s3://bucket?endpoint=http://a&endpoint=http://b", "s3://bucket?deadline_s=nan",
        "s3://bucket?deadline_s=0", "s3://bucket?deadline_s=1e9", "s3://bucket?deadline_s=soon", "s3://bucket?region=EU West",
        "s3://bucket?index=mysql://h/db", "s3://bucket?index=postgresql://h/a b", "s3://buc\nket", "s3://[bucket", "a\0b",
    ],
)  # fmt: skip
def test_what_names_no_ledger(text: str) -> None:
    with pytest.raises(LanemarkError) as caught:
        located(text)
    assert (caught.value.slug, caught.value.exit_code) == ("ledger-location-invalid", 2)


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIA:{SECRET}@bucket/a",
        f"s3://{SECRET}@bucket/a",
        f"s3://bucket/a?aws_secret_access_key={SECRET}",
        f"s3://bucket/a?access_key_id={SECRET}",
        f"s3://bucket/a?X-Amz-Security-Token={SECRET}",
        f"s3://bucket/a?key={SECRET}",
        f"s3://bucket/a?endpoint=http://me:{SECRET}@host:9000",
        f"s3://bucket/a?endpoint=http://host:9000/?key={SECRET}",
        f"s3://bucket/a?index=postgresql://me:{SECRET}@host/db",
        f"s3://bucket/a?index=postgresql://me@host/db%3Fpassword={SECRET}",
    ],
)
def test_credentials_in_a_location_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(LanemarkError) as caught:
        located(text)
    assert (caught.value.slug, caught.value.exit_code) == ("ledger-credentials-in-url", 2)
    assert SECRET not in str(caught.value)


def test_a_password_from_the_environment_is_taken_and_never_shown() -> None:
    url = f"postgresql://me:{SECRET}%2F@host:5433/db?sslpassword=also-{SECRET}"
    place = located("s3://bucket", LANEMARK_INDEX_URL=url)
    assert isinstance(place, S3Location)
    assert place.shared_index is not None
    assert place.shared_index.conninfo == url
    shown = f"{place} {place!r} {place.shared_index} {place.shared_index!r}"
    assert SECRET not in shown
    assert str(place.shared_index) == "postgresql://host:5433/db"
    scrubbed = place.shared_index.scrub(f'unexpected character in URI: "{url}", also {SECRET}%2F and {SECRET}/')
    assert SECRET not in scrubbed


def test_the_location_wins_over_the_environment() -> None:
    place = located("s3://bucket?index=postgresql://one/db", LANEMARK_INDEX_URL="postgresql://two/db")
    assert isinstance(place, S3Location)
    assert str(place.shared_index) == "postgresql://one/db"


def test_a_directory_has_no_shared_index() -> None:
    with pytest.raises(LanemarkError) as caught:
        located("/srv/ledger", LANEMARK_INDEX_URL=f"postgresql://me:{SECRET}@host/db")
    assert caught.value.slug == "ledger-location-invalid"
    assert SECRET not in str(caught.value)


def test_opening_asks_nothing_of_the_network(tmp_path: Path) -> None:
    ledger = open_ledger(Home(tmp_path), {"LANEMARK_LEDGER": "s3://bucket?endpoint=http://127.0.0.1:1"})
    assert ledger.is_remote
    assert ledger.index_file.is_relative_to(tmp_path / "ledger-copies")
    assert list(tmp_path.iterdir()) == []
    local = open_ledger(Home(tmp_path), {})
    assert (local.is_remote, local.root) == (False, tmp_path / "ledger")


@pytest.mark.parametrize(("package", "index"), [("obstore", ""), ("psycopg", "&index=postgresql://h/db")])
def test_a_missing_package_is_one_error_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, index: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LanemarkError, match=r"pip install 'lanemark\[team\]'") as caught:
        open_ledger(Home(tmp_path), {"LANEMARK_LEDGER": f"s3://bucket?endpoint=http://h{index}"})
    assert caught.value.slug == "team-extra-missing"
    assert package in str(caught.value)


def test_the_verbs_refuse_a_bad_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.setenv("LANEMARK_LEDGER", f"s3://me:{SECRET}@bucket")
    for args in (["list"], ["show", "ab"], ["verify", "ab"], ["index", "sync"], ["report", "-o", "x.html"]):
        assert main(args) in (1, 2), args
        out, err = capsys.readouterr()
        assert "ledger-credentials-in-url" in out + err
        assert SECRET not in out + err


def test_the_embedded_default_imports_nothing_of_the_team() -> None:
    program = (
        "import sys, tempfile; from pathlib import Path\n"
        "from lanemark.ledger.location import open_ledger; from lanemark.records.attempt import Home\n"
        "open_ledger(Home(Path(tempfile.mkdtemp())), {}).list()\n"
        "print(*(name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "lanemark.ledger.ledger" in loaded
    team = {
        "obstore",
        "psycopg",
        "configparser",
        "concurrent.futures",
        "lanemark.ledger.copies",
        "lanemark.ledger.remote",
        "lanemark.ledger.s3_location",
    }
    assert loaded & team == set()


def test_keys_come_from_the_environment_then_from_the_shared_file(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
        "[temporary]\naws_access_key_id = C\naws_secret_access_key = D%x\naws_session_token = E\n"
        "[role]\nrole_arn = arn\n"
    )
    where = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert static_keys(where) == {"aws_access_key_id": "A", "aws_secret_access_key": "B"}
    assert static_keys({**where, "AWS_PROFILE": "temporary"})["aws_session_token"] == "E"
    assert static_keys({**where, "AWS_PROFILE": "role"}) == {}
    assert static_keys({**where, "AWS_PROFILE": "gone"}) == {}
    assert static_keys({**where, "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}) == {}
    given = {"AWS_ACCESS_KEY_ID": "X", "AWS_SECRET_ACCESS_KEY": "Y"}
    assert static_keys({**where, **given}) == {"aws_access_key_id": "X", "aws_secret_access_key": "Y"}
    file.write_bytes(b"\xff\xfe[default")
    assert static_keys(where) == {}
    assert static_keys({"HOME": str(tmp_path / "nowhere")}) == {}


def test_reasons_are_short_and_hold_no_address() -> None:
    busy = "Generic S3 error: PUT http://h/k - Server returned non-2xx status code: 503 Slow: <Code>SlowDown</Code>"
    assert reason_of(Exception(busy)) == "it answered 503 SlowDown"
    assert reason_of(Exception("error sending request: Connection reset by peer")) == "the connection was reset"
    assert reason_of(Exception(f"something with {SECRET}")) == "the request failed"


def test_every_filter_has_its_condition() -> None:
    assert set(Filters._fields) - {"limit"} == set(CONDITIONS)


def test_both_kinds_of_index_have_the_same_calls() -> None:
    from lanemark.ledger.postgres import PostgresIndex
    from lanemark.ledger.store import RowIndex

    wanted = {name for name in vars(RowIndex) if not name.startswith("_")}
    assert {"add", "query", "stream", "refresh", "sync"} <= wanted
    for kind in (Index, PostgresIndex):
        assert [name for name in wanted if not hasattr(kind, name)] == []


def test_an_index_url_is_shown_without_its_user() -> None:
    assert str(IndexURL("postgresql:///db?service=team")) == "postgresql:///db"
    assert remote.extra_missing("x").slug == "team-extra-missing"
