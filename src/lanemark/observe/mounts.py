"""Which class of storage a mount is: pure reading of mountinfo text and of a few facts about block devices.

The path string proves nothing (`/data/local` may be a symbolic link into a bucket), and neither does the mount
point's name. What counts is the file system the kernel serves the file from, and, for a file system on a block
device, what that device stands on. Overlays and loop devices are followed to what backs them; where the trail leaves
what this process can see, the answer is `unknown` with the reason, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from lanemark.observe.redaction import redact_text
from lanemark.records.encoding import safe_text

#: FUSE file systems that show an object store as files.
OBJECT_FUSE: Final = frozenset(
    ("s3fs", "rclone", "goofys", "gcsfuse", "mountpoint-s3", "geesefs", "blobfuse", "blobfuse2", "s3backer",
     "tigrisfs", "hf-mount", "ossfs", "cosfs", "obsfs", "riofs", "yas3fs", "catfs", "s3ql", "alluxio-fuse")
)  # fmt: skip
#: FUSE file systems that are clients of a file server or a distributed file system.
NETWORK_FUSE: Final = frozenset(
    ("glusterfs", "ceph-fuse", "ceph", "sshfs", "juicefs", "JuiceFS", "mfs", "moosefs", "seaweedfs", "davfs",
     "lizardfs", "curlftpfs", "cvmfs2", "weed", "dfuse", "gpfs", "smbnetfs", "afp", "quobyte")
)  # fmt: skip
#: Kernel file systems whose data is on another machine (or, for 9p and virtiofs, across a hypervisor).
NETWORK: Final = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs", "afs", "pvfs2",
     "wekafs", "orangefs", "ocfs2", "gfs2", "coda", "ncpfs", "virtiofs", "9p", "quobyte", "vboxsf", "prl_fs")
)  # fmt: skip
MEMORY: Final = frozenset(("tmpfs", "ramfs", "hugetlbfs", "devtmpfs"))
#: File systems on block devices, read-only images among them.
BLOCK: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "ntfs", "ntfs3",
     "fuseblk", "vfat", "exfat", "msdos", "squashfs", "erofs", "iso9660", "udf", "nilfs2")
)  # fmt: skip
#: FUSE servers that unpack a local image file; which file, only their own process knows.
IMAGE_FUSE: Final = frozenset(("squashfuse", "squashfuse_ll", "dwarfs", "fuse-overlayfs", "archivemount", "ratarmount"))

#: Block devices whose blocks come over a network: nbd, Ceph's rbd, DRBD (kernel Documentation/admin-guide).
_NETWORK_BLOCK: Final = re.compile(r"(?:nbd|rbd|drbd)[0-9]")
_MEMORY_BLOCK: Final = re.compile(r"(?:zram|ram)[0-9]")
#: Model strings of cloud volumes that look like NVMe disks (vendors' guides on telling volume from instance storage).
_NETWORK_MODEL: Final = re.compile(
    r"Elastic Block Store|nvme_card-pd|PersistentDisk|MSFT NVMe Accelerator", re.IGNORECASE
)
_LOCAL_MODEL: Final = re.compile(r"Instance Storage|^nvme_card[0-9]*$|NVMe Direct Disk", re.IGNORECASE)
#: Devices a hypervisor hands in: what stands behind them cannot be seen from inside.
_VIRTUAL_BLOCK: Final = re.compile(r"(?:vd|xvd)[a-z]")
_MAX_DEPTH: Final = 6
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo (proc(5)). `device` is `major:minor`."""

    mount_id: int
    device: str
    root: str
    mount_point: str
    filesystem: str
    source: str
    super_options: str


@dataclass(frozen=True)
class BlockDevice:
    """What /sys says about one block device. `below` holds the devices it is made of (device mapper, md)."""

    name: str
    model: str | None = None
    backing_file: str | None = None
    below: tuple[str, ...] = field(default=())
    over_network: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A class with the reason for it."""

    path_class: str
    reason: str


def unescape(text: str) -> str:
    r"""Undo mountinfo's octal escapes (`\040` is a space). Bytes above 127 come back as the UTF-8 they were."""
    raw = text.encode("utf-8", "surrogateescape")
    whole = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), raw)
    return whole.decode("utf-8", "surrogateescape")


