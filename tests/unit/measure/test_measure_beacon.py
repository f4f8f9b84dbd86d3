"""The beacon page: what is written is read, at any moment, by anyone; and nothing else is taken for a page."""

import mmap
import os
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanemark.measure.beacon import (
    PAGE_BYTES,
    PHASES,
    RESERVED_ROWS,
    SPAN_ROWS,
    Beacon,
    BeaconError,
    read_beacon,
)
from lanemark.measure.recorder import StepRecorder
from lanemark.measure.samples import SampleFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "beacon.page"


def test_page_follows_the_documented_layout(path: Path) -> None:
    beacon = Beacon.create(path, rank=3, world_size=8)
    beacon.enter("warmup")
    beacon.at_step(7, 12345)
    beacon.pop(beacon.push("collective", "all_reduce"))
    beacon.push("compile", "DYNAMO:0/0")
    data = path.read_bytes()
    assert len(data) == 4096
    magic, version, rank, world, pid, zero = struct.unpack_from("<8sIIIIQ", data, 0)
    assert (magic, version, rank, world, pid, zero) == (b"LMBEACON", 2, 3, 8, os.getpid(), 0)
    sequence, phase, depth, step, _, compiled, collectives, compile_ns, label = struct.unpack_from(
        "<QIIqqIIq64s", data, 64
    )
    assert sequence % 2 == 0
    assert (PHASES[phase], depth, step, compiled, collectives, compile_ns) == ("compile", 1, 7, 0, 1, 0)
    assert label == b"DYNAMO:0/0".ljust(64, b"\0")
    ready_ns, arrived_step, arrived_ns = struct.unpack_from("<qqq", data, 176)
    assert (ready_ns, arrived_step) == (0, 7)
    assert arrived_ns > 0
    rows = [struct.unpack_from("<IIqqq", data, 256 + 32 * row) for row in range(4)]
    assert [PHASES[row[0]] for row in rows[:3]] == ["start", "warmup", "compile"]
    assert [row[4] for row in rows] == [0, 0, 7, 0]
    assert rows[0][3] == rows[1][2]  # one phase ends where the next begins
    assert rows[1][3] == rows[2][3] == rows[3][2] == 0


