"""Gates: what must hold before a rank is started. Each refusal is exit 4 and names the command that satisfies it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from lanemark.observe.disk import free_space
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.attempt import Home
from lanemark.records.case import Case, parse_gpu
from lanemark.records.errors import GateRefused
from lanemark.records.observation import Observation, value_of

#: An attempt's own files are a few MiB; a compile cache of a small model a few tens. Below this a run dies half-way.
MIN_FREE_BYTES: Final = 256 * 1024 * 1024


def home_writable(home: Home) -> None:
    """The home must take a directory and a file. Raises GateRefused `home-unwritable`."""
    try:
        home.attempts.mkdir(parents=True, exist_ok=True)
        probe = home.attempts / f".probe-{os.getpid()}"
        probe.touch(exist_ok=True)
        probe.unlink()
    except OSError as error:
        raise GateRefused(
            "home-unwritable",
            f"the Lanemark home {str(home.root)!r} cannot be written ({error.strerror})",
            "set LANEMARK_HOME to a directory that can be",
        ) from None


def disk_room(home: Home) -> None:
    """The attempt's file system must have room. Raises GateRefused `disk-short`."""
    free = free_space(home.attempts)
    if free.value is not None and free.value < _minimum_bytes():
        raise GateRefused(
            "disk-short",
            f"{free.value // 2**20} MiB are free at {str(home.attempts)!r}, too few for an attempt",
            "free some space, or set LANEMARK_HOME to a larger disk",
        )


def _minimum_bytes() -> int:
    """The operator may lower the bar (`LANEMARK_MIN_FREE_MB`): on a small box a run without compiling needs little."""
    text = os.environ.get("LANEMARK_MIN_FREE_MB", "")
    return int(text) * 2**20 if text.isascii() and text.isdigit() else MIN_FREE_BYTES


def training_stack() -> None:
    """The interpreter that starts the ranks must have torch. Raises GateRefused `torch-missing`."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise GateRefused(
            "torch-missing",
            "the reference stack needs torch, which this interpreter does not have",
            "run `make setup`, or `python -m pip install torch` into the environment Lanemark runs in",
        )


def compiler(case: Case, cxx: dict[str, Any], *, on_gpu: bool) -> None:
    """A compiled run on a CPU needs a C++ compiler. Raises GateRefused `compiler-missing`."""
    if case.compile != "eager" and not on_gpu and cxx.get("status") == "absent":
        raise GateRefused(
            "compiler-missing",
            f"--compile {case.compile} on a CPU needs a C++ compiler, and none was found",
            "install one (`apt-get install g++`), or run with --compile eager",
        )


def devices(case: Case, device_class: Observation[str], count: Observation[int]) -> None:
    """A GPU asked for by name must be on this host. Raises GateRefused `gpu-missing`.

    Only a class that was *observed* to be another one, or to be absent, refuses: where we could not look, the run goes
    ahead and its record says what the ranks saw.
    """
    spec = parse_gpu(case.gpu)
    if spec.name in ("any", "cpu"):
        return
    if device_class.status == "unavailable":
        return
    if device_class.status == "absent":
        raise GateRefused(
            "gpu-missing",
            f"--gpu {case.gpu} was asked for, and this host has no GPU ({device_class.reason or device_class.source})",
            "leave --gpu out to run on what is here, or run on a host that has one",
        )
    matches, reason = gpu_matches(spec, device_class.value, count.value)
    if matches is False and spec.pinned:
        raise GateRefused(
            "gpu-missing", f"--gpu {case.gpu} pins the class, and {reason}", "ask for what is here, or run elsewhere"
        )
    if count.value is not None and count.value < case.nproc:
        raise GateRefused(
            "gpu-missing",
            f"{case.nproc} ranks want a GPU each, and {count.value} are visible",
            f"ask for --nproc {count.value}",
        )


def cache_covered(case: Case, cache_dir: Path | None, inventory: dict[str, Any]) -> None:
    """`--cache-policy require` wants keys *and* binaries in the cache. Raises GateRefused `cache-uncovered`."""
    if case.cache_policy != "require" or case.compile == "eager":
        return
    held = value_of(inventory)
    if held is None or not held["keys"] or not held["binaries"]:
        found = "nothing" if held is None else f"{held['keys']} keys and {held['binaries']} binaries"
        raise GateRefused(
            "cache-uncovered",
            f"--cache-policy require wants a compile cache that covers the case, and {str(cache_dir)!r} holds {found}",
            "fill it once with the same command and --cache-policy seed",
        )
