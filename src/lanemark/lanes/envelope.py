"""The part of a record that all lanes share, built from an attempt's facts. Pure.

Requested values come from the case and only from there; observed ones from host probes and the ranks' own reports and
only from there. The two are put side by side and never mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lanemark.lanes.reports import AttemptFacts, RankReport, agreed, looked_up
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.statement import RECORD_VERSION

_HOST_HARDWARE: Final = (
    "driver", "mig", "ecc", "power_limit_w", "sm_clock_max_mhz", "cpu_model", "cpu_logical", "cpu_usable",
    "cpu_flags_digest", "host_memory_bytes", "cgroup_memory_bytes", "cgroup_cpu_quota", "kernel",
)  # fmt: skip


def _listed(ranks: Sequence[RankReport], key: str, *, unique: bool) -> dict[str, Any]:
    """The ranks' values under `key` as one list in rank order (each different value once, when `unique`)."""
    values: list[Any] = []
    missing: dict[str, Any] | None = None
    for report in ranks:
        entry = (report.observed or {}).get(key)
        value = value_of(entry)
        if value is None:
            missing = entry if isinstance(entry, dict) else missing
        elif not unique or value not in values:
            values.append(value)
    if values:
        return observed(values, f"ranks' {key}").to_json()
    return missing or unavailable(f"ranks' {key}", "no rank reported it").to_json()


def hardware(facts: AttemptFacts) -> tuple[dict[str, Any], list[str]]:
    """Requested and observed devices side by side, and the ranks' disagreements.

    The class, the count and the names are those the *ranks* used; the host's probes fill what only a host can know.
    """
    host = facts.host.get("hardware") or {}
    disagreements: list[str] = []
    seen: dict[str, Any] = {key: looked_up(host, key, "host probe") for key in _HOST_HARDWARE}
    for key, rank_key in (("device_class", "device_class"), ("cuda", "cuda"), ("memory_bytes", "device_memory_bytes")):
        seen[key], problem = agreed(facts.ranks, rank_key)
        disagreements += [problem] if problem else []
    reporting = [r for r in facts.ranks if value_of((r.observed or {}).get("device_class")) is not None]
    seen["device_names"] = _listed(facts.ranks, "device_name", unique=True)
    seen["device_uuids"] = _listed(facts.ranks, "device_uuid", unique=True)
    if not reporting:
        seen["device_count"] = unavailable("ranks' device_class", "no rank reported a device").to_json()
    else:
        # Ranks on a CPU share one host's cores; ranks on GPUs are as many devices as they have different UUIDs.
        uuids = value_of(seen["device_uuids"])
        on_cpu = value_of(seen["device_class"]) == "cpu"
        count = 1 if on_cpu else len(uuids) if uuids else len(reporting)
        source = (
            "ranks' device_class (one host CPU)" if on_cpu else "ranks' device_uuid" if uuids else "ranks reporting"
        )
        seen["device_count"] = observed(count, source).to_json()
    case = facts.case
    return {"requested": {"gpu": case.gpu, "nproc": case.nproc}, "observed": seen}, disagreements


def distributed(facts: AttemptFacts) -> tuple[dict[str, Any], list[str]]:
    """Requested mode and world size beside what the ranks' own process groups and wrapped modules said."""
    disagreements: list[str] = []
    seen: dict[str, Any] = {}
    for key, rank_key in (("mode", "mode_observed"), ("world_size", "world_size_observed"), ("backend", "backend")):
        seen[key], problem = agreed(facts.ranks, rank_key)
        disagreements += [problem] if problem else []
    seen["ranks_reporting"] = sum(report.observed is not None for report in facts.ranks)
    boots = {facts.manifest.get("boot_id"), *(report.claim["host"] for report in facts.ranks if report.claim)}
    seen["nodes"] = (
        observed(len(boots), "one supervisor, one boot id" if len(boots) == 1 else "boot ids of the ranks' hosts")
        if seen["ranks_reporting"]
        else unavailable("ranks", "none reported")
    ).to_json()
    return {"requested": {"mode": facts.case.mode, "world_size": facts.case.nproc}, "observed": seen}, disagreements


