"""Step samples and their recorder: every row as it was stored, and no file that contradicts itself."""

import errno
import itertools
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.measure import durable
from lanemark.measure.beacon import Beacon, read_beacon
from lanemark.measure.recorder import StepRecorder
from lanemark.measure.samples import SampleFile, SamplesError, read_samples


def record(folder: Path, *, steps: int = 5, warmup: int = 2, close: bool = True) -> tuple[StepRecorder, Beacon, Path]:
    path = folder / "samples.bin"
    beacon = Beacon.create(folder / "beacon.page", rank=1, world_size=2)
    recorder = StepRecorder(SampleFile.create(path, rank=1, warmup=warmup, rows=steps), beacon)
    recorder.begin()
    for step in range(steps):
        if step == warmup:
            recorder.open_window()
        recorder.data_ready()
        if step == 1:
            beacon.pop(beacon.push("compile"))
        if step in (1, 3):
            beacon.pop(beacon.push("collective"))
            beacon.pop(beacon.push("collective"))
        recorder.end_step()
    if close:
        recorder.close_window()
    return recorder, beacon, path


def test_file_follows_the_documented_layout(tmp_path: Path) -> None:
    _, beacon, path = record(tmp_path)
    data = path.read_bytes()
    assert len(data) == 64 + 5 * 56
    assert struct.unpack_from("<8sIIIIQ", data, 0) == (b"LMSTEPS\0", 2, 56, 1, 2, 5)
    written, begin_ns, end_ns = struct.unpack_from("<Qqq", data, 32)
    rows = [struct.unpack_from("<qqqqqqq", data, 64 + 56 * row) for row in range(5)]
    assert written == 5
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert [row[4] for row in rows] == [0, *[beacon.compile_ns] * 4]
    assert rows[2][1] == begin_ns
    assert all(rows[step][1] == rows[step - 1][3] for step in (1, 3, 4))
    assert rows[2][1] > rows[1][3]
    assert end_ns >= rows[4][3]


def test_reader_gives_back_what_was_recorded(tmp_path: Path) -> None:
    recorder, beacon, path = record(tmp_path)
    recorder.record_device_times([10, 20, 30])
    samples = read_samples(path)
    assert (samples.rank, samples.warmup, samples.rows_allocated) == (1, 2, 5)
    assert [row.device_ns for row in samples.rows] == [10, 20, 30, None, None]
    assert samples.rows[-1].compile_ns == beacon.compile_ns
    arrivals = [row.arrived_ns for row in samples.rows]
    assert [arrived is None for arrived in arrivals] == [True, False, True, False, True]
    assert all(row.begin_ns <= row.arrived_ns <= row.end_ns for row in samples.rows if row.arrived_ns is not None)
    assert samples.window_begin_ns == samples.rows[2].begin_ns
    assert samples.window_end_ns is not None
    view = read_beacon(tmp_path / "beacon.page")
    assert (view.phase, view.step) == ("drain", 5)
    assert [span.phase for span in view.spans] == ["start", "warmup", "compile", "window", "drain"]


def test_file_of_version_1_is_read_and_has_no_arrivals(tmp_path: Path) -> None:
    _, _, path = record(tmp_path)
    data = path.read_bytes()
    head = bytearray(data[:64])
    head[8:16] = struct.pack("<II", 1, 48)
    path.write_bytes(head + b"".join(data[64 + 56 * row : 64 + 56 * row + 48] for row in range(5)))
    samples = read_samples(path)
    assert [row.arrived_ns for row in samples.rows] == [None] * 5
    assert [row.step for row in samples.rows] == [0, 1, 2, 3, 4]


def test_run_that_was_cut_off_has_no_end_marker(tmp_path: Path) -> None:
    _, _, path = record(tmp_path, close=False)
    assert read_samples(path).window_end_ns is None


def test_run_that_ended_in_the_warmup_has_no_window(tmp_path: Path) -> None:
    beacon = Beacon.create(tmp_path / "beacon.page", rank=0, world_size=1)
    recorder = StepRecorder(SampleFile.create(tmp_path / "samples.bin", rank=0, warmup=2, rows=4), beacon)
    recorder.begin()
    recorder.end_step()
    samples = read_samples(tmp_path / "samples.bin")
    assert len(samples.rows) == 1
    assert samples.window_begin_ns is None
    assert samples.rows[0].data_ready_ns == samples.rows[0].begin_ns  # no data_ready(): it waited for none


def test_more_steps_than_declared_are_refused(tmp_path: Path) -> None:
    recorder, _, path = record(tmp_path)
    with pytest.raises(ValueError, match="beyond the 5 declared"):
        recorder.end_step()
    assert len(read_samples(path).rows) == 5


