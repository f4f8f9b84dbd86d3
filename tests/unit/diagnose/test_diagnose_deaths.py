"""Deaths with a class of their own, and the words that tell them from what healthy ranks say."""

from __future__ import annotations

import pytest
from looks_made import LAUNCHED_NS, SECOND, growing, lasting, rank

from lanemark.diagnose import signs
from lanemark.diagnose.first_cause import first_cause
from lanemark.diagnose.leaks import scrubbed, suspects
from lanemark.diagnose.snapshot import RankState, Snapshot
from lanemark.records.look import Look

GLOO_CLOSED = "RuntimeError: [gloo/transport/tcp/pair.cc:535] Connection closed by peer [127.0.0.1]:41234"
GLOO_TIMEOUT = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 12000ms for recv operation"
HEARTBEAT = (
    "[rank1]:[F1122 ProcessGroupNCCL.cpp:1556] [PG ID 0 PG GUID 0 Rank 1] [PG ID 0 PG GUID 0 Rank 1] Terminating the"
    " process after attempting to dump debug info, due to ProcessGroupNCCL watchdog hang."
)
STANCE = "RuntimeError: Detected recompile when torch.compile stance is 'fail_on_recompile'. filename: 'm.py'"
END_NS = LAUNCHED_NS + 7 * SECOND


def dead(number: int, **changes: object) -> RankState:
    return RankState(number, **{"ended_ns": END_NS, "status": 1, "phase": "failed", **changes})  # type: ignore[arg-type]


def diverging(*seconds: float) -> tuple[Look, ...]:
    return growing(lasting(rank(0), rank(1, "compile"), seconds=seconds), 1, (3, 5, 8))


def cause_of(*ranks: RankState, **changes: object) -> tuple[str, int | None]:
    finding = first_cause(Snapshot(ranks, **{"ended_because": "rank_failed", **changes}))  # type: ignore[arg-type]
    assert finding is not None
    return finding.kind, finding.rank


# --- the looks decide where exceptions accuse the innocent ---------------------------------------------------------


def test_a_record_names_the_divergence_although_every_exception_accuses_somebody_else() -> None:
    looks = diverging(5.5, 6.0, 6.5)
    late = dead(1, exception=GLOO_CLOSED, step=0)
    waited = dead(0, exception=GLOO_TIMEOUT, step=0)
    finding = first_cause(Snapshot((waited, late), "rank_failed", looks=looks))
    assert finding is not None
    assert (finding.kind, finding.rank) == ("compile_divergence", 1)
    assert any("Timed out waiting" in line for line in finding.evidence), "the complaints are kept as evidence"
    assert cause_of(waited, late) == ("undecided", None), "without the looks nobody can know"


def test_a_hang_that_ended_before_the_failure_is_not_its_cause() -> None:
    looks = diverging(1.0, 1.5, 2.0)
    ranks = (dead(0, exception=GLOO_TIMEOUT), dead(1, exception=GLOO_CLOSED))
    assert cause_of(*ranks, looks=looks) == ("undecided", None)
    fresh = diverging(5.5, 6.0, 6.5)
    stepped = (dead(0, exception=GLOO_TIMEOUT, step=4), dead(1, exception=GLOO_CLOSED, step=4))
    assert cause_of(*stepped, looks=fresh) == ("undecided", None), "steps were taken after the last look"


def test_a_death_outranks_what_the_others_were_waiting_in() -> None:
    looks = diverging(5.5, 6.0, 6.5)
    killed = dead(1, status=None, signal="SIGKILL", signal_by="other", phase="compile")
    assert cause_of(dead(0, exception=GLOO_CLOSED), killed, looks=looks) == ("rank_killed", 1)


def test_an_abort_by_the_collective_s_own_watchdog_is_no_death_of_that_rank() -> None:
    said = "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLGATHER)"
    aborted = dead(0, status=None, signal="SIGABRT", signal_by="other", stderr_tail=said, phase="warmup")
    waiting = RankState(1, ended_ns=END_NS + SECOND, signal="SIGTERM", signal_by="supervisor", phase="compile", step=0)
    looks = diverging(5.5, 6.0, 6.5)
    assert cause_of(aborted, waiting, looks=looks) == ("compile_divergence", 1)
    crashed = dead(0, status=None, signal="SIGABRT", signal_by="other", stderr_tail="free(): invalid pointer")
    assert cause_of(crashed, waiting) == ("rank_killed", 0)


