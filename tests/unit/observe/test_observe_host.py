"""Host facts from captured text: processors, memory, limits, identity, signs of virtualization."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanemark.observe.disk import free_space
from lanemark.observe.host import (
    boot_id,
    cgroup_cpu_quota,
    cgroup_memory_bytes,
    host_facts,
    parse_cfs_quota,
    parse_cgroup_paths,
    parse_cpu_flags_digest,
    parse_cpu_logical,
    parse_cpu_max,
    parse_cpu_model,
    parse_meminfo,
    parse_memory_limit,
    parse_uptime,
)
from lanemark.observe.reading import from_error, guarded, read_text, reason_of
from lanemark.observe.virtualization import Signs, container_signs, describe, machine_signs

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu vme sse2 avx512f hypervisor

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: vme fpu avx512f sse2 hypervisor
"""
ARM = """processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd sve2
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd4f

processor\t: 1
Features\t: sve2 fp asimd
CPU implementer\t: 0x41
CPU part\t: 0xd4f
"""
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800.0MHz\n"


def test_cpu_model_forms() -> None:
    assert parse_cpu_model(X86).value == "Intel(R) Xeon(R) Platinum 8480+"
    assert parse_cpu_model(ARM).value == "ARM Neoverse-V2"
    assert parse_cpu_model(ARM.replace("0xd4f", "0xabc")).value == "ARM implementer 0x41 part 0xabc"
    assert parse_cpu_model(POWER).value == "POWER9, altivec supported"
    assert parse_cpu_model(X86.replace("8480+", "8480+", 1).replace("8480+", "9999", 1)).value.count(" + ") == 1


@pytest.mark.parametrize(
    "text", ["", "garbage", "processor: x\n", "model name\t:\n", "CPU implementer: zz\nCPU part: 1\n"]
)
def test_cpu_model_refuses_what_names_none(text: str) -> None:
    seen = parse_cpu_model(text)
    assert seen.status == "unavailable"
    assert seen.reason


def test_cpu_count_and_flags() -> None:
    assert parse_cpu_logical(X86).value == 2
    assert parse_cpu_logical("nothing").status == "unavailable"
    reordered = X86.replace("fpu vme sse2 avx512f hypervisor", "sse2 vme fpu hypervisor avx512f")
    assert parse_cpu_flags_digest(X86) == parse_cpu_flags_digest(reordered)
    assert parse_cpu_flags_digest(X86).value != parse_cpu_flags_digest(X86.replace("avx512f", "avx2")).value
    assert parse_cpu_flags_digest(ARM).status == "observed"
    assert parse_cpu_flags_digest("flags :\n").status == "unavailable"


def test_meminfo_and_uptime() -> None:
    assert parse_meminfo("MemTotal:       24684084 kB\nMemFree: 1 kB\n").value == 24684084 * 1024
    assert parse_meminfo("MemFree: 1 kB\n").status == "unavailable"
    assert parse_uptime("2208.90 4000.00\n").value == 2208.9
    assert parse_uptime("").status == "unavailable"


def test_limits_parse_or_raise() -> None:
    assert parse_memory_limit("max\n") is None
    assert parse_memory_limit("9223372036854771712\n") is None
    assert parse_memory_limit("8589934592\n") == 8 * 1024**3
    assert parse_cpu_max("200000 100000\n") == 2.0
    assert parse_cpu_max("max 100000\n") is None
    assert parse_cfs_quota("-1", "100000") is None
    assert parse_cfs_quota("150000\n", "100000\n") == 1.5
    for bad in ("", "-5", "lots"):
        with pytest.raises(ValueError):  # noqa: PT011 - which text is wrong differs
            parse_memory_limit(bad)
    for bad in ("", "1", "0 100000", "max"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_cpu_max(bad)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cgroup_v2_takes_the_tightest_level(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/a/memory.max": "4096\n",
            "sys/fs/cgroup/a/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/b/memory.max": "8192\n",
            "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n",
        },
    )
    assert cgroup_memory_bytes(root, "0::/a/b\n").value == 4096
    assert cgroup_cpu_quota(root, "0::/a/b\n").value == 2.5


def test_cgroup_v2_without_limit_is_absent_and_unseen_is_unavailable(tmp_path: Path) -> None:
    root = write(tmp_path / "bare", {"sys/fs/cgroup/cgroup.controllers": "cpu memory\n"})
    assert cgroup_memory_bytes(root, "0::/\n").status == "absent"
    inner = write(
        tmp_path / "ns", {"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/cgroup.events": "populated 1\n"}
    )
    assert cgroup_memory_bytes(inner, "0::/\n").status == "unavailable"
    wrong = write(tmp_path / "bad", {"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/memory.max": "plenty\n"})
    assert cgroup_memory_bytes(wrong, "0::/\n").status == "unavailable"
    outside = write(tmp_path / "out", {"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/memory.max": "77\n"})
    assert cgroup_memory_bytes(outside, "0::/../../x\n").value == 77