def parse_mountinfo(text: str) -> dict[int, Mount]:
    """Mounts by id. A line that does not parse is left out: a file on that mount is then `unknown`, and says so."""
    out: dict[int, Mount] = {}
    for line in text.split("\n"):
        left, separator, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if not separator or len(before) < 6 or len(after) < 2 or not before[0].isdigit():
            continue
        mount_id = int(before[0])
        out[mount_id] = Mount(
            mount_id=mount_id,
            device=before[2],
            root=unescape(before[3]),
            mount_point=unescape(before[4]),
            filesystem=unescape(after[0]),
            source=unescape(after[1]),
            super_options=after[2] if len(after) > 2 else "",
        )
    return out


def overlay_layers(super_options: str) -> list[str]:
    """Directories of an overlay, uppermost first: the upper one, then the lower ones in their order."""
    upper: list[str] = []
    lower: list[str] = []
    for option in re.split(r"(?<!\\),", super_options):
        name, _, value = option.partition("=")
        if name == "upperdir":
            upper.append(unescape(value))
        elif name == "lowerdir":
            lower += [unescape(part.replace("\\:", ":")) for part in re.split(r"(?<!\\):+", value) if part]
        elif name == "lowerdir+":
            lower.append(unescape(value))
    return upper + lower


#: Finds what a path is on: a verdict, or None where the path cannot be reached from here.
Follow = Callable[[str, int], "Verdict | None"]
#: Finds a block device by `major:minor` or by name; None where /sys does not show it.
FindBlock = Callable[[str], "BlockDevice | None"]


def classify_mount(mount: Mount, relative: str, *, find_block: FindBlock, follow: Follow, depth: int = 0) -> Verdict:
    """The class of a file on `mount`.

    Args:
        mount: where the kernel says that the open file is.
        relative: the file's path below the mount point, to find it in an overlay's layers.
        find_block: looks a block device up.
        follow: classifies another path (a loop device's file, an overlay's layer), one level deeper.
        depth: how many devices or layers were followed already.
    """
    kind = mount.filesystem
    if depth > _MAX_DEPTH:
        return Verdict("unknown", f"more than {_MAX_DEPTH} devices or layers stand on one another")
    if kind.startswith("fuse.") or kind == "fuse":
        return _fuse(kind.partition(".")[2])
    if kind in NETWORK:
        return Verdict("network_volume", _network_reason(kind))
    if kind in MEMORY:
        return Verdict("ram", f"{kind} keeps its files in memory (the kernel may swap them)")
    if kind in ("overlay", "aufs"):
        return _overlay(mount, relative, follow, depth)
    if kind in BLOCK:
        return _block(mount, find_block, follow, depth)
    return Verdict("unknown", f"the file system {kind!r} is not one whose storage we know")


def _network_reason(kind: str) -> str:
    if kind in ("9p", "virtiofs", "vboxsf", "prl_fs"):
        return (
            f"{kind} passes every read to another system (a hypervisor or a sandbox), whose storage is opaque from here"
        )
    return f"{kind} reads from a file server or cluster"


def _fuse(server: str) -> Verdict:
    if server in OBJECT_FUSE:
        return Verdict("object_mount", f"{server} shows an object store as files")
    if server in NETWORK_FUSE or server.lower() in NETWORK_FUSE:
        return Verdict("network_volume", f"{server} reads from a file server or cluster")
    if server in IMAGE_FUSE:
        return Verdict("unknown", f"{server} serves an image or layers that only its own process knows")
    named = f"the FUSE server {server!r}" if server else "a FUSE server that does not name itself"
    return Verdict("unknown", f"{named} may read from anywhere")


def _overlay(mount: Mount, relative: str, follow: Follow, depth: int) -> Verdict:
    """The class of the layer that holds the file: the first that has it, as the overlay itself looks it up."""
    inside = "/".join(part for part in (mount.root.strip("/"), relative.strip("/")) if part)
    for layer in overlay_layers(mount.super_options):
        found = follow(f"{layer.rstrip('/')}/{inside}", depth + 1)
        if found is not None:
            return Verdict(
                found.path_class, f"overlay, whose layer holding the file is on {found.path_class}: {found.reason}"
            )
    return Verdict("unknown", "an overlay whose layers cannot be seen from this mount namespace")


def _block(mount: Mount, find_block: FindBlock, follow: Follow, depth: int) -> Verdict:
    # btrfs and zfs number their mounts without a block device behind the number: the source names the device.
    device = find_block(mount.device)
    if device is None and mount.source.startswith("/dev/"):
        device = find_block(mount.source.rpartition("/")[2])
    if device is None:
        return Verdict(
            "local_disk", f"{mount.filesystem} on a device that /sys does not show; taken for a disk of this machine"
        )
    return _device(device, mount.filesystem, find_block, follow, depth)


