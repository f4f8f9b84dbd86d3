"""`lanemark run LANE`: gates, then one attempt from prepared to sealed, then its record on the screen."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lanemark.cli.artifacts import add_artifacts, resolve_artifacts, with_artifacts
from lanemark.cli.asked import Asked, add_arguments, parsed, understand
from lanemark.cli.deciding import Decided, decide
from lanemark.cli.gates import command_exists, compiler, devices, disk_room, home_writable, training_stack
from lanemark.cli.parsing import advise, home, parser, print_json
from lanemark.cli.progress import Bar
from lanemark.cli.repeating import add_repeating, is_asked, joined, repeat
from lanemark.cli.warming import keeper, warm_up_cache
from lanemark.collect.conduct import Conducted, conduct
from lanemark.collect.preparing import Attempt, prepare
from lanemark.collect.retrying import with_one_retry
from lanemark.collect.signals import StopSignals
from lanemark.launch.command import local_surface
from lanemark.launch.supervise import Tick
from lanemark.ledger.location import open_ledger
from lanemark.observe.packages import cxx_facts
from lanemark.records.attempt import Home
from lanemark.records.case import Case
from lanemark.records.encoding import decode
from lanemark.records.errors import UsageError
from lanemark.records.finding import Finding


def main(args: list[str]) -> int:
    """Run one benchmark. Exit 0 done and healthy, 1 the run failed (a record exists), 2 bad input, 4 a gate refused."""
    verb = parser(
        "run", "Run a benchmark and leave one sealed record; in the promotion lane one for each case of a wave."
    )
    add_arguments(verb)
    add_artifacts(verb)
    add_repeating(verb)
    verb.add_argument(
        "--detach", action="store_true", help="check all, launch, and leave; `lanemark collect` has the record"
    )
    verb.add_argument("--json", action="store_true", help="print run id, record id, path and state as JSON")
    options = parsed(verb, joined(args))
    if options.lane == "promotion" and is_asked(options):
        raise UsageError(
            "value-invalid", "the promotion lane repeats its calls itself and has nothing that could be compared",
            "leave --repeat and --against out",
        )  # fmt: skip
    if options.join is not None and options.command and not is_asked(options) and not options.detach:
        from lanemark.cli.joining import join

        return join(options.join, options.command, as_json=options.json)
    if is_asked(options):
        return repeat(args, options, verb)
    if options.lane == "promotion":
        from lanemark.cli.wave import run_wave

        return run_wave(options, args, ["lanemark", "run", *args])
    asked = understand(options)
    place = home()
    open_ledger(place)  # a location that names no ledger is refused now, and not when the record is made
    argv = ["lanemark", "run", *args]
    if asked.rental is not None:
        from lanemark.cli.leaving import report
        from lanemark.cli.renting import rent, wait_for

        there = rent(asked, place, argv=argv, artifacts=resolve_artifacts(options.artifacts, place))
        if options.detach:
            return report(there.manifest, place, as_json=options.json)
        return _report(wait_for(place, there.manifest.run_id, there.interrupted_by), as_json=options.json)
    decided = prepare_run(asked, place, args)
    artifacts = resolve_artifacts(options.artifacts, place)
    if options.detach:
        from lanemark.cli.leaving import leave, report

        return report(leave(decided, place, argv=argv, artifacts=artifacts), place, as_json=options.json)
    done = run(decided, place, argv=argv, artifacts=artifacts)
    return _report(done, as_json=options.json)


def prepare_run(asked: Asked, place: Home, words: list[str]) -> Decided:
    """Pass every gate and close what the arguments left open. `words` are the arguments, for advice.

    Raises:
        GateRefused: with the command that would satisfy it.
        DataError: the data cannot be used.
    """
    home_writable(place)
    if asked.case.script is None:
        training_stack()
    else:
        command_exists(asked.case.command[0])
    disk_room(place)
    decided = decide(asked, place, build=True)
    gpu = decided.devices
    devices(decided.case, gpu["device_class"], gpu["device_count"])
    if asked.case.script is None:
        compiler(decided.case, cxx_facts().to_json(), on_gpu=gpu["device_class"].status == "observed")
    return warm_up_cache(decided, words)


def run(
    decided: Decided,
    place: Home,
    *,
    argv: list[str],
    artifacts: Mapping[str, Any] = MappingProxyType({}),
    wave: str | None = None,
) -> Conducted:
    """Prepare and conduct one attempt in this process, with progress on stderr and signals turned into an ending.

    Args:
        decided: the case with nothing open.
        place: the home.
        argv: the command line, as it stands in the record.
        artifacts: what is pinned of the image's wheels and other artifacts.
        wave: the wave that the attempt belongs to, where there is one.
    """
    case, placement = decided.case, decided.placement
    data = with_artifacts(decided.tokens.doc, artifacts)
    kept = {"cwd": os.getcwd()} if wave is None else {"cwd": os.getcwd(), "wave": wave}
    if placement.data_dir is not None:
        kept["data_dir"] = str(placement.data_dir)
    if placement.cache_dir is not None:
        kept["cache_dir"] = str(placement.cache_dir)
    with StopSignals() as stop:

        def once(findings: tuple[Finding, ...]) -> Conducted:
            attempt = prepare(place, case, argv=argv, placement=kept, data=data, hold=True)
            advise(f"lanemark: {attempt.paths.run_id}: {asked_in_words(case)}")
            watcher = Watcher(attempt)
            try:
                return conduct(
                    place, attempt, local_surface(case), placement, environ=os.environ, on_tick=watcher.tick,
                    interrupted=stop, on_named=watcher.named, start=decided.start, findings=findings,
                    keep_cache=keeper(decided, attempt),
                )  # fmt: skip
            finally:
                watcher.close()

        return with_one_retry(once, interrupted=stop, announce=lambda line: advise(f"lanemark: {line}"))


def asked_in_words(case: Case) -> str:
    """What a case asks, for one line of progress."""
    if case.sparse is not None:
        return f"{case.preset}, {len(case.sparse.cases)} cases, {', '.join(case.sparse.backends)}"
    if case.promotion is not None:
        asked = case.promotion
        return f"{asked.candidate}, {case.dtype}, {asked.direction}, {len(asked.cases)} cases"
    if case.script is not None:
        window = f"{case.measured_steps} steps after {case.warmup} of warm-up"
        return f"{shlex.join(case.command)[:120]}, {case.nproc} ranks, {window}"
    return f"{case.preset}, {case.nproc} ranks, {case.mode}, {case.compile}, {case.dtype}"


class Watcher:
    """Turns the supervisor's looks at the ranks into one line of progress."""

    def __init__(self, attempt: Attempt) -> None:
        self._case = attempt.case
        self._run_id = attempt.paths.run_id
        self._bar: Bar | None = None
        self._started_s = time.monotonic()

    def tick(self, seen: Tick) -> None:
        """One look. The bar is made at the first one, after the ranks were forked: it brings a thread with it."""
        if self._bar is None:
            self._bar = Bar("running")
            self._bar.__enter__()
        self._bar.line(self._text(seen))

    def named(self, finding: Finding) -> None:
        """Tell at once what the ranks are found to hang in. The run goes on: it may still recover."""
        kind = finding.kind.replace("_", " ")
        text = f"{finding.summary}: {kind}; see `lanemark doctor {self._run_id}`"
        if self._bar is not None:
            self._bar.say(text)

    def _text(self, seen: Tick) -> str:
        pages = [page for page in seen.beacons if page is not None]
        if not pages:
            return "starting the ranks"
        slowest = min(pages, key=lambda page: (page.step, page.sequence))
        if not self._case.takes_steps:
            return f"{slowest.phase.replace('_', ' ')} {slowest.label}".strip()
        total = self._case.steps
        compiling = [page.rank for page in pages if page.phase == "compile"]
        if compiling:
            ranks = ", ".join(map(str, sorted(compiling)))
            return f"compiling on rank {ranks}, step {max(slowest.step, 0)} of {total}"
        if slowest.phase in ("warmup", "window") or slowest.step > 0:
            where = "warm-up" if slowest.step < self._case.warmup else "measuring"
            return f"{where}, step {min(slowest.step, total)} of {total}"
        phases = sorted({page.phase for page in pages})
        return ", ".join(phase.replace("_", " ") for phase in phases)

    def close(self) -> None:
        """Take the line off the screen."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def _report(done: Conducted, *, as_json: bool) -> int:
    from lanemark.cli.show import rendered

    predicate: dict[str, Any] = decode(done.record.data)["predicate"]
    outcome = predicate["outcome"]
    for line in (*((done.notice,) if done.notice is not None else ()), *done.cache_notices):
        advise(f"lanemark: {line}")
    if as_json:
        doc = {
            "run_id": predicate["run_id"],
            "record_id": done.record.id,
            "record_path": str(done.record_path),
            "state": outcome["state"],
            "receipt": outcome["receipt"],
            "receipt_reason": outcome["receipt_reason"],
            "appended": done.manifest.appended,
        }
        if done.cache_notices:
            doc["cache"] = list(done.cache_notices)
        if "first_cause" in outcome:
            doc["first_cause"] = outcome["first_cause"]
        print_json(doc)
    else:
        try:
            print(rendered(done.record.id, predicate))
        except Exception as error:
            advise(f"lanemark: the record is sealed but could not be rendered ({type(error).__name__}: {error})")
            print(f"{done.record.id}  {outcome['state']}  {outcome['receipt_reason']}")
    if outcome["state"] != "ok":
        cause = outcome.get("first_cause", {}).get("summary", outcome["receipt_reason"])
        slug = "run-cancelled" if outcome["state"] == "cancelled" else "run-failed"
        print(f"lanemark: {cause}; see `lanemark doctor {predicate['run_id']}`. [{slug}]", file=sys.stderr)
    return 0 if outcome["state"] == "ok" and outcome["receipt"] else 1