def test_cgroup_v1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1048576\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    text = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n"
    assert cgroup_memory_bytes(root, text).value == 1048576
    assert cgroup_cpu_quota(root, text).status == "absent"
    assert cgroup_cpu_quota(tmp_path / "nothing", text).status == "unavailable"


def test_cgroup_paths() -> None:
    assert parse_cgroup_paths("0::/a\n3:cpu,cpuacct:/b:c\nnonsense\n") == {"": "/a", "cpu": "/b:c", "cpuacct": "/b:c"}


def test_host_facts_here_and_on_an_empty_root(tmp_path: Path) -> None:
    here = host_facts(environ={})
    assert here["cpu_logical"].value >= 1
    assert here["cpu_usable"].value >= 1
    assert here["host_memory_bytes"].value > 1 << 20
    assert here["boot_id"] == boot_id()
    empty = host_facts(tmp_path, environ={})
    for name in (
        "cpu_model",
        "cpu_logical",
        "host_memory_bytes",
        "boot_id",
        "host_uptime_s",
        "cgroup_memory_bytes",
        "virtualization",
    ):
        assert empty[name].status == "unavailable", name
        assert empty[name].reason


# Signs of virtualization


def test_machine_signs() -> None:
    gvisor = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n"
    assert machine_signs(Signs(version=gvisor)) == ["gvisor (/proc/version)"]
    assert machine_signs(Signs(version="Linux version 6.1.0", kernel_log="[ 0.0] Starting gVisor...\n")) == [
        "gvisor (kernel log)"
    ]
    assert machine_signs(Signs(version="Linux version 4.4.0-210-generic #242-Ubuntu")) == []
    assert machine_signs(Signs(cpuinfo=X86)) == ["virtual machine (hypervisor flag in /proc/cpuinfo)"]
    assert machine_signs(Signs(dmi={"sys_vendor": "QEMU"})) == ["kvm or qemu (/sys/class/dmi/id)"]
    assert machine_signs(Signs(dmi={"sys_vendor": "Amazon EC2", "product_name": "p5.48xlarge"})) == [
        "amazon ec2 (/sys/class/dmi/id)"
    ]
    assert machine_signs(Signs(dmi={"sys_vendor": "Amazon EC2", "product_name": "c5.metal"})) == []
    assert machine_signs(Signs(dmi={"sys_vendor": "Dell Inc."})) == []
    assert machine_signs(Signs(hypervisor_type="xen\n")) == ["xen (/sys/hypervisor/type)"]


def test_container_signs() -> None:
    assert container_signs(Signs(markers=frozenset({"/.dockerenv"}))) == ["docker (/.dockerenv)"]
    assert container_signs(Signs(markers=frozenset({"/run/.containerenv"}))) == ["podman (/run/.containerenv)"]
    assert container_signs(Signs(cgroup="4:memory:/kubepods/burstable/pod1\n")) == ["kubernetes (/proc/self/cgroup)"]
    assert container_signs(Signs(environ={"MODAL_TASK_ID": "ta-1"})) == ["modal (MODAL_TASK_ID)"]
    assert container_signs(Signs(cgroup="0::/user.slice\n")) == []


def test_nothing_seen_is_absent_only_where_it_could_be_seen() -> None:
    bare = X86.replace(" hypervisor", "")
    assert describe(Signs(cpuinfo=bare)).status == "absent"
    assert describe(Signs(cpuinfo=X86)).status == "observed"
    assert describe(Signs(cpuinfo=ARM)).status == "unavailable"
    assert describe(Signs()).status == "unavailable"


# Reading, and space


def test_failed_reads_keep_their_meaning(tmp_path: Path) -> None:
    assert from_error("x", FileNotFoundError(2, "No such file")).status == "absent"
    refused = from_error("x", PermissionError(13, "Permission denied"))
    assert (refused.status, refused.reason) == ("unavailable", "PermissionError: Permission denied")
    assert guarded("x", lambda: 1 / 0).reason == "ZeroDivisionError: division by zero"  # type: ignore[arg-type, return-value]
    assert reason_of(RuntimeError()) == "RuntimeError: no further detail"
    (tmp_path / "f").write_bytes(b"ab\xffcd")
    assert read_text(tmp_path / "f", 3).encode("utf-8", "surrogateescape") == b"ab\xff"


def test_free_space_of_a_path_not_made_yet(tmp_path: Path) -> None:
    here, later = free_space(tmp_path), free_space(tmp_path / "not" / "yet")
    assert here.value is not None
    assert here.value > 0
    assert later.source == here.source
    (tmp_path / "file").write_text("")
    assert free_space(tmp_path / "file" / "below").status == "unavailable"
