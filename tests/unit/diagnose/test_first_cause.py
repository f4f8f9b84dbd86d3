"""The first cause of a failed run: each sign named, and none of them blamed on an innocent rank."""

from __future__ import annotations

import pytest

from lanemark.diagnose.first_cause import first_cause
from lanemark.diagnose.snapshot import RankState, Snapshot

GLOO_CLOSED = "RuntimeError: [gloo/transport/tcp/pair.cc:535] Connection closed by peer [127.0.0.1]:41234"
GLOO_TIMEOUT = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 12000ms for recv operation"
NCCL_WATCHDOG = (
    "RuntimeError: [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLGATHER)"
)


def healthy(rank: int, **changes: object) -> RankState:
    base: dict[str, object] = {"ended_ns": 100, "status": 0, "end_marker": True, "phase": "done", "step": 20}
    return RankState(rank, **{**base, **changes})  # type: ignore[arg-type]


def failed(rank: int, **changes: object) -> RankState:
    base: dict[str, object] = {"ended_ns": 100, "status": 1, "phase": "window", "step": 7}
    return RankState(rank, **{**base, **changes})  # type: ignore[arg-type]


def picture(*ranks: RankState, **changes: object) -> Snapshot:
    return Snapshot(tuple(ranks), **{"ended_because": "rank_failed", **changes})  # type: ignore[arg-type]


def test_a_healthy_run_has_no_cause() -> None:
    assert first_cause(picture(healthy(0), healthy(1), ended_because="all_ended")) is None


@pytest.mark.parametrize("complaint", [GLOO_CLOSED, GLOO_TIMEOUT, NCCL_WATCHDOG])
def test_a_killed_rank_is_blamed_and_not_the_one_that_complained_first(complaint: str) -> None:
    cause = first_cause(
        picture(
            failed(0, ended_ns=50, exception=complaint),
            failed(1, ended_ns=90, status=None, signal="SIGKILL", signal_by="other"),
        )
    )
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_killed", 1)


def test_a_signal_of_ours_is_nobody_s_fault() -> None:
    cause = first_cause(
        picture(
            failed(0, ended_ns=50, exception="ValueError: wrong shape"),
            failed(1, ended_ns=90, status=None, signal="SIGTERM", signal_by="supervisor"),
        )
    )
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_raised", 0)
    assert "wrong shape" in cause.summary


def test_a_kernel_oom_kill_is_told_from_a_kill() -> None:
    dead = failed(1, status=None, signal="SIGKILL", signal_by="other")
    assert first_cause(picture(healthy(0), dead, oom_kills=1)).kind == "rank_out_of_memory"  # type: ignore[union-attr]
    assert first_cause(picture(healthy(0), dead, oom_kills=0)).kind == "rank_killed"  # type: ignore[union-attr]
    assert first_cause(picture(healthy(0), dead)).kind == "rank_killed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "said",
    ["MemoryError", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
     "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"],
)  # fmt: skip
def test_an_allocation_failure_is_out_of_memory(said: str) -> None:
    cause = first_cause(picture(failed(0, ended_ns=10, exception=GLOO_CLOSED), failed(1, exception=said)))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_out_of_memory", 1)


def test_a_full_disk_is_named_before_the_exception_it_caused() -> None:
    said = "OSError: [Errno 28] No space left on device: '/scratch/x'"
    assert first_cause(picture(failed(0, exception=said), healthy(1))).kind == "disk_full"  # type: ignore[union-attr]
    bus = failed(0, status=None, signal="SIGBUS", signal_by="other")
    assert first_cause(picture(bus, free_bytes=0)).kind == "disk_full"  # type: ignore[union-attr]
    assert first_cause(picture(bus, free_bytes=10**9)).kind == "rank_killed"  # type: ignore[union-attr]


def test_status_zero_without_an_end_marker_is_an_early_exit() -> None:
    cause = first_cause(picture(failed(0, ended_ns=90, exception=GLOO_CLOSED), failed(1, ended_ns=20, status=0)))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_exited_early", 1)


def test_a_silent_exit_is_an_exit() -> None:
    cause = first_cause(picture(failed(0, status=3), healthy(1)))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_exited", 0)
    assert "status 3" in cause.summary


def test_a_stopped_rank_is_named() -> None:
    stuck = RankState(0, ended_ns=200, signal="SIGKILL", signal_by="supervisor", phase="window", process_state="S")
    stopped = RankState(1, ended_ns=200, signal="SIGKILL", signal_by="supervisor", phase="window", process_state="T")
    cause = first_cause(picture(stuck, stopped, ended_because="stopped"))
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_stopped", 1)


def test_lost_peers_before_the_first_step_are_a_failed_bootstrap() -> None:
    ranks = [failed(r, phase="init_process_group", step=-1, exception=GLOO_TIMEOUT) for r in (0, 1)]
    assert first_cause(picture(*ranks)).kind == "bootstrap_failed"  # type: ignore[union-attr]
    refused = failed(0, phase="init_process_group", exception="DistNetworkError: The client socket: Connection refused")
    assert first_cause(picture(refused, healthy(1))).kind in ("bootstrap_failed", "undecided")  # type: ignore[union-attr]


def test_only_lost_peers_in_the_loop_are_undecided() -> None:
    cause = first_cause(picture(failed(0, exception=GLOO_CLOSED), failed(1, exception=GLOO_TIMEOUT)))
    assert cause is not None
    assert cause.kind == "undecided"
    assert cause.rank is None


@pytest.mark.parametrize(("because", "kind"), [("stalled", "stalled"), ("wall_limit", "wall_limit")])
def test_limits_speak_when_no_rank_does(because: str, kind: str) -> None:
    waiting = RankState(0, ended_ns=5, signal="SIGTERM", signal_by="supervisor", phase="window", process_state="S")
    assert first_cause(picture(waiting, ended_because=because)).kind == kind  # type: ignore[union-attr]


def test_an_interruption_explains_everything_after_it() -> None:
    dying = failed(0, exception="ValueError: half-written batch")
    assert first_cause(picture(dying, interrupted_by="SIGINT")).kind == "interrupted"  # type: ignore[union-attr]


def test_a_lost_supervisor_is_the_cause_of_its_own_run() -> None:
    cause = first_cause(picture(RankState(0, phase="window"), supervisor_alive=False, ended_because=None))
    assert cause is not None
    assert cause.kind == "supervisor_lost"


def test_of_two_primary_signs_the_earlier_rank_wins() -> None:
    cause = first_cause(
        picture(
            failed(0, ended_ns=80, status=None, signal="SIGSEGV", signal_by="other"),
            failed(1, ended_ns=20, exception="KeyError: 'layer'"),
        )
    )
    assert cause is not None
    assert (cause.kind, cause.rank) == ("rank_raised", 1)
