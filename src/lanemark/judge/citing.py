"""The narrowest honest sentence that a record supports, or why it supports none. Pure.

A figure without its circumstances is a rumor, so that the sentence carries all of them: lane, recipe and pattern, ranks
and mode, compile posture, precision, the hardware that was *observed*, surface, start-up state, data path, window, the
interval within the run, date and digest. Whatever is missing among them refuses the sentence; it is not left out of it.

A caveat that belongs beside the figure is part of the sentence. What the record does not prove is not: `lanemark show`
lists it, and `lanemark.judge.claims` notices a text that claims it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from lanemark.judge.admission import Admitted
from lanemark.judge.interval import Interval, within_run
from lanemark.lanes.counted import window_tokens
from lanemark.lanes.presets import PRESETS
from lanemark.lanes.rule import Doc
from lanemark.records.observation import value_of
from lanemark.records.reading import printable

#: More results than this make no sentence: the record is to be shown instead.
MOST_RESULTS: Final = 6
_POSTURES: Final = {"eager": "eager", "regional": "regionally compiled", "model": "compiled whole"}
_STARTS: Final = {
    "cold": "cold start", "warm": "warm start", "partly_warm": "partly warm start", "seeded": "seeded start",
    "image_seed": "start seeded from the image", "snapshot_restored": "start from a memory snapshot",
    "long_lived": "start on a long-lived host", "not_compiled": "nothing to compile at the start",
}  # fmt: skip
_PATHS: Final = {
    "object_mount": "tokens read through an object-store mount",
    "network_volume": "tokens read from a network volume",
    "local_disk": "tokens read from local disk",
    "ram": "tokens read from memory",
    "page_cache": "tokens read from the page cache",
    "mixed": "tokens read over different paths",
    "synthetic": "synthetic tokens, so that no data path was measured",
}


@dataclass(frozen=True)
class Citation:
    """A sentence and its parts.

    Attributes:
        lane: the lane.
        subject: what ran.
        circumstances: on what and from where, each a phrase.
        figure: the result, the shortest form of it.
        basis: what the result was taken over.
        caveats: what must be said in the same breath.
        date: the day on which the record was sealed, UTC.
        record_id: the whole digest.
    """

    lane: str
    subject: str
    circumstances: tuple[str, ...]
    figure: str
    basis: str
    caveats: tuple[str, ...]
    date: str
    record_id: str

    @property
    def digest(self) -> str:
        """The digest as it is quoted: enough of it to find the record."""
        return self.record_id[:19]

    @property
    def sentence(self) -> str:
        """One line of plain text."""
        head = ", ".join((f"{self.lane} lane: {self.subject}", *self.circumstances))
        tail = "".join(f"; {caveat}" for caveat in self.caveats)
        basis = f", {self.basis}" if self.basis else ""
        return printable(f"{head}: {self.figure}{basis}{tail}; sealed {self.date}, {self.digest}.")

    @property
    def markdown(self) -> str:
        """The same with the figure set off. Nothing from the record is read as markup."""
        head = ", ".join((f"{self.lane} lane: {self.subject}", *self.circumstances))
        rest = "".join(f"; {caveat}" for caveat in (*((self.basis,) if self.basis else ()), *self.caveats))
        parts = [_escaped(printable(text)) for text in (head, self.figure, rest)]
        return f"{parts[0]}: **{parts[1]}**{parts[2]}; sealed {self.date}, `{self.digest}`."

    def to_json(self) -> dict[str, Any]:
        """As `cite --json` prints it."""
        return {
            "record_id": self.record_id, "lane": self.lane, "subject": self.subject, "figure": self.figure,
            "circumstances": list(self.circumstances), "basis": self.basis, "caveats": list(self.caveats),
            "date": self.date, "sentence": self.sentence,
        }  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why a record supports no sentence, one clause each."""

    reasons: tuple[str, ...]


def cite(record: Admitted) -> Citation | Refusal:
    """The sentence, or why there is none. Never raises."""
    blocks = [reason.alone for reason in record.reasons if reason.severity == "block"]
    if blocks:
        return Refusal(tuple(printable(block) for block in blocks))
    doc = record.predicate
    needed = _NEEDED_OF_A_COMMAND if "script" in doc["case"] else _NEEDED.get(record.lane, ())
    missing = [f"{path}: not observed" for path in needed if _seen(doc, path) is None]
    if missing:
        return Refusal(tuple(missing))
    if record.lane == "training":
        return _training(record, doc)
    if record.lane == "sparse":
        return _sparse(record, doc)
    return _promotion(record, doc)