def test_calls_out_of_order_are_refused(tmp_path: Path) -> None:
    beacon = Beacon.create(tmp_path / "beacon.page", rank=0, world_size=1)
    recorder = StepRecorder(SampleFile.create(tmp_path / "samples.bin", rank=0, warmup=1, rows=4), beacon)
    for call in (recorder.end_step, recorder.open_window, recorder.close_window):
        with pytest.raises(ValueError, match=r"begin\(\)|open_window\(\)"):
            call()
    with pytest.raises(ValueError, match="no device time"):
        recorder.record_device_times([1])
    assert recorder.step == 0


def test_every_row_has_its_blocks_before_the_first_step(tmp_path: Path) -> None:
    SampleFile.create(tmp_path / "samples.bin", rank=0, warmup=1, rows=5000)
    assert os.stat(tmp_path / "samples.bin").st_blocks * 512 >= 5000 * 56


def test_full_disk_surfaces_at_creation_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        SampleFile.create(tmp_path / "samples.bin", rank=0, warmup=1, rows=4)
    with pytest.raises(OSError, match="No space left"):
        Beacon.create(tmp_path / "beacon.page", rank=0, world_size=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("warmup", "rows"), [(0, 0), (3, 2), (-1, 2), (0, 10**9)])
def test_impossible_counts_are_refused(tmp_path: Path, warmup: int, rows: int) -> None:
    with pytest.raises(ValueError, match="no sample file"):
        SampleFile.create(tmp_path / "samples.bin", rank=0, warmup=warmup, rows=rows)


FAR_NS = time.monotonic_ns() * 2


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"NOTOURS!", "begins with"),
        (8, struct.pack("<I", 3), "version 3"),
        (8, struct.pack("<I", 1), "rows of 56 bytes"),
        (12, struct.pack("<I", 40), "rows of 40 bytes"),
        (20, struct.pack("<I", 6), "6 of them warm-up"),
        (24, struct.pack("<Q", 4), "do not make a file"),
        (24, struct.pack("<Q", 2**63), "header declares"),
        (32, struct.pack("<Q", 6), "6 rows are written and has room for 5"),
        (32, struct.pack("<Q", 1), "opened before the warm-up was over"),
        (40, struct.pack("<q", 0), "ends before it begins"),
        (40, struct.pack("<q", -5), "ends before it begins"),
        (40, struct.pack("<q", 1), "begins inside the warm-up"),
        (48, struct.pack("<q", 1), "ends before it begins"),
        (64, struct.pack("<q", 1), "row 0 is of step 1"),
        (64 + 56, struct.pack("<q", 3), "row 1 is of step 3"),
        (64 + 8, struct.pack("<q", 0), "do not follow each other"),
        (64 + 8, struct.pack("<q", FAR_NS), "do not follow each other"),
        (64 + 24, struct.pack("<q", FAR_NS), "begins before step 0 ends"),
        (64 + 4 * 56 + 24, struct.pack("<q", FAR_NS), "last step ends after its window"),
        (64 + 4 * 56 + 32, struct.pack("<q", 0), "time that cannot be"),
        (64 + 40, struct.pack("<q", -1), "device time"),
        (64 + 48, struct.pack("<q", 1), "outside the step"),
        (64 + 48, struct.pack("<q", FAR_NS), "outside the step"),
    ],
    ids=itertools.count(),
)
def test_file_that_contradicts_itself_is_refused(tmp_path: Path, offset: int, value: bytes, says: str) -> None:
    _, _, path = record(tmp_path)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(SamplesError, match=says):
        read_samples(path)


def test_window_that_was_never_opened_is_refused_with_measured_steps(tmp_path: Path) -> None:
    _, _, path = record(tmp_path, close=False)
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(SamplesError, match="no window was opened"):
        read_samples(path)


def test_cut_file_is_refused(tmp_path: Path) -> None:
    _, _, path = record(tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, 63, 64, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SamplesError):
            read_samples(path)


@settings(deadline=None)
@given(patches=st.lists(st.tuples(st.integers(0, 303), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_file_is_refused_or_still_consistent(
    tmp_path_factory: pytest.TempPathFactory, patches: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("samples")
    _, beacon, path = record(folder)
    beacon.close()
    data = bytearray(path.read_bytes())
    for offset, value in patches:
        data[offset] = value
    path.write_bytes(data)
    try:
        samples = read_samples(path)
    except SamplesError:
        return
    assert [row.step for row in samples.rows] == list(range(len(samples.rows)))
    assert all(row.begin_ns <= row.data_ready_ns <= row.end_ns for row in samples.rows)
