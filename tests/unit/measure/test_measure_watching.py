"""Watching compilations, collectives, devices and memory: what is seen, and what is said where nothing can be."""

import gc
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import pytest

from lanemark.measure.beacon import FIRST_COLLECTIVES, Beacon, read_beacon
from lanemark.measure.collectives import watch_collectives, watched
from lanemark.measure.compiling import label_of, watch_compilations
from lanemark.measure.device import device_clock
from lanemark.measure.peaks import memory_peaks, parse_rss_peak


@pytest.fixture
def beacon(tmp_path: Path) -> Beacon:
    return Beacon.create(tmp_path / "beacon.page", rank=0, world_size=1)


class Handler:
    """Stands in for torch's private callback handler."""

    def __init__(self) -> None:
        self.start: Any = None
        self.end: Any = None

    def register_start_callback(self, call: Any) -> None:
        self.start = call

    def register_end_callback(self, call: Any) -> None:
        self.end = call


def args(trigger: str = "DYNAMO", compile_id: str = "0/0") -> Any:
    return types.SimpleNamespace(callback_trigger=types.SimpleNamespace(name=trigger), compile_id=compile_id)


def plant(monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    for name in ("torch", "torch._dynamo"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("torch._dynamo.callback")
    if handler is not None:
        module.callback_handler = handler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch._dynamo.callback", module)


def test_compilation_becomes_a_nested_phase(beacon: Beacon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Handler()
    plant(monkeypatch, handler)
    assert watch_compilations(beacon) == {"status": "observed", "source": "torch._dynamo.callback", "value": True}
    handler.start(args("LAZY_BACKWARD", "1/0"))
    view = read_beacon(tmp_path / "beacon.page")
    assert (view.phase, view.label, view.depth) == ("compile", "LAZY_BACKWARD:1/0", 1)
    handler.end(args())
    handler.end(args())  # an end without a beginning (the hooks were installed in between) is let be
    view = read_beacon(tmp_path / "beacon.page")
    assert (view.phase, view.compilations, view.depth) == ("start", 1, 0)


@pytest.mark.parametrize("cleared", [True, False], ids=["a reset took them away", "they are still there"])
def test_hooks_can_be_installed_again_and_are_never_doubled(
    beacon: Beacon, monkeypatch: pytest.MonkeyPatch, cleared: bool
) -> None:
    start: list[Any] = []
    end: list[Any] = []
    handler = types.SimpleNamespace(
        register_start_callback=start.append, register_end_callback=end.append,
        remove_start_callback=start.remove, remove_end_callback=end.remove,
    )  # fmt: skip
    plant(monkeypatch, handler)
    watch_compilations(beacon)
    start[0](args())
    end[0](args())
    if cleared:
        start.clear()
        end.clear()
    assert watch_compilations(beacon)["value"] is True
    assert (len(start), len(end)) == (1, 1)
    start[0](args())
    end[0](args())
    assert beacon.compilations == 2


def test_hooks_do_not_keep_a_page_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Handler()
    plant(monkeypatch, handler)
    page = Beacon.create(tmp_path / "beacon.page", rank=0, world_size=1)
    gone = weakref.ref(page)
    watch_compilations(page)
    del page
    gc.collect()
    assert gone() is None
    handler.start(args())
    handler.end(args())


def test_private_module_that_changed_is_said_to_be_unavailable(beacon: Beacon, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, None)
    seen = watch_compilations(beacon)
    assert seen["status"] == "unavailable"
    assert "ImportError" in seen["reason"]
    plant(monkeypatch, object())
    assert "AttributeError" in watch_compilations(beacon)["reason"]


def test_label_is_made_of_whatever_is_there() -> None:
    assert label_of(args("DYNAMO", "3/1")) == "DYNAMO:3/1"
    assert label_of(types.SimpleNamespace(compile_id=None)) == "UNKNOWN:?"


def test_collective_is_named_while_it_runs_and_counted(beacon: Beacon, tmp_path: Path) -> None:
    inside = []

    def collective(value: int, *, extra: int) -> int:
        inside.append(read_beacon(tmp_path / "beacon.page"))
        return value + extra

    call = watched(beacon, "all_reduce", collective, lambda: False)
    assert call(1, extra=2) == 3
    assert (inside[0].phase, inside[0].label, inside[0].collectives) == ("collective", "all_reduce", 1)
    after = read_beacon(tmp_path / "beacon.page")
    assert (after.phase, after.collectives) == ("start", 1)
    assert [span.phase for span in after.spans] == ["start", "collective"]
    assert call.__name__ == "collective"


def test_only_the_first_collectives_of_a_run_take_a_row(beacon: Beacon, tmp_path: Path) -> None:
    for _ in range(FIRST_COLLECTIVES + 5):
        beacon.pop(beacon.push("collective", "all_gather_single"))
    beacon.at_step(1)
    after = read_beacon(tmp_path / "beacon.page")
    rows = [span for span in after.spans if span.phase == "collective"]
    assert (after.collectives, len(rows), after.spans_truncated) == (FIRST_COLLECTIVES + 5, FIRST_COLLECTIVES, False)
    assert all(span.end_ns is not None for span in rows)


def test_a_collective_of_a_later_step_takes_no_row(beacon: Beacon, tmp_path: Path) -> None:
    beacon.at_step(1)
    beacon.pop(beacon.push("collective", "all_gather_single"))
    assert [span.phase for span in read_beacon(tmp_path / "beacon.page").spans] == ["start"]


def test_collective_that_fails_is_over(beacon: Beacon, tmp_path: Path) -> None:
    def collective() -> None:
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(RuntimeError, match="Connection closed"):
        watched(beacon, "barrier", collective, lambda: False)()
    assert read_beacon(tmp_path / "beacon.page").depth == 0


def test_collective_inside_a_traced_graph_is_left_alone(beacon: Beacon, tmp_path: Path) -> None:
    assert watched(beacon, "all_reduce", lambda: 5, lambda: True)() == 5
    assert read_beacon(tmp_path / "beacon.page").collectives == 0


def test_only_collectives_that_exist_are_wrapped(beacon: Beacon, monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = types.ModuleType("torch")
    dist: Any = types.ModuleType("torch.distributed")
    torch.compiler = types.SimpleNamespace(is_compiling=lambda: False)
    torch.distributed = dist
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.distributed", dist)
    assert watch_collectives(beacon)["reason"] == "this build of torch has no collectives"
    dist.all_gather_single = lambda: "gathered"
    dist.barrier = lambda: None
    assert watch_collectives(beacon)["value"] == ["all_gather_single", "barrier"]
    assert dist.all_gather_single() == "gathered"
    assert beacon.collectives == 1
    assert not hasattr(dist, "all_reduce")


def test_without_torch_nothing_is_watched_and_it_says_so(beacon: Beacon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torch._dynamo.callback", None)
    assert watch_compilations(beacon)["status"] == "unavailable"
    assert watch_collectives(beacon)["status"] == "unavailable"


def test_rss_peak_is_read_from_the_kernel() -> None:
    peaks = memory_peaks()
    assert set(peaks) == {"allocated_peak_bytes", "reserved_peak_bytes", "rss_peak_bytes"}
    assert peaks["rss_peak_bytes"]["status"] == "observed"
    assert peaks["rss_peak_bytes"]["value"] > 1_000_000


@pytest.mark.parametrize(
    ("text", "status", "value"),
    [
        ("Name:\tpython\nVmHWM:\t   12345 kB\n", "observed", 12345 * 1024),
        ("Name:\tkthread\n", "absent", None),
        ("VmHWM: many\n", "unavailable", None),
        ("VmHWM: 1 MB\n", "unavailable", None),
    ],
)
def test_rss_line(text: str, status: str, value: int | None) -> None:
    seen = parse_rss_peak(text, "here")
    assert (seen.status, seen.value) == (status, value)


def test_allocator_peaks_are_absent_without_cuda_and_unavailable_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert "not loaded" in memory_peaks()["allocated_peak_bytes"]["reason"]

    def broken() -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    cuda = types.SimpleNamespace(is_initialized=lambda: False, max_memory_allocated=broken)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    assert memory_peaks()["reserved_peak_bytes"]["status"] == "absent"
    cuda.is_initialized = lambda: True
    seen = memory_peaks()["allocated_peak_bytes"]
    assert seen["status"] == "unavailable"
    assert "illegal memory access" in seen["reason"]
    cuda.max_memory_allocated = lambda: 7
    cuda.max_memory_reserved = lambda: 9
    peaks = memory_peaks()
    assert (peaks["allocated_peak_bytes"]["value"], peaks["reserved_peak_bytes"]["value"]) == (7, 9)


def test_host_clock_measures_nothing() -> None:
    clock = device_clock("cpu")
    clock.mark_step()
    clock.synchronize()
    assert clock.step_ns() == []


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        device_clock("tpu")


@pytest.mark.gpu
def test_cuda_clock_times_the_device_and_not_the_host() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this host")
    clock = device_clock("cuda")
    x = torch.randn(4096, 4096, device="cuda")
    clock.mark_step()
    for _ in range(3):
        for _ in range(10):
            x = x @ x / 64.0
        clock.mark_step()
    clock.synchronize()
    times = clock.step_ns()
    assert len(times) == 3
    assert all(step_ns > 100_000 for step_ns in times)  # 1.4 TFLOP a step: no device does that in 0.1 ms
    assert memory_peaks()["allocated_peak_bytes"]["value"] >= x.numel() * 4
