"""`Observation`: a value with where it came from, or the honest statement that there is none.

Three statuses, never a fourth and never a stand-in value:

* `observed`     we looked and saw `value`;
* `absent`       we looked and it is not there (no GPU in this host, no image digest in this environment);
* `unavailable`  we could not look, and `reason` says why. It is never evidence of absence.

A declared or requested value never becomes an `Observation`: it stays under `requested`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")
Status = Literal["observed", "absent", "unavailable"]


@dataclass(frozen=True)
class Observation(Generic[T]):
    """One observed thing. Build it with `observed`, `absent` or `unavailable`; the constructor checks the pairing.

    Attributes:
        status: `observed`, `absent` or `unavailable`.
        source: what was read: a file, a call, a tool (`/proc/cpuinfo`, `nvml`, `torch.distributed`).
        value: present when, and only when, `observed`. Any JSON value.
        reason: why there is no value; required for `unavailable`, optional for `absent`, never for `observed`.
    """

    status: Status
    source: str
    value: T | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("an observation names its source")
        if self.status == "observed" and (self.value is None or self.reason is not None):
            raise ValueError("an observed value has a value and no reason")
        if self.status != "observed" and self.value is not None:
            raise ValueError(f"an {self.status} observation has no value")
        if self.status == "unavailable" and not self.reason:
            raise ValueError("an unavailable observation says why")

    def to_json(self) -> dict[str, Any]:
        """The observation as it stands in a record: only the keys that apply."""
        out: dict[str, Any] = {"status": self.status, "source": self.source}
        if self.status == "observed":
            out["value"] = self.value
        elif self.reason is not None:
            out["reason"] = self.reason
        return out

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Observation[Any]:
        """Read back what `to_json` wrote. Raises ValueError on anything else."""
        if not isinstance(doc, dict) or not set(doc) <= {"status", "source", "value", "reason"}:
            raise ValueError("not an observation")
        if doc.get("status") not in ("observed", "absent", "unavailable") or not isinstance(doc.get("source"), str):
            raise ValueError("not an observation")
        return Observation(doc["status"], doc["source"], doc.get("value"), doc.get("reason"))


def observed(value: T, source: str) -> Observation[T]:
    """We looked at `source` and saw `value`."""
    return Observation("observed", source, value)


def absent(source: str, reason: str | None = None) -> Observation[Any]:
    """We looked at `source` and it is not there."""
    return Observation("absent", source, None, reason)


def unavailable(source: str, reason: str) -> Observation[Any]:
    """We could not look at `source`; `reason` says why."""
    return Observation("unavailable", source, None, reason)


def value_of(doc: dict[str, Any] | None) -> Any:
    """The value inside an observation's JSON form, or None when nothing was observed. For display and rules only."""
    if isinstance(doc, dict) and doc.get("status") == "observed":
        return doc.get("value")
    return None
