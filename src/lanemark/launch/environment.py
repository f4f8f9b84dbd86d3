"""The environment every rank is given: one table of settings, each with its reason. Pure.

The operator's own setting always wins and is recorded as theirs; what another launcher or a multi-node image left
behind is taken away and recorded as scrubbed. Only the names of this table are ever written down, so a secret in the
operator's environment reaches the ranks (they may need it) and no file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lanemark.lanes.prewarm import prewarm_plan
from lanemark.records.case import Case
from lanemark.records.encoding import safe_text

Origin = Literal["lanemark", "operator", "scrubbed"]
#: How ranks divide the compile cache's directory among them.
CacheLayout = Literal["shared", "per_rank"]

#: Set on every single-node run; `NCCL_NET*` and `NCCL_IB_*` beside them are what multi-node images leave behind.
_SINGLE_NODE_NAMES: Final = ("NCCL_IB_DISABLE", "NCCL_NET_PLUGIN")
_LEAKED_PREFIXES: Final = ("NCCL_NET", "NCCL_IB_")
_LEAKED_NAMES: Final = ("NCCL_TUNER_CONFIG_PATH",)
_FOREIGN_PREFIXES: Final = ("TORCHELASTIC_",)
_FOREIGN_NAMES: Final = ("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE")
#: What an operator sets for a worker of the sparse lane, which records it as a selector.
_OPERATORS_OWN: Final = "LANEMARK_SPARSE_"
_MAX_VALUE_CHARS: Final = 4096

#: Paths that survive an unquoted g++ command line and Triton's own splitting.
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_./+=@%-]+")


@dataclass(frozen=True)
class Setting:
    """One variable as the ranks have it. `value` is None when, and only when, it was scrubbed."""

    name: str
    value: str | None
    origin: Origin
    reason: str

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {"name": safe_text(self.name), "origin": self.origin, "reason": safe_text(self.reason)}
        if self.value is not None:
            doc["value"] = safe_text(self.value)
        return doc


#: The variables that lead a rank's compilers to its cache, and where each leads below the rank's cache root.
CACHE_VARIABLES: Final = (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton"), ("TMPDIR", "tmp"))


def rank_cache_root(cache_dir: Path, layout: CacheLayout, rank: int) -> Path:
    """Where rank `rank` keeps its compiled code: the directory itself, or its own below it. Pure."""
    return cache_dir / f"rank-{rank}" if layout == "per_rank" else cache_dir


@dataclass(frozen=True)
class CacheDirectory:
    """Where compiled code is kept, and why there."""

    path: Path
    reason: str


def choose_cache_directory(asked: Path | None, *, home: Path, temp: Path, uid: int) -> CacheDirectory:
    """The compile cache's directory: the one asked for, else one below the home, else one with a plain name.

    Compile commands carry the path unquoted, so a space or a quote in it breaks every compilation. A directory that
    was asked for by name is never moved: compilation then fails and says so, which is better than an empty cache.

    Args:
        asked: the operator's or the attempt's choice.
        home: `$LANEMARK_HOME`.
        temp: a directory for temporary files; `/tmp` takes its place when its own path is no better.
        uid: the user, so that two users of one host do not meet.
    """
    if asked is not None:
        return CacheDirectory(asked, "asked for")
    default = home / "cache"
    if _PLAIN_PATH.fullmatch(str(default)):
        return CacheDirectory(default, "the default below the Lanemark home")
    name = hashlib.sha256(os.fsencode(default)).hexdigest()[:16]
    plain = temp if _PLAIN_PATH.fullmatch(str(temp)) else Path("/tmp")  # noqa: S108 - its owner is checked at launch
    return CacheDirectory(
        plain / f"lanemark-{uid}" / name,
        "the path of the Lanemark home has characters that break compile commands, so the cache is kept elsewhere",
    )


def rank_environment(
    operator: Mapping[str, str],
    *,
    case: Case,
    cuda: bool,
    usable_cores: int,
    cache: CacheDirectory,
    layout: CacheLayout = "shared",
) -> tuple[dict[str, str], tuple[Setting, ...]]:
    """What all ranks have in common.

    Args:
        operator: the environment Lanemark was started in.
        case: what is asked.
        cuda: whether this host has an NVIDIA device that the case may use.
        usable_cores: cores this process may run on.
        cache: directory of the compile caches; used by compiled cases only.
        layout: `per_rank` leaves the cache's variables to `rank_variables`.

    Returns:
        The environment (the operator's, with the settings applied), and the settings in order of name.
    """
    settings: list[Setting] = []
    for name in operator:
        reason = _scrub_reason(name)
        if reason is not None:
            settings.append(Setting(name[:_MAX_VALUE_CHARS], None, "scrubbed", reason))
    for name, value, reason in _table(case, cuda=cuda, usable_cores=usable_cores, cache=cache, layout=layout):
        own = operator.get(name)
        if own:
            kept = "set in the operator's environment, which wins"
            settings.append(Setting(name, own[:_MAX_VALUE_CHARS], "operator", kept))
        else:
            settings.append(Setting(name, value, "lanemark", reason))
    ordered = tuple(sorted(settings, key=lambda setting: setting.name))
    return apply_settings(operator, ordered), ordered


def apply_settings(operator: Mapping[str, str], settings: Iterable[Setting]) -> dict[str, str]:
    """The operator's environment as the settings change it: ours set, scrubbed ones gone, theirs as they were."""
    env = dict(operator)
    for setting in settings:
        if setting.origin == "scrubbed":
            env.pop(setting.name, None)
        elif setting.origin == "lanemark" and setting.value is not None:
            env[setting.name] = setting.value
    return env


def rank_variables(
    case: Case,
    rank: int,
    data_dir: Path | None,
    cache_dir: Path | None = None,
    layout: CacheLayout = "shared",
) -> dict[str, str]:
    """What only this rank has, as far as it is known before the launch (one node: local and global ranks agree).

    `cache_dir` is None where nothing is compiled. `LANEMARK_CACHE_DIR` is the root of this rank's cache; the compilers'
    own variables are among a rank's only where ranks keep caches apart.
    """
    variables = {
        "RANK": str(rank),
        "WORLD_SIZE": str(case.nproc),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(case.nproc),
        "MASTER_ADDR": "127.0.0.1",
    }
    if data_dir is not None:
        variables["LANEMARK_DATA_DIR"] = str(data_dir)
    if cache_dir is not None:
        root = rank_cache_root(cache_dir, layout, rank)
        variables["LANEMARK_CACHE_DIR"] = str(root)
        if layout == "per_rank":
            variables |= {name: str(root / below) for name, below in CACHE_VARIABLES}
    return variables


def _scrub_reason(name: str) -> str | None:
    if name in _SINGLE_NODE_NAMES:
        return None
    if name in _LEAKED_NAMES or name.startswith(_LEAKED_PREFIXES):
        return "a multi-node network setting, which a single node inherits only by accident"
    if name in _FOREIGN_NAMES or name.startswith(_FOREIGN_PREFIXES):
        return "left by another launcher around this one"
    if name.startswith("LANEMARK_") and name != "LANEMARK_HOME" and not name.startswith(_OPERATORS_OWN):
        return "belongs to another attempt"
    return None


def _table(
    case: Case, *, cuda: bool, usable_cores: int, cache: CacheDirectory, layout: CacheLayout
) -> list[tuple[str, str, str]]:
    """Every setting that applies, with its reason (source of the multi-GPU ones: what 8-GPU launches settled on)."""
    threads = max(1, usable_cores // case.nproc)
    table = [
        ("OMP_NUM_THREADS", str(threads), f"{usable_cores} usable cores shared by {case.nproc} ranks"),
        (
            "GLOO_SOCKET_IFNAME",
            "lo",
            "one node: ranks meet on the loopback interface whatever the host's name resolves to",
        ),
        ("PYTHONUNBUFFERED", "1", "a killed rank's last lines are in its log and not in a lost buffer"),
        ("PYTHONFAULTHANDLER", "1", "a crash in native code leaves the Python stack in the log"),
        (
            "TORCH_DISTRIBUTED_DEBUG",
            "INFO",
            "names unused parameters; DETAIL adds a process group that deadlocks FSDP2",
        ),
        ("TORCH_FR_BUFFER_SIZE", "512", "the last collectives of every rank can be asked for while it hangs"),
    ]
    if case.compile != "eager":
        table += _compile_settings(case, cuda=cuda, cache=cache, layout=layout)
    if cuda:
        table += _nccl_settings(case)
    return table


def _compile_settings(
    case: Case, *, cuda: bool, cache: CacheDirectory, layout: CacheLayout
) -> list[tuple[str, str, str]]:
    where = {name: f"compile cache: {cache.reason}" for name, _ in CACHE_VARIABLES}
    where["TMPDIR"] = "precompiled headers are kept under TMPDIR and belong to the cache"
    table = [(name, str(cache.path / below), where[name]) for name, below in CACHE_VARIABLES if layout == "shared"]
    table += [
        ("TORCHINDUCTOR_FX_GRAPH_CACHE", "1", "compiled graphs are kept and found again"),
        ("TORCHINDUCTOR_AUTOGRAD_CACHE", "1", "joint forward and backward graphs are kept and found again"),
        ("TRITON_DEFAULT_NUM_STAGES", "2", "deeper pipelining exhausts shared memory in the fused kernels"),
    ]
    if not cuda:
        table.append(("TORCHINDUCTOR_COMPILE_THREADS", "1", "compile workers of several ranks would share few cores"))
    if case.mode == "fsdp2":
        table.append(
            ("TORCHINDUCTOR_MAX_AUTOTUNE_GEMM", "0", "under FSDP ranks would tune apart and wait for each other")
        )
    return table


def _nccl_settings(case: Case) -> list[tuple[str, str, str]]:
    table = [
        ("NCCL_IB_DISABLE", "1", "one node: no InfiniBand to look for"),
        ("NCCL_NET_PLUGIN", "none", "one node: no network plugin of a multi-node image"),
        ("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "7200", "a cold compilation is longer than the default of 600 s"),
        ("TORCH_NCCL_AVOID_RECORD_STREAMS", "1", "memory is freed when the collective is done, not when the stream is"),
    ]
    if case.compile != "eager":
        # Read once, when the communicator is made: ranks that compile ahead have compiled by then.
        ahead = prewarm_plan(case, cuda=True)
        monitor = (
            ("1", "ranks compile before there is a communicator, so that its monitor never meets a compiling rank")
            if ahead.do
            else ("0", f"the monitor kills ranks that compile and run no collective; not done ahead: {ahead.reason}")
        )
        table.append(("TORCH_NCCL_ENABLE_MONITORING", *monitor))
    return table