#: What has to be observed before a lane's figure may be said at all: without one of these the sentence would be wider
#: than what was seen.
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "training": (
        "hardware.observed.device_class", "hardware.observed.device_count", "distributed.observed.world_size",
        "distributed.observed.mode", "compile.observed.posture", "startup.state", "data.path_class",
        "training.tokens_per_s",
    ),
    "sparse": ("hardware.observed.device_class", "startup.state"),
    "promotion": ("hardware.observed.device_class", "promotion.scope.arch"),
}  # fmt: skip

#: Of a command's record, less is observed: its sentence says which part is not, and is no wider for it.
_NEEDED_OF_A_COMMAND: Final = (
    "hardware.observed.device_class", "hardware.observed.device_count", "distributed.observed.world_size",
    "startup.state", "training.script.measured_by", "training.script.steps_per_s",
)  # fmt: skip
_WAYS: Final = {
    "marks": "steps counted by marks in the script", "callback": "steps counted by a callback of its framework",
    "hooks": "steps counted by its optimizer's",
}  # fmt: skip


def _seen(doc: Doc, path: str) -> Any:
    node: Any = doc
    for step in path.split("."):
        node = node[step]
    return value_of(node)


def device_phrase(doc: Doc) -> str:
    """The hardware as it was observed, with the request where it was another."""
    seen = doc["hardware"]["observed"]
    kind, number = value_of(seen["device_class"]), value_of(seen["device_count"])
    if kind == "cpu":
        model, cores = value_of(seen["cpu_model"]), value_of(seen["cpu_usable"])
        name = f"a host CPU ({model})" if model else "a host CPU"
        return f"on {name} observed" + (f", {cores} usable cores" if cores else "")
    return f"on {number} × {kind} observed"


def interval_of(doc: Doc) -> Interval | None:
    """The 95 % interval of a training run's throughput within its window: tokens a second, or steps of a command that
    counted no tokens.

    None where the steps are too few, or so uneven that their mean could be anything.
    """
    training = doc["training"]
    found = within_run([value / 1e9 for value in training["samples"]["measured"]])
    if found is None or found.low <= 0.0:
        return None
    counted = window_tokens(training)
    tokens = 1.0 if counted is None else counted / len(training["samples"]["measured"])
    return Interval(tokens / found.high, tokens / found.low, tokens / found.mean, found.effective, found.method)


def rate(value: float) -> str:
    """Tokens a second as they are quoted."""
    return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.3g} tok/s"


def _of_command(doc: Doc) -> str:
    """What ran, of a command of the user's own: its script, and what was observed of it."""
    command, seen = doc["case"]["command"], doc["distributed"]["observed"]
    name = next((word for word in command[1:] if word.endswith((".py", ".sh"))), command[0])
    mode, posture = value_of(seen["mode"]), value_of(doc["compile"]["observed"]["posture"])
    dtypes = value_of(doc["training"]["script"]["parameter_dtypes"])
    words = (
        f"own script {os.path.basename(name)}", _plural(value_of(seen["world_size"]), "rank"),
        mode or "mode not observed", _POSTURES.get(posture, posture or "compile posture not observed"),
        f"{' and '.join(dtypes)} parameters" if dtypes else "precision not observed",
        _WAYS[value_of(doc["training"]["script"]["measured_by"])],
    )  # fmt: skip
    return ", ".join(words)


