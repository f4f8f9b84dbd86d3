"""The rank program of the training lane: `python -m lanemark.stack.train`, started once a rank.

The beacon says where it is at every moment: import → init_process_group → prewarm → init_process_group → build → shard
→ load → warmup → window → drain → done. Ranks first connect to the store they meet at, then compile, each on its own,
then meet, and only then form a process group: however long compiling takes, no collective waits for it.

The measured window is opened and closed after the device was synchronised and all ranks have met; inside it the loop
takes a batch that a thread made ready meanwhile, runs one step and stamps it, and nothing else, and a graph that would
have to be compiled again is an error. Losses stay on the device until the window is closed. Evaluation and checkpoints
do not exist here.

The rank leaves `observed.json` before its first step and `end.json` as its last act: a rank without the latter did not
end cleanly, whatever its exit status says. What it raises becomes `error.json` (see `lanemark.measure.session`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lanemark.lanes.presets import preset as find_preset
from lanemark.measure.session import RankSession
from lanemark.records.observation import observed, unavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lanemark.lanes.presets import Preset
    from lanemark.measure.device import DeviceClock
    from lanemark.measure.recorder import StepRecorder
    from lanemark.observe.hot_path import HotPath
    from lanemark.stack.loader import Loader
    from lanemark.stack.step import Batch, TrainStep

    TakeBatches = Callable[[int], list[Batch]]

#: What torchrun gives ranks as well; loopback is only the default of a run that is all on one node.
_DEFAULT_HOST = "127.0.0.1"


def train(session: RankSession, facts: dict[str, Any]) -> None:
    """Run the case of this session on this rank, from import to end marker.

    `facts` is filled with what goes into `observed.json`, so that a run that fails can still add to it.
    """
    case, beacon = session.case, session.beacon
    recipe = find_preset(case.preset)
    beacon.enter("import")
    import torch
    import torch.distributed as dist

    from lanemark.measure.collectives import watch_collectives
    from lanemark.measure.compiling import watch_compilations
    from lanemark.stack import parallel
    from lanemark.stack.facts import rank_facts
    from lanemark.stack.loader import SyntheticLoader
    from lanemark.stack.model import count_parameters
    from lanemark.stack.step import make_step

    if case.compile != "eager":
        # A second of importing, which would otherwise be taken for compiling. Where it moved, compiling imports it.
        with contextlib.suppress(ImportError):
            importlib.import_module("torch._inductor.compile_fx")
    hooks = {"compile_hooks": watch_compilations(beacon), "collective_hooks": watch_collectives(beacon)}
    hooks["control_plane"] = session.open_to_looks()

    beacon.enter("init_process_group")
    device = parallel.choose_device(session.local_rank)
    prewarmed = meet(session, recipe, device)
    beacon.enter("build")
    torch.manual_seed(case.seed)
    model = parallel.build(recipe, case.sequence, case.dtype)
    parameters = count_parameters(model)

    beacon.enter("shard")
    module = parallel.distribute(
        model, mode=case.mode, posture=case.compile, dtype=case.dtype, device=device, seed=case.seed
    )
    step = make_step(
        module,
        parallel.make_optimizer(module, recipe, device),
        autocast=parallel.autocasts(case.mode, case.dtype),
        device=device,
    )

    beacon.enter("load")
    loader, hot_path = open_loader(session, recipe.vocab)
    facts |= rank_facts(device, module, parameters, rank=session.rank, world_size=session.world_size)
    made_up = isinstance(loader, SyntheticLoader)
    source = observed("synthetic" if made_up else "shards", "type of the loader in use").to_json()
    facts |= {**hooks, **hot_path.opened(), "token_source": source, "prewarm": prewarmed}
    session.write_observed(facts)

    def warmed_up() -> None:
        report_cache_use(session, facts)
        hot_path.window_opens()

    consumed = measured_loop(session, step, loader, device, warmed_up)
    watched = hot_path.window_closed()
    end = {**end_marker(session, consumed, device), "data_path": watched}
    # Only after success: on the way out of a failure it could wait for ranks that are gone, and hide the failure.
    dist.destroy_process_group()
    session.write_end(end)


def meet(session: RankSession, recipe: Preset, device: torch.device) -> dict[str, Any]:
    """Connect, compile ahead where the policy says so, wait for all ranks, and form the process group, in this order.

    The store's timeout is the run's wall limit; the group has the short one from the start. A port that nobody listens
    on is found out before anything is compiled.

    Returns:
        What became of compiling ahead (`lanemark.stack.prewarm`).
    """
    from lanemark.lanes.prewarm import prewarm_plan
    from lanemark.stack import parallel
    from lanemark.stack.prewarm import BARRIER, prewarm

    case, beacon, rank, world_size = session.case, session.beacon, session.rank, session.world_size
    store = parallel.open_store(
        rank=rank,
        world_size=world_size,
        host=os.environ.get("MASTER_ADDR", _DEFAULT_HOST),
        port=int(os.environ["MASTER_PORT"]),
        listen_fd=session.listen_fd,
        timeout_s=case.wall_s,
    )
    prewarmed = prewarm(prewarm_plan(case, cuda=device.type == "cuda"), case, recipe, device, beacon)
    if prewarmed["done"]:
        beacon.enter("prewarm", BARRIER)
    parallel.meet(store, "start", world_size=world_size)
    beacon.enter("init_process_group")
    parallel.init_process_group(device, store, rank=rank, world_size=world_size, timeout_s=case.collective_timeout_s)
    return prewarmed


def open_loader(session: RankSession, vocab: int) -> tuple[Loader, HotPath]:
    """This rank's token source, and the watch over the files it has open (over none, for made-up tokens).

    Which of the two it is follows from the case; a case of shards without a data directory is refused, never replaced.
    """
    from lanemark.observe.hot_path import HotPath
    from lanemark.observe.mds import MdsSet
    from lanemark.observe.packed import PackedSet, open_tokens
    from lanemark.records.errors import DataError
    from lanemark.stack.loader import ShardLoader, SyntheticLoader

    case = session.case
    if case.data.kind == "synthetic":
        made_up = SyntheticLoader(vocab=vocab, rank=session.rank, world_size=session.world_size, seed=case.seed)
        return made_up, HotPath([], scratch=session.paths.root)
    if session.data_dir is None:
        raise DataError(
            "data-missing", "the case asks for shards and no data directory was given", "name it with --data"
        )
    shards = open_tokens(session.data_dir)
    watch = HotPath([shard.path for shard in shards.shards], scratch=session.paths.root)
    asked = {
        "vocab": vocab, "sequence": case.sequence, "micro_batch": case.micro_batch, "grad_accum": case.grad_accum,
        "rank": session.rank, "world_size": session.world_size, "seed": case.seed,
    }  # fmt: skip
    if isinstance(shards, MdsSet):
        from lanemark.stack.mds import MdsLoader

        return MdsLoader(shards, **asked), watch
    if isinstance(shards, PackedSet):
        from lanemark.stack.packed import PackedLoader

        return PackedLoader(shards, **asked), watch
    return ShardLoader(shards, **asked), watch


@dataclass
class Consumed:
    """What the loop took in: each step's loss, still on the device, and its tokens; warm-up included.

    `windows` are those of each step's batches, as the loader named them, and `sequences` how many an epoch has.
    """

    losses: list[Tensor]
    tokens: list[int]
    windows: list[Sequence[int]] = field(default_factory=list)
    sequences: int = 0


def measured_loop(
    session: RankSession,
    step: TrainStep,
    loader: Loader,
    device: torch.device,
    warmed_up: Callable[[], None],
) -> Consumed:
    """Warm up, call `warmed_up`, open the window, measure, close it.

    Raises:
        RuntimeError: "Detected recompile …", where a compiled call of the window would have to compile again. A
            backward that was never run in the warm-up is still compiled, and its time shows in the samples.
    """
    import torch.compiler
    import torch.distributed as dist

    from lanemark.measure.device import device_clock
    from lanemark.stack.prefetch import Prefetch

    case, recorder = session.case, session.recorder(stamps_data=True)
    ahead = Prefetch(
        loader, steps=case.steps, grad_accum=case.grad_accum, micro_batch=case.micro_batch, sequence=case.sequence,
        device=device,
    )  # fmt: skip
    # Objects made so far live to the end: keeping the collector from walking them makes its pauses short ones.
    gc.collect()
    gc.freeze()
    consumed = Consumed([], [], ahead.windows, loader.num_sequences)
    clocks = [device_clock(device.type), device_clock(device.type)]  # one for the warm-up, one for the window
    recorder.begin()
    with ahead:
        for clock, steps in zip(clocks, (range(case.warmup), range(case.warmup, case.steps)), strict=True):
            if steps.start == case.warmup:
                clock.synchronize()
                warmed_up()
                if case.compile != "eager":
                    torch.compiler.set_stance("fail_on_recompile")
                dist.barrier()
                recorder.open_window()
            run_steps(steps, consumed, take=ahead.take, step=step, recorder=recorder, clock=clock)
    clocks[1].synchronize()
    dist.barrier()
    recorder.close_window()
    device_ns = [ns for clock in clocks for ns in clock.step_ns()]
    if device_ns:
        recorder.record_device_times(device_ns)
    return consumed


def run_steps(
    steps: range,
    consumed: Consumed,
    *,
    take: TakeBatches,
    step: TrainStep,
    recorder: StepRecorder,
    clock: DeviceClock,
) -> None:
    """The hot loop: take the step's batches, train on them, stamp. Its overhead is held by `training.loop_vs_bare`."""
    clock.mark_step()
    for step_index in steps:
        batches = take(step_index)
        recorder.data_ready()
        consumed.tokens.append(sum(inputs.numel() for inputs, _ in batches))
        consumed.losses.append(step(batches))
        clock.mark_step()
        recorder.end_step()


