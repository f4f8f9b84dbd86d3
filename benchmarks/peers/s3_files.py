"""A read-only S3 server over a directory, written to cost little, so that the clients are what a benchmark measures.

    python s3_files.py DIRECTORY BUCKET      prints its port once it listens; ends when its standard input does

It lists (version 2, pages of 1,000), answers HEAD and GET with one range, and insists on `If-Match`. ETags are the MD5
of each file, computed before it listens. Bodies go out with sendfile(2). Two processes share the port, a thread a
connection. It checks no signature: a benchmark of clients over loopback is no place for one.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import re
import socket
import sys
import threading
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PROCESSES: Final = 2
PAGE: Final = 1000
_RANGE: Final = re.compile(rb"(?im)^range: *bytes=(\d+)-(\d*)")
_MATCH: Final = re.compile(rb"(?im)^if-match: *\"?([^\"\r]+)")
_WHEN: Final = formatdate(1_767_225_600, usegmt=True)


@dataclass(frozen=True)
class Kept:
    """One file: its path, size and MD5."""

    path: str
    bytes: int
    etag: str


def kept(directory: Path) -> dict[str, Kept]:
    """Every file below a directory, by its name there, in order."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                etag = hashlib.file_digest(file, "md5").hexdigest()
            found[path.relative_to(directory).as_posix()] = Kept(str(path), path.stat().st_size, etag)
    return dict(sorted(found.items()))


class Server:
    """The answers. One object a process, used by its threads."""

    def __init__(self, bucket: str, files: dict[str, Kept]) -> None:
        self._bucket, self._files, self._names = bucket, files, list(files)

    def serve(self, listener: socket.socket) -> None:
        """Accept for ever."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held = b""
        with connection:
            try:
                while True:
                    while (end := held.find(b"\r\n\r\n")) < 0:
                        part = connection.recv(65536)
                        if not part:
                            return
                        held += part
                    head, held = held[: end + 2], held[end + 4 :]
                    self._answer(connection, head)
            except OSError:
                return

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        url = urlsplit(target.decode())
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket != self._bucket:
            self._send(connection, "404 Not Found", _error("NoSuchBucket"))
        elif not key:
            asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            self._send(connection, "200 OK", b"" if method == b"HEAD" else self._page(asked))
        elif (file := self._files.get(key)) is None:
            self._send(connection, "404 Not Found", b"" if method == b"HEAD" else _error("NoSuchKey"))
        elif (match := _MATCH.search(head)) and match[1].decode() not in (file.etag, "*"):
            self._send(connection, "412 Precondition Failed", _error("PreconditionFailed"))
        else:
            self._file(connection, head, file, body=method != b"HEAD")

    def _file(self, connection: socket.socket, head: bytes, file: Kept, *, body: bool) -> None:
        start, stop, status, more = 0, file.bytes, "200 OK", ""
        if match := _RANGE.search(head):
            start = int(match[1])
            stop = min(file.bytes, int(match[2]) + 1) if match[2] else file.bytes
            status, more = "206 Partial Content", f"Content-Range: bytes {start}-{stop - 1}/{file.bytes}\r\n"
        answer = (
            f'HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\nETag: "{file.etag}"\r\n{more}'
            f"Last-Modified: {_WHEN}\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        if not body:
            connection.sendall(answer)
            return
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if stop - start <= 65536:
                connection.sendall(answer + os.pread(fd, stop - start, start))
                return
            connection.sendall(answer)
            while start < stop:
                start += os.sendfile(connection.fileno(), fd, start, min(stop - start, 1 << 20))
        finally:
            os.close(fd)

    def _page(self, asked: dict[str, str]) -> bytes:
        prefix, size = asked.get("prefix", ""), min(PAGE, int(asked.get("max-keys", PAGE)))
        after = asked.get("continuation-token") or asked.get("start-after") or asked.get("marker", "")
        names = self._names[bisect.bisect_right(self._names, after) :]
        names = [name for name in names if name.startswith(prefix)]
        folders: list[str] = []
        if asked.get("delimiter") == "/":
            deep = [name for name in names if "/" in name[len(prefix) :]]
            folders = sorted({prefix + name[len(prefix) :].partition("/")[0] + "/" for name in deep})
            names = [name for name in names if "/" not in name[len(prefix) :]]
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self._files[name].etag}&quot;</ETag><Size>{self._files[name].bytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for name in names[:size]
        )
        more = len(names) > size
        last = escape(names[size - 1]) if more else ""
        token = f"<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>" if more else ""
        rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self._bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(names[:size])}</KeyCount>"
            f"<MaxKeys>{size}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{rows}"
            "</ListBucketResult>"
        ).encode()

    @staticmethod
    def _send(connection: socket.socket, status: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n\r\n"
        connection.sendall(head.encode() + body)


def _error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>none</Message></Error>".encode()


def main(directory: str, bucket: str) -> None:
    """Serve until standard input ends."""
    files = kept(Path(directory))
    port, children = 0, []
    listeners = []
    for _ in range(PROCESSES):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
        port = listener.getsockname()[1]
        listeners.append(listener)
    for listener in listeners:
        if (child := os.fork()) == 0:
            Server(bucket, files).serve(listener)
        children.append(child)
    print(port, flush=True)
    sys.stdin.read()
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
