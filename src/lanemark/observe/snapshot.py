"""The host as it was before any rank started: every probe assembled into one JSON document, which becomes `host.json`.

Each probe is guarded on its own: one that breaks leaves an `unavailable` observation with the reason in its place,
and the rest stands. Nothing here decides anything; `lanes/` puts these observations beside what the ranks report.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from lanemark.observe.clock import stamp
from lanemark.observe.compile_cache import inventory
from lanemark.observe.devices import FIELDS as DEVICE_FIELDS
from lanemark.observe.devices import device_facts
from lanemark.observe.disk import free_space
from lanemark.observe.environment import snapshot as environment_snapshot
from lanemark.observe.host import host_facts
from lanemark.observe.image import image_facts
from lanemark.observe.packages import DEFAULT, cxx_facts, package_facts
from lanemark.observe.reading import guarded, reason_of
from lanemark.observe.redaction import redact_argv
from lanemark.observe.source import lanemark_digest, source_facts
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, unavailable

T = TypeVar("T")

_SURFACE: Final = ("hostname", "boot_id", "virtualization")
#: Host facts that have a place of their own in the document and are no hardware.
_ELSEWHERE: Final = (*_SURFACE, "host_uptime_s", "platform")
HOST_FIELDS: Final = (
    "cpu_model", "cpu_logical", "cpu_usable", "cpu_flags_digest", "host_memory_bytes", "cgroup_memory_bytes",
    "cgroup_cpu_quota", "kernel", *_ELSEWHERE,
)  # fmt: skip
_SOURCE_FIELDS: Final = ("commit", "dirty", "repository_root")
_IMAGE_FIELDS: Final = ("digest", "reference")


def _each(
    names: Iterable[str], what: str, probe: Callable[[], Mapping[str, Observation[Any]]]
) -> dict[str, dict[str, Any]]:
    """A probe's observations as JSON under exactly `names`, whatever the probe does."""
    try:
        seen = dict(probe())
    except Exception as error:  # the probe broke as a whole: each of its facts says so
        why = reason_of(error)
        seen = {name: unavailable(what, why) for name in names}
    return {name: seen.get(name, unavailable(what, "the probe did not report it")).to_json() for name in names}


def _settled(probe: Callable[[], T], instead: Callable[[str], T]) -> T:
    """What a probe returns, or a stand-in that carries the reason."""
    try:
        return probe()
    except Exception as error:  # as above, for facts that are no observations
        return instead(reason_of(error))


def _packages(names: Mapping[str, str | None], environ: Mapping[str, str]) -> list[dict[str, Any]]:
    def broken(why: str) -> list[dict[str, Any]]:
        seen = unavailable("package probe", why).to_json()
        return [{"name": name, "version": seen, "record_digest": seen, "imported": seen} for name in names]

    return _settled(lambda: [facts.to_json() for facts in package_facts(names, environ)], broken)


def _cache(cache_dir: str | os.PathLike[str] | None) -> Observation[dict[str, Any]]:
    if cache_dir is None:
        return absent("compile cache directory", "the attempt has none")
    return guarded("compile cache directory", lambda: inventory(cache_dir))


def host_snapshot(
    cwd: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    packages: Mapping[str, str | None] = DEFAULT,
) -> dict[str, Any]:
    """Everything this host shows, as plain JSON, with every fact an observation. Never raises.

    Args:
        cwd: the launch's working directory: its repository is the source, its disk the free space.
        environ: the environment the ranks will be given; ours when None.
        argv: the launch's arguments, stored without secrets; left out of the document when None.
        cache_dir: the compile cache's directory, or None where nothing is compiled.
        packages: distributions to look for, as `packages.DEFAULT`.
    """
    env = dict(os.environ if environ is None else environ)
    host = _each(HOST_FIELDS, "host probe", lambda: host_facts(environ=env))
    source: dict[str, Any] = {
        **_each(_SOURCE_FIELDS, "git", lambda: source_facts(cwd, env)),
        "lanemark_digest": guarded("lanemark's own .py files", lanemark_digest).to_json(),
    }
    if argv is not None:
        source["argv"], source["argv_redacted"] = redact_argv(argv, env)
    return {
        "taken_at": stamp(),
        "hardware": {
            **_each(DEVICE_FIELDS, "nvml", lambda: device_facts(env)),
            **{name: seen for name, seen in host.items() if name not in _ELSEWHERE},
        },
        "surface": {name: host[name] for name in _SURFACE},
        "host_uptime_s": host["host_uptime_s"],
        "source": source,
        "environment": {
            "variables": environment_snapshot(env),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": safe_text(host["platform"].get("value") or platform.platform()),
        },
        "toolchain": {
            "packages": _packages(packages, env),
            "cxx": guarded("C++ compiler", lambda: cxx_facts(env)).to_json(),
        },
        "image": _each(_IMAGE_FIELDS, "container marker files", lambda: image_facts(env)),
        "cache_before": _cache(cache_dir).to_json(),
        "disk_free_bytes": guarded("statvfs", lambda: free_space(Path(cwd))).to_json(),
    }