def end_marker(session: RankSession, consumed: Consumed, device: torch.device) -> dict[str, Any]:
    """`end.json`: losses averaged over the ranks, tokens and windows this rank consumed, memory peaks, compilations."""
    import torch
    import torch.distributed as dist

    from lanemark.lanes.windows import sum_of
    from lanemark.measure.cache_use import cache_use
    from lanemark.measure.peaks import memory_peaks

    mean = torch.stack(consumed.losses).float().to(device)
    dist.all_reduce(mean)  # a sum: one rank's NaN or infinity stays one in everybody's mean
    values = [value / session.world_size for value in mean.tolist()]
    finite = bool(torch.isfinite(mean).all())
    source = "cross-entropy of the step, mean over all ranks"

    def loss(index: int) -> dict[str, Any]:
        if values[index] - values[index] == 0.0:  # false for infinities and NaN
            return observed(values[index], source).to_json()
        return unavailable(source, f"the loss of step {index % len(values)} is not a finite number").to_json()

    measured = [window for step in consumed.windows[session.case.warmup :] for window in step]
    windows = {"windows": {"count": len(measured), "sum": sum_of(measured), "sequences": consumed.sequences}}
    return {
        "rank": session.rank,
        "losses": {"first": loss(0), "last": loss(-1), "finite": observed(finite, f"{source}, every step").to_json()},
        "tokens": sum(consumed.tokens[session.case.warmup :]),
        **(windows if consumed.sequences else {}),
        "tokens_warmup": sum(consumed.tokens[: session.case.warmup]),
        "memory": memory_peaks(),
        "compilations": session.beacon.compilations,
        "compile_ns": session.beacon.compile_ns,
        "compile_cache": cache_use(os.environ, compiled=session.case.compile != "eager"),
    }


def report_cache_use(session: RankSession, facts: dict[str, Any]) -> None:
    """Rewrite `observed.json` with what this rank used of the compile cache so far."""
    from lanemark.measure.cache_use import cache_use

    word = cache_use(os.environ, compiled=session.case.compile != "eager")
    session.write_observed({**facts, "compile_cache": word})


def main() -> int:
    """Open the session from the environment and train. What goes wrong is in `error.json`, and raised.

    Only then does a rank that failed say what it used of the compile cache: what it raised matters more, and there may
    be no time for both.
    """
    facts: dict[str, Any] = {}
    session = RankSession.from_environment(os.environ)
    try:
        with session:
            train(session, facts)
    except Exception:
        if facts:
            with contextlib.suppress(OSError):
                report_cache_use(session, facts)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
