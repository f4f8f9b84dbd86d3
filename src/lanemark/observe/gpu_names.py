"""What a GPU is called, which class that is, whether it is the class asked for, and how fast it could be. Pure.

Marketing names carry the board, not only the chip: an H100 on a PCIe card has fewer units and a lower power limit
than an H100 on an SXM module. Two boards are therefore two classes, and only the SXM one bears the bare name.
"""

from __future__ import annotations

import re
from typing import Final

from lanemark.records.case import GpuSpec
from lanemark.records.observation import Observation, absent, observed, unavailable

_GIB: Final = 1024**3
#: Matched in order against the upper-cased name without its vendor words; the first that matches names the class.
_PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    (r"GB300\b", "GB300"),
    (r"GB200\b", "GB200"),
    (r"GH200\b", "GH200"),
    (r"B300\b", "B300"),
    (r"B200\b", "B200"),
    (r"H200 NVL\b", "H200-NVL"),
    (r"H200\b", "H200"),
    (r"H100 NVL\b", "H100-NVL"),
    (r"H100(?: 80GB)? (?:PCIE|HBM2E)\b", "H100-PCIe"),
    (r"H100(?: 80GB)?(?: HBM3)?$", "H100"),
    (r"H100-SXM5", "H100"),
    (r"L40S\b", "L40S"),
    (r"L4$", "L4"),
    (r"A10$", "A10"),
    (r"A10G$", "A10G"),
    (r"T4$", "T4"),
    (r"RTX PRO 6000\b", "RTX-PRO-6000"),
)
#: Boards that carry a requested chip in another form: an unpinned request accepts them, a pinned one does not.
_VARIANTS: Final[dict[str, tuple[str, ...]]] = {
    "H100": ("H100-PCIe", "H100-NVL"),
    "H200": ("H200-NVL",),
    "A10": ("A10G",),
}
#: `A100` names no memory size, so that either is exactly what was asked for.
_SAME: Final[dict[str, tuple[str, ...]]] = {"A100": ("A100-40GB", "A100-80GB")}
#: What `+` ("or better") may be served by, in order (facts: Modal serves `B200+` with a B300).
_LINE: Final = ("A100-40GB", "A100-80GB", "H100", "H200", "B200", "B300")

_TERA: Final = 1e12
#: Dense peak FLOP/s of one device: no sparsity, bf16 on tensor cores with fp32 accumulation, fp32 on CUDA cores (no
#: TF32). Where a data sheet prints only the figure "with sparsity" the dense one is half of it, as its own footnote
#: says.
PEAK_FLOPS: Final[dict[tuple[str, str], tuple[float, str]]] = {
    ("T4", "fp32"): (8.1 * _TERA, "NVIDIA T4 Tensor Core GPU datasheet"),
    ("L4", "fp32"): (30.3 * _TERA, "NVIDIA L4 Tensor Core GPU datasheet"),
    ("L4", "bf16"): (121.0 * _TERA, "NVIDIA L4 Tensor Core GPU datasheet (242 with sparsity, halved)"),
    ("A10", "fp32"): (31.2 * _TERA, "NVIDIA A10 Tensor Core GPU datasheet"),
    ("A10", "bf16"): (125.0 * _TERA, "NVIDIA A10 Tensor Core GPU datasheet"),
    ("L40S", "fp32"): (91.6 * _TERA, "NVIDIA L40S datasheet"),
    ("L40S", "bf16"): (362.05 * _TERA, "NVIDIA L40S datasheet"),
    ("A100-40GB", "fp32"): (19.5 * _TERA, "NVIDIA A100 Tensor Core GPU datasheet"),
    ("A100-40GB", "bf16"): (312.0 * _TERA, "NVIDIA A100 Tensor Core GPU datasheet"),
    ("A100-80GB", "fp32"): (19.5 * _TERA, "NVIDIA A100 Tensor Core GPU datasheet"),
    ("A100-80GB", "bf16"): (312.0 * _TERA, "NVIDIA A100 Tensor Core GPU datasheet"),
    ("H100", "fp32"): (67.0 * _TERA, "NVIDIA H100 Tensor Core GPU datasheet, H100 SXM"),
    ("H100", "bf16"): (989.5 * _TERA, "NVIDIA H100 Tensor Core GPU datasheet, H100 SXM (1,979 with sparsity, halved)"),
    ("H100-NVL", "fp32"): (60.0 * _TERA, "NVIDIA H100 Tensor Core GPU datasheet, H100 NVL"),
    ("H100-NVL", "bf16"): (
        835.5 * _TERA,
        "NVIDIA H100 Tensor Core GPU datasheet, H100 NVL (1,671 with sparsity, halved)",
    ),
    ("H100-PCIe", "fp32"): (51.0 * _TERA, "NVIDIA H100 Tensor Core GPU datasheet, H100 PCIe"),
    ("H100-PCIe", "bf16"): (
        756.5 * _TERA,
        "NVIDIA H100 Tensor Core GPU datasheet, H100 PCIe (1,513 with sparsity, halved)",
    ),
    ("H200", "fp32"): (67.0 * _TERA, "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM"),
    ("H200", "bf16"): (989.5 * _TERA, "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM (1,979 with sparsity, halved)"),
    ("H200-NVL", "fp32"): (60.0 * _TERA, "NVIDIA H200 Tensor Core GPU datasheet, H200 NVL"),
    ("H200-NVL", "bf16"): (
        835.5 * _TERA,
        "NVIDIA H200 Tensor Core GPU datasheet, H200 NVL (1,671 with sparsity, halved)",
    ),
    # Blackwell figures for fp32 differ between NVIDIA's own pages (75 and 80), so that only bf16 is listed.
    ("B200", "bf16"): (
        2250.0 * _TERA,
        "NVIDIA HGX B200 specifications (36 PFLOP/s for 8 with sparsity, halved, per GPU)",
    ),
    ("B300", "bf16"): (
        2250.0 * _TERA,
        "NVIDIA HGX B300 specifications (36 PFLOP/s for 8 with sparsity, halved, per GPU)",
    ),
}