# --- watchdog, recompilation, kernels ------------------------------------------------------------------------------


def test_the_watchdog_s_words_count_only_where_the_rank_was_compiling() -> None:
    killed = {"status": None, "signal": "SIGABRT", "signal_by": "other", "stderr_tail": HEARTBEAT}
    peer = dead(0, ended_ns=END_NS + SECOND, exception=GLOO_CLOSED)
    assert cause_of(peer, dead(1, phase="compile", **killed)) == ("watchdog_in_compile", 1)
    assert cause_of(peer, dead(1, failed_in="compile", **killed)) == ("watchdog_in_compile", 1)
    assert cause_of(peer, dead(1, phase="collective", **killed))[0] != "watchdog_in_compile"
    looks = lasting(rank(0), rank(1, "compile"))
    assert cause_of(peer, dead(1, phase=None, **killed), looks=looks) == ("watchdog_in_compile", 1)


def test_a_refused_recompilation_is_named() -> None:
    ranks = (dead(0, exception=GLOO_CLOSED), dead(1, exception=STANCE, step=6, failed_in="window"))
    assert cause_of(*ranks) == ("recompiled_after_warmup", 1)


@pytest.mark.parametrize(
    ("said", "kernel"),
    [
        ("ModuleNotFoundError: No module named 'flash_attn'", "flash_attn"),
        ("ModuleNotFoundError: No module named 'transformer_engine.pytorch'", "transformer_engine"),
        ("ImportError: /site-packages/flash_attn_2_cuda.cpython-312.so: undefined symbol: _ZN3c105ErrorC2E", "flash_attn"),
        ("ImportError: libcudart.so.12: cannot open shared object file (causal_conv1d_cuda.so)", "causal_conv1d"),
        ("ModuleNotFoundError: No module named 'my_project'", None),
        ("ImportError: /opt/mine.so: undefined symbol: f", None),
        ("ValueError: flash_attn is not for this shape", None),
    ],
)  # fmt: skip
def test_a_missing_kernel_is_told_from_any_other_import(said: str, kernel: str | None) -> None:
    assert signs.missing_kernel(said) == kernel
    kind = cause_of(dead(0, exception=GLOO_CLOSED, ended_ns=END_NS + 1), dead(1, exception=said))[0]
    assert kind == ("rank_raised" if kernel is None else "kernel_import_missing")


# --- bootstrap and environment -------------------------------------------------------------------------------------


def test_a_failed_rank_s_page_still_tells_that_it_never_met_the_others() -> None:
    """Phase `failed` hides where it failed; the spans do not."""
    refused = "DistNetworkError: The client socket has failed to connect to any network address: Connection refused"
    ranks = [dead(n, exception=refused, failed_in="init_process_group") for n in (0, 1)]
    assert cause_of(*ranks)[0] == "bootstrap_failed"
    later = [dead(n, exception=refused, failed_in="warmup") for n in (0, 1)]
    assert cause_of(*later)[0] == "undecided"


def test_ranks_that_all_stand_in_their_bootstrap_at_a_limit_did_not_meet() -> None:
    ranks = [RankState(n, signal="SIGTERM", signal_by="supervisor", phase="init_process_group") for n in (0, 1)]
    assert cause_of(*ranks, ended_because="stalled")[0] == "bootstrap_failed"
    assert cause_of(ranks[0], ended_because="stalled")[0] == "stalled", "one rank has nobody to meet"
    mixed = (ranks[0], RankState(1, signal="SIGTERM", signal_by="supervisor", phase="import"))
    assert cause_of(*mixed, ended_because="stalled")[0] == "stalled", "the other may only be importing slowly"


LEAK = (("GLOO_SOCKET_IFNAME", "operator: ib0"), ("OMP_NUM_THREADS", "operator: 4"), ("NCCL_IB_HCA", "scrubbed"))


