"""Gates: what must hold before a rank is started. Each refusal is exit 4 and names the command that satisfies it."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

from lanemark.lanes.cache_manifest import Manifest
from lanemark.lanes.coverage import Coverage
from lanemark.observe.disk import free_space
from lanemark.observe.gpu_names import gpu_matches
from lanemark.records.attempt import Home
from lanemark.records.case import Case, parse_gpu
from lanemark.records.errors import GateRefused
from lanemark.records.observation import Observation
from lanemark.stage.coverage import read_coverage

#: An attempt's own files are a few MiB; a compile cache of a small model a few tens. Below this a run dies half-way.
MIN_FREE_BYTES: Final = 256 * 1024 * 1024
#: A covered cache is read; what a run may still add is autotuning notes and temporaries.
CACHE_COVERED_BYTES: Final = 64 * 1024 * 1024
#: A cold compilation of the presets leaves 2 to 50 MB; a large model on GPUs some hundred (field report: 200 MB).
CACHE_UNKNOWN_BYTES: Final = 512 * 1024 * 1024
#: Precompiled headers of one TMPDIR (measured with torch 2.13 and g++ 12: 149 MB), kept once for each directory.
CACHE_HEADERS_BYTES: Final = 160 * 1024 * 1024
_EXAMPLES: Final = 2


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


def command_exists(program: str) -> None:
    """A command must be there to be started. Raises GateRefused `command-missing`."""
    if shutil.which(program) is None:
        raise GateRefused(
            "command-missing",
            f"the command {program[:200]!r} is not on PATH, or may not be executed",
            "give its path, or activate the environment that it is installed in",
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


def check_cache(case: Case, cache_dir: Path, layout: str, coverage: Coverage, *, remedy: str) -> None:
    """Everything about the compile cache that a compiled run is held to before it starts.

    Args:
        case: with its cache policy: `require` wants coverage, the others only a directory that takes files.
        cache_dir: of the compile cache.
        layout: how ranks divide it.
        coverage: of the case, after the layers were tried.
        remedy: the command that fills the cache.

    Raises:
        GateRefused: `cache-missing`, `cache-unwritable`, `cache-disk-short` or `cache-uncovered`.
    """
    manifest = read_coverage(cache_dir, case)
    needed = cache_needs_bytes(
        case,
        layout=layout,
        covered=coverage.covered,
        manifest_bytes=manifest.total_bytes if isinstance(manifest, Manifest) else 0,
    )
    cache_usable(cache_dir, needed_bytes=needed, required=case.cache_policy == "require", remedy=remedy)
    cache_ready(case, cache_dir, coverage, remedy)


def cache_usable(cache_dir: Path, *, needed_bytes: int, required: bool, remedy: str) -> None:
    """The compile cache's directory must be there where one is required, take files, and have room.

    Args:
        cache_dir: of the compile cache.
        needed_bytes: what the run may still write there (`cache_needs_bytes`).
        required: whether a directory that does not exist is a refusal, or will be made.
        remedy: the command that fills the cache.

    Raises:
        GateRefused: `cache-missing`, `cache-unwritable` or `cache-disk-short`.
    """
    shown = repr(str(cache_dir))
    if not cache_dir.exists():
        if required:
            raise GateRefused(
                "cache-missing",
                f"--cache-policy require wants a compile cache that covers the case, and {shown} does not exist",
                f"seed it (`--cache-from SOURCE`), or fill it once with `{remedy}`",
            )
    else:
        probe = cache_dir / f".lanemark-probe-{os.getpid()}.tmp"
        try:
            probe.touch(exist_ok=True)
            probe.unlink()
        except OSError as error:
            raise GateRefused(
                "cache-unwritable",
                f"the compile cache {shown} cannot be written ({error.strerror}), and even a warm run writes there",
                f"make it so (`chmod -R u+rwX {shlex.quote(str(cache_dir))}`), or set LANEMARK_HOME to another place",
            ) from None
    free = free_space(cache_dir)
    floor = os.environ.get("LANEMARK_MIN_FREE_MB", "")
    needed = min(needed_bytes, _minimum_bytes()) if floor else needed_bytes
    if free.value is not None and free.value < needed:
        raise GateRefused(
            "cache-disk-short",
            f"{free.value // 2**20} MiB are free at {shown}, and compiling may write {needed // 2**20} MiB there",
            "free some space, or set LANEMARK_HOME to a larger disk",
        )


def cache_needs_bytes(case: Case, *, layout: str, covered: bool, manifest_bytes: int) -> int:
    """How much a run may still write into its cache.

    Args:
        case: what is asked.
        layout: ranks that keep caches apart each write their own.
        covered: nothing is left to compile, as far as is known.
        manifest_bytes: what a run of the same question left, or 0 where none is known.
    """
    if covered:
        return CACHE_COVERED_BYTES
    return (
        max(CACHE_UNKNOWN_BYTES, 2 * manifest_bytes) + (case.nproc if layout == "per_rank" else 1) * CACHE_HEADERS_BYTES
    )


def cache_ready(case: Case, cache_dir: Path, coverage: Coverage, remedy: str) -> None:
    """`--cache-policy require` wants every key and binary that ranks are known to need. Raises GateRefused
    `cache-uncovered`, which says how much is missing, what for example, and the command that fills it.
    """
    if case.cache_policy != "require" or case.compile == "eager" or coverage.covered:
        return
    raise GateRefused(
        "cache-uncovered",
        f"--cache-policy require wants a compile cache that covers the case, and {str(cache_dir)!r} does not: "
        f"{shortfall(coverage)}",
        f"seed it (`--cache-from SOURCE`), or fill it once with `{remedy}`",
    )


def shortfall(coverage: Coverage) -> str:
    """What a cache lacks, in one phrase: why it does not speak for the case, else how much is missing, and what."""
    if coverage.mismatches:
        more = len(coverage.mismatches) - _EXAMPLES
        return "; ".join(coverage.mismatches[:_EXAMPLES]) + (f"; and {more} more reasons" if more > 0 else "")
    more = len(coverage.missing) - _EXAMPLES
    return (
        f"{len(coverage.missing)} of {coverage.required} keys and binaries that its ranks need are not there "
        f"({'; '.join(coverage.missing[:_EXAMPLES])}{f'; and {more} more' if more > 0 else ''})"
    )
