"""Seeding: layers in order, one unpack for many processes, a killed winner, a full disk, and no better cache destroyed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import seed_caches as made
from lanemark.observe.compile_cache import inventory, listing
from lanemark.records.observation import observed
from lanemark.stage import seed_install, seed_lock
from lanemark.stage.bake import bake, image_lines
from lanemark.stage.capture import capture_cache, current_manifest
from lanemark.stage.coverage import check_coverage, read_coverage, write_coverage
from lanemark.stage.seed_lock import SeedLock
from lanemark.stage.seed_source import parse_source
from lanemark.stage.seeding import LayerOutcome, seed_cache

pytest.importorskip("zstandard")
PROGRAM = Path(__file__).parent / "programs" / "seed_program.py"


def seed(cache_dir: Path, *sources: Path | str, **more: Any) -> tuple[LayerOutcome, ...]:
    told = {"case": made.case(), "layout": "shared", "fingerprint": made.FINGERPRINT, **more}
    return seed_cache([parse_source(str(source)) for source in sources], cache_dir, **told)


def content(cache_dir: Path) -> object:
    return listing(cache_dir).value


def leftovers(base: Path) -> list[Path]:
    return [path for path in base.rglob("*") if ".seeding-" in path.name]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return made.archived(tmp_path)


def test_an_empty_place_is_seeded_and_covered(tmp_path: Path, archive: Path) -> None:
    (done,) = seed(tmp_path / "cache", archive)
    assert (done.outcome, done.kind, done.files) == ("used", "archive", 7)
    assert done.digest is not None
    assert done.seconds > 0
    assert made.covered(tmp_path / "cache")
    assert content(tmp_path / "cache") == content(tmp_path / "captured-")
    note = json.loads((tmp_path / "cache/coverage/seeded.json").read_text())
    assert (note["source"], note["digest"], note["run_id"]) == (str(archive), done.digest, "training-run-1")
    assert leftovers(tmp_path) == []
    doc = done.to_json()
    assert {"source", "kind", "outcome", "reason", "files", "bytes", "seconds", "digest"} == set(doc)


def test_a_seed_goes_into_an_existing_cache_beside_what_is_there(tmp_path: Path, archive: Path) -> None:
    cache = made.filled(tmp_path / "cache", asked=made.case(dtype="bf16"), salt="")
    (cache / "inductor/zz").mkdir()
    (cache / "inductor/zz/own.so").write_bytes(b"own")
    (cache / made.BINARIES[1]).unlink()
    assert not made.covered(cache)
    (done,) = seed(cache, archive)
    assert (done.outcome, done.files, done.reason) == ("used", 1, "1 files added, 6 there already")
    assert made.covered(cache)
    assert (cache / "inductor/zz/own.so").read_bytes() == b"own"
    assert (cache / "tmp/a.gch").exists()
    assert isinstance(read_coverage(cache, made.case(dtype="bf16")), type(read_coverage(cache, made.case())))
    assert leftovers(tmp_path) == []


def test_a_cache_that_covers_is_left_alone(tmp_path: Path, archive: Path) -> None:
    cache = made.filled(tmp_path / "cache", salt="our own build of the same keys")
    before = content(cache)
    first, second = seed(cache, archive, tmp_path / "none.tar.zst")
    assert (first.outcome, second.outcome) == ("already_covered", "already_covered")
    assert content(cache) == before


def test_layers_are_tried_in_order_until_one_fits(tmp_path: Path, archive: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bf16 = made.archived(tmp_path, asked=made.case(dtype="bf16"), salt="b")
    one = made.archived(tmp_path, asked=made.case(nproc=1, mode="single"), salt="1")
    cut = tmp_path / "cut.tar.zst"
    cut.write_bytes(archive.read_bytes()[:-200])
    nothing = tmp_path / "nothing.tar.zst"
    nothing.touch()
    outcomes = seed(tmp_path / "cache", tmp_path / "gone.tar.zst", empty, nothing, bf16, one, cut, archive, archive)
    assert [done.outcome for done in outcomes] == [
        "unreachable", "empty", "empty", "incompatible", "incompatible", "damaged", "used", "not_tried",
    ]  # fmt: skip
    reasons = [done.reason for done in outcomes]
    assert "dtype was bf16, and fp32 is asked for" in reasons[3]
    assert "it was compiled by 1 rank, and 2 ranks are asked for" in reasons[4]
    assert "truncated" in reasons[5]
    assert made.covered(tmp_path / "cache")
    assert leftovers(tmp_path) == []


def test_another_toolchain_is_incompatible_by_name(tmp_path: Path, archive: Path) -> None:
    (done,) = seed(tmp_path / "cache", archive, fingerprint=made.changed_fingerprint(cpu="another processor"))
    assert (done.outcome, done.reason) == ("incompatible", "cpu was 'a processor', and here it is 'another processor'")
    assert not (tmp_path / "cache").exists()
    (done,) = seed(tmp_path / "cache", archive, layout="per_rank")
    assert (done.outcome, done.reason) == ("incompatible", "the cache's layout was shared, and per_rank is asked for")


def test_a_seed_without_its_binaries_is_refused(tmp_path: Path) -> None:
    stripped = made.filled(tmp_path / "stripped")
    for path in stripped.rglob("*.so"):
        path.unlink()
    assert not made.covered(stripped)
    (done,) = seed(tmp_path / "cache", stripped)
    assert (done.outcome, done.kind) == ("damaged", "image_directory")
    manifest = made.manifest(made.fill(tmp_path / "again"))
    bare = replace(manifest, files=tuple(file for file in manifest.files if not file.path.endswith(".so")))
    (stripped / "coverage" / manifest.name).write_bytes(bare.encoded())
    (done,) = seed(tmp_path / "cache", stripped)
    assert done.outcome == "refused"
    assert done.reason.startswith("4 binaries of the 10 that its ranks used are not in it (rank 0: binary")
    assert not (tmp_path / "cache").exists()


def test_layouts_of_their_own(tmp_path: Path) -> None:
    archive = made.archived(tmp_path, layout="per_rank")
    (done,) = seed(tmp_path / "cache", archive, layout="per_rank")
    assert (done.outcome, done.files) == ("used", 14)
    assert made.covered(tmp_path / "cache", layout="per_rank")


def test_a_truncated_binary_is_mended_and_said(tmp_path: Path, archive: Path) -> None:
    cache = made.filled(tmp_path / "cache")
    (cache / made.BINARIES[0]).write_bytes(b"half")
    assert not made.covered(cache)
    (done,) = seed(cache, archive)
    assert (done.outcome, done.reason) == ("used", "0 files added, 6 there already, 1 that differed replaced")
    assert made.covered(cache)


def test_bytes_that_another_case_relies_on_are_not_replaced(tmp_path: Path, archive: Path) -> None:
    cache = made.filled(tmp_path / "cache", asked=made.case(sequence=32), salt="other")
    before = content(cache)
    (done,) = seed(cache, archive)
    assert done.outcome == "refused"
    assert "7 files differ from ones that another case here relies on" in done.reason
    assert content(cache) == before
    assert made.covered(cache, asked=made.case(sequence=32))
    assert leftovers(tmp_path) == []


def test_an_archive_of_some_ranks_helps_and_covers_nothing(tmp_path: Path) -> None:
    cache = made.fill(tmp_path / "failed")
    done = capture_cache(
        cache, tmp_path / "part.tar.zst", case=made.case(), layout="shared", fingerprint=made.FINGERPRINT,
        rank_reports=[made.report(), None], run_id="training-run-2",
    )  # fmt: skip
    assert (done.captured, done.ranks) == (True, 1)
    (part,) = seed(tmp_path / "cache", tmp_path / "part.tar.zst")
    assert part.outcome == "used"
    assert part.reason.endswith("it speaks for 1 of 2 ranks")
    coverage = check_coverage(tmp_path / "cache", made.case(), "shared", fingerprint=made.FINGERPRINT)
    assert coverage.mismatches == ("nothing is known of what rank 1 of 2 used",)
    whole = made.archived(tmp_path)
    outcomes = seed(tmp_path / "cache", tmp_path / "part.tar.zst", whole)
    assert [done.outcome for done in outcomes] == ["used", "used"]
    assert made.covered(tmp_path / "cache")


# Many at once, and the end of one ---------------------------------------------------------------------------------------


def started(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(PROGRAM), *map(str, args)], stdout=subprocess.PIPE, text=True)


def test_eight_processes_at_once_unpack_once(tmp_path: Path, archive: Path) -> None:
    crowd = [started(archive, tmp_path / "cache") for _ in range(8)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in crowd)
    assert said == ["already_covered"] * 7 + ["used"]
    assert made.covered(tmp_path / "cache")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_killed_winner_leaves_nothing_that_counts(tmp_path: Path, archive: Path, there: bool) -> None:
    cache = tmp_path / "cache"
    if there:
        made.fill(cache)
        (cache / made.BINARIES[0]).unlink()
    before = content(cache)
    with started(archive, cache, 60) as winner:
        assert winner.stdout is not None
        assert winner.stdout.readline() == "staged\n"
        with started(archive, cache) as second:
            time.sleep(0.2)
            assert second.poll() is None
            os.kill(winner.pid, signal.SIGKILL)
            winner.wait(timeout=20)
            assert (content(cache) == before) or made.covered(cache)
            assert second.communicate(timeout=60)[0] == "used\n"
    assert made.covered(cache)
    assert leftovers(tmp_path) == []


def test_an_installation_that_is_cut_short_claims_nothing(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "inductor").mkdir(parents=True)
    real = seed_install._add
    calls = 0

    def fail_at_the_fourth(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setattr(seed_install, "_add", fail_at_the_fourth)
    (done,) = seed(cache, archive)
    assert (done.outcome, done.reason) == ("refused", "it could not be put in place: OSError: Input/output error")
    assert isinstance(read_coverage(cache, made.case()), str)
    present = {row.kind for row in content(cache)}  # type: ignore[attr-defined]
    assert present == {"binary", "other"}
    monkeypatch.undo()
    (done,) = seed(cache, archive)
    assert (done.outcome, done.reason) == ("used", "4 files added, 3 there already")
    assert made.covered(cache)


def test_work_of_another_machine_is_left_alone_until_it_is_old(tmp_path: Path, archive: Path) -> None:
    theirs, ancient = tmp_path / ".seeding-cache-another-1-2", tmp_path / ".seeding-cache-another-3-4"
    ours = tmp_path / f".seeding-cache-{seed_install._this_machine()}-9-9"
    for path in (theirs, ancient, ours):
        path.mkdir()
    os.utime(ancient, (1, 1))
    seed(tmp_path / "cache", archive)
    assert leftovers(tmp_path) == [theirs]


def test_waiting_for_the_lock_ends(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_lock, "WAIT_S", 0.05)
    monkeypatch.setattr("lanemark.stage.seeding.SeedLock", lambda path: SeedLock(path, wait_s=0.05))
    with SeedLock(tmp_path / "cache"):
        (done,) = seed(tmp_path / "cache", archive)
    assert done.outcome == "refused"
    assert "another process has been seeding it" in done.reason


def test_a_lock_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").symlink_to(tmp_path)
    with (
        pytest.raises(PermissionError, match="not a directory of this user"),
        SeedLock(tmp_path / "cache", directory=tmp_path / "locks"),
    ):
        pass


# Disks -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()[:80]}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_too_little_room_is_seen_before_anything_is_written(small_disk: Path, archive: Path) -> None:
    (done,) = seed(small_disk / "cache", archive)
    assert done.outcome == "refused"
    assert "MiB are free" in done.reason
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_cache_as_it_was(
    small_disk: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lanemark.stage.seeding.MARGIN_BYTES", -(10**9))
    (small_disk / "hog").write_bytes(bytes(1024 * 1024 - 16 * 1024))
    (done,) = seed(small_disk / "cache", archive)
    assert done.outcome == "refused"
    assert done.reason.startswith("no room was left")
    assert sorted(path.name for path in small_disk.iterdir()) == ["hog"]


def test_a_cache_on_its_own_mount_is_seeded_in_place(
    small_disk: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lanemark.stage.seeding.MARGIN_BYTES", 0)
    (done,) = seed(small_disk, archive)
    assert done.outcome == "used"
    assert made.covered(small_disk)
    assert leftovers(small_disk) == []


def test_a_cache_directory_that_is_a_link_or_a_file(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (done,) = seed(tmp_path / "link", archive)
    assert done.outcome == "used"
    assert made.covered(tmp_path / "real")
    (tmp_path / "file").write_text("")
    (done,) = seed(tmp_path / "file", archive)
    assert done.outcome == "refused"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (done,) = seed(tmp_path / "dangling", archive)
    assert done.outcome in ("refused", "used")


# Capturing and baking ---------------------------------------------------------------------------------------------------


def capture(cache: Path, path: Path, **more: Any) -> Any:
    told = {"case": made.case(), "layout": "shared", "fingerprint": made.FINGERPRINT, **more}
    return capture_cache(cache, path, **told)


def test_two_captures_of_one_cache_are_one_archive(tmp_path: Path) -> None:
    cache = made.filled(tmp_path / "cache")
    first, second = (capture(cache, tmp_path / f"{name}.tar.zst") for name in "ab")
    assert first.digest == second.digest
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


def test_what_nobody_needs_may_have_changed_and_what_is_needed_may_not(tmp_path: Path) -> None:
    cache = made.filled(tmp_path / "cache")
    (cache / made.OTHERS[0]).unlink()
    same_size = (cache / made.OTHERS[1]).read_bytes()
    (cache / made.OTHERS[1]).write_bytes(bytes(reversed(same_size)))
    done = capture(cache, tmp_path / "a.tar.zst")
    assert (done.captured, done.files) == (True, 5)
    needed = cache / made.BINARIES[0]
    needed.write_bytes(bytes(reversed(needed.read_bytes())))
    done = capture(cache, tmp_path / "b.tar.zst")
    assert (done.captured, (tmp_path / "b.tar.zst").exists()) == (False, False)
    assert "4 of the keys and binaries" in done.reason or "2 of the keys and binaries" in done.reason
    assert "has another content" in done.reason
    needed.unlink()
    assert "is missing" in capture(cache, tmp_path / "b.tar.zst").reason
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_header_that_was_built_anew_goes_along(tmp_path: Path) -> None:
    cache = made.fill(tmp_path / "cache")
    header = cache / "tmp/torchinductor_me/precompiled_headers/c1.h.gch"
    header.parent.mkdir(parents=True)
    header.write_bytes(b"one" * 10_000)
    made.filled(cache)
    for number, data in enumerate((b"two" * 10_000, b"three" * 6_001)):
        header.write_bytes(data)
        path = tmp_path / f"{number}.tar.zst"
        assert capture(cache, path).captured
        (done,) = seed(tmp_path / f"new{number}", path)
        assert done.outcome == "used"
        assert (tmp_path / f"new{number}" / header.relative_to(cache)).read_bytes() == data
        header.write_bytes(b"cut")
        (done,) = seed(cache, path)
        assert (done.outcome, header.read_bytes()) == ("used", data)
    header.unlink()
    assert "precompiled header" in capture(cache, tmp_path / "a.tar.zst").reason


def test_without_a_good_run_there_is_nothing_to_capture(tmp_path: Path) -> None:
    cache = made.fill(tmp_path / "cache")
    assert capture(cache, tmp_path / "a.tar.zst").reason == "no run of this case has recorded what it needs"
    other = made.filled(tmp_path / "other", asked=made.case(dtype="bf16"))
    assert capture(other, tmp_path / "a.tar.zst").reason == (
        "it holds another case's code: dtype was bf16, and fp32 is asked for"
    )
    done = capture(
        made.filled(tmp_path / "third"), tmp_path / "a.tar.zst", fingerprint=made.changed_fingerprint(cpu="x")
    )
    assert done.reason == "the cache was filled by something else: cpu was 'a processor', and here it is 'x'"
    silent = [made.report(fx=[], aot=[]), None]
    done = capture(cache, tmp_path / "a.tar.zst", rank_reports=silent, run_id="training-run-3")
    assert done.reason == "no rank reported a key that it used"
    assert not (tmp_path / "a.tar.zst").exists()


def test_a_failed_runs_archive_never_replaces_a_good_one(tmp_path: Path) -> None:
    good = made.archived(tmp_path)
    before = good.read_bytes()
    cache = made.fill(tmp_path / "failed")
    done = capture(cache, good, rank_reports=[made.report(), None], run_id="training-run-2")
    assert (done.captured, done.reason) == (
        False,
        "the archive that is there speaks for 2 ranks, and this one would for 1",
    )
    assert good.read_bytes() == before
    part = tmp_path / "part.tar.zst"
    assert capture(cache, part, rank_reports=[made.report(), None], run_id="training-run-2").captured
    assert capture(made.filled(cache), part).ranks == 2


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    cache = made.filled(tmp_path / "cache")
    (tmp_path / "file").write_text("")
    done = capture(cache, tmp_path / "file" / "a.tar.zst")
    assert not done.captured
    assert done.reason.startswith("the archive could not be written")
    (tmp_path / "directory.tar.zst").mkdir()
    assert not capture(cache, tmp_path / "directory.tar.zst").captured


def test_a_baked_directory_is_a_layer(tmp_path: Path) -> None:
    cache = made.filled(tmp_path / "cache")
    manifest = current_manifest(cache, made.case(), layout="shared", fingerprint=made.FINGERPRINT)
    assert not isinstance(manifest, str)
    bake(cache, manifest, tmp_path / "baked")
    assert not list((tmp_path / "baked").rglob("*.lock"))
    (done,) = seed(tmp_path / "new", tmp_path / "baked")
    assert (done.outcome, done.kind) == ("used", "image_directory")
    assert made.covered(tmp_path / "new")
    with pytest.raises(OSError, match="not empty"):
        bake(cache, manifest, tmp_path / "baked")
    lines = image_lines(tmp_path / "baked")
    assert lines.dockerfile == "COPY baked /opt/lanemark-seed\nENV LANEMARK_CACHE_FROM=/opt/lanemark-seed"
    assert lines.modal.index(".env(") < lines.modal.index(".add_local_dir(")


@pytest.mark.parametrize("harm", ["missing", "short", "long", "other", "link", "pipe"])
def test_a_directory_that_is_not_what_its_manifest_says(tmp_path: Path, harm: str) -> None:
    baked = made.filled(tmp_path / "baked")
    path = baked / made.OTHERS[0]
    data = path.read_bytes()
    if harm in ("missing", "link", "pipe"):
        path.unlink()
    if harm == "link":
        (tmp_path / "target").write_bytes(data)
        path.symlink_to(tmp_path / "target")
    elif harm == "pipe":
        os.mkfifo(path)
    elif harm != "missing":
        path.write_bytes({"short": data[:-1], "long": data + b"x", "other": bytes(reversed(data))}[harm])
    (done,) = seed(tmp_path / "cache", baked)
    assert done.outcome == ("refused" if harm == "link" else "damaged")
    assert not (tmp_path / "cache").exists()
    assert leftovers(tmp_path) == []


def test_files_without_a_manifest_are_no_seed(tmp_path: Path) -> None:
    made.fill(tmp_path / "bare")
    (done,) = seed(tmp_path / "cache", tmp_path / "bare")
    assert (done.outcome, done.reason) == ("refused", "it has files and no manifest of a seed (coverage/*.json)")


# What a run leaves -------------------------------------------------------------------------------------------------------


def test_ranks_that_cannot_say_what_they_used_leave_no_manifest(tmp_path: Path) -> None:
    cache = made.fill(tmp_path / "cache")

    def written(*reports: Any) -> Path | str:
        return write_coverage(cache, made.case(), "shared", reports, "training-run-1", fingerprint=made.FINGERPRINT)

    blind = {"status": "unavailable", "source": "torch", "reason": "the module moved"}
    assert written(made.report(), blind) == "rank 1 did not say what it used of the cache: the module moved"
    assert written(made.report()) == "rank 1 did not say what it used of the cache: it reported nothing"
    assert written(made.report(), None) == "rank 1 did not say what it used of the cache: it reported nothing"
    assert "looked up no key" in str(written(made.report(fx=[], aot=[]), made.report()))
    climbing = observed({"fx": ["../../x"], "aot": [], "binaries": []}, "x").to_json()
    assert "is no key of a compile cache" in str(written(made.report(), climbing))
    assert not (cache / "coverage").exists()
    before = inventory(cache).value
    assert isinstance(written(made.report(), made.report()), Path)
    assert inventory(cache).value == before


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 10_000])
def test_a_damaged_manifest_covers_nothing(tmp_path: Path, data: bytes) -> None:
    cache = made.filled(tmp_path / "cache")
    (path,) = (cache / "coverage").iterdir()
    path.write_bytes(data)
    coverage = check_coverage(cache, made.case(), "shared", fingerprint=made.FINGERPRINT)
    assert not coverage.covered
    assert "cannot be used" in coverage.mismatches[0]
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert "could not be read" in str(read_coverage(cache, made.case()))