def compilation(facts: AttemptFacts, last_step: int | None) -> tuple[dict[str, Any], list[str]]:
    """Requested posture beside what was compiled, as the compiler's own callbacks saw it."""
    posture, problem = agreed(facts.ranks, "compile_observed")
    pages = [report for report in facts.ranks if report.beacon is not None]
    hooked = all(value_of((r.observed or {}).get("compile_hooks")) is not False for r in facts.ranks)
    if pages and hooked:
        count = observed(
            max(page.beacon["compilations"] for page in pages if page.beacon), "beacon.page, largest of the ranks"
        )
        slowest = observed(
            max(page.beacon["compile_ns"] for page in pages if page.beacon) / 1e9, "beacon.page, slowest of the ranks"
        )
    else:
        why = "no beacon page could be read" if not pages else "the compiler's callbacks could not be hooked"
        count, slowest = unavailable("beacon.page", why), unavailable("beacon.page", why)
    recorded = any(report.samples is not None and report.samples.rows for report in facts.ranks)
    if last_step is not None:
        ended = observed(last_step, "samples.bin of every rank")
    elif not facts.case.takes_steps:
        ended = absent("samples.bin of every rank", "the lane takes no steps")
    elif recorded:
        ended = absent("samples.bin of every rank", "no rank compiled during a step")
    else:
        ended = unavailable("samples.bin of every rank", "no step was recorded")
    part = {
        "requested": facts.case.compile,
        "observed": {
            "posture": posture,
            "compilations": count.to_json(),
            "compile_s_max": slowest.to_json(),
            "last_end_step": ended.to_json(),
        },
    }
    return part, [problem] if problem else []


def toolchain(facts: AttemptFacts) -> dict[str, Any]:
    """Versions, digests and import outcomes. torch's own outcome is the ranks': they are the ones that imported it."""
    host = facts.host.get("toolchain") or {}
    packages = [dict(entry) for entry in host.get("packages", [])]
    for entry in packages:
        if entry["name"] != "torch":
            continue
        version, _ = agreed(facts.ranks, "torch_version")
        if version["status"] == "observed":
            entry["imported"] = observed(value=True, source=version["source"]).to_json()
        else:
            entry["imported"] = unavailable("ranks' torch_version", "no rank got as far as reporting torch").to_json()
    return {
        "packages": packages,
        "torch_build": agreed(facts.ranks, "torch_build")[0],
        "nccl": agreed(facts.ranks, "nccl")[0],
        "cxx": looked_up(host, "cxx", "host probe"),
        **({"artifacts": host["artifacts"]} if "artifacts" in host else {}),
    }


def envelope(facts: AttemptFacts) -> dict[str, Any]:
    """The parts that need no lane: identity, surface, times, image, source, environment, transitions, evidence."""
    manifest, host = facts.manifest, facts.host
    surface = host.get("surface") or {}
    source = host.get("source") or {}
    environment = host.get("environment") or {}
    local = absent("local surface", "a local run has no such id").to_json()
    return {
        "record_version": RECORD_VERSION,
        "lane": facts.case.lane,
        "run_id": manifest["run_id"],
        "attempt": manifest.get("execution", 1),
        "plan_digest": facts.case.digest,
        "assurance": "self_attested",
        "case": facts.case.to_json(),
        "surface": {
            "name": facts.case.surface,
            **{
                key: looked_up(surface, key, "the surface") if key in surface else local
                for key in ("app_id", "call_id")
            },
            **{key: looked_up(surface, key, "host probe") for key in ("hostname", "boot_id", "virtualization")},
        },
        "times": {
            "prepared_at": manifest["transitions"][0]["at"],
            "sealed_at": facts.sealed_at,
            "duration_s": facts.duration_s.to_json(),
        },
        "image": {key: looked_up(host.get("image"), key, "host probe") for key in ("digest", "reference")},
        "source": {
            **{key: looked_up(source, key, "git") for key in ("commit", "dirty", "repository_root")},
            "lanemark_version": facts.lanemark_version,
            "lanemark_digest": looked_up(source, "lanemark_digest", "installed package"),
            "argv": list(manifest["argv"]),
            "argv_redacted": manifest["argv_redacted"],
        },
        "environment": {
            "variables": environment.get("variables", {}),
            "settings": (facts.launch.get("settings") or []),
            "python": environment.get("python", "unknown"),
            "platform": environment.get("platform", "unknown"),
        },
        "transitions": [dict(step) for step in facts.transitions],
        "findings": [finding.to_json() for finding in facts.findings],
        "evidence": [item.to_json() for item in facts.evidence],
    }
