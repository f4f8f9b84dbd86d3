"""Real servers that ledger tests start on loopback and end by their process: S3-compatible storage, PostgreSQL.

Where one cannot be started a test skips with the reason; in continuous integration (`CI=true`) it fails.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

PROGRAMS = Path(__file__).parent / "real" / "programs"
sys.path.insert(0, str(PROGRAMS))
from fault_proxy import Fault, FaultProxy  # noqa: E402 - a program's module, beside which it can be found now

__all__ = ["Fault", "FaultProxy"]
#: What any S3 client needs and this server does not check.
KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}
BUCKET = "records"
PASSWORD = "pg-pass-word"
for _name in ("NO_PROXY", "no_proxy"):  # clients that honour a proxy would look for loopback on the other side of it
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1")))


def cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of a storage that has one empty bucket, `BUCKET`."""
    command = [sys.executable, str(PROGRAMS / "s3_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            if not line:
                assert server.stderr is not None
                cannot(f"no S3-compatible server starts here: {server.stderr.read().strip()[-300:]}")
            make_bucket(int(line))
            yield int(line)
        finally:
            server.kill()


def make_bucket(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    credential = "Credential=tests/20260101/us-east-1/s3/aws4_request"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"}
    connection.request("PUT", f"/{BUCKET}", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()


def location(port: int, prefix: str = "team/ledger", **more: object) -> str:
    """The `LANEMARK_LEDGER` of a prefix on the server at `port`."""
    extra = "".join(f"&{name}={value}" for name, value in more.items())
    return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}{extra}"


class Postgres:
    """A cluster of its own in a temporary directory, on a loopback port, with passwords asked for."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self.directory = directory
        self.binaries = binaries
        # As root the server refuses to run; Debian's package makes this user.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.port = 0

    def create(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD, encoding="ascii")
        if self.user:
            about = pwd.getpwnam(self.user)
            for path in (self.directory, secret):
                os.chown(path, about.pw_uid, about.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(secret),
                  "-E", "UTF8", "--locale=C", "--no-sync")  # fmt: skip

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def url_without_password(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
        options = f"-h 127.0.0.1 -p {self.port} -k {self.directory} -c shared_buffers=16MB"
        self._run(
            "pg_ctl", "-D", str(self.data), "-w", "-t", "30", "-l", str(self.directory / "log"), "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "30", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            check=False, user=self.user, cwd=self.directory,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stdout.strip()[-300:]}")


def postgres_binaries() -> Path | None:
    """Where `initdb` and `pg_ctl` lie: on PATH, or where Debian keeps them."""
    for candidate in (shutil.which("pg_ctl"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"), reverse=True)):
        if candidate and (Path(candidate).resolve().parent / "initdb").exists():
            return Path(candidate).resolve().parent
    return None


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    binaries = postgres_binaries()
    if binaries is None:
        cannot("PostgreSQL is not installed here (Debian: apt-get install postgresql)")
    directory = Path(tempfile.mkdtemp(prefix="lanemark-pg-"))
    cluster = Postgres(directory, binaries)
    try:
        try:
            cluster.create()
            cluster.start()
        except (OSError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
            cannot(f"PostgreSQL cannot be started here: {error}")
        yield cluster
    finally:
        with contextlib.suppress(RuntimeError):  # a test may have stopped it
            cluster.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


def until(holds: object, seconds: float = 20.0) -> None:
    """Wait for something that other processes bring about."""
    ends = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)
