"""Seeds from object storage and from web servers: one read, single files, and every way in which those break off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import seed_caches as made
import team_servers
from lanemark.stage import seed_remote
from lanemark.stage.seed_remote import NotThere, Unreachable, fetch
from lanemark.stage.seed_source import parse_source
from lanemark.stage.seeding import LayerOutcome, seed_cache

pytest.importorskip("zstandard")
obstore = pytest.importorskip("obstore")


class Server:
    """A web server on loopback over a dictionary of paths; `harm` changes its answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.harm = ""
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(path)
        data = self.files.get(path)
        if self.harm == "redirect":
            request.send_response(302)
            request.send_header("Location", "http://example.com/a.tar.zst")
            request.end_headers()
        elif self.harm == "busy" or data is None:
            request.send_error(503 if self.harm == "busy" else 404)
        else:
            request.send_response(200)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            if self.harm == "stall":
                request.wfile.write(data[: len(data) // 2])
                request.wfile.flush()
                threading.Event().wait(3)
            else:
                request.wfile.write(data[: len(data) // 2] if self.harm == "short" else data)

    def serve(self, base: Path, below: str) -> None:
        for path in base.rglob("*"):
            if path.is_file():
                self.files[f"{below}{path.relative_to(base).as_posix()}"] = path.read_bytes()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def seed(cache_dir: Path, source: str) -> LayerOutcome:
    (done,) = seed_cache(
        [parse_source(source)], cache_dir, case=made.case(), layout="shared", fingerprint=made.FINGERPRINT
    )
    return done


def test_an_archive_from_a_server_is_one_read(tmp_path: Path, server: Server) -> None:
    server.files["/a.tar.zst"] = made.archived(tmp_path).read_bytes()
    done = seed(tmp_path / "cache", f"{server.url}/a.tar.zst?X-Amz-Signature=secret")
    assert (done.outcome, done.kind, done.source) == ("used", "object_storage", f"{server.url}/a.tar.zst")
    assert server.asked == ["/a.tar.zst"]
    assert made.covered(tmp_path / "cache")
    assert "secret" not in (tmp_path / "cache/coverage/seeded.json").read_text()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("missing", "there is nothing of that name"),
        ("busy", "it answered 503"),
        ("short", "broke off"),
        ("stall", "it did not answer in time"),
        ("redirect", "not https"),
    ],
)
def test_a_server_that_fails_is_unreachable(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, harm: str, words: str
) -> None:
    monkeypatch.setattr(seed_remote, "SILENCE_S", 0.5)
    server.files["/a.tar.zst"] = made.archived(tmp_path).read_bytes()
    server.harm = harm
    if harm == "missing":
        server.files.clear()
    done = seed(tmp_path / "cache", f"{server.url}/a.tar.zst")
    assert (done.outcome, words in done.reason) == ("unreachable", True), done
    assert not (tmp_path / "cache").exists()


def test_nobody_listening_is_unreachable(tmp_path: Path, server: Server) -> None:
    server.close()
    done = seed(tmp_path / "cache", f"{server.url}/a.tar.zst")
    assert (done.outcome, done.reason) == ("unreachable", "the connection was refused")


def test_single_files_are_driven_by_the_manifest(tmp_path: Path, server: Server) -> None:
    server.serve(made.filled(tmp_path / "baked"), "/seeds/dense/")
    done = seed(tmp_path / "cache", f"{server.url}/seeds/dense/")
    assert (done.outcome, done.kind, done.files) == ("used", "per_file", 7)
    assert made.covered(tmp_path / "cache")
    assert len(server.asked) == 8
    assert not any("lock" in path or "tmp" in path for path in server.asked)


def first_binary(change: Callable[[bytes], bytes | None]) -> Callable[[Server], None]:
    def harm(server: Server) -> None:
        path = f"/s/{made.BINARIES[0]}"
        data = change(server.files[path])
        if data is None:
            del server.files[path]
        else:
            server.files[path] = data

    return harm


@pytest.mark.parametrize(
    ("harm", "outcome", "words"),
    [
        (first_binary(lambda data: None), "damaged", "is not there"),
        (first_binary(lambda data: data[:-1]), "damaged", "is truncated"),
        (first_binary(lambda data: data + b"x"), "refused", "is longer than"),
        (first_binary(lambda data: bytes(reversed(data))), "damaged", "has another content"),
        (lambda server: server.files.clear(), "empty", "no manifest of a seed for this case"),
        (lambda server: setattr(server, "harm", "busy"), "unreachable", "503"),
    ],
)
def test_single_files_that_are_not_as_listed(
    tmp_path: Path, server: Server, harm: Callable[[Server], None], outcome: str, words: str
) -> None:
    server.serve(made.filled(tmp_path / "baked"), "/s/")
    harm(server)
    done = seed(tmp_path / "cache", f"{server.url}/s/")
    assert (done.outcome, words in done.reason) == (outcome, True), done
    assert not (tmp_path / "cache").exists()
    assert [path for path in tmp_path.iterdir() if ".seeding-" in path.name] == []


def test_more_than_was_to_be_read_is_refused(server: Server) -> None:
    server.files["/x"] = b"x" * 1000
    assert len(fetch(f"{server.url}/x", 1000)) == 1000
    with pytest.raises(Unreachable, match="more than the 999 bytes"):
        fetch(f"{server.url}/x", 999)
    with pytest.raises(NotThere):
        fetch(f"{server.url}/y", 999)


# Object storage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage() -> Iterator[int]:
    with team_servers.s3_server() as port:
        yield port


@pytest.fixture
def put(storage: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], str]:
    """Puts an object, and returns its URL as a source."""
    from obstore.store import S3Store

    for name, value in team_servers.KEYS.items():
        monkeypatch.setenv(name, value)
    endpoint = f"http://127.0.0.1:{storage}"
    store = S3Store(
        team_servers.BUCKET, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True},
        access_key_id="tests", secret_access_key="tests",
    )  # fmt: skip

    def one(name: str, data: bytes) -> str:
        obstore.put(store, name, data)
        return f"s3://{team_servers.BUCKET}/{name}?endpoint={endpoint}"

    return one


