"""Sources of a compile cache, as words: what each means, what is refused, and that no credential is ever shown."""

from __future__ import annotations

import pytest

from lanemark.records.errors import UsageError
from lanemark.stage.seed_remote import below
from lanemark.stage.seed_source import MAX_SOURCES, loopback, parse_source, parse_sources


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("/vol/a.tar.zst", "archive", "/vol/a.tar.zst"),
        ("a.tar.zst", "archive", "a.tar.zst"),
        ("/opt/seed", "image_directory", "/opt/seed"),
        ("~/seeds/x", "image_directory", "~/seeds/x"),
        ("s3://bucket/a/b.tar.zst", "object_storage", "s3://bucket/a/b.tar.zst"),
        ("s3://b/x.tar.zst?endpoint=http://127.0.0.1:9000&region=eu-1", "object_storage", "s3://b/x.tar.zst"),
        ("gs://bucket/b.tar.zst", "object_storage", "gs://bucket/b.tar.zst"),
        ("az://account/container/b.tar.zst", "object_storage", "az://account/container/b.tar.zst"),
        ("https://host:8443/x/b.tar.zst?X-Amz-Signature=secret", "object_storage", "https://host:8443/x/b.tar.zst"),
        ("https://user:secret@host/b.tar.zst", "object_storage", "https://host/b.tar.zst"),
        ("https://host/seeds/", "per_file", "https://host/seeds/"),
        ("s3://bucket/seeds/", "per_file", "s3://bucket/seeds/"),
        ("http://127.0.0.1:8000/seeds/", "per_file", "http://127.0.0.1:8000/seeds/"),
        ("http://[::1]:8000/a.tar.zst", "object_storage", "http://[::1]:8000/a.tar.zst"),
    ],
)
def test_what_each_word_means(text: str, kind: str, shown: str) -> None:
    source = parse_source(text)
    assert (source.kind, source.shown, source.text) == (kind, shown, text)


@pytest.mark.parametrize(
    "text",
    [
        "", "a\0b", "a\nb", "x" * 5000, "http://example.com/a.tar.zst", "ftp://host/a.tar.zst", "file:///a.tar.zst",
        "https://host/a.zip", "https://host/a.tar.zst#part", "https:///a.tar.zst", "https://[x/a.tar.zst",
        "https://host:no/a.tar.zst", "s3://key:secret@bucket/a.tar.zst", "s3://bucket/a.tar.zst?token=secret",
        "s3://bucket/a.tar.zst?endpoint=http://example.com", "s3://bucket/a.tar.zst?endpoint=",
        "s3://bucket/a.tar.zst?endpoint=https://u:secret@host", "gs://bucket/a.tar.zst?endpoint=https://host",
        "gopher://user:secret@host/a",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert caught.value.slug == "cache-source-invalid"
    assert "secret" not in str(caught.value)


def test_the_command_line_comes_before_the_environment() -> None:
    environ = {"LANEMARK_CACHE_FROM": " /a.tar.zst  https://host/s/ "}
    assert [source.text for source in parse_sources([], environ)] == ["/a.tar.zst", "https://host/s/"]
    assert [source.text for source in parse_sources(["/b"], environ)] == ["/b"]
    assert parse_sources([], {}) == ()
    with pytest.raises(UsageError, match="more than"):
        parse_sources(["/x"] * (MAX_SOURCES + 1), {})


def test_loopback() -> None:
    assert all(map(loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(loopback, ("", "10.0.0.1", "localhost.example.com", "0.0.0.0", "127.0.0.1.example.com")))


def test_paths_below_a_url_are_quoted_and_keep_its_query() -> None:
    assert below("https://host/s/?sig=1", "inductor/a b?#.so") == "https://host/s/inductor/a%20b%3F%23.so?sig=1"
