"""Storage classes from mountinfo text alone: every class, its refusals, layers and devices followed to what backs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lanemark.observe.data_path import parse_io
from lanemark.observe.mounts import (
    BlockDevice,
    Mount,
    Verdict,
    classify_mount,
    overlay_layers,
    parse_mountinfo,
    seen_on,
    unescape,
)
from lanemark.observe.path_class import combine

ASSETS = Path(__file__).parents[2] / "assets" / "observe"
TEXT = (ASSETS / "mountinfo.txt").read_text()
BLOCK = {
    "259:1": BlockDevice("nvme0n1", model="Amazon EC2 NVMe Instance Storage"),
    "259:2": BlockDevice("nvme1n1", model="Amazon Elastic Block Store"),
    "259:3": BlockDevice("nvme2n1", model="nvme_card-pd"),
    "259:4": BlockDevice("nvme3n1", model="Samsung SSD 990", over_network="NVMe over tcp"),
    "254:0": BlockDevice("vda"),
    "8:0": BlockDevice("sda", over_network="iSCSI"),
    "8:16": BlockDevice("sdb", model="Samsung SSD 870"),
    "7:0": BlockDevice("loop0", backing_file="/dev/shm/x.sqfs"),
    "7:1": BlockDevice("loop1", backing_file="/gone.img (deleted)"),
    "43:0": BlockDevice("nbd0"),
    "252:0": BlockDevice("rbd0"),
    "252:1": BlockDevice("zram0"),
    "253:0": BlockDevice("dm-0", below=("sdb",)),
    "253:1": BlockDevice("dm-1", below=("sdb", "nbd0")),
    "253:2": BlockDevice("dm-2", below=("sdz",)),
    "253:9": BlockDevice("dm-9", below=("dm-9",)),
    "sdb": BlockDevice("sdb", model="Samsung SSD 870"),
    "nbd0": BlockDevice("nbd0"),
    "dm-9": BlockDevice("dm-9", below=("dm-9",)),
}
REACHABLE = {
    "/dev/shm/x.sqfs": Verdict("ram", "tmpfs"),
    "/upper/a/f.bin": Verdict("local_disk", "ext4 on sdb"),
    "/lower1/f.bin": Verdict("network_volume", "nfs4"),
}


def mounts() -> dict[str, Mount]:
    return {mount.mount_point: mount for mount in parse_mountinfo(TEXT).values()}


def classify(mount: Mount, relative: str = "f.bin") -> Verdict:
    return classify_mount(mount, relative, find_block=BLOCK.get, follow=lambda path, _: REACHABLE.get(path))


@pytest.mark.parametrize(
    ("mount_point", "path_class", "said"),
    [
        ("/", "local_disk", "virtual disk"),
        ("/dev/shm", "ram", "tmpfs"),
        ("/huge", "ram", "hugetlbfs"),
        ("/nvme", "local_disk", "Instance Storage"),
        ("/ebs", "network_volume", "Elastic Block Store"),
        ("/pd", "network_volume", "nvme_card-pd"),
        ("/nvmeof", "network_volume", "NVMe over tcp"),
        ("/iscsi", "network_volume", "iSCSI"),
        ("/sata disk", "local_disk", "Samsung"),
        ("/nbd", "network_volume", "nbd0"),
        ("/ceph-rbd", "network_volume", "rbd0"),
        ("/zram", "ram", "zram0"),
        ("/btrfs", "local_disk", "sdb"),
        ("/lvm", "local_disk", "dm-0"),
        ("/lvm-mixed", "mixed", "local_disk, network_volume"),
        ("/lvm-blind", "unknown", "cannot be seen"),
        ("/lvm-loop", "unknown", "stand on one another"),
        ("/squash", "ram", "loop0"),
        ("/squash-gone", "unknown", "backing file cannot be seen"),
        ("/nfs", "network_volume", "nfs4"),
        ("/smb", "network_volume", "cifs"),
        ("/lustre", "network_volume", "lustre"),
        ("/sandbox", "network_volume", "opaque"),
        ("/virtiofs", "network_volume", "opaque"),
        ("/bucket", "object_mount", "rclone"),
        ("/bucket-s3fs", "object_mount", "s3fs"),
        ("/bucket-mp", "object_mount", "mountpoint-s3"),
        ("/bucket-gcs", "object_mount", "gcsfuse"),
        ("/juice", "network_volume", "juicefs"),
        ("/sshfs", "network_volume", "sshfs"),
        ("/fuse-anon", "unknown", "does not name itself"),
        ("/fuse-odd", "unknown", "may read from anywhere"),
        ("/squashfuse", "unknown", "only its own process"),
        ("/odd", "unknown", "'bdevfs'"),
        ("/nodev", "local_disk", "/sys does not show"),
    ],
)
def test_every_kind_of_mount(mount_point: str, path_class: str, said: str) -> None:
    verdict = classify(mounts()[mount_point])
    assert verdict.path_class == path_class
    assert said in verdict.reason


def test_overlay_goes_by_the_layer_that_holds_the_file() -> None:
    overlay = mounts()["/overlay"]
    assert classify(overlay, "a/f.bin").path_class == "local_disk"
    assert classify(overlay, "f.bin").path_class == "network_volume"
    assert classify(overlay, "elsewhere.bin").path_class == "unknown"
    assert "layers cannot be seen" in classify(mounts()["/docker"]).reason


def test_octal_escapes() -> None:
    assert unescape(r"/mnt/a\040b\011c\012d\134e\043") == "/mnt/a b\tc\nd\\e#"
    assert unescape(r"/mnt/\303\244") == "/mnt/ä"
    assert unescape("/mnt/ä") == "/mnt/ä"
    assert unescape(r"/mnt/ä\040b") == "/mnt/ä b"
    assert "/sata disk" in mounts()


def test_overlay_options() -> None:
    assert overlay_layers("rw,lowerdir=/a:/b,upperdir=/u,workdir=/w") == ["/u", "/a", "/b"]
    assert overlay_layers(r"ro,lowerdir=/a\:1:/b\,2") == ["/a:1", r"/b\,2"]
    assert overlay_layers("rw,lowerdir+=/a,lowerdir+=/b") == ["/a", "/b"]
    assert overlay_layers("rw") == []


@pytest.mark.parametrize(
    "line", ["", "garbage", "1 2 3", "x 1 8:0 / / rw - ext4 /dev/sda rw", "1 1 8:0 / /", "1 1 8:0 / / rw - ext4"]
)
def test_lines_that_do_not_parse_are_left_out(line: str) -> None:
    assert parse_mountinfo(line + "\n") == {}


def test_depth_is_bounded() -> None:
    ram = mounts()["/dev/shm"]
    assert classify_mount(ram, "f", find_block=BLOCK.get, follow=lambda *_: None, depth=99).path_class == "unknown"


def test_mount_sources_lose_their_credentials() -> None:
    smb = Mount(1, "0:9", "/", "/smb", "cifs", "//joe:hunter22@server/share", "rw")
    url = Mount(1, "0:9", "/", "/b", "fuse.rclone", ":s3,secret_access_key=hunter22,provider=Other:data", "rw")
    for mount in (smb, url):
        row = seen_on("f.bin", mount, classify(mount)).to_json(3)
        assert "hunter22" not in str(row)
        assert row["rank"] == 3
    nameless = seen_on("f", Mount(1, "0:9", "/", "/", "tmpfs", "", ""), Verdict("ram", "x"))
    assert nameless.mount_source == "none"


def test_combining() -> None:
    assert combine(["ram", "ram"]).value == "ram"
    assert combine(["ram", "local_disk"]).value == "mixed"
    assert combine([]).status == "unavailable"
    assert combine(["ram", "unknown"]).status == "unavailable"


def test_io_counters_parse_or_raise() -> None:
    assert parse_io("rchar: 10\nread_bytes: 4096\n") == {"rchar": 10, "read_bytes": 4096}
    with pytest.raises(ValueError, match="invalid literal"):
        parse_io("rchar: lots\n")