def test_an_archive_from_object_storage(tmp_path: Path, put: Callable[[str, bytes], str]) -> None:
    url = put("seeds/dense one.tar.zst".replace(" ", "-"), made.archived(tmp_path).read_bytes())
    done = seed(tmp_path / "cache", url)
    assert (done.outcome, done.source) == ("used", f"s3://{team_servers.BUCKET}/seeds/dense-one.tar.zst"), done
    assert made.covered(tmp_path / "cache")


def test_single_files_from_object_storage(tmp_path: Path, put: Callable[[str, bytes], str]) -> None:
    baked = made.filled(tmp_path / "baked")
    url = ""
    for path in baked.rglob("*"):
        if path.is_file():
            url = put(f"baked/{path.relative_to(baked).as_posix()}", path.read_bytes())
    base = f"s3://{team_servers.BUCKET}/baked/?{url.partition('?')[2]}"
    done = seed(tmp_path / "cache", base)
    assert (done.outcome, done.kind, done.files) == ("used", "per_file", 7), done
    assert made.covered(tmp_path / "cache")


def test_storage_without_the_object_and_storage_that_is_gone(tmp_path: Path, put: Callable[[str, bytes], str]) -> None:
    url = put("there.tar.zst", b"no archive")
    assert seed(tmp_path / "cache", url).outcome == "damaged"
    gone = seed(tmp_path / "cache", url.replace("there", "not-there"))
    assert (gone.outcome, gone.reason) == ("unreachable", "there is no object of that name")


def test_without_the_package_one_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    done = seed(tmp_path / "cache", "s3://bucket/a.tar.zst")
    assert (done.outcome, "lanemark[team]" in done.reason) == ("unreachable", True)
    archive = made.archived(tmp_path)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    done = seed(tmp_path / "cache", str(archive))
    assert (done.outcome, "needs the package zstandard" in done.reason) == ("unreachable", True)
