"""`FaultProxy`: an HTTP proxy on loopback that lets chosen requests meet what networks and busy servers do.

    with FaultProxy(upstream_port) as proxy:
        proxy.faults += [Fault("busy", method="PUT")] * 2     # the next two PUTs are answered 503
        proxy.faults += [Fault("stall", for_ever=True)]

Each request goes through the list and meets the first fault that fits it, which is then used up unless it is for ever.
A connection carries one request. Threads, because a test stops the world nowhere else.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "busy", "denied", "expired", "reset", "reset_body", "short", "cut", "lost_reply", "stall", "stall_body", "drip", "flip",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What one request meets.

    Attributes:
        kind: `busy` 503 · `denied` 403 · `expired` the answer of S3 to keys whose time is over · `reset` before any answer,
            the request not passed on · `reset_body` in the middle of the answer · `short` half an answer and an orderly
            end · `cut` half a body that claims to be all of it · `lost_reply` passed on, done, and the answer lost ·
            `stall` no answer · `stall_body` half an answer and then silence · `drip` the body byte by byte, so that it
            never falls silent and never ends · `flip` one bit of the answer's body is another.
        method, path: regular expressions that the request's must match.
        for_ever: whether it stays in the list.
        after: requests that fit and are let through before it begins.
    """

    kind: Kind
    method: str = ".*"
    path: str = ".*"
    for_ever: bool = False
    after: int = 0


class FaultProxy:
    """See the module. `seen` has one line a request: method, path and the fault it met, or `-`."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self._spared: dict[Fault, int] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> FaultProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()  # wakes the accepting thread
        for thread in list(self._threads):
            thread.join(timeout=10)
        self._listener.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            client, _ = self._listener.accept()
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(30)
            head, body = _message(client)
            if not head:
                return
            method, path = head.split(b" ", 2)[:2]
            fault = self._next(method.decode(), path.decode())
            self._answer(client, fault.kind if fault else None, head, body)

    def _next(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for number, fault in enumerate(self.faults):
                if re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    self._spared[fault] = self._spared.get(fault, 0) + 1
                    if self._spared[fault] <= fault.after:
                        continue
                    if not fault.for_ever:
                        del self.faults[number]
                    self.seen.append(f"{method} {path} {fault.kind}")
                    return fault
            self.seen.append(f"{method} {path} -")
            return None

    def _answer(self, client: socket.socket, kind: Kind | None, head: bytes, body: bytes) -> None:
        if kind == "busy":
            client.sendall(_refusal(503, "SlowDown"))
        elif kind == "denied":
            client.sendall(_refusal(403, "AccessDenied"))
        elif kind == "expired":
            client.sendall(_refusal(400, "ExpiredToken"))
        elif kind == "reset":
            _reset(client)
        elif kind == "stall":
            self._over.wait()
        else:
            answer, content = self._upstream(head, body)
            half = len(content) // 2
            if kind == "lost_reply":
                _reset(client)
            elif kind in ("reset_body", "stall_body"):
                client.sendall(answer + content[:half])
                self._over.wait(0.2 if kind == "reset_body" else None)
                _reset(client)
            elif kind == "short":
                client.sendall(answer + content[:half])
            elif kind == "cut":
                client.sendall(
                    re.sub(rb"(?im)^content-length:[^\r]*", b"Content-Length: %d" % half, answer) + content[:half]
                )
            elif kind == "drip":
                client.sendall(answer)
                self._drip(client, content)
            elif kind == "flip" and content:
                client.sendall(answer + content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
            else:
                client.sendall(answer + content)

    def _drip(self, client: socket.socket, content: bytes) -> None:
        for at in range(len(content)):
            if self._over.wait(0.1):
                return
            client.sendall(content[at : at + 1])

    def _upstream(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """The upstream's answer, head and body; it closes the connection at the end."""
        head = re.sub(rb"(?im)^connection:.*\r\n", b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        with socket.create_connection(("127.0.0.1", self.upstream_port), timeout=30) as upstream:
            upstream.sendall(head + body)
            parts = []
            while part := upstream.recv(65536):
                parts.append(part)
        answer, _, content = b"".join(parts).partition(b"\r\n\r\n")
        answer = re.sub(rb"(?im)\r\nconnection:[^\r]*", b"", answer) + b"\r\nConnection: close\r\n\r\n"
        return answer, content


def _message(connection: socket.socket) -> tuple[bytes, bytes]:
    """(head with its empty line, body) of one request; both empty when the other side says nothing."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return b"", b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        part = connection.recv(65536)
        if not part:
            return b"", b""
        body += part
    return head + b"\r\n\r\n", body


def _refusal(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
    return b"HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        code.encode(),
        len(body),
        body,
    )


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