def _device(device: BlockDevice, kind: str, find_block: FindBlock, follow: Follow, depth: int) -> Verdict:
    name, model = device.name, device.model or ""
    if depth > _MAX_DEPTH:
        return Verdict("unknown", f"more than {_MAX_DEPTH} devices or layers stand on one another")
    if device.backing_file is not None or name.startswith("loop"):
        found = follow(device.backing_file, depth + 1) if device.backing_file else None
        if found is None:
            return Verdict("unknown", f"{kind} on {name}, whose backing file cannot be seen from here")
        return Verdict(
            found.path_class, f"{kind} on {name}, whose backing file is on {found.path_class}: {found.reason}"
        )
    if device.below:
        return _combined(
            [_below(part, kind, find_block, follow, depth + 1) for part in device.below], f"{kind} on {name}"
        )
    if _NETWORK_BLOCK.match(name):
        return Verdict("network_volume", f"{kind} on {name}, a block device over the network")
    if device.over_network is not None:
        return Verdict("network_volume", f"{kind} on {name}, attached over {device.over_network}")
    if _MEMORY_BLOCK.match(name):
        return Verdict("ram", f"{kind} on {name}, a block device in memory")
    if _NETWORK_MODEL.search(model):
        return Verdict("network_volume", f"{kind} on {name}, model {model!r}: a provider's network volume")
    if _LOCAL_MODEL.search(model):
        return Verdict("local_disk", f"{kind} on {name}, model {model!r}: an instance's own disk")
    if _VIRTUAL_BLOCK.match(name):
        return Verdict(
            "local_disk", f"{kind} on {name}, a virtual disk: what backs it on the host cannot be seen from inside"
        )
    return Verdict("local_disk", f"{kind} on {name}" + (f", model {model!r}" if model else ""))


def _below(part: str, kind: str, find_block: FindBlock, follow: Follow, depth: int) -> Verdict:
    device = find_block(part)
    if device is None:
        return Verdict("unknown", f"the device {part} cannot be seen")
    return _device(device, kind, find_block, follow, depth)


def _combined(parts: Iterable[Verdict], what: str) -> Verdict:
    verdicts = list(parts)
    classes = {verdict.path_class for verdict in verdicts}
    if len(classes) == 1:
        return Verdict(verdicts[0].path_class, f"{what}, made of: {verdicts[0].reason}")
    if "unknown" in classes:
        return Verdict("unknown", f"{what}, of which a part cannot be seen")
    return Verdict("mixed", f"{what}, made of {', '.join(sorted(classes))}")


@dataclass(frozen=True)
class SeenPath:
    """One data file as one process had it open; `data.paths` of the record, but for the rank.

    `device` is the mount's: `major:minor`, with the block device's name where there is one.
    """

    name: str
    path_class: str
    filesystem: str
    mount_point: str
    mount_source: str
    reason: str
    device: str | None = None

    def to_json(self, rank: int | None = None) -> dict[str, Any]:
        """As the record has it; with `rank` where the caller knows it."""
        doc: dict[str, Any] = {
            "name": self.name,
            "path_class": self.path_class,
            "filesystem": self.filesystem,
            "mount_point": self.mount_point,
            "mount_source": self.mount_source,
            "reason": self.reason,
        }
        if self.device is not None:
            doc["device"] = self.device
        return doc if rank is None else {"rank": rank, **doc}


@lru_cache(maxsize=256)  # a rank's files lie on one mount or two, and there may be hundreds of them
def _clean(text: str) -> str:
    return redact_text(safe_text(text))


def seen_on(name: str, mount: Mount, verdict: Verdict, block: str | None = None) -> SeenPath:
    """A row for a file on a mount. A mount's source can carry credentials (`//user:password@server`): taken out.

    Args:
        name: of the file.
        mount: where it is.
        verdict: the class of that.
        block: name of the block device that the mount stands on, where there is one.
    """
    return SeenPath(
        name=safe_text(name) or "?",
        path_class=verdict.path_class,
        filesystem=safe_text(mount.filesystem) or "?",
        mount_point=_clean(mount.mount_point) or "?",
        mount_source=_clean(mount.source) or "none",
        reason=_clean(verdict.reason),
        device=safe_text(mount.device if block is None else f"{mount.device} {block}") or None,
    )


def not_seen(name: str, reason: str) -> SeenPath:
    """A row for a file whose mount could not be told."""
    return SeenPath(safe_text(name) or "?", "unknown", "unknown", "unknown", "unknown", safe_text(reason))
