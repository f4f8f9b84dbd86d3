"""What renting costs: a dated table of prices with its source, estimates before a run and what was spent after. Pure.

Only seconds of GPUs are counted, because they are nearly all of a training run's bill; processor, memory, disk and
traffic come on top, and the numbers say so. Prices drift: the table is dated, and a file of the operator's own takes
its place (`--prices FILE`), which is then what every number names as its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from lanemark.records.case import parse_gpu
from lanemark.records.encoding import safe_text
from lanemark.records.errors import UsageError

#: Dollars a second for one device, from modal.com/pricing as it was in August 2026.
_SEEN_2026_08: Final = {
    "T4": 0.000164, "L4": 0.000222, "A10": 0.000306, "L40S": 0.000542, "A100-40GB": 0.000583, "A100-80GB": 0.000694,
    "H100": 0.001097, "H200": 0.001261, "B200": 0.001736, "B300": 0.001972,
}  # fmt: skip
COVERS: Final = "GPU seconds alone: processor, memory, disk and traffic come on top"
_LARGEST_FILE_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Prices:
    """A price list.

    Attributes:
        per_gpu_s: class → dollars a second for one device.
        source: where it is from.
        seen: when, `YYYY-MM`.
    """

    per_gpu_s: Mapping[str, float]
    source: str
    seen: str

    def of(self, gpu: str) -> float | None:
        """Dollars a second for all devices of a specification (`H100!:8`); 0 for `cpu`; None where no price is known.

        Where a class may be served by several, the dearest counts: an estimate must not be too low.
        """
        spec = parse_gpu(gpu)
        if spec.name == "cpu":
            return 0.0
        kinds = [spec.name]
        if spec.name == "A100":
            kinds = ["A100-40GB", "A100-80GB"]
        elif spec.or_better:
            kinds = [spec.name, "B300"]
        elif spec.name == "H100" and not spec.pinned:
            kinds = ["H100", "H200"]
        known = [self.per_gpu_s[kind] for kind in kinds if kind in self.per_gpu_s]
        return max(known) * (spec.count or 1) if len(known) == len(kinds) else None

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "seen": self.seen, "covers": COVERS}


PRICES: Final = Prices(_SEEN_2026_08, "modal.com/pricing", "2026-08")


def read_prices(path: Path) -> Prices:
    """A price list of the operator's own: `{"source", "seen", "per_gpu_s": {CLASS: DOLLARS}}`.

    Raises:
        UsageError: `value-invalid`: the file is none.
    """
    try:
        with path.open("rb") as file:
            return _parsed(json.loads(file.read(_LARGEST_FILE_BYTES)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "value-invalid", f"the price list {str(path)[:100]!r} cannot be used ({type(error).__name__}: {error})",
            'write {"source": "…", "seen": "2026-08", "per_gpu_s": {"H100": 0.001097}}',
        ) from None  # fmt: skip


def _parsed(doc: Any) -> Prices:
    table = {str(kind): float(dollars) for kind, dollars in doc["per_gpu_s"].items()}
    if not table or any(not 0 <= dollars < 1 for dollars in table.values()):
        raise ValueError("a price is not a sum of dollars a second")
    return Prices(table, safe_text(str(doc["source"]))[:200], safe_text(str(doc["seen"]))[:20])


def dearest(prices: Prices, gpus: Sequence[str]) -> float | None:
    """Dollars a second of a list of fallbacks: the dearest, because it may be the one that is served. None: unknown."""
    found = [prices.of(gpu) for gpu in gpus or ("cpu",)]
    return None if None in found else max(dollars for dollars in found if dollars is not None)


def seconds_rented(begun_at: Sequence[str], ended_at: str) -> float | None:
    """Seconds of containers, from the beginnings of all executions and the end of the last one.

    An execution that was taken away is counted until the next began, which is too long and never too short. None where
    a stamp cannot be read.
    """
    try:
        stamps = [_moment(text) for text in (*begun_at, ended_at)]
    except ValueError:
        return None
    return max(0.0, (stamps[-1] - min(stamps)).total_seconds())


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
