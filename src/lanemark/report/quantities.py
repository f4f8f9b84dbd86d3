"""How numbers and foreign text become words on a page. Pure.

One place decides units, digits and grouping, so that the terminal and the HTML report can never print the same figure
in two ways. Three significant digits serve a reader; the record keeps every digit, and says so by its id.

Text that came from outside (file names, arguments, exception messages) is made *visible* before it is shown anywhere:
control characters could rewrite a terminal, and bidirectional overrides could make one thing read as another.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Final

_DURATION_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
#: IEC 80000-13 binary prefixes: memory and files are sized in powers of two everywhere in the field's tools.
_SIZE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_RATE_UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
#: Unicode general categories that have no glyph of their own: control, format (bidi marks), surrogate, separators.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """The text on one line, with every invisible character spelled out as its Python escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(char) if unicodedata.category(char) in _UNSEEN else char for char in text)


def _spelled(char: str) -> str:
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never in exponent form, thousands grouped."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    # 9.996 rounds up to 10.00: one digit more than was asked for.
    if places and math.floor(math.log10(abs(float(text.replace(",", ""))))) > math.floor(math.log10(abs(value))):
        text = f"{value:,.{places - 1}f}"
    return text


def count(value: float) -> str:
    """A whole number with its thousands grouped."""
    return f"{round(value):,}"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """`1 rank`, `2 ranks`, `1,000 ranks`; `many` is the plural where it is not noun + s."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def duration(seconds: float, digits: int = 3) -> str:
    """A duration in the unit that reads best, from nanoseconds to hours."""
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size >= 3600:
        hours, rest = divmod(round(size / 60), 60)
        return f"{'-' if seconds < 0 else ''}{hours:,} h {rest:02d} min"
    if size >= 300:
        minutes, rest = divmod(round(size), 60)
        return f"{'-' if seconds < 0 else ''}{minutes} min {rest:02d} s"
    for index, (factor, unit) in enumerate(_DURATION_UNITS):
        # Below a unit by less than its rounding error (999.96 ms) the larger unit is the right one.
        if size >= factor * (1 - 0.5 * 10**-digits) or index == len(_DURATION_UNITS) - 1:
            return f"{significant(seconds / factor, digits)} {unit}"
    raise AssertionError("the last unit takes what is left")


def size(num_bytes: float, digits: int = 3) -> str:
    """A size in binary units: `512 B`, `1.66 MiB`, `70.1 GiB`."""
    value, unit = float(num_bytes), 0
    while abs(value) >= 1023.5 and unit < len(_SIZE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count(value)} B" if unit == 0 else f"{significant(value, digits)} {_SIZE_UNITS[unit]}"


def scaled(value: float, unit: str, digits: int = 3) -> str:
    """A large figure with a decimal prefix: `6.72 GFLOP`."""
    for factor, prefix in _RATE_UNITS:
        if abs(value) >= factor:
            return f"{significant(value / factor, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}"


def throughput(tokens_per_s: float) -> str:
    """Tokens a second: whole above one hundred, three significant digits below."""
    return f"{count(tokens_per_s) if tokens_per_s >= 100 else significant(tokens_per_s)} tok/s"


def percent(fraction: float) -> str:
    """A share of one as per cent, one decimal."""
    return f"{fraction * 100:.1f} %"


def yes_no(value: bool) -> str:  # noqa: FBT001 - it formats a boolean
    return "yes" if value else "no"


def short_digest(digest: str) -> str:
    """The first twelve hexadecimal digits of a digest, as people quote it."""
    return visible(digest).removeprefix("sha256:")[:12]
