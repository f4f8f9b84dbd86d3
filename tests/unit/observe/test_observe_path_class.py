"""Disk or page cache: what the evidence carries, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from lanemark.observe.path_class import combine, contradicts, resident_share, who_answered
from lanemark.records.observation import observed, unavailable

DISK = observed("local_disk", "mounts")


def held(share: float) -> dict[str, Any]:
    return {
        "status": "observed",
        "source": "cachestat",
        "value": {"bytes": 1_000_000, "resident_bytes": int(1e6 * share)},
    }


def fetched(count: int) -> dict[str, Any]:
    return {"status": "observed", "source": "/proc/self/io", "value": {"read_bytes": count, "rchar": 0}}


NOT_SEEN = unavailable("x", "could not look").to_json()


@pytest.mark.parametrize(
    ("before", "after", "io", "path_class", "said"),
    [
        (held(1), held(1), fetched(0), "page_cache", "all of the files"),
        (held(1), held(1), fetched(9_000_000), "page_cache", "all of the files"),  # whatever else it fetched
        (held(1), held(1), NOT_SEEN, "page_cache", "all of the files"),
        (held(0.2), held(0.4), fetched(0), "page_cache", "nothing was fetched"),
        (held(0), held(0.4), fetched(4096), "local_disk", "4096 bytes were fetched"),
        (held(1), held(0.5), fetched(4096), "local_disk", "4096 bytes were fetched"),
        (held(0.2), held(0.4), NOT_SEEN, "local_disk", "was not seen"),
        (NOT_SEEN, NOT_SEEN, fetched(0), "local_disk", "was not seen to hold"),
        (held(0), held(0), fetched(0), "local_disk", "was not seen to hold"),
        (None, None, None, "local_disk", "was not seen"),
    ],
)
def test_a_local_disk_and_the_page_cache_over_it(
    before: dict[str, Any] | None, after: dict[str, Any] | None, io: dict[str, Any] | None, path_class: str, said: str
) -> None:
    answered = who_answered(DISK, before, after, io)
    assert answered.value == path_class
    assert said in answered.source


@pytest.mark.parametrize("path_class", ["object_mount", "network_volume", "ram", "mixed"])
def test_other_classes_stay_what_they_are(path_class: str) -> None:
    """Through FUSE nothing is counted as fetched and the page cache may hold all of it: it is a mount all the same."""
    assert who_answered(observed(path_class, "mounts"), held(1), held(1), fetched(0)).value == path_class


def test_what_is_not_known_stays_unknown() -> None:
    assert who_answered(unavailable("mounts", "gone"), held(1), held(1), fetched(0)).status == "unavailable"
    assert resident_share(NOT_SEEN) is None
    assert resident_share({"status": "observed", "value": {"bytes": 0, "resident_bytes": 0}}) is None


def test_ranks_on_one_disk_are_on_it_together() -> None:
    assert combine(["page_cache", "local_disk"]).value == "local_disk"
    assert combine(["page_cache", "page_cache"]).value == "page_cache"
    assert combine(["page_cache", "ram"]).value == "mixed"


def test_a_class_that_was_asked_for_is_held_to_the_one_that_was_seen() -> None:
    assert contradicts("local_disk", "object_mount")
    assert contradicts("page_cache", "local_disk")
    assert not contradicts("local_disk", "page_cache")
    assert not contradicts("object_mount", "object_mount")
    assert not contradicts("ram", None), "what was not seen contradicts nothing"