def test_phases_replace_each_other_and_nested_ones_return(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    assert read_beacon(path).phase == "start"
    beacon.enter("build", "layers")
    outer = read_beacon(path)
    token = beacon.push("compile", "DYNAMO:0/0")
    inner = read_beacon(path)
    beacon.pop(token)
    after = read_beacon(path)
    assert (outer.phase, outer.depth, outer.label) == ("build", 0, "layers")
    assert (inner.phase, inner.depth, inner.label) == ("compile", 1, "DYNAMO:0/0")
    assert (after.phase, after.depth, after.since_ns) == ("build", 0, outer.since_ns)
    assert after.compilations == 1
    assert after.compile_ns == beacon.compile_ns > 0
    assert [span.phase for span in after.spans] == ["start", "build", "compile"]
    assert after.spans[1].end_ns is None
    assert after.spans[2].end_ns is not None


def test_step_is_shown_with_its_beginning_and_not_over_a_nested_phase(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("window")
    beacon.at_step(4, 1000)
    assert (read_beacon(path).step, read_beacon(path).since_ns) == (4, 1000)
    token = beacon.push("collective", "barrier")
    since_ns = read_beacon(path).since_ns
    beacon.at_step(5, 2000)
    assert (read_beacon(path).step, read_beacon(path).since_ns) == (5, since_ns)
    beacon.pop(token)
    assert read_beacon(path).since_ns == 2000


def test_overlapping_compilations_are_counted_each_and_timed_once(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    first = beacon.push("compile", "a")
    second = beacon.push("compile", "b")
    beacon.pop(first)  # the older one may end first, on another thread
    assert beacon.compile_ns == 0
    assert read_beacon(path).label == "b"
    beacon.pop(second)
    view = read_beacon(path)
    assert view.compilations == 2
    spans = [span for span in view.spans if span.phase == "compile"]
    assert spans[1].end_ns is not None
    assert view.compile_ns == spans[1].end_ns - spans[0].begin_ns


def test_pop_without_a_token_closes_what_this_thread_opened(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.push("compile", "mine")
    other = threading.Thread(target=lambda: beacon.push("compile", "theirs"))
    other.start()
    other.join()
    beacon.pop()
    assert (read_beacon(path).depth, read_beacon(path).label) == (1, "theirs")
    beacon.pop()  # nothing of ours is open
    assert read_beacon(path).depth == 1


def test_full_table_keeps_room_for_phases_and_says_what_is_missing(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    for _ in range(SPAN_ROWS):
        beacon.pop(beacon.push("compile"))
    beacon.enter("window")
    view = read_beacon(path)
    assert view.compilations == SPAN_ROWS
    assert view.spans_truncated
    assert len(view.spans) == SPAN_ROWS - RESERVED_ROWS + 1
    assert view.spans[-1].phase == "window"
    for _ in range(SPAN_ROWS):
        beacon.enter("checkpoint")
    view = read_beacon(path)
    assert (len(view.spans), view.spans_truncated, view.phase) == (SPAN_ROWS, True, "checkpoint")


def test_table_that_is_just_full_is_not_truncated(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    for _ in range(SPAN_ROWS - 1):
        beacon.enter("checkpoint")
    assert not read_beacon(path).spans_truncated
    beacon.enter("drain")
    assert read_beacon(path).spans_truncated


@settings(deadline=None)
@given(label=st.text(max_size=90))
def test_any_label_is_cut_to_whole_characters(tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
    path = tmp_path_factory.mktemp("label") / "beacon.page"
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("load", label)
    shown = read_beacon(path).label
    beacon.close()
    raw = label.encode("utf-8", "replace").split(b"\0")[0]
    assert raw.startswith(shown.encode())
    assert len(shown.encode()) > 60 or shown.encode() == raw


def test_unknown_phase_is_refused(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    with pytest.raises(ValueError, match="'warm' is no phase"):
        beacon.enter("warm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'warm' is no phase"):
        beacon.push("warm")  # type: ignore[arg-type]


def test_writer_that_died_between_the_numbers_is_read_and_said_not_to_be_whole(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("load")
    beacon.close()
    with open(path, "r+b") as file:
        file.seek(64)
        file.write(struct.pack("<Q", 7))
    view = read_beacon(path)
    assert not view.whole
    assert view.phase == "load"


def test_next_write_makes_an_interrupted_page_whole(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), PAGE_BYTES) as page:
        page[64:72] = struct.pack("<Q", 9)
    beacon.at_step(1)
    assert read_beacon(path).whole


def test_reader_beside_a_writer_never_sees_a_torn_page(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    labels = {"warmup": "w" * 64, "window": "n" * 64}
    done = threading.Event()

    def write() -> None:
        step = 0
        while not done.is_set():
            step += 1
            beacon.enter("warmup", labels["warmup"])
            beacon.at_step(step, step)
            beacon.enter("window", labels["window"])

    writer = threading.Thread(target=write)
    beacon.enter("warmup", labels["warmup"])
    writer.start()
    try:
        views = [read_beacon(path) for _ in range(300)]
    finally:
        done.set()
        writer.join()
    assert all(view.label == labels[view.phase] for view in views if view.whole)


def test_many_threads_leave_a_consistent_page(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)

    def nest(phase: str) -> None:
        for _ in range(300):
            beacon.pop(beacon.push(phase, phase))  # type: ignore[arg-type]

    threads = [threading.Thread(target=nest, args=(phase,)) for phase in ("compile", "collective", "collective")]
    for thread in threads:
        thread.start()
    for step in range(2000):
        beacon.at_step(step)
    for thread in threads:
        thread.join()
    view = read_beacon(path)
    assert (view.depth, view.phase, view.whole) == (0, "start", True)
    assert (view.compilations, view.collectives, view.step) == (300, 600, 1999)


def test_forked_child_does_not_write_into_its_parents_page(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("load")
    pid = os.fork()
    if pid == 0:
        beacon.enter("failed")
        beacon.at_step(99)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    view = read_beacon(path)
    assert (view.phase, view.step) == ("load", 0)


def test_closed_beacon_stays_as_it_was(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("done")
    beacon.close()
    beacon.enter("failed")
    beacon.at_step(5)
    beacon.close()
    view = read_beacon(path)
    assert (view.phase, view.step) == ("done", 0)
    assert all(span.end_ns is not None for span in view.spans)


def _page(path: Path) -> bytearray:
    beacon = Beacon.create(path, rank=0, world_size=1)
    beacon.enter("load")
    beacon.close()
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("offset", "patch", "says"),
    [
        (0, b"NOTOURS!", "begins with"),
        (8, struct.pack("<I", 3), "version 3"),
        (8, struct.pack("<I", 0), "version 0"),
        (72, struct.pack("<I", 15), "phase number 15"),
        (176, struct.pack("<q", -1), "negative"),
        (192, struct.pack("<q", -1), "negative"),
        (80, struct.pack("<q", -1), "negative"),
        (256, struct.pack("<I", 99), "phase number 99"),
        (256 + 16, struct.pack("<q", 1), "ends before it begins"),
    ],
)
def test_impossible_page_is_refused(path: Path, offset: int, patch: bytes, says: str) -> None:
    page = _page(path)
    page[offset : offset + len(patch)] = patch
    path.write_bytes(page)
    with pytest.raises(BeaconError, match=says):
        read_beacon(path)


def test_page_of_version_1_is_read_and_has_no_stamps(path: Path) -> None:
    page = _page(path)
    page[8:12] = struct.pack("<I", 1)
    page[176:200] = b"\xff" * 24  # a version 1 promised nothing about these bytes
    path.write_bytes(page)
    view = read_beacon(path)
    assert (view.version, view.phase) == (1, "load")
    assert (view.data_ready_ns, view.arrived_step, view.arrived_ns, view.waiting_for_data) == (None, None, None, None)


def test_arrival_is_the_first_collective_of_each_step(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=2)
    assert read_beacon(path).arrived_ns is None
    beacon.pop(beacon.push("collective", "barrier"))
    beacon.enter("warmup")
    beacon.at_step(0)
    assert (read_beacon(path).arrived_ns or 0) < read_beacon(path).since_ns  # that barrier was no part of the step
    beacon.pop(beacon.push("collective", "all_gather_single"))
    first = read_beacon(path)
    beacon.pop(beacon.push("collective", "reduce_scatter_single"))
    again = read_beacon(path)
    beacon.at_step(1)
    beacon.push("compile")
    compiling = read_beacon(path)
    beacon.push("collective")
    second = read_beacon(path)
    assert first.arrived_step == 0
    assert (again.arrived_ns, compiling.arrived_ns) == (first.arrived_ns, first.arrived_ns)
    assert (second.arrived_step, second.collectives) == (1, 4)
    assert second.arrived_ns == second.since_ns > (first.arrived_ns or 0)


def test_rank_inside_its_loader_is_seen(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    recorder = StepRecorder(
        SampleFile.create(path.with_name("samples.bin"), rank=0, warmup=1, rows=3), beacon, stamps_data=True
    )
    assert read_beacon(path).waiting_for_data is None  # nobody has said anything of data yet
    recorder.begin()
    assert read_beacon(path).waiting_for_data is True
    recorder.data_ready()
    assert read_beacon(path).waiting_for_data is False
    beacon.push("collective", "barrier")
    recorder.end_step()
    assert read_beacon(path).waiting_for_data is False  # it is in the collective
    beacon.pop()
    assert read_beacon(path).waiting_for_data is False  # the warm-up is over: next the loop waits for its device
    recorder.open_window()
    assert read_beacon(path).waiting_for_data is True
    recorder.data_ready()
    assert read_beacon(path).waiting_for_data is False
    recorder.end_step()
    assert read_beacon(path).waiting_for_data is True
    recorder.data_ready()
    recorder.end_step()
    assert read_beacon(path).waiting_for_data is False  # that was the last of three
    beacon.enter("drain")
    assert read_beacon(path).waiting_for_data is False


def test_loop_that_never_tells_of_its_data_is_not_waiting_for_it(path: Path) -> None:
    beacon = Beacon.create(path, rank=0, world_size=1)
    recorder = StepRecorder(SampleFile.create(path.with_name("samples.bin"), rank=0, warmup=1, rows=3), beacon)
    recorder.begin()
    recorder.end_step()
    assert read_beacon(path).waiting_for_data is None


def test_short_file_is_refused_and_a_missing_one_is_missing(path: Path) -> None:
    path.write_bytes(b"LMBEACON")
    with pytest.raises(BeaconError, match="has 8"):
        read_beacon(path)
    with pytest.raises(FileNotFoundError):
        read_beacon(path.with_name("other"))


@settings(deadline=None)
@given(patches=st.lists(st.tuples(st.integers(0, PAGE_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_page_is_refused_or_still_plausible(
    tmp_path_factory: pytest.TempPathFactory, patches: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("page") / "beacon.page"
    page = _page(path)
    for offset, value in patches:
        page[offset] = value
    path.write_bytes(page)
    try:
        view = read_beacon(path)
    except BeaconError:
        return
    assert view.phase in PHASES
    assert min(view.step, view.since_ns, view.compile_ns) >= 0
