"""Signs of a virtual machine, a sandboxed kernel or a container, from text the kernel shows. Pure, but for one reader.

Nothing here proves bare metal: a hypervisor may hide itself. So the answer names the signs seen; on a machine without
any it says that none was seen, and on one where the customary signs cannot exist it says that we could not look.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lanemark.observe.reading import read_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: gVisor always shows this version and build date (google/gvisor pkg/sentry/fsimpl/proc, `KernelVersion`).
_GVISOR_VERSION: Final = re.compile(r"^Linux version 4\.4\.0\b.*#1 SMP Sun Jan 10 15:06:54 PST 2016", re.MULTILINE)
#: DMI vendor and product words that name a hypervisor rather than a board maker (systemd src/basic/virt.c).
_DMI_VENDORS: Final = {
    "qemu": "kvm or qemu", "kvm": "kvm", "vmware": "vmware", "xen": "xen", "innotek": "virtualbox",
    "virtualbox": "virtualbox", "parallels": "parallels", "bochs": "bochs", "openstack": "openstack",
    "google compute engine": "google compute engine", "hyper-v": "hyper-v", "virtual machine": "hyper-v",
    "bhyve": "bhyve", "firecracker": "firecracker", "amazon ec2": "amazon ec2", "alibaba cloud": "alibaba cloud",
}  # fmt: skip
_CGROUP_SIGNS: Final = {
    "docker": "docker", "kubepods": "kubernetes", "libpod": "podman", "lxc": "lxc", "containerd": "containerd",
    "machine.slice/systemd-nspawn": "systemd-nspawn", "garden": "garden",
}  # fmt: skip
_SYSLOG_ACTION_READ_ALL: Final = 3  # syslog(2)
_KERNEL_LOG_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Signs:
    """The texts that are looked at; None where a file could not be read or does not exist."""

    version: str | None = None
    cpuinfo: str | None = None
    dmi: Mapping[str, str] = field(default_factory=dict)
    cgroup: str | None = None
    hypervisor_type: str | None = None
    kernel_log: str | None = None
    markers: frozenset[str] = frozenset()
    environ: Mapping[str, str] = field(default_factory=dict)


def container_signs(signs: Signs) -> list[str]:
    """Each sign of a container with where it was seen; empty when none was."""
    out = []
    if "/.dockerenv" in signs.markers:
        out.append("docker (/.dockerenv)")
    if "/run/.containerenv" in signs.markers:
        out.append("podman (/run/.containerenv)")
    if "/run/systemd/container" in signs.markers:
        out.append("container (/run/systemd/container)")
    lines = (signs.cgroup or "").lower()
    out += [f"{kind} (/proc/self/cgroup)" for word, kind in _CGROUP_SIGNS.items() if word in lines]
    if "KUBERNETES_SERVICE_HOST" in signs.environ:
        out.append("kubernetes (KUBERNETES_SERVICE_HOST)")
    if "MODAL_TASK_ID" in signs.environ:
        out.append("modal (MODAL_TASK_ID)")
    return out


def machine_signs(signs: Signs) -> list[str]:
    """Each sign of a virtual machine or a sandboxed kernel with where it was seen; empty when none was."""
    out = []
    if signs.version and _GVISOR_VERSION.search(signs.version):
        out.append("gvisor (/proc/version)")
    elif signs.kernel_log and "gvisor" in signs.kernel_log.lower():
        out.append("gvisor (kernel log)")
    if signs.hypervisor_type:
        out.append(f"{signs.hypervisor_type.strip()} (/sys/hypervisor/type)")
    text = " ".join(signs.dmi.values()).lower()
    metal = ".metal" in text  # EC2 bare-metal types keep the vendor's name
    named = [kind for word, kind in _DMI_VENDORS.items() if word in text and not metal]
    if named:
        out.append(f"{named[0]} (/sys/class/dmi/id)")
    if signs.cpuinfo and re.search(r"^flags\s*:.*\bhypervisor\b", signs.cpuinfo, re.MULTILINE):
        out.append("virtual machine (hypervisor flag in /proc/cpuinfo)")
    return out


def describe(signs: Signs) -> Observation[str]:
    """All signs in one line, or that none was seen, or that there was nothing to look at."""
    source = "/proc/version, /proc/cpuinfo, /proc/self/cgroup, /sys/class/dmi/id and container marker files"
    seen = machine_signs(signs) + container_signs(signs)
    if seen:
        return observed("; ".join(dict.fromkeys(seen)), source)
    shows_flags = signs.cpuinfo is not None and re.search(r"^flags\s*:", signs.cpuinfo, re.MULTILINE) is not None
    if not shows_flags and not signs.dmi:
        return unavailable(source, "neither processor flags nor DMI fields could be read on this machine")
    return absent(source, "no sign of a hypervisor or a container was seen")


def read_signs(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> Signs:
    """Gather every text. Never raises: what cannot be read stays None."""

    def text(relative: str, limit: int = 1 << 20) -> str | None:
        try:
            return read_text(root / relative, limit)
        except OSError:
            return None

    fields = {name: text(f"sys/class/dmi/id/{name}", 4096) for name in ("sys_vendor", "product_name", "board_vendor")}
    marker_paths = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
    return Signs(
        version=text("proc/version"),
        cpuinfo=text("proc/cpuinfo"),
        dmi={name: value.strip() for name, value in fields.items() if value and value.strip()},
        cgroup=text("proc/self/cgroup"),
        hypervisor_type=text("sys/hypervisor/type", 256),
        kernel_log=read_kernel_log() if root == Path("/") else None,
        markers=frozenset(marker for marker in marker_paths if (root / marker.lstrip("/")).exists()),
        environ=dict(os.environ if environ is None else environ),
    )


def read_kernel_log() -> str | None:
    """The tail of the kernel's message buffer, where an unprivileged read is allowed; None otherwise.

    Only looked through for gVisor's own greeting; nothing of it is stored.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(_KERNEL_LOG_BYTES)
        got = libc.klogctl(_SYSLOG_ACTION_READ_ALL, buffer, _KERNEL_LOG_BYTES)
    except (OSError, AttributeError):
        return None
    return buffer.raw[:got].decode("utf-8", "replace") if got > 0 else None
