"""The host: processor, memory, limits, kernel, identity. Pure parsers of /proc and /sys text, and one thin reader.

What the kernel reports and what a container may use are different facts and different fields: a cgroup can allow 2 of
96 processors and 8 of 1,024 GiB, and a throughput belongs to the smaller figure.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from lanemark.observe.reading import from_error, guarded, read_text
from lanemark.observe.virtualization import describe, read_signs
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: cgroup v1 says "no limit" as the largest page multiple below 2**63 (mm/page_counter.c, PAGE_COUNTER_MAX).
_V1_UNLIMITED_BYTES: Final = 1 << 62
_CPUINFO: Final = "/proc/cpuinfo"
_MEMINFO: Final = "/proc/meminfo"
#: ARM processors name no model in /proc/cpuinfo, only numbers: implementer and part
#: (source: util-linux sys-utils/lscpu-arm.c, itself from the Arm MIDR_EL1 register lists).
_ARM_CORES: Final = {
    (0x41, 0xD0C): "ARM Neoverse-N1", (0x41, 0xD40): "ARM Neoverse-V1", (0x41, 0xD49): "ARM Neoverse-N2",
    (0x41, 0xD4F): "ARM Neoverse-V2", (0x41, 0xD08): "ARM Cortex-A72", (0x41, 0xD03): "ARM Cortex-A53",
    (0x41, 0xD0B): "ARM Cortex-A76", (0x41, 0xD8E): "ARM Neoverse-N3", (0x41, 0xD84): "ARM Neoverse-V3",
    (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip


def cpuinfo_field(text: str, name: str) -> list[str]:
    """Every value of one field of /proc/cpuinfo, in order."""
    return [value.strip() for value in re.findall(rf"^{re.escape(name)}[ \t]*:(.*)$", text, re.MULTILINE)]


def parse_cpu_model(text: str) -> Observation[str]:
    """The processor's name: `model name` (x86), else implementer and part (ARM), `cpu` (POWER), `uarch` (RISC-V)."""
    names = sorted({name for name in cpuinfo_field(text, "model name") if name})
    if names:
        return observed(" + ".join(names), _CPUINFO)
    cores = []
    for implementer, part in zip(cpuinfo_field(text, "CPU implementer"), cpuinfo_field(text, "CPU part"), strict=False):
        try:
            key = (int(implementer, 16), int(part, 16))
        except ValueError:
            continue
        cores.append(_ARM_CORES.get(key, f"ARM implementer {key[0]:#04x} part {key[1]:#05x}"))
    if cores:
        return observed(" + ".join(sorted(set(cores))), f"{_CPUINFO} (CPU implementer, CPU part)")
    for name in ("cpu", "uarch", "Processor"):
        found = sorted({value for value in cpuinfo_field(text, name) if value})
        if found:
            return observed(" + ".join(found), f"{_CPUINFO} ({name})")
    return unavailable(_CPUINFO, "it names no processor model in any form we know")


def parse_cpu_logical(text: str) -> Observation[int]:
    """How many logical processors the kernel lists."""
    count = len(re.findall(r"^processor[ \t]*:[ \t]*[0-9]+[ \t]*$", text, re.MULTILINE))
    return observed(count, _CPUINFO) if count else unavailable(_CPUINFO, "it lists no processor")


def parse_cpu_flags_digest(text: str) -> Observation[str]:
    """`sha256:…` of the sorted feature flags that all processors share; `-march=native` depends on exactly these."""
    lists = cpuinfo_field(text, "flags") or cpuinfo_field(text, "Features") or cpuinfo_field(text, "isa")
    shared = set.intersection(*(set(flags.split()) for flags in lists)) if lists else set()
    if not shared:
        return unavailable(_CPUINFO, "it lists no feature flags")
    digest = hashlib.sha256(" ".join(sorted(shared)).encode()).hexdigest()
    return observed(f"sha256:{digest}", f"{_CPUINFO} ({len(shared)} flags)")


def parse_meminfo(text: str) -> Observation[int]:
    """Bytes of memory the kernel manages (`MemTotal`)."""
    match = re.search(r"^MemTotal:\s+([0-9]+) kB$", text, re.MULTILINE)
    return observed(int(match[1]) * 1024, _MEMINFO) if match else unavailable(_MEMINFO, "it has no MemTotal line")


