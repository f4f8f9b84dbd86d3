"""What the arguments leave open, decided from the host and the data, each decision with its reason."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lanemark.cli.asked import Asked
from lanemark.cli.tokens import Tokens, resolve
from lanemark.collect.conduct import cold_root
from lanemark.launch.environment import CacheDirectory, choose_cache_directory
from lanemark.launch.surface import Placement
from lanemark.observe.devices import device_facts
from lanemark.records.attempt import Home
from lanemark.records.case import Case, parse_gpu
from lanemark.records.observation import Observation


@dataclass(frozen=True)
class Decided:
    """A case with nothing open, and where it lies on this host.

    Attributes:
        case: fully pinned.
        placement: data, cache and home.
        tokens: the data, as it was found.
        devices: what NVML and the host say of GPUs, before any rank looked.
        reasons: field → why it has its value.
    """

    case: Case
    placement: Placement
    tokens: Tokens
    devices: dict[str, Observation[Any]]
    reasons: dict[str, str]


def decide(asked: Asked, home: Home, *, build: bool) -> Decided:
    """Look at the host and the data, and close what the arguments left open.

    Raises:
        DataError: the data cannot be used.
    """
    reasons = dict(asked.reasons)
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
    if asked.data is None:
        reasons["data"] = f"the default corpus, {tokens.directory}"
    cache = cache_place(home, cold=case.cache_policy == "cold") if case.compile != "eager" else None
    if cache is not None:
        reasons["cache_dir"] = cache.reason
    placement = Placement(home=home, data_dir=tokens.directory, cache_dir=None if cache is None else cache.path)
    return Decided(case, placement, tokens, devices, reasons)


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
