"""The rank program of the sparse lane: `python -m lanemark.stack.sparse_rank`, one process, one device.

For every case of the set it draws the tensors once, computes the float64 references, and takes each backend in turn.
The beacon says where it is: import → build → warmup (a case's references) → window (a backend over a case, named in
its label) → drain → done.

It leaves `observed.json`, then `result.json` (what was seen of every backend), `bench_telemetry.json` (every name that
the profiler saw) and `backend_identity.json` (what follows from it, by the same pure function that the record is built
with), and `end.json` as its last act.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Any

from lanemark.measure.durable import replace_file
from lanemark.measure.session import RankSession
from lanemark.observe.clock import stamp
from lanemark.records.encoding import encode
from lanemark.records.observation import Observation, absent, observed, unavailable
from lanemark.records.questions import SparseAsked

if TYPE_CHECKING:
    import torch

RESULT_FORMAT = 1


def bench(session: RankSession) -> None:
    """Run the case of this session on this rank, from import to end marker."""
    asked, beacon = session.case.sparse, session.beacon
    if asked is None:
        raise ValueError("the case has no question of the sparse lane")
    beacon.enter("import")
    from lanemark.lanes.sparse_identity import BASELINE
    from lanemark.measure.cache_use import cache_use
    from lanemark.measure.compiling import watch_compilations
    from lanemark.measure.peaks import memory_peaks
    from lanemark.stack.sparse.bench import expect, measure, selectors
    from lanemark.stack.sparse.problem import draw_problem

    hooks = {"compile_hooks": watch_compilations(beacon), "control_plane": session.open_to_looks()}
    beacon.enter("build")
    device = choose_device(session.case.gpu)
    facts = {**worker_facts(session, device), **hooks}
    session.write_observed(facts)
    switches, found = selectors(os.environ), list[dict[str, Any]]()
    for case in asked.cases:
        beacon.enter("warmup", case.name)
        problem = draw_problem(case, device)
        expected = expect(problem, dense=BASELINE in asked.backends)
        for backend in dict.fromkeys(asked.backends):
            place = f"{backend} {case.name}"
            seen = measure(
                case, backend, problem, expected, asked, environ=os.environ,
                enter=lambda what, place=place: beacon.enter("window", f"{place}: {what}"),  # type: ignore[misc]
            )  # fmt: skip
            found.append(seen)
        # After every case, so that a run that is ended half-way leaves what it saw.
        write_results(session, asked, found, switches)
    beacon.enter("drain")
    facts["compile_observed"] = posture(session).to_json()
    session.write_observed(facts)
    used = cache_use(os.environ, compiled=session.case.compile != "eager")
    session.write_end({"rank": session.rank, "completed_at": stamp(), "memory": memory_peaks(), "compile_cache": used})


def choose_device(gpu: str) -> torch.device:
    """A CUDA device where there is one and the case does not ask for a CPU."""
    import torch

    return torch.device("cuda", 0) if gpu != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def posture(session: RankSession) -> Observation[str]:
    """What was compiled, as the compiler's callbacks saw it: one function at a time, or nothing."""
    source = "compilations counted by the beacon"
    return observed("regional" if session.beacon.compilations else "eager", source)


def worker_facts(session: RankSession, device: torch.device) -> dict[str, Any]:
    """What this worker saw of itself, for `observed.json`."""
    import torch.distributed as dist

    from lanemark.measure.torch_facts import device_facts, torch_facts

    alone = not (dist.is_available() and dist.is_initialized())
    source = "torch.distributed.is_initialized"
    grouped: Observation[Any] = unavailable(source, "a process group was formed, and this lane forms none")
    seen = device_facts(device)
    return {
        "rank": session.rank,
        "world_size": session.world_size,
        "pid": os.getpid(),
        **seen,
        **torch_facts(),
        "backend": (absent(source, "no process group was formed") if alone else grouped).to_json(),
        "mode_observed": (observed("single", source) if alone else grouped).to_json(),
        "world_size_observed": (observed(1, source) if alone else grouped).to_json(),
        "token_source": observed("synthetic", "inputs drawn in memory by this rank").to_json(),
        "remote": remote_facts(seen),
    }


def remote_facts(seen: dict[str, Any]) -> dict[str, Any]:
    """The worker as it names itself: host, interpreter, architecture, and the Lanemark that runs here."""
    from lanemark.observe.source import lanemark_digest

    capability = seen["compute_capability"]
    arch: Observation[str] = observed(platform.machine(), "uname")
    if capability["status"] == "observed":
        arch = observed("sm_" + capability["value"].replace(".", ""), "torch.cuda.get_device_properties")
    elif capability["status"] == "unavailable":
        arch = Observation.from_json(capability)
    return {
        "worker": observed(platform.node() or "unnamed", "uname").to_json(),
        "python": observed(platform.python_version(), "sys.version").to_json(),
        "arch": arch.to_json(),
        "lanemark_digest": lanemark_digest().to_json(),
    }


def write_results(
    session: RankSession, asked: SparseAsked, found: list[dict[str, Any]], selectors: list[dict[str, Any]]
) -> None:
    """Leave the three files. Every name that was seen goes into one of them, the telling ones into the record."""
    from lanemark.lanes.sparse_record import results

    listed = [{name: value for name, value in seen.items() if name != "all_names"} for seen in found]
    session.write_result({"format": RESULT_FORMAT, "selectors": selectors, "results": listed})
    calls = [
        {name: seen[name] for name in ("case", "backend", "telemetry", "all_names") if name in seen} for seen in found
    ]
    replace_file(session.paths.telemetry, encode({"format": RESULT_FORMAT, "selectors": selectors, "calls": calls}))
    concluded = results(asked, listed)
    identities = [{"case": each["case"]["name"], **each["backend_identity"]} for each in concluded]
    replace_file(session.paths.identity, encode({"format": RESULT_FORMAT, "identities": identities}))


def main() -> int:
    """Open the session from the environment and measure. What goes wrong is in `error.json`, and raised."""
    with RankSession.from_environment(os.environ) as session:
        bench(session)
    return 0


if __name__ == "__main__":
    sys.exit(main())