def parse_uptime(text: str) -> Observation[float]:
    """Seconds since the host booted."""
    match = re.match(r"([0-9]+(?:\.[0-9]+)?)\s", text)
    return observed(float(match[1]), "/proc/uptime") if match else unavailable("/proc/uptime", "it does not parse")


def parse_cgroup_paths(text: str) -> dict[str, str]:
    """`/proc/self/cgroup` as controller → path; the unified hierarchy's key is the empty string."""
    out: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[0].isdigit():
            for controller in parts[1].split(","):
                out[controller] = parts[2]
    return out


def parse_memory_limit(text: str) -> int | None:
    """One `memory.max` or `memory.limit_in_bytes`: bytes, or None for no limit. Raises ValueError on anything else."""
    word = text.strip()
    if word == "max":
        return None
    limit = int(word)
    if limit < 0:
        raise ValueError("a memory limit is not negative")
    return None if limit >= _V1_UNLIMITED_BYTES else limit


def parse_cpu_max(text: str) -> float | None:
    """Version 2's `cpu.max` (`QUOTA PERIOD`): cores, or None for no limit. Raises ValueError on anything else."""
    quota, period = text.split()
    return None if quota == "max" else _cores(int(quota), int(period))


def parse_cfs_quota(quota: str, period: str) -> float | None:
    """Version 1's `cpu.cfs_quota_us` and `cpu.cfs_period_us`: cores, or None for no limit (-1). Raises ValueError."""
    return None if int(quota) == -1 else _cores(int(quota), int(period))


def _cores(quota_us: int, period_us: int) -> float:
    if quota_us <= 0 or period_us <= 0:
        raise ValueError("a quota and a period are positive")
    return quota_us / period_us


def _levels(base: Path, inside: str) -> Iterable[Path]:
    """The cgroup's directory and every ancestor that this mount shows: a limit anywhere above binds too.

    In a cgroup namespace, or where only a part is mounted, the path in /proc does not exist below the mount; the
    mount's own root is then the nearest thing to ours that can be read.
    """
    relative = PurePosixPath(inside.lstrip("/"))
    if ".." in relative.parts:
        return [base]
    return [base / relative, *(base / parent for parent in relative.parents if parent != relative)]


def _smallest(places: Iterable[Path], read: Callable[[Path], float | int | None], what: str) -> Observation[Any]:
    """The tightest limit over all levels; absent when the files exist and none sets one."""
    found: list[tuple[float | int, Path]] = []
    looked: list[Path] = []
    refused: str | None = None
    for place in places:
        try:
            limit = read(place)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            refused = f"{safe_text(str(place))}: {type(error).__name__}"
            continue
        looked.append(place)
        if limit is not None:
            found.append((limit, place))
    if found:
        value, place = min(found, key=lambda pair: pair[0])
        return observed(value, safe_text(str(place)))
    if refused is not None:
        return unavailable(what, f"a limit could not be read ({refused})")
    if looked:
        return absent(what, "no limit is set at any level that can be seen")
    return unavailable(what, "no cgroup file of this kind can be seen")


def _v2_reader(mount: Path, name: str, parse: Callable[[str], Any]) -> Callable[[Path], Any]:
    """Read one v2 limit file. The true root cgroup has none, which means no limit there: it alone lacks `cgroup.events`
    (kernel Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files").
    """

    def read(place: Path) -> Any:
        try:
            return parse(read_text(place / name, 64))
        except FileNotFoundError:
            if place == mount and not (mount / "cgroup.events").exists():
                return None
            raise

    return read


def cgroup_memory_bytes(root: Path, cgroup_text: str) -> Observation[int]:
    """The tightest memory limit on this process, v2 or v1."""
    paths, fs = parse_cgroup_paths(cgroup_text), root / "sys/fs/cgroup"
    if (fs / "cgroup.controllers").exists():
        places = _levels(fs, paths.get("", "/"))
        return _smallest(places, _v2_reader(fs, "memory.max", parse_memory_limit), "cgroup memory.max")
    name = "memory.limit_in_bytes"
    places = _levels(fs / "memory", paths.get("memory", "/"))
    return _smallest(places, lambda place: parse_memory_limit(read_text(place / name, 64)), f"cgroup {name}")


