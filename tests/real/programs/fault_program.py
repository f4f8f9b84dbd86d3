"""A rank that goes wrong the way the field's ranks do: fault_program.py FAULT RANK [ARGUMENT].

`FAULT` is what rank `RANK` does; the others train on, which here means one real gloo collective a step, or wait. Only
what a fault needs is imported: a rank that never computes never loads torch.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from datetime import timedelta
from typing import Any

from lanemark.measure.session import RankSession

FAULT, WHO, ARGUMENT = [*sys.argv[1:], "", "", ""][:3]

#: Longer than it takes to name anything, and all that a hang of these programs lasts.
COLLECTIVE_TIMEOUT_S = 8


def ours(session: RankSession) -> bool:
    """Whether this rank is the one at fault."""
    return session.rank == int(WHO)


def join(session: RankSession) -> Any:
    """torch.distributed over gloo, on the socket that the launcher opened. No collective may wait for long."""
    session.beacon.enter("import")
    import torch
    import torch.distributed as dist

    from lanemark.measure.collectives import watch_collectives

    session.open_to_looks()
    watch_collectives(session.beacon)
    session.beacon.enter("init_process_group")
    port = int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(
        "127.0.0.1", port, session.world_size, session.rank == 0, timedelta(seconds=60),
        master_listen_fd=session.listen_fd,
    )  # fmt: skip
    dist.init_process_group(
        "gloo",
        store=store,
        rank=session.rank,
        world_size=session.world_size,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    return torch, dist


def loop(session: RankSession, take: Any, compute: Any) -> None:
    """The measured loop: batch, then a step that ends in a collective."""
    recorder = session.recorder(stamps_data=True)
    session.beacon.enter("warmup")
    recorder.begin()
    for step in range(session.case.steps):
        if step == session.case.warmup:
            recorder.open_window()
        take(step)
        recorder.data_ready()
        compute(step)
        recorder.end_step()
    recorder.close_window()
    recorder.close()


def collectives(session: RankSession) -> None:
    """Steps of one all_reduce each: in all faults of the loop."""
    torch, dist = join(session)
    ours_here = ours(session)

    def take(step: int) -> None:
        if FAULT == "loader" and ours_here and step == 3:
            with open(ARGUMENT, "rb") as pipe:  # a pipe that nobody writes to: this is what a hung mount does
                pipe.read(1)

    def compute(step: int) -> None:
        if FAULT == "stop" and ours_here and step == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        if FAULT == "slow" and ours_here:
            time.sleep(0.08)
        if FAULT == "mismatch" and ours_here and step == 3:
            dist.barrier()
        dist.all_reduce(torch.ones(4))

    loop(session, take, compute)
    dist.barrier()
    dist.destroy_process_group()


def recompile(session: RankSession) -> None:
    """A real refusal of torch's stance: a shape changes after the warm-up."""
    session.beacon.enter("import")
    import torch

    compiled = torch.compile(lambda x: x * 2, backend="eager", dynamic=False)

    def compute(step: int) -> None:
        if step == session.case.warmup:
            torch.compiler.set_stance("fail_on_recompile")
        compiled(torch.ones(5 if ours(session) and step == 4 else 4))

    loop(session, lambda step: None, compute)


def watchdog(session: RankSession) -> None:
    """What ProcessGroupNCCL's heartbeat monitor does to a rank that compiles for longer than its patience."""
    session.beacon.enter("warmup")
    if not ours(session):
        session.beacon.push("collective", "all_gather_single")
        time.sleep(60)
    session.beacon.push("compile", "DYNAMO:0/0")
    os.write(2, (
        b"[rank1]:[F1122 15:22:33 ProcessGroupNCCL.cpp:1557] [PG ID 0 PG GUID 0 Rank 1] Terminating the process after"
        b" attempting to dump debug info, due to ProcessGroupNCCL watchdog hang.\n"
    ))  # fmt: skip
    os.kill(os.getpid(), signal.SIGABRT)


def refused(session: RankSession) -> None:
    """Nobody listens where the ranks are to meet. With an ARGUMENT, only in the first attempt of that home."""
    session.beacon.enter("init_process_group")
    if ARGUMENT and len(list(session.attempt.root.parent.iterdir())) > 1:
        return
    if session.rank == 0:
        time.sleep(0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    socket.create_connection(("127.0.0.1", port), timeout=5)


def blackhole(session: RankSession) -> None:
    """Every rank is in one collective whose transport swallows what it is given: a server that never answers."""
    session.beacon.enter("warmup")
    session.beacon.push("collective", "all_reduce")
    with socket.create_connection(("127.0.0.1", int(ARGUMENT))) as link:
        link.sendall(b"gradients")
        link.recv(1)


def kernel(session: RankSession) -> None:
    """A kernel wheel that is not there, or (with a directory as ARGUMENT) one built for another torch."""
    session.beacon.enter("import")
    if ours(session):
        sys.path.insert(0, ARGUMENT or "/nonexistent")
        __import__("flash_attn_2_cuda" if ARGUMENT else "flash_attn")
    session.beacon.enter("init_process_group")
    time.sleep(60)


def leak(session: RankSession) -> None:
    """gloo as the operator's environment has it: on an interface that this machine does not have."""
    join(session)


FAULTS = {
    "slow": collectives, "stop": collectives, "loader": collectives, "mismatch": collectives, "recompile": recompile,
    "watchdog": watchdog, "refused": refused, "blackhole": blackhole, "kernel": kernel, "leak": leak,
}  # fmt: skip


def main() -> None:
    with RankSession.from_environment(os.environ) as session:
        session.write_observed({"rank": session.rank})
        FAULTS[FAULT](session)
        if FAULT == "refused":
            loop(session, lambda step: None, lambda step: None)
        session.write_end({"rank": session.rank})


main()
