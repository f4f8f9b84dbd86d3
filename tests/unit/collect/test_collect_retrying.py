"""A failed bootstrap is tried again, once, and its second record names the first. Nothing else is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lanemark.collect.conduct import Conducted
from lanemark.collect.retrying import with_one_retry
from lanemark.records.encoding import digest, encode
from lanemark.records.finding import FINDINGS, Finding
from lanemark.records.statement import SealedRecord


class Tries:
    """An `attempt` that ends with the causes given, one after the other, and remembers what it was told."""

    def __init__(self, *causes: str | None) -> None:
        self._causes = list(causes)
        self.told: list[tuple[Finding, ...]] = []
        self.lines: list[str] = []

    def __call__(self, findings: tuple[Finding, ...]) -> Conducted:
        self.told.append(findings)
        kind = self._causes.pop(0)
        outcome: dict[str, Any] = {"state": "ok"}
        if kind is not None:
            outcome = {"state": "error", "first_cause": {"kind": kind, "summary": f"{kind} it was"}}
        data = encode({"predicate": {"outcome": outcome}})
        manifest = cast("Any", SimpleNamespace(run_id=f"training-try-{len(self.told)}"))
        return Conducted(SealedRecord(digest(data), data), manifest, Path("record.json"), None)

    def go(self, signal_name: str | None = None) -> Conducted:
        return with_one_retry(self, interrupted=lambda: signal_name, announce=self.lines.append)


def test_a_failed_bootstrap_is_tried_once_more_and_the_second_record_names_the_first() -> None:
    tries = Tries("bootstrap_failed", None)
    assert tries.go().manifest.run_id == "training-try-2"
    assert tries.told[0] == ()
    (note,) = tries.told[1]
    assert (note.kind, note.severity) == ("retried_bootstrap", "note")
    assert "training-try-1" in note.summary
    assert note.evidence[0].startswith("its record: sha256:")
    assert len(tries.lines) == 1


def test_it_is_never_tried_a_third_time() -> None:
    tries = Tries("bootstrap_failed", "bootstrap_failed")
    assert tries.go().manifest.run_id == "training-try-2"


@pytest.mark.parametrize("kind", [None, *(kind for kind in FINDINGS if kind != "bootstrap_failed")])
def test_nothing_else_is_ever_tried_again(kind: str | None) -> None:
    tries = Tries(kind)
    assert tries.go().manifest.run_id == "training-try-1"
    assert tries.lines == []


def test_whoever_was_told_to_stop_does_not_try_again() -> None:
    assert Tries("bootstrap_failed").go("SIGINT").manifest.run_id == "training-try-1"
