"""The sentence at the top: the narrowest honest one, or the plain statement that there is no figure. Pure.

A throughput may be quoted only when every one of these holds: the run ended well, its lane gave it a receipt, and the
figure itself was observed. A figure taken on made-up tokens says so in the same breath. The check is made here again,
although the lane's rules already made it when the record was sealed, because a report is what people paste elsewhere:
it fails closed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import plain
from lanemark.report.quantities import plural, throughput, visible


@dataclass(frozen=True)
class Receipt:
    """Whether the lane's figure may be quoted, and why.

    Attributes:
        quotable: true only when nothing speaks against quoting.
        label: two or three words for a badge.
        reason: one clause, either way.
    """

    quotable: bool
    label: str
    reason: str


@dataclass(frozen=True)
class Headline:
    """The sentence and its parts.

    Attributes:
        subject: what ran where, with requested → observed.
        figure: the throughput, or the words `no throughput receipt`.
        qualifier: what the figure was taken over, or why there is none.
        receipt: whether the figure may be quoted.
    """

    subject: str
    figure: str
    qualifier: str
    receipt: Receipt

    @property
    def claim(self) -> str:
        return f"{self.figure} {self.qualifier}" if self.receipt.quotable else f"{self.figure}: {self.qualifier}"

    @property
    def sentence(self) -> str:
        return f"{self.subject}: {self.claim}"


def is_synthetic(predicate: Mapping[str, Any]) -> bool:
    """Whether the tokens were made up, by what was asked or by what was seen."""
    data = predicate["data"]
    return "synthetic" in (data["requested"]["kind"], value_of(data["path_class"]))


def receipt_of(predicate: Mapping[str, Any]) -> Receipt:
    """Decide whether the throughput may be shown. Any doubt is a no, with its reason."""
    outcome = predicate["outcome"]
    cause = outcome.get("first_cause")
    why = visible(outcome["receipt_reason"])
    if outcome["state"] != "ok":
        return Receipt(quotable=False, label="No receipt", reason=visible(cause["summary"]) if cause else why)
    if predicate["data"]["requested"]["kind"] == "shards" and is_synthetic(predicate):
        return Receipt(
            quotable=False, label="No receipt", reason="shards were requested and synthetic tokens were seen"
        )
    if not outcome["receipt"]:
        return Receipt(quotable=False, label="No receipt", reason=why)
    if value_of(predicate["training"]["tokens_per_s"]) is None and steps_rate(predicate["training"]) is None:
        return Receipt(quotable=False, label="No receipt", reason="no throughput was observed")
    return Receipt(quotable=True, label="Receipt", reason=why)


def steps_rate(training: Mapping[str, Any]) -> float | None:
    """Steps a second of a command of the user's own; None for the reference stack, and where none were observed."""
    script = training.get("script")
    rate = None if script is None else value_of(script["steps_per_s"])
    return rate if isinstance(rate, float) else None


def speed(training: Mapping[str, Any]) -> str:
    """What a receipt is for: tokens a second, or, where a command counted no tokens, steps a second."""
    tokens, steps = value_of(training["tokens_per_s"]), steps_rate(training)
    if tokens is None and steps is not None:
        return f"{steps:.4g} steps/s"
    return throughput(tokens)


def headline(predicate: Mapping[str, Any]) -> Headline:
    """The headline of one record."""
    receipt = receipt_of(predicate)
    subject = _subject(predicate)
    if not receipt.quotable:
        return Headline(subject, "no throughput receipt", receipt.reason, receipt)
    window = predicate["training"]["window"]
    steps = plural(window["measured"], "measured step")
    qualifier = f"over {steps} after {plural(window['warmup'], 'warm-up step')}"
    if is_synthetic(predicate):
        qualifier += ", on synthetic tokens: no data path was measured"
    if "script" in predicate["training"] and value_of(predicate["training"]["tokens_per_s"]) is None:
        qualifier += ", tokens not counted"
    return Headline(subject, speed(predicate["training"]), qualifier, receipt)


def _subject(predicate: Mapping[str, Any]) -> str:
    case, distributed = predicate["case"], predicate["distributed"]
    hardware = predicate["hardware"]
    device = value_of(hardware["observed"]["device_class"])
    ranks = value_of(distributed["observed"]["world_size"])
    asked_gpu = visible(hardware["requested"]["gpu"])
    seen_gpu = "not observed" if device is None else f"observed {plain(device)}"
    parts = [
        command_name(case["command"]) if "script" in case else visible(case["preset"]),
        _pair(plural(case["nproc"], "rank"), None if ranks is None else plural(ranks, "rank")),
        _pair(distributed["requested"]["mode"], value_of(distributed["observed"]["mode"])),
        _pair(predicate["compile"]["requested"], value_of(predicate["compile"]["observed"]["posture"])),
        precision(predicate),
        f"{plain(device) if device is not None else 'device unknown'} (requested {asked_gpu} → {seen_gpu})",
    ]
    if is_synthetic(predicate):
        parts.append("synthetic tokens")
    return ", ".join(parts)


def precision(predicate: Mapping[str, Any]) -> str:
    """The case's precision; of a command, the number formats of the parameters that it was seen to train."""
    script = predicate["training"].get("script")
    if script is None:
        return visible(predicate["case"]["dtype"])
    seen = value_of(script["parameter_dtypes"])
    return f"{' and '.join(map(visible, seen))} parameters" if seen else "precision not observed"


def command_name(command: Sequence[str]) -> str:
    """A command in a few words: its script, or else its program."""
    script = next((word for word in command[1:] if word.endswith((".py", ".sh"))), None)
    module = next((command[place + 1] for place, word in enumerate(command[:-1]) if word == "-m"), None)
    return visible(posixpath.basename(script or module or command[0]))


def _pair(requested: str, observed: str | None) -> str:
    """One word where both agree; both words where they do not."""
    if observed is None:
        return f"{visible(requested)} requested but not observed"
    if requested in (observed, "any"):
        return visible(observed)
    return f"{visible(observed)} (requested {visible(requested)})"
