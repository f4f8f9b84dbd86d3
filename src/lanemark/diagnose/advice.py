"""What to do about a class of failure, in the order a person would work, and what is *not* a fix. A table; pure.

Steps are short imperatives. `{run}` stands for the attempt's run id and `{rank}` for the rank concerned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Advice:
    """What follows from one class.

    Attributes:
        steps: what to do, first things first.
        not_fixes: what people try that does not help, with the reason.
        asks_diagnostic: whether "model or infrastructure?" is still open, so that the diagnostic preset should be run.
    """

    steps: tuple[str, ...]
    not_fixes: tuple[str, ...] = ()
    asks_diagnostic: bool = False


_READ_LOG: Final = "read the end of ranks/{rank}/stderr.log in the attempt's directory"
_LONGER: Final = "a longer time-out: the wait becomes longer and ends the same way"

ADVICE: Final[dict[str, Advice]] = {
    "compile_divergence": Advice(
        (
            "see what the cache lacks: `lanemark cache status`",
            "fill it from the last good capture: `lanemark cache seed`, or run once with --cache-policy seed",
            "start again with --prewarm auto and --cache-policy require",
        ),
        (
            _LONGER,
            "compiling on rank 0 and copying its cache: sharding and the device index change what is compiled",
            "a generic compilation ahead of time: it makes other graphs than the sharded run needs",
        ),
    ),
    "recompiled_after_warmup": Advice(
        (
            "run again with TORCH_LOGS=recompiles set, and read which guard failed in ranks/{rank}/stderr.log",
            "make that shape or flag constant, or raise --warmup when a graph is only compiled late",
        ),
        (_LONGER, "allowing recompilation: its time then lies inside the measured window"),
    ),
    "watchdog_in_compile": Advice(
        (
            "unset TORCH_NCCL_ENABLE_MONITORING and TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC: the launcher has its own",
            "fill the compile cache: `lanemark cache seed`",
        ),
        ("switching the monitor off for the whole run: a real hang is then never ended",),
    ),
    "collective_missed": Advice(
        (
            "read where that rank sleeps: its stack lies under looks/ in the attempt's directory",
            "look for a lock, a read or a call to another service that only this rank makes",
            "where ranks may take unequal numbers of batches, end the loop on all of them together",
        ),
        (_LONGER,),
    ),
    "collective_mismatch": Advice(
        (
            "compare the ranks' stacks under looks/ in the attempt's directory: the branch lies above where they part",
            "look for conditions on the rank, the loss or the data around a collective",
            "check that all ranks run the same commit",
        ),
        (_LONGER, "trying again: the same branch is taken again"),
    ),
    "data_stall": Advice(
        (
            "read a shard by hand on that host: `dd if=SHARD of=/dev/null bs=1M`",
            "copy the shards to a local disk and verify them, then run with --data on that copy",
            "look at the mount in the record's data section; a remote one is not the hot path of several ranks",
        ),
        ("more loader threads: parallel reads through such a mount stall sooner",),
    ),
    "environment_leak": Advice(
        (
            "unset the variables named above, in the shell or the image, and run again",
            "`lanemark plan` with the same arguments shows every setting and where it comes from",
        ),
        (_LONGER,),
    ),
    "infrastructure_hang": Advice(
        (
            "stop changing the model: the diagnostic preset hangs as well",
            "report it to the machine's owner, with the record id, the device ids and the attempt's directory",
            "run on another host meanwhile",
        ),
        (_LONGER,),
    ),
    "kernel_import_missing": Advice(
        (
            "list what is installed: `lanemark env`",
            "install the wheel that the image pins, built for this torch and this CUDA",
        ),
        ("upgrading torch alone: the other kernel wheels then break the same way",),
    ),
    "bootstrap_failed": Advice(
        (
            "run again once: of all classes only this one deserves it, and `lanemark run` has done it already",
            "check MASTER_ADDR and GLOO_SOCKET_IFNAME or NCCL_* in the record's environment",
            "look for a firewall on the loopback interface",
        ),
        (_LONGER,),
        asks_diagnostic=True,
    ),
    "rank_raised": Advice(
        (
            "read the exception of rank {rank} above; what the other ranks say follows from it",
            _READ_LOG,
        ),
        ("looking into the ranks that timed out: they only waited",),
    ),
    "rank_vanished": Advice(
        (
            "read the end of stderr.log in the attempt's directory: launchers print the signal that they saw",
            "look whether the host ran out of memory when rank {rank} went (`dmesg`)",
        ),
        ("looking into the ranks that went after it: their launcher ended them",),
    ),
    "command_failed": Advice(
        (
            "read the end of stderr.log in the attempt's directory",
            "run the command once without Lanemark, in the same directory and environment",
        ),
    ),
    "world_differs": Advice(("say how many ranks there are in all: `lanemark run training --nproc N -- COMMAND`",)),
    "rank_exited_early": Advice(
        (
            "compare the last phase and step of rank {rank} with its peers'",
            "look for ranks that disagree about the number of steps, or a program that ends when its data does",
        ),
    ),
    "rank_exited": Advice((_READ_LOG, "look for a native library that calls exit, or os._exit in the program")),
    "rank_killed": Advice(
        (
            "look at the kernel's log for that time (`dmesg -T`), and at the container's memory events",
            "for SIGSEGV, SIGBUS and SIGILL: " + _READ_LOG + ", where faulthandler left the stack",
        ),
        ("looking into the ranks that timed out: they only waited",),
        asks_diagnostic=True,
    ),
    "rank_stopped": Advice(("find out who stops processes on that host (a debugger, job control), then run again",)),
    "rank_out_of_memory": Advice(
        (
            "lower --micro-batch, and raise --grad-accum to keep the tokens of a step",
            "shard with --mode fsdp2",
            "count what else is inside the same memory limit: other ranks, page cache of a tmpfs",
        ),
    ),
    "disk_full": Advice(
        (
            "free space on the file system in the evidence; compile caches and logs are the usual eaters",
            "put LANEMARK_HOME on a larger disk and run again",
        ),
    ),
    "start_failed": Advice(("read the system's own words in the evidence; no rank ran",)),
    "stalled": Advice(
        (
            "compare where the ranks were last: the one that did not arrive is the one to look at",
            "ask whether it is the model at all, with the diagnostic preset",
        ),
        (_LONGER,),
        asks_diagnostic=True,
    ),
    "wall_limit": Advice(("ask for fewer --steps, or a higher --wall-limit: the run was making progress",)),
    "interrupted": Advice(("nothing is wrong: run again",)),
    "supervisor_failed": Advice(
        (
            "look at the exception: open files, memory and disk of the supervisor's host",
            "if it is none of the host's doing, report it with the attempt's directory",
        ),
    ),
    "supervisor_lost": Advice(
        ("look at the host's log for that time: the supervisor was killed, or the machine went away",)
    ),
    "never_launched": Advice(("run the same command again: nothing was started",)),
    "surface_failed": Advice(
        (
            "look at the call graph under snapshots/ in the attempt's directory",
            "look at the surface's own log for the ids in attempt.json",
        ),
    ),
    "result_expired": Advice(
        ("run it again, and collect within the days for which the surface keeps results",),
    ),
    "undecided": Advice(
        (
            "read the last lines of every rank's stderr.log; each complaint points at another rank",
            "run again, and see whether the same rank goes first",
            "ask whether it is the model at all, with the diagnostic preset",
        ),
        (_LONGER,),
        asks_diagnostic=True,
    ),
    # caveats of a run that ended well
    "straggler": Advice(
        (
            "look at that device's clocks, temperature and throttling while it runs",
            "on rented machines, ask for another one",
        ),
        ("changing the program: the same rank is late whatever it computes",),
    ),
    "seeding_pass": Advice(("run the same command again: the cache is filled now",)),
}


def advice_for(kind: str) -> Advice:
    """What to do about a class; a class of a later version has only the page of messages."""
    unknown = Advice((f"read the entry {kind} in docs/messages.md of the version that wrote it",))
    return ADVICE.get(kind, unknown)
