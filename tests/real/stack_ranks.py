"""Starts ranks of the reference stack for the tests beside it, with nothing of Lanemark's own launcher in between."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanemark.measure.samples import Samples, read_samples
from lanemark.records.attempt import AttemptPaths
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import encode


@dataclass(frozen=True)
class Ended:
    """What one rank left behind."""

    status: int
    observed: dict[str, Any] | None
    end: dict[str, Any] | None
    error: dict[str, Any] | None
    samples: Samples | None
    stderr: str

    def value(self, key: str) -> Any:
        assert self.observed is not None, self.stderr
        assert self.observed[key]["status"] == "observed", self.observed[key]
        return self.observed[key]["value"]

    def loss(self, key: str) -> float:
        assert self.end is not None, self.stderr
        return float(self.end["losses"][key]["value"])


def a_case(**changes: Any) -> Case:
    """A small case: a few steps of the diagnostic preset on one rank."""
    fields: dict[str, Any] = {
        "lane": "training",
        "preset": "diagnostic",
        "nproc": 1,
        "mode": "single",
        "compile": "eager",
        "dtype": "fp32",
        "steps": 6,
        "warmup": 2,
        "sequence": 64,
        "micro_batch": 2,
        "data": DataAsked("synthetic"),
        "wall_s": 120.0,
    }
    return Case(**{**fields, **changes})


def run_ranks(
    root: Path,
    case: Case,
    *,
    data: Path | None = None,
    env: dict[str, str] | None = None,
    rank_env: Callable[[int], dict[str, str]] | None = None,
    program: Path | None = None,
) -> list[Ended]:
    """Run every rank of a case to its end, rank 0 on an inherited listening socket, and read what they left.

    `env` is given to all ranks, and what `rank_env` returns to one. `program` runs in the place of the rank program.
    """
    paths = AttemptPaths(root)
    paths.root.mkdir(parents=True)
    paths.case.write_bytes(encode(case.to_json()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        processes = []
        for rank in range(case.nproc):
            mine = paths.rank(rank)
            mine.root.mkdir(parents=True)
            settings = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": case.nproc,
                "LOCAL_WORLD_SIZE": case.nproc,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "LANEMARK_ATTEMPT_DIR": paths.root,
                "LANEMARK_RANK_DIR": mine.root,
                "OMP_NUM_THREADS": 1,
                "TORCHINDUCTOR_COMPILE_THREADS": 1,
                "GLOO_SOCKET_IFNAME": "lo",
                "PYTHONWARNINGS": "error::UserWarning:lanemark",
                **({"LANEMARK_DATA_DIR": data} if data is not None else {}),
                **({"LANEMARK_LISTEN_FD": server.fileno()} if rank == 0 else {}),
                **(env or {}),
                **(rank_env(rank) if rank_env is not None else {}),
            }
            with open(mine.stdout, "wb") as out, open(mine.stderr, "wb") as err:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *(("-m", "lanemark.stack.train") if program is None else (str(program),))],
                        env={**os.environ, **{key: str(value) for key, value in settings.items()}},
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                        pass_fds=[server.fileno()] if rank == 0 else [],
                    )
                )
    try:
        statuses = [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [_read(paths, rank, status) for rank, status in enumerate(statuses)]


def _read(paths: AttemptPaths, rank: int, status: int) -> Ended:
    mine = paths.rank(rank)

    def document(path: Path) -> dict[str, Any] | None:
        return json.loads(path.read_bytes()) if path.exists() else None

    return Ended(
        status,
        document(mine.observed),
        document(mine.end),
        document(mine.error),
        read_samples(mine.samples) if mine.samples.exists() else None,
        mine.stderr.read_text(errors="replace"),
    )
