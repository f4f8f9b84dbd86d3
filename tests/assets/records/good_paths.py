"""Good records over a told data path: through an object mount that was said to be a disk, and out of the page cache."""

from __future__ import annotations

from typing import Any

from good_records import SAMPLES, Doc, case_of, finding, predicate_of, seen

from lanemark.lanes.windows import added, expected, positions_of_window, sum_of
from lanemark.records.case import Case, DataAsked

#: The shard of `good_records.data_part` has a million tokens.
TOKENS = 1_000_000


def windows_of(case: Case, rank: int) -> Doc:
    """What a rank of the case reads, found by dealing the order out as loaders do."""
    from lanemark.lanes.order import batch_positions, sequence_at

    sequences = (TOKENS - 1) // case.sequence
    forwards = range(case.warmup * case.grad_accum, case.steps * case.grad_accum)
    taken = [
        position - position % sequences + sequence_at(position, sequences, case.seed)
        for forward in forwards
        for position in batch_positions(forward, rank=rank, world_size=case.nproc, micro_batch=case.micro_batch)
    ]
    assert len(taken) * case.nproc == len(positions_of_window(case))
    return {"count": len(taken), "sum": sum_of(taken), "sequences": sequences}


def told(case: Case, path_class: str, *, resident: int, fetched: int, mount: Doc, stalls: list[Doc]) -> Doc:
    """The fields of the `data` part that came after the first records of version 1.1."""
    files = {"bytes": 2 * TOKENS + 1024, "files": 1, "files_open": 1}
    cache = seen({**files, "resident_bytes": resident}, "cachestat")
    source = "open files of the ranks (fdinfo, maps, mountinfo)"
    ranks = [
        {
            "rank": rank,
            "path_class": seen(path_class, source),
            "files": 1,
            "resident_before": cache,
            "resident_after": cache,
            "io": seen({"read_bytes": fetched, "rchar": 4096}, "/proc/self/io, end minus beginning of the window"),
            "windows": seen(windows_of(case, rank), "the ranks' loaders (end.json)"),
            "look_s": seen(0.00175, "CLOCK_MONOTONIC"),
        }
        for rank in range(case.nproc)
    ]
    read = [row["windows"]["value"] for row in ranks]
    due = expected(case, read[0]["sequences"])
    total = {"count": sum(each["count"] for each in read), "sum": added(each["sum"] for each in read)}
    assert total == due
    windows = {"sequences": read[0]["sequences"], "read": total, "expected": due, "as_expected": True}
    paths = [{"rank": rank, "name": "train_000.bin", "path_class": path_class, **mount} for rank in range(case.nproc)]
    waited = sum(one["wait_s"] for one in stalls)
    return {
        "path_class": seen(path_class, source),
        "paths": paths if path_class != "page_cache" else [{**path, "path_class": "local_disk"} for path in paths],
        "ranks": ranks,
        "windows": seen(windows, "the ranks' loaders (end.json); the order of the seed, walked again at sealing"),
        "stalls": seen({"count": len(stalls), "wait_s": waited, "longest": stalls}, "samples.bin of every rank"),
    }


def good_paths() -> dict[str, Doc]:
    """name: predicate"""
    two: dict[str, Any] = {"nproc": 2, "mode": "ddp"}
    asked = case_of(**two)
    declared = case_of(**two, data=DataAsked("shards", asked.data.dataset_digest, "local_disk"))
    remote = finding("data_path_remote", "caveat", "the ranks read their tokens through an object-store mount")
    other = finding(
        "data_class_contradicted", "caveat",
        "the data path was said to be local_disk and the ranks' open files are on object_mount",
    )  # fmt: skip
    mounted = predicate_of(declared, serial="fuse", samples=SAMPLES, findings=(remote, other))
    cached = predicate_of(asked, serial="page", samples=SAMPLES)
    mounted["data"] |= told(
        declared, "object_mount", resident=0, fetched=0, stalls=[{"rank": 1, "step": 3, "wait_s": 0.0625, "step_s": 0.125}],
        mount={
            "filesystem": "fuse.rclone", "mount_point": "/mnt/shards", "mount_source": "shards:train",
            "reason": "rclone shows an object store as files", "device": "0:52",
        },
    )  # fmt: skip
    mounted["data"]["requested"] = declared.to_json()["data"]
    cached["data"] |= told(
        asked, "page_cache", resident=2 * TOKENS + 1024, fetched=0, stalls=[],
        mount={
            "filesystem": "ext4", "mount_point": "/", "mount_source": "/dev/vda",
            "reason": "ext4 on vda, a virtual disk", "device": "254:0 vda",
        },
    )  # fmt: skip
    return {"data_object_mount": mounted, "data_page_cache": cached}
