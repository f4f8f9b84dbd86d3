"""Locations and names: what is read, and what is refused without being repeated."""

from __future__ import annotations

import pytest

from lanemark.records.errors import LanemarkError, StageError, UsageError
from lanemark.stage.names import check_names, fault_of
from lanemark.stage.place import Place, is_url, parse_place
from lanemark.stage.store import endpoint_of, profile_keys


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("s3://data/a/b/", Place("s3", "data", "a/b"), "s3://data/a/b"),
        (
            "s3://data?endpoint=http://127.0.0.1:9000&region=eu-west-1",
            Place("s3", "data", "", "http://127.0.0.1:9000", "eu-west-1"),
            "s3://data",
        ),
        ("gs://data/x", Place("gs", "data", "x"), "gs://data/x"),
        ("az://box/x?account=me", Place("az", "box", "x", account="me"), "az://box/x"),
        ("https://Host:8080/d", Place("http", "host:8080", "d", "https://host:8080"), "https://host:8080/d"),
        ("http://host/", Place("http", "host", "", "http://host"), "http://host"),
        ("file:///srv/x/", Place("local", "", "/srv/x"), "/srv/x"),
        ("/srv/x/../y", Place("local", "", "/srv/y"), "/srv/y"),
    ],
)
def test_a_source_is_taken_apart(text: str, place: Place, name: str) -> None:
    assert parse_place(text) == place
    assert parse_place(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        "", "s3://", "s3://B/x", "ftp://host/x", "s3://data/../x", "s3://data/a//x", "s3://data?endpoint=nowhere",
        "s3://data?colour=red", "s3://data?region=a&region=b", "s3://data?region=", "s3://data/#x", "https:///x",
        "https://host/x?page=1", "file://other/x", "gs://data?region=x", "s3://data/\x00", "http://[::1/x",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(text)
    assert caught.value.slug == "stage-source-invalid"


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIDEXAMPLE:hunter22@data/x",
        "s3://data?secret_access_key=hunter22",
        "https://host/x?X-Amz-Signature=hunter22",
        "https://account.blob.example/x?sig=hunter22",
        "https://user:hunter22@host/x",
        "ftp://user:hunter22@host/x",
        "s3://data?endpoint=http://user:hunter22@host",
    ],
)
def test_credentials_in_a_source_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(text)
    assert caught.value.slug == "stage-credentials-in-url"
    assert "hunter22" not in str(caught.value)


def test_only_urls_are_staged_by_a_run() -> None:
    assert is_url("s3://data/x")
    assert not is_url("synthetic")
    assert not is_url("/srv/x")


@pytest.mark.parametrize(("place", "word"), [("s3://data/a/Fine Web", "fine-web"), ("gs://data", "data")])
def test_the_last_word_names_a_directory(place: str, word: str) -> None:
    assert parse_place(place).last == word


def test_ordinary_names_become_files() -> None:
    check_names(["a", "b c.bin", "d/e/f", "größe"], "here")


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\\..\\b", "a\nb", "a\x00b", "x" * 256, "y/" * 600 + "y", "\udcff"],
)  # fmt: skip
def test_hostile_names_refuse_the_whole_source(name: str) -> None:
    assert fault_of(name) is not None
    with pytest.raises(StageError) as caught:
        check_names(["fine.bin", name], "here")
    assert caught.value.slug == "stage-name-hostile"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"]])
def test_names_that_cannot_be_together_are_refused(names: list[str]) -> None:
    with pytest.raises(LanemarkError) as caught:
        check_names(names, "here")
    assert caught.value.slug == "stage-name-hostile"


def test_keys_come_from_the_shared_file_only_where_no_other_chain_is_set(tmp_path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = one\naws_secret_access_key = two\n[half]\naws_access_key_id = x\n")
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert profile_keys(environ) == {"access_key_id": "one", "secret_access_key": "two"}
    assert profile_keys({**environ, "AWS_PROFILE": "half"}) == {}
    assert profile_keys({**environ, "AWS_PROFILE": "none"}) == {}
    assert profile_keys({**environ, "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}) == {}
    assert profile_keys({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "missing")}) == {}


def test_endpoints_come_from_the_providers_own_variables() -> None:
    assert endpoint_of("s3", {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}) == "http://b"
    assert endpoint_of("gs", {"STORAGE_EMULATOR_HOST": "127.0.0.1:4443"}) == "http://127.0.0.1:4443"
    assert endpoint_of("az", {"AWS_ENDPOINT_URL": "http://a"}) is None