def cgroup_cpu_quota(root: Path, cgroup_text: str) -> Observation[float]:
    """The tightest processor quota on this process, in cores, v2 or v1."""
    paths, fs = parse_cgroup_paths(cgroup_text), root / "sys/fs/cgroup"
    if (fs / "cgroup.controllers").exists():
        places = _levels(fs, paths.get("", "/"))
        return _smallest(places, _v2_reader(fs, "cpu.max", parse_cpu_max), "cgroup cpu.max")
    base = fs / "cpu" if (fs / "cpu").exists() else fs / "cpu,cpuacct"

    def read(place: Path) -> float | None:
        return parse_cfs_quota(read_text(place / "cpu.cfs_quota_us", 64), read_text(place / "cpu.cfs_period_us", 64))

    return _smallest(_levels(base, paths.get("cpu", "/")), read, "cgroup cpu.cfs_quota_us")


def _parsed(root: Path, path: str, parse: Callable[[str], Observation[Any]]) -> Observation[Any]:
    try:
        text = read_text(root / path.lstrip("/"))
    except OSError as error:
        # /proc not mounted does not mean that the machine has no memory: these files are never truly absent.
        return unavailable(path, from_error(path, error).reason or "it cannot be read")
    return parse(text)


def _identity(path: str) -> Callable[[str], Observation[Any]]:
    def parse(text: str) -> Observation[Any]:
        return observed(safe_text(text.strip()), path) if text.strip() else unavailable(path, "it is empty")

    return parse


def _cpu_usable() -> Observation[int]:
    if not hasattr(os, "sched_getaffinity"):
        return unavailable("sched_getaffinity", "this system does not have it")
    return observed(len(os.sched_getaffinity(0)), "sched_getaffinity")


def _name(value: str, source: str) -> Observation[str]:
    return observed(safe_text(value), source) if value else unavailable(source, "it answers with nothing")


def boot_id(root: Path = Path("/")) -> Observation[str]:
    """The id the kernel drew at boot: two processes that see the same one share CLOCK_MONOTONIC. Never raises."""
    path = "/proc/sys/kernel/random/boot_id"
    return guarded(path, lambda: _parsed(root, path, _identity(path)))


def host_facts(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> dict[str, Observation[Any]]:
    """Every host fact, by the name it has in the record, and `platform` for the environment part. Never raises.

    Args:
        root: where /proc and /sys are; another directory only in tests.
        environ: the environment looked at for container signs; ours when None.
    """

    def cgroup(read: Callable[[Path, str], Observation[Any]]) -> Observation[Any]:
        return read(root, read_text(root / "proc/self/cgroup"))

    probes: dict[str, tuple[str, Callable[[], Observation[Any]]]] = {
        "cpu_model": (_CPUINFO, lambda: _parsed(root, _CPUINFO, parse_cpu_model)),
        "cpu_logical": (_CPUINFO, lambda: _parsed(root, _CPUINFO, parse_cpu_logical)),
        "cpu_usable": ("sched_getaffinity", _cpu_usable),
        "cpu_flags_digest": (_CPUINFO, lambda: _parsed(root, _CPUINFO, parse_cpu_flags_digest)),
        "host_memory_bytes": (_MEMINFO, lambda: _parsed(root, _MEMINFO, parse_meminfo)),
        "cgroup_memory_bytes": ("cgroup memory limit", lambda: cgroup(cgroup_memory_bytes)),
        "cgroup_cpu_quota": ("cgroup processor quota", lambda: cgroup(cgroup_cpu_quota)),
        "kernel": ("uname", lambda: _name(f"{os.uname().sysname} {os.uname().release}".strip(), "uname")),
        "hostname": ("uname", lambda: _name(os.uname().nodename, "uname")),
        "boot_id": ("boot id", lambda: boot_id(root)),
        "host_uptime_s": ("/proc/uptime", lambda: _parsed(root, "/proc/uptime", parse_uptime)),
        "virtualization": ("machine and container signs", lambda: describe(read_signs(root, environ))),
        "platform": ("platform.platform()", lambda: _name(platform.platform(), "platform.platform()")),
    }
    return {name: guarded(source, probe) for name, (source, probe) in probes.items()}
