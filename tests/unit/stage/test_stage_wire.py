"""Plain requests against a server that answers from a script: what is read, what is left to the library, what is a fault."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lanemark.records.errors import StageError
from lanemark.stage.objects import Found
from lanemark.stage.place import parse_place
from lanemark.stage.store import WHOLE_BYTES, PassingError, Store
from lanemark.stage.wire import BUFFER_BYTES, NotPlainError, Wire

#: What a server does with one connection, given the requests that it has read so far on it.
Talk = Callable[[socket.socket], None]


class Listener:
    """A server on loopback. Connection number n is treated as `talks[n]` says, the last one from then on."""

    def __init__(self, *talks: Talk, tls: ssl.SSLContext | None = None) -> None:
        self.talks, self.tls = talks, tls
        self.connections = 0
        self.requests: list[str] = []
        self._open: list[socket.socket] = []
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._sock.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            talk = self.talks[min(self.connections, len(self.talks) - 1)]
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._talk, args=(connection, talk))
            self._threads.append(thread)
            thread.start()

    def _talk(self, connection: socket.socket, talk: Talk) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                talk(connection)
        except OSError:
            connection.close()

    def read(self, connection: socket.socket) -> bool:
        """One request; False when the client is gone."""
        held = b""
        while not held.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            if not part:
                return False
            held += part
        self.requests.append(held.decode())
        return True

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def answering(*answers: bytes, then_close: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """A server whose connections each give these answers in turn, the last one again and again."""

    def talk(connection: socket.socket) -> None:
        number = 0
        while listener.read(connection):
            connection.sendall(answers[min(number, len(answers) - 1)])
            number += 1
            if then_close:
                return

    listener = Listener(talk, tls=tls)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def wired(listener: Listener, silence_s: float = 5.0, scheme: str = "http") -> Iterator[Callable[..., bytes]]:
    """A client of the server: asks, and returns the whole body."""
    wire = Wire(silence_s)

    def ask(headers: str = "") -> bytes:
        return b"".join(
            bytes(part) for part in wire.get(f"{scheme}://127.0.0.1:{listener.port}/a?b=c", headers).parts()
        )

    try:
        yield ask
    finally:
        wire.close()


def plain(body: bytes, *headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    lines = [f"{version} {status}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def test_one_connection_carries_many_bodies_of_any_size() -> None:
    bodies = [b"", b"x", b"y" * (BUFFER_BYTES - 40), b"z" * (3 * BUFFER_BYTES + 7), b"end"]
    with answering(*(plain(body) for body in bodies)) as listener, wired(listener) as ask:
        assert [ask(f"If-Match: {number}\r\n") for number in range(len(bodies))] == bodies
        assert listener.connections == 1
        assert listener.requests[0].startswith("GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "If-Match: 4\r\n" in listener.requests[4]


@pytest.mark.parametrize(
    "answer", [plain(b"one", "Connection: close"), plain(b"one", version="HTTP/1.0")], ids=["close", "1.0"]
)
def test_a_connection_that_ends_is_not_used_again(answer: bytes) -> None:
    with answering(answer, then_close=True) as listener, wired(listener) as ask:
        assert (ask(), ask()) == (b"one", b"one")
        assert listener.connections == 2


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_once() -> None:
    with answering(plain(b"one"), then_close=True) as listener, wired(listener) as ask:
        for _ in range(3):
            assert ask() == b"one"
        assert listener.connections == 3


def test_a_fresh_connection_that_is_closed_is_a_fault_and_not_asked_again() -> None:
    with answering(b"", then_close=True) as listener, wired(listener) as ask:
        with pytest.raises(ConnectionResetError):
            ask()
        assert listener.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        plain(b"x", "Transfer-Encoding: chunked"),
        plain(b"x", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\nx",
        b"HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 x00 OK\r\nContent-Length: 1\r\n\r\nx",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000,
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_library(answer: bytes) -> None:
    with answering(answer, then_close=True) as listener, wired(listener) as ask, pytest.raises(NotPlainError):
        ask()


@pytest.mark.parametrize("missing", [1, 200_000])
def test_a_body_that_ends_early_or_late_is_a_fault(missing: int) -> None:
    body = b"x" * 300_000
    early, late = (
        pytest.raises(ConnectionResetError, match="early"),
        pytest.raises(ConnectionResetError, match="more th"),
    )
    with answering(plain(body)[:-missing], then_close=True) as listener, wired(listener) as ask, early:
        ask()
    with answering(plain(b"xyz") + b"more") as listener, wired(listener) as ask, late:
        ask()


def test_silence_is_given_up_and_a_trickle_is_handed_on() -> None:
    def drip(connection: socket.socket) -> None:
        listener.read(connection)
        connection.sendall(plain(b"x" * 100)[:-100])
        for _ in range(12):
            connection.sendall(b"x")
            time.sleep(0.1)
        time.sleep(3)

    listener, wire = Listener(drip), Wire(0.3)
    parts: list[bytes] = []
    try:
        body = wire.get(f"http://127.0.0.1:{listener.port}/").parts()
        with pytest.raises(TimeoutError):
            parts.extend(bytes(part) for part in body)
        assert b"x" in b"".join(parts), "what trickled in is handed on, for the caller to judge its rate"
    finally:
        wire.close()
        listener.close()


def test_whoever_waits_for_a_byte_is_woken() -> None:
    def mute(connection: socket.socket) -> None:
        listener.read(connection)
        asked.set()
        connection.recv(1)

    asked, ended = threading.Event(), threading.Event()
    listener = Listener(mute)
    wire = Wire(60.0)

    def wait() -> None:
        with pytest.raises(ConnectionResetError):
            wire.get(f"http://127.0.0.1:{listener.port}/")
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        assert asked.wait(10)
        wire.end()
        assert ended.wait(10)
    finally:
        thread.join(10)
        wire.close()
        listener.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key in the same file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lanemark test")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem, how = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(built.public_bytes(pem) + key.private_bytes(pem, how, serialization.NoEncryption()))
    return path


def test_a_trusted_certificate_is_read_and_another_one_left_to_the_library(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    body = b"secret" * 100_000
    with answering(plain(body), tls=tls) as listener:
        with wired(listener, scheme="https") as ask, pytest.raises(NotPlainError):
            ask()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with wired(listener, scheme="https") as ask:
            assert (ask(), ask()) == (body, body)


# -- as a store uses it ------------------------------------------------------------------------------------------------

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def store_of(listener: Listener, monkeypatch: pytest.MonkeyPatch, source: str = "s3://bench") -> Store:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address = f"http://127.0.0.1:{listener.port}"
    place = parse_place(f"{source}?endpoint={address}" if source.startswith("s3") else f"{address}/{source}")
    return Store(place, KEYS, patience_s=2.0, stopped=threading.Event())


def carried(store: Store, found: Found, start: int = 0, stop: int | None = None) -> bytes:
    parts = store.parts(found, start, found.bytes if stop is None else stop)
    try:
        return b"".join(bytes(part) for part in parts)
    finally:
        store.hang_up()


SMALL = Found("sp ace/ü.bin", 5, '"tag"', None)
LARGE = Found("large", WHOLE_BYTES + 10, '"tag"', None)
TAGGED = ('ETag: "tag"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT")


def test_a_small_object_comes_in_one_signed_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(plain(b"hello", *TAGGED)) as listener:
        assert carried(store_of(listener, monkeypatch), SMALL) == b"hello"
    (request,) = listener.requests
    assert request.startswith("GET /bench/sp%20ace/%C3%BC.bin?X-Amz-")
    assert 'If-Match: "tag"\r\n' in request
    assert "Range:" not in request


def test_a_web_server_is_asked_without_any_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(plain(b"hello", *TAGGED)) as listener:
        assert carried(store_of(listener, monkeypatch, "data set"), SMALL) == b"hello"
    assert listener.requests[0].startswith("GET /data%20set/sp%20ace/%C3%BC.bin HTTP/1.1\r\n")


def test_a_range_is_held_to_the_size_that_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(total: int) -> bytes:
        return plain(b"hello", f"Content-Range: bytes 3-7/{total}", *TAGGED, status="206 Partial Content")

    with answering(part(LARGE.bytes)) as listener:
        assert carried(store_of(listener, monkeypatch), LARGE, 3, 8) == b"hello"
        assert "Range: bytes=3-7\r\n" in listener.requests[0]
    with answering(part(LARGE.bytes + 1)) as listener, pytest.raises(StageError) as error:
        carried(store_of(listener, monkeypatch), LARGE, 3, 8)
    assert error.value.slug == "stage-changed"


def test_a_range_of_another_place_is_not_taken_for_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    other = plain(b"hello", f"Content-Range: bytes 4-8/{LARGE.bytes}", *TAGGED, status="206 Partial Content")
    with answering(other) as listener, pytest.raises((PassingError, StageError)):
        carried(store_of(listener, monkeypatch), LARGE, 3, 8)
    assert len(listener.requests) == 2, "the client library was asked as well, and refused it too"


@pytest.mark.parametrize(
    ("answer", "slug"),
    [
        (plain(b"hello", 'ETag: "other"'), "stage-changed"),
        (plain(b"hello!", *TAGGED), "stage-changed"),
        (plain(b"", status="404 Not Found"), "stage-changed"),
        (plain(b"", status="412 Precondition Failed"), "stage-changed"),
        (plain(b"<Error><Code>AccessDenied</Code></Error>", status="403 Forbidden"), "stage-denied"),
        (plain(b"<Error><Code>ExpiredToken</Code></Error>", status="400 Bad Request"), "stage-denied"),
    ],
    ids=["other tag", "other size", "removed", "replaced", "denied", "expired"],
)  # fmt: skip
def test_an_answer_that_lasts_is_one_error(answer: bytes, slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as listener, pytest.raises(StageError) as error:
        carried(store_of(listener, monkeypatch), SMALL)
    assert error.value.slug == slug


def test_a_server_that_is_busy_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = plain(b"<Error><Code>SlowDown</Code></Error>", status="503 Slow Down")
    with answering(busy) as listener, pytest.raises(PassingError, match="503 SlowDown"):
        carried(store_of(listener, monkeypatch), SMALL)
    assert len(listener.requests) == 1, "a busy server is not asked again at once"


def test_what_is_the_librarys_goes_there_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + "\r\n".join(TAGGED) + "\r\nContent-Length: 5\r\n"
    with answering((chunked + "\r\n5\r\nhello\r\n0\r\n\r\n").encode(), plain(b"hello", *TAGGED)) as listener:
        store = store_of(listener, monkeypatch)
        try:
            for _ in range(2):
                assert b"".join(bytes(part) for part in store.parts(SMALL, 0, 5)) == b"hello"
        finally:
            store.hang_up()
    signed = ["X-Amz-Signature" in request.splitlines()[0] for request in listener.requests]
    assert signed[0] is True
    assert not any(signed[1:]), "the library signs in a header"


def test_versions_and_proxies_are_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(plain(b"hello", *TAGGED)) as listener:
        store = store_of(listener, monkeypatch)
        assert carried(store, Found("a", 5, '"tag"', "v1")) == b"hello"
        assert "X-Amz-Signature" not in listener.requests[0]
        assert "versionId=v1" in listener.requests[0]
    with answering(plain(b"hello", *TAGGED)) as listener:
        store_of(listener, monkeypatch)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.port}")
        store = Store(
            parse_place("s3://bench?endpoint=http://store.invalid"), KEYS, patience_s=2.0, stopped=threading.Event()
        )
        assert carried(store, SMALL) == b"hello"
        assert listener.requests[0].startswith("GET http://store.invalid/")
