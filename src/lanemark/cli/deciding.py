"""What the arguments leave open, decided from the host and the data, each decision with its reason."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import Asked
from lanemark.cli.tokens import Tokens, resolve
from lanemark.collect.conduct import cold_root
from lanemark.collect.starting import Start
from lanemark.launch.environment import CACHE_VARIABLES, CacheDirectory, choose_cache_directory
from lanemark.launch.surface import Placement
from lanemark.observe.devices import device_facts
from lanemark.records.attempt import Home
from lanemark.records.case import Case, parse_gpu
from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError
from lanemark.records.observation import Observation
from lanemark.stage.seed_source import ARCHIVE_SUFFIX, Source, parse_sources

#: Where the compile cache is captured after every run, for those who do not want to say so each time.
CAPTURE_VARIABLE: Final = "LANEMARK_CACHE_TO"


@dataclass(frozen=True)
class Decided:
    """A case with nothing open, and where it lies on this host.

    Attributes:
        case: fully pinned.
        placement: data, cache and home.
        tokens: the data, as it was found.
        devices: what NVML and the host say of GPUs, before any rank looked.
        reasons: field → why it has its value.
        sources: layers that the compile cache may be seeded from, in order.
        capture_to: where the cache is to be captured after the run, or None.
        start: what was done for the run so far.
    """

    case: Case
    placement: Placement
    tokens: Tokens
    devices: dict[str, Observation[Any]]
    reasons: dict[str, str]
    sources: tuple[Source, ...] = ()
    capture_to: Path | None = None
    start: Start = field(default_factory=Start)


def decide(asked: Asked, home: Home, *, build: bool) -> Decided:
    """Look at the host and the data, and close what the arguments left open.

    Raises:
        DataError: the data cannot be used.
        UsageError: a source or the destination of the compile cache is none that we know, or two settings exclude
            each other.
    """
    reasons = dict(asked.reasons)
    sources = parse_sources(asked.cache_from, os.environ)
    capture_to = capture_destination(asked.cache_to or os.environ.get(CAPTURE_VARIABLE))
    devices = device_facts()
    gpu_here = devices["device_class"].status == "observed"
    case = asked.case
    if not asked.dtype_given:
        wanted = parse_gpu(case.gpu).name
        on_gpu = wanted != "cpu" and (gpu_here or wanted != "any")
        case = replace(case, dtype="bf16" if on_gpu else "fp32")
        reasons["dtype"] = "a GPU is here or was asked for" if on_gpu else "no GPU is here and none was asked for"
    tokens = resolve(asked, home, build=build)
    case = replace(case, data=tokens.asked)
    if asked.data is None and case.script is None:
        reasons["data"] = f"the default corpus, {tokens.directory}"
    cache = cache_place(home, cold=case.cache_policy == "cold") if case.compile != "eager" else None
    if cache is not None and asked.cache_layout == "per_rank":
        check_layout(os.environ)
    if cache is not None:
        reasons["cache_dir"] = cache.reason
    placement = Placement(
        home=home,
        data_dir=tokens.directory,
        cache_dir=None if cache is None else cache.path,
        cache_layout=asked.cache_layout,
    )
    return Decided(case, placement, tokens, devices, reasons, sources, capture_to)


def capture_destination(text: str | None) -> Path | None:
    """Where `--cache-to` or LANEMARK_CACHE_TO leads. Raises UsageError `cache-source-invalid`."""
    if not text:
        return None
    if "://" in text or not text.endswith(ARCHIVE_SUFFIX):
        raise UsageError(
            "cache-source-invalid",
            f"a compile cache is captured to a file that ends in {ARCHIVE_SUFFIX}, not to {safe_text(text[:200])!r}",
            "name such a file; copy it to object storage afterwards",
        )
    return Path(os.path.expanduser(text)).absolute()


def check_layout(environ: Mapping[str, str]) -> None:
    """Ranks cannot have a cache each where the operator's environment leads all of them to one. Raises UsageError."""
    led = [name for name, _ in CACHE_VARIABLES if name != "TMPDIR" and environ.get(name)]
    if led:
        raise UsageError(
            "value-invalid",
            f"--cache-layout per-rank gives each rank a cache of its own, and {led[0]} in the environment is one",
            f"unset {led[0]}, or leave --cache-layout out",
        )


def cache_place(home: Home, *, cold: bool) -> CacheDirectory:
    """Where compiled code is kept: the operator's own directory, the shared one, or, for a cold start, a fresh one."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given:
        return CacheDirectory(Path(given), "TORCHINDUCTOR_CACHE_DIR is set in the operator's environment, which wins")
    shared = choose_cache_directory(None, home=home.root, temp=Path(tempfile.gettempdir()), uid=os.getuid())
    if not cold:
        return shared
    fresh = cold_root(shared.path) / secrets.token_hex(8)
    return CacheDirectory(fresh, "a cold start was asked for: a directory that nobody has used, removed after the run")
