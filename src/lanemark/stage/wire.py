"""`Wire`: plain GET requests over kept connections, each body received into one buffer that is used again and again.

Through the client library a verified GiB cost twice the processor time that it does here, and that was more than two
cores had. Here the kernel's copy out of the socket is the
only one, into a buffer that stays in a core's cache while it is hashed and written.

It reads what storage servers answer to a GET nearly always: HTTP/1.1, a status line, headers, `Content-Length`, and as
many bytes. Whatever else comes (chunks, an encoding, a certificate that the system's roots do not know, a redirect) is
`NotPlainError`, and the library's to understand. No proxy, no cookies, no retry but one: a connection that was idle may
have been closed by the other side, which shows only when it is used.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

#: Received at a time, then hashed and written while still in a core's cache. Measured: 128 KiB cost 20 % more processor
#: time than 512 KiB, 256 KiB and 1 MiB up to 3 %.
BUFFER_BYTES: Final = 512 * 1024
#: Twice what the largest header of S3 takes (8 KiB, S3 API reference); more is no storage server's answer.
_HEAD_BYTES: Final = 16 * 1024
#: Asked of the kernel for what waits to be read: with less, sender and receiver wake one another for every few packets.
#: Measured over loopback, a GiB: 0.90 CPU s with what the kernel grows by itself, 0.65 with this.
_WINDOW_BYTES: Final = 4 * 1024 * 1024
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(r"[1-5][0-9]{2}( |$)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class NotPlainError(Exception):
    """An answer, or a way to get one, that is the client library's to deal with."""


class _IdleClosedError(Exception):
    """A kept connection was closed before it answered."""


@cache
def _window_allowed() -> bool:
    """Whether the kernel would grant it. Where it would not, asking caps the window for good, and nothing is asked."""
    try:
        with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
            return int(file.read()) >= _WINDOW_BYTES
    except (OSError, ValueError):
        return False


class Wire:
    """Connections to one or a few hosts. Safe to use from several threads.

    Args:
        silence_s: seconds without a byte after which a request is given up (`TimeoutError`).
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None
        self._ended = False

    def get(self, url: str, headers: str = "") -> Answer:
        """Ask for `url`; `headers` are whole lines. The caller reads the answer's `parts`, or closes it.

        Raises:
            OSError: refused, reset, silent, ended: a fault that may pass.
            NotPlainError: see the module.
        """
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: lanemark\r\n"
            f"Accept-Encoding: identity\r\n{headers}\r\n"
        ).encode("ascii")
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                kept = idle.pop() if idle else None
            connection = kept or self._connected(origin, parts.hostname or "", parts.port)
            try:
                return Answer(connection, *connection.ask(request, fresh=kept is None))
            except _IdleClosedError:
                self.drop(connection)
            except BaseException:
                self.drop(connection)
                raise

    def end(self) -> None:
        """Wake whoever waits for a byte; nothing can be asked for any more."""
        with self._lock:
            self._ended = True
            for connection in self._all:
                connection.wake()

    def close(self) -> None:
        """Close what is open. Only when no thread asks for or reads anything any more."""
        self.end()
        for connection in list(self._all):
            self.drop(connection)

    def _connected(self, origin: tuple[str, str], host: str, port: int | None) -> _Connection:
        secure = origin[0] == "https"
        plain = socket.create_connection((host, port or (443 if secure else 80)), timeout=self._silence_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _window_allowed():
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW_BYTES)
            ready = self._secured(plain, host) if secure else plain
        except BaseException:
            plain.close()
            raise
        connection = _Connection(self, origin, ready, self._silence_s)
        with self._lock:
            if self._ended:
                connection.wake()
            self._all.add(connection)
        return connection

    def _secured(self, plain: socket.socket, host: str) -> ssl.SSLSocket:
        import ssl  # 15 ms, and most sources on loopback or a local network need none of it

        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
        try:
            return self._tls.wrap_socket(plain, server_hostname=host)
        except ssl.SSLError:
            raise NotPlainError from None

    def keep(self, connection: _Connection) -> None:
        """Take a connection back whose answer was read to the end."""
        with self._lock:
            if not self._ended:
                self._idle.setdefault(connection.origin, []).append(connection)

    def drop(self, connection: _Connection) -> None:
        """Close a connection for good."""
        with self._lock:
            self._all.discard(connection)
            connection.close()


class _Connection:
    """One socket and its buffer. Used by one thread at a time."""

    __slots__ = ("buffer", "origin", "silence_s", "sock", "wire")

    def __init__(self, wire: Wire, origin: tuple[str, str], sock: socket.socket, silence_s: float) -> None:
        self.wire, self.origin, self.sock, self.silence_s = wire, origin, sock, silence_s
        self.buffer = bytearray(BUFFER_BYTES)

    def ask(self, request: bytes, *, fresh: bool) -> tuple[bytes, int, int]:
        """Send it and read the answer's head; where the body starts in the buffer, and where what came ends."""
        view, got, end = memoryview(self.buffer), 0, -1
        ends = time.monotonic() + 2 * self.silence_s
        try:
            self.sock.sendall(request)
            while end < 0:
                if got > _HEAD_BYTES:
                    raise NotPlainError
                if time.monotonic() > ends:
                    raise TimeoutError("timed out")
                got += self._more(view[got:])
                end = self.buffer.find(_END, 0, got)
        except (BrokenPipeError, ConnectionResetError):
            if fresh or got:
                raise
            raise _IdleClosedError from None
        return bytes(view[:end]), end + len(_END), got

    def _more(self, view: memoryview) -> int:
        count = self.sock.recv_into(view)
        if count == 0:
            raise ConnectionResetError("the connection was closed")
        return count

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


class Answer:
    """What was answered.

    Attributes:
        status: of the status line.
        headers: by lower-case name; of one given twice, the last.
        length: bytes of the body.
    """

    def __init__(self, connection: _Connection, head: bytes, start: int, got: int) -> None:
        self._connection: _Connection | None = connection
        self._start, self._got = start, got
        first, *lines = head.decode("latin-1").split("\r\n")
        self.headers = {
            name.lower(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon
        }
        version, _, rest = first.partition(" ")
        length = self.headers.get("content-length", "")
        plain = version in ("HTTP/1.1", "HTTP/1.0") and _STATUS.match(rest) and _LENGTH.fullmatch(length)
        if not plain or self.headers.keys() & {"transfer-encoding", "content-encoding"}:
            raise NotPlainError
        self.status, self.length = int(rest[:3]), int(length)
        self._reusable = version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"

    def parts(self) -> Iterator[memoryview]:
        """The body in order, in parts of a full buffer, or of less where that takes longer than a silence may last.

        A part's bytes are there until the next one is asked for.

        Raises:
            OSError: it did not arrive whole.
        """
        connection = self._connection
        assert connection is not None, "an answer's body is read once"
        view, sock, left = memoryview(connection.buffer), connection.sock, self.length
        try:
            start, got = self._start, self._got
            if got - start > left:
                raise ConnectionResetError("it sent more than was asked for")
            while True:
                ends = time.monotonic() + connection.silence_s
                while got < len(view) and got - start < left and (got == start or time.monotonic() < ends):
                    count = sock.recv_into(view[got : min(len(view), start + left)])
                    if count == 0:
                        raise ConnectionResetError("the connection ended early: incomplete")
                    got += count
                yield view[start:got]
                left -= got - start
                start = got = 0
                if left == 0:
                    break
            if self._reusable:
                self._connection = None
                connection.wire.keep(connection)
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection up, if its body was not read to the end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.wire.drop(connection)