def classify_device(name: str, memory_bytes: int | None = None) -> str:
    """The class of a device from the name its driver or torch gives it; a name we do not know stays verbatim.

    Args:
        name: for instance `NVIDIA A100-SXM4-80GB`.
        memory_bytes: of the whole device, where known: tells the A100's two sizes apart when the name does not.
    """
    plain = name.strip()
    base, _, slice_name = plain.partition(" MIG ")
    short = re.sub(r"^(?:NVIDIA|TESLA)\s+", "", base.upper()).strip()
    kind = _a100(short, None if slice_name else memory_bytes)
    if kind is None:
        kind = next((kind for pattern, kind in _PATTERNS if re.match(pattern, short)), None)
    if kind is None:
        return plain
    return f"{kind}-MIG-{slice_name.strip()}" if slice_name else kind


def _a100(short: str, memory_bytes: int | None) -> str | None:
    if not re.match(r"A100(?:[- ]|$)", short):
        return None
    if "80GB" in short:
        return "A100-80GB"
    if "40GB" in short:
        return "A100-40GB"
    if memory_bytes is None:
        return "A100"
    return "A100-80GB" if memory_bytes > 60 * _GIB else "A100-40GB"


def gpu_matches(requested: GpuSpec, observed_class: str | None, observed_count: int | None) -> tuple[bool | None, str]:
    """Whether what was observed is what was asked for, and one phrase why. None: it cannot be told.

    Args:
        requested: the parsed specification.
        observed_class: as `classify_device` names it, or `cpu`; None where nothing was observed.
        observed_count: devices the ranks could use; None where not observed.
    """
    if requested.name == "any":
        return True, "no device class was asked for"
    if observed_class is None:
        return None, "no device class was observed"
    fits, why = _class_fits(requested, observed_class)
    if not fits:
        return False, why
    if requested.count is None or requested.name == "cpu":
        return True, why
    if observed_count is None:
        return None, f"{why}, but the number of devices was not observed"
    if observed_count < requested.count:
        return False, f"{requested.count} devices were asked for and {observed_count} observed"
    return True, why


def _class_fits(requested: GpuSpec, seen: str) -> tuple[bool, str]:
    name = requested.name
    if seen == name or seen in _SAME.get(name, ()):
        return True, f"{seen} is what was asked for"
    if seen == "A100" and name.startswith("A100"):
        return False, f"{name} was asked for and the observed A100's memory size is not known"
    if seen in _VARIANTS.get(name, ()):
        if requested.pinned:
            return False, f"{name} was pinned and {seen}, another board with that chip, was observed"
        return True, f"{seen} is a board with the chip that was asked for"
    if requested.or_better and _better(name, seen):
        return True, f"{name} or better was asked for and {seen} is newer"
    return False, f"{name} was asked for and {seen} was observed"


def _better(name: str, seen: str) -> bool:
    floor = "A100-40GB" if name == "A100" else name
    return floor in _LINE and seen in _LINE and _LINE.index(seen) > _LINE.index(floor)


def peak_flops(device_class: str, dtype: str) -> Observation[float]:
    """Dense peak FLOP/s of one device for `fp32` or `bf16`, with the data sheet it comes from as its source.

    A processor's peak depends on clocks and widths that nobody publishes as one figure, so `cpu` has none.
    """
    source = "table of NVIDIA data sheets"
    if device_class == "cpu":
        return unavailable(source, "no peak is published for a processor, so no utilisation can be stated")
    if (device_class, dtype) == ("T4", "bf16"):
        return absent(source, "a T4 has no bf16 tensor cores")
    if (device_class, dtype) not in PEAK_FLOPS:
        return unavailable(source, f"no cited {dtype} peak is known for {device_class!r}")
    value, cited = PEAK_FLOPS[device_class, dtype]
    return observed(value, cited)
