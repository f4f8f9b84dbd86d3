"""The loopback Modal control plane as tests use it: started once a module, commanded over HTTP, ended by its process.

Where a mount namespace cannot be made, tests that run containers skip with the reason; in continuous integration
(`CI=true`) they fail.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).parent / "loopback_modal" / "serve.py"
TOKEN = ("ak-loopback", "as-loopback")
IMAGE = "docker.io/pytorch/pytorch@sha256:" + "ab" * 32


def needs_namespaces() -> None:
    """Skip, or fail in continuous integration, where a container cannot be given a view of its own."""
    kind = ["unshare", "-mpf"] if os.geteuid() == 0 else ["unshare", "-Urmpf"]
    try:
        done = subprocess.run([*kind, "true"], capture_output=True, text=True, timeout=20, check=False)
        reason = done.stderr.strip() if done.returncode else None
    except OSError as error:
        reason = str(error)
    if reason is not None:
        said = f"containers of the loopback Modal need mount namespaces, and `{' '.join(kind)}` fails here: {reason}"
        pytest.fail(said) if os.environ.get("CI") == "true" else pytest.skip(said)


@dataclass
class ModalPlane:
    """A running plane."""

    root: Path
    url: str
    http: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes the unmodified SDK speak to it."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN[0],
            "MODAL_TOKEN_SECRET": TOKEN[1],
            "MODAL_CONFIG_PATH": str(self.root / "no-such-file.toml"),
        }

    def order(self, what: str, **more: Any) -> Any:
        """Command the plane. Returns its summary."""
        body = json.dumps({"do": what, **more}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.http}/admin", body), timeout=20) as answer:
            return json.load(answer)

    def requests(self, method: str, who: str = "ak-") -> list[dict[str, Any]]:
        """Every request of one kind that clients made so far, in order."""
        lines = (self.root / "rpc.jsonl").read_text(encoding="utf-8").splitlines()
        docs = [json.loads(line) for line in lines if f'"{method}"' in line]
        return [doc["request"] for doc in docs if doc["method"] == method and doc["who"].startswith(who)]

    def logs(self) -> str:
        return "".join(self.order("logs"))

    def until(self, holds: Callable[[dict[str, Any]], Any], seconds: float = 60.0) -> Any:
        """Wait for the plane's summary to satisfy something; returns what it said."""
        ends = time.monotonic() + seconds
        while not (found := holds(self.order("look"))):
            assert time.monotonic() < ends, f"it did not happen\n{self.logs()[-4000:]}"
            time.sleep(0.1)
        return found


_SHARED = contextlib.ExitStack()
atexit.register(_SHARED.close)


@functools.cache
def shared_plane() -> ModalPlane:
    """The plane of this process: the SDK keeps one client for as long as a process lives, so there can be one alone."""
    needs_namespaces()
    plane = _SHARED.enter_context(modal_plane())
    os.environ.update(plane.environment)
    return plane


def healed_plane() -> Iterator[ModalPlane]:
    """As a fixture: the plane of this process with no fault set, before and after."""
    found = shared_plane()
    found.order("heal")
    yield found
    found.order("heal")


@contextlib.contextmanager
def modal_plane() -> Iterator[ModalPlane]:
    """Start a plane, and end it with every container it started."""
    with tempfile.TemporaryDirectory(prefix="lm-modal-") as name:
        root = Path(name)
        with (
            (root / "server.log").open("wb") as log,
            subprocess.Popen([sys.executable, str(SERVER), str(root)], stdout=subprocess.DEVNULL, stderr=log) as server,
        ):
            try:
                ready = root / "ready.json"
                ends = time.monotonic() + 60
                while not ready.exists():
                    assert server.poll() is None, (root / "server.log").read_text()
                    assert time.monotonic() < ends, "the plane does not listen"
                    time.sleep(0.05)
                about = json.loads(ready.read_text())
                yield ModalPlane(root, about["url"], about["http"])
            finally:
                server.terminate()
                server.wait(30)