def test_an_operator_s_setting_for_another_machine_is_the_suspect_where_the_network_failed() -> None:
    said = "RuntimeError: [gloo/transport/tcp/device.cc:99] ifa != nullptr. Unable to find interface for: ib0"
    ranks = [dead(n, exception=said, failed_in="init_process_group") for n in (0, 1)]
    assert cause_of(*ranks, settings=LEAK)[0] == "environment_leak"
    assert cause_of(*ranks)[0] == "rank_raised", "without such a setting it is what the rank says"
    assert suspects(LEAK) == (("GLOO_SOCKET_IFNAME", "ib0"),)
    assert scrubbed(LEAK) == ("NCCL_IB_HCA",)


def test_such_a_setting_accuses_nobody_while_the_failure_has_another_reason() -> None:
    said = "RuntimeError: NCCL error: unhandled system error, remote process exited"
    killed = dead(1, status=None, signal="SIGKILL", signal_by="other", phase="shard")
    assert cause_of(dead(0, exception=said, failed_in="shard"), killed, settings=LEAK) == ("rank_killed", 1)
    late = dead(0, exception=f"{said} ib0", failed_in="window", step=7)
    assert cause_of(late, settings=LEAK)[0] == "undecided", "the network had carried seven steps"
    assert cause_of(dead(0, exception="ValueError: bad shape", failed_in="window"), settings=LEAK)[0] == "rank_raised"
    ours = (("GLOO_SOCKET_IFNAME", "lanemark: lo"), ("NCCL_IB_DISABLE", "operator: 1"))
    assert suspects(ours) == ()


def test_settings_of_nccl_are_suspects_only_where_nccl_is_used() -> None:
    plugin = ("NCCL_NET_PLUGIN", "operator: libnccl-other.so")
    assert suspects((plugin, ("NCCL_IB_DISABLE", "lanemark: 1"))) == (("NCCL_NET_PLUGIN", "libnccl-other.so"),)
    unused = (("NCCL_NET_PLUGIN", "environment: libnccl-other.so"), ("GLOO_SOCKET_IFNAME", "lanemark: lo"))
    assert suspects(unused) == (), "these ranks meet over gloo"
    interface = (("NCCL_SOCKET_IFNAME", "environment: eth7"), ("NCCL_IB_DISABLE", "lanemark: 1"))
    assert suspects(interface) == (("NCCL_SOCKET_IFNAME", "eth7"),)


def test_ranks_that_never_met_under_such_a_setting_are_a_leak_and_not_a_bootstrap_to_retry() -> None:
    ranks = [dead(n, exception=GLOO_TIMEOUT, failed_in="init_process_group") for n in (0, 1)]
    assert cause_of(*ranks, settings=LEAK)[0] == "environment_leak"
    assert cause_of(*ranks)[0] == "bootstrap_failed"


# --- unlike collectives, by exception ------------------------------------------------------------------------------

TRACE = '  File "/torch/distributed/distributed_c10d.py", line 31, in {name}\n'


def test_ranks_that_met_in_unlike_collectives_are_named_from_their_tracebacks() -> None:
    said = "RuntimeError: Received data size doesn't match expected size. Is there a distributed collective mismatch in your code?"
    wrapped = TRACE.format(name="wrapper")
    one = dead(0, exception=said, stderr_tail=wrapped + TRACE.format(name="all_reduce"))
    other = dead(1, exception=GLOO_CLOSED, stderr_tail=wrapped + TRACE.format(name="all_gather"))
    finding = first_cause(Snapshot((one, other), "rank_failed"))
    assert finding is not None
    assert finding.kind == "collective_mismatch"
    assert "rank 0 in all_reduce, rank 1 in all_gather" in finding.summary
    same = dead(1, exception=GLOO_CLOSED, stderr_tail=wrapped + TRACE.format(name="all_reduce"))
    assert cause_of(one, same)[0] == "undecided"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([1], "rank 1"), ([0, 2], "ranks 0 and 2"), ([0, 2, 3, 4], "ranks 0, 2-4"), ([0, 1, 4, 5], "ranks 0, 1, 4, 5"),
     ([3, 2, 1, 0], "ranks 0-3")],
)  # fmt: skip
def test_ranks_in_a_sentence(numbers: list[int], text: str) -> None:
    assert signs.ranks_text(numbers) == text
