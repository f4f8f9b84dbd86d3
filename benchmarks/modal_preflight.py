"""How long it takes to learn that a run on Modal cannot start: the slowest of the reasons that a preflight finds.

Each is the whole command in a fresh process, refused before anything is uploaded: no token, a port that nobody listens
on, and a host that takes the connection and never says a word, which is the worst. The SDK by itself waits for about a
minute; it is not measured beside ours, because it would take that minute each time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

TARGET_S = 5
IMAGE = "docker.io/pytorch/pytorch@sha256:" + "ab" * 32
TOKEN = {"MODAL_TOKEN_ID": "ak-none", "MODAL_TOKEN_SECRET": "as-none"}


def refused_s(home: str, slug: str, environment: dict[str, str]) -> float:
    """Seconds until `lanemark run --surface modal` is refused for the reason `slug`."""
    words = ["--surface", "modal", "--image", IMAGE, "--gpu", "cpu", "--data", "synthetic"]
    command = [sys.executable, "-m", "lanemark", "run", "training", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    env = {**kept, "LANEMARK_HOME": home, "MODAL_CONFIG_PATH": f"{home}/no-such-file.toml", **environment}
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    took_s = time.monotonic() - began_s
    if done.returncode != 4 or f"[{slug}]" not in done.stderr:
        raise RuntimeError(f"refused with {done.returncode}: {done.stderr.strip()[-300:]}")
    return took_s


def results() -> list[dict[str, Any]]:
    """The one figure of this file."""
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as silent:
        seen = {
            "no token": refused_s(home, "modal-credentials-missing", {}),
            "nobody listens": refused_s(
                home, "modal-unreachable", {**TOKEN, "MODAL_SERVER_URL": "http://127.0.0.1:9"}
            ),
            "a host that says nothing": refused_s(
                home, "modal-unreachable",
                {**TOKEN, "MODAL_SERVER_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            ),
        }  # fmt: skip
    slowest = max(seen, key=lambda name: seen[name])
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in seen.items())
    return [
        {
            "name": "modal.preflight_s",
            "value": seen[slowest],
            "unit": "s",
            "target": f"<= {TARGET_S}",
            "ok": seen[slowest] <= TARGET_S,
            "method": f"the slowest of three refusals, each a whole command in a fresh process: {told}",
        }
    ]