def _training(record: Admitted, doc: Doc) -> Citation:
    of_command = "script" in doc["case"]
    case, distributed = doc["case"], doc["distributed"]["observed"]
    recipe = PRESETS.get(case["preset"])
    pattern = f" ({recipe.pattern} pattern)" if recipe is not None else ""
    ranks = value_of(distributed["world_size"])
    posture = value_of(doc["compile"]["observed"]["posture"])
    subject = (
        _of_command(doc)
        if of_command
        else (
            f"{case['preset']}{pattern}, {_plural(ranks, 'rank')}, {value_of(distributed['mode'])}, "
            f"{_POSTURES.get(posture, posture)}, {case['dtype']}, sequence {case['sequence']}"
        )
    )
    state, path = value_of(doc["startup"]["state"]), value_of(doc["data"]["path_class"])
    circumstances = (
        device_phrase(doc), f"{doc['surface']['name']} surface", _STARTS.get(state, f"{state} start"),
        "data path not observed" if path is None else _PATHS.get(path, "tokens read over a path of unknown class"),
    )  # fmt: skip
    window, interval = doc["training"]["window"], interval_of(doc)
    basis = (
        f"global batch, mean of {_plural(window['measured'], 'measured step')} after "
        f"{_plural(window['warmup'], 'warm-up step')}"
    )
    if interval is None:
        basis += ", steps too few or too uneven for an interval"
    else:
        ends = (interval.low, interval.high)
        low, high = (
            (f"{end:,.0f}" if end >= 100 else f"{end:.4g}" for end in ends)
            if of_command
            else (f"{end:,.0f}" for end in ends)
        )
        basis += f", 95 % interval within this one run {low} to {high}"
    caveats = _caveats(record)
    if interval is not None and interval.few:
        caveats = (f"no more than {interval.effective:.0f} independent steps", *caveats)
    tokens = value_of(doc["training"]["tokens_per_s"])
    if tokens is None:
        figure = f"{value_of(doc['training']['script']['steps_per_s']):.4g} steps/s"
        basis = basis.replace("global batch, ", "tokens not counted, ")
    else:
        figure = rate(float(tokens))
    return Citation("training", subject, circumstances, figure, basis, caveats, _day(doc), record.id)


def _sparse(record: Admitted, doc: Doc) -> Citation | Refusal:
    results = doc["sparse"]["results"]
    if not results or len(results) > MOST_RESULTS:
        return Refusal((f"{len(results)} results make no sentence: `lanemark show` lists them",))
    said = []
    for result in results:
        identity, latency = result["backend_identity"], value_of(result["latency"])
        actual, mode = value_of(identity["actual"]), value_of(identity["runtime_mode"])
        ran = f"{actual}" + (f" ({mode})" if mode else "")
        fallback = value_of(identity["fallback_reason"])
        why = f" because {fallback}" if fallback else ""
        asked = "" if actual == identity["requested"] else f", {identity['requested']} asked for"
        time = "" if latency is None else f", median {latency['p50'] / 1e6:.3g} ms of {len(latency['samples'])} calls"
        said.append(f"{result['case']['name']}: {ran} ran{asked}{why}{time}")
    basis = "isolated calls without autograd, parity against float64; no training throughput follows"
    circumstances = (device_phrase(doc), f"{doc['surface']['name']} surface")
    subject = f"case set {doc['case']['preset']}"
    figure = "; ".join(said)
    return Citation("sparse", subject, circumstances, figure, basis, _caveats(record), _day(doc), record.id)


def _promotion(record: Admitted, doc: Doc) -> Citation:
    part = doc["promotion"]
    scope = part["scope"]
    subject = f"candidate {part['candidate']['name']} ({part['mode']}), {scope['direction']}, {scope['dtype']}"
    circumstances = (f"on {value_of(scope['arch'])}", device_phrase(doc), f"{doc['surface']['name']} surface")
    ready = "ready for promotion" if part["promotion_ready"] is True else "not ready for promotion"
    figure = f"{ready}, state {part['state']} ({part['state_reason']}), status {part['promotion_status']}"
    held = sum(1 for rung in part["ladder"] if rung["held"] is True)
    basis = (
        f"{held} of {len(part['ladder'])} rungs held, {_plural(len(part['parity']), 'parity case')}; no speed follows"
    )
    return Citation("promotion", subject, circumstances, figure, basis, _caveats(record), _day(doc), record.id)


def _caveats(record: Admitted) -> tuple[str, ...]:
    """What the record's own caveats say, in words for a sentence."""
    said = []
    for reason in record.reasons:
        if reason.code == "GPU_SUBSTITUTED":
            said.append(f"{record.predicate['case']['gpu']} was requested and not served")
        elif reason.code == "UNCOMMITTED_SOURCE":
            said.append("source with uncommitted changes")
        elif reason.code == "STEADINESS_UNKNOWN":
            said.append("too few steps to tell whether it was steady")
        elif reason.code in ("NOT_AS_REQUESTED", "RECORD_CAVEAT"):
            said.append(reason.detail)
    return tuple(dict.fromkeys(said))


def _day(doc: Doc) -> str:
    return str(doc["times"]["sealed_at"])[:10]


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _escaped(text: str) -> str:
    """Text in which no character is markup in Markdown or HTML."""
    out = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "\\`*_[]|~#" else char for char in out)
