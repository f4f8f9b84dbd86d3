"""Exact bytes: how a record is written once, named by its sha256, and read back strictly.

Standard library only, because it runs beside the ranks. Bytes are the record: nothing that was read is ever
re-serialised to be hashed again. The encoding is deterministic (sorted keys, no spaces, UTF-8, one final newline), so
that the digest of a *case* can be recomputed by anyone; it refuses NaN and infinities, which JSON does not have.
"""

from __future__ import annotations

import hashlib
import json
from math import isinf
from typing import Any, Final

#: No record comes near this: a 10,000-step run of 64 ranks is about 1.5 MB, since raw samples are evidence by digest.
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
#: Our deepest path is 9 levels; the limit keeps the recursive parser far from the interpreter's.
MAX_DEPTH: Final = 32
#: Our widest object is the snapshot of the environment, some hundred names; each unknown key costs a complaint to list.
MAX_KEYS: Final = 10_000
#: Integers JSON readers agree on (RFC 8259 section 6): nanosecond epochs do not fit, so records carry text timestamps.
MAX_INT: Final = 2**53 - 1


def encode(doc: Any) -> bytes:
    """The one way a document becomes bytes. Raises ValueError on NaN, infinity, or text that is not UTF-8."""
    text = json.dumps(doc, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def digest(data: bytes) -> str:
    """`sha256:<64 hex digits>` of exactly these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def safe_text(text: str) -> str:
    r"""Text that can stand in a record whatever a file name or an environment variable held.

    Undecodable bytes (Python's surrogate escapes) become `\udcXX` in letters; nothing else changes.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Survey:
    """What one walk through a parsed document finds, so that whoever asks about all of it walks it once.

    Attributes:
        parts: the document and every object and list below it, level by level.
        depth: how many levels there are; 0 for a lone scalar.
        num_keys: keys of all objects together.
        widest: keys of the object that has the most.
        has_null: whether there is a null anywhere.
    """

    __slots__ = ("depth", "has_null", "num_keys", "parts", "widest")

    def __init__(self, doc: Any, limit: int | None = None) -> None:
        """Walk `doc`, without recursion. Raises ValueError where it nests deeper than `limit`, if one is given."""
        level = [doc] if isinstance(doc, (dict, list)) else []
        self.parts: list[Any] = []
        self.depth = num_keys = widest = 0
        has_null = doc is None
        while level:
            self.depth += 1
            if limit is not None and self.depth > limit:
                raise ValueError(f"nesting is deeper than {limit} levels")
            self.parts += level
            below: list[Any] = []
            for node in level:
                if isinstance(node, dict):
                    num = len(node)
                    num_keys += num
                    if num > widest:  # noqa: PLR1730 - a call for each object would be most of this loop
                        widest = num
                    below += node.values()
                else:
                    below += node
            has_null = has_null or None in below
            level = [child for child in below if type(child) is dict or type(child) is list]
        self.num_keys, self.widest, self.has_null = num_keys, widest, has_null


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"one object has {len(pairs)} keys, more than {MAX_KEYS}")
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} stands twice in one object")
            seen.add(key)
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _checked_int(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > MAX_INT:
        raise ValueError("an integer is outside the range that JSON readers agree on")
    return value


def _checked_float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError("a number is too large for a double")
    return value


_PLAIN: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_checked_float)
#: Digits of any kind as one letter, all else as another: in this alphabet a long number is found by a plain search.
_DIGITS: Final = bytes(48 if 48 <= byte <= 57 else 120 for byte in range(256))
#: As many digits as `MAX_INT` has: an integer of fewer is in range.
_WIDE: Final = b"0" * len(str(MAX_INT))
#: What may stand before an integer, its sign included.
_BEFORE_NUMBER: Final = b"-:,[ \t\r\n"


def decode(data: bytes, limit_bytes: int = MAX_RECORD_BYTES) -> Any:
    """Parse strictly: UTF-8, no duplicate keys, no NaN or infinity, bounded size, depth and integers.

    Raises ValueError, whose text says what is wrong without quoting more than 80 characters of the input.
    """
    return decode_surveyed(data, limit_bytes)[0]


def decode_surveyed(data: bytes, limit_bytes: int = MAX_RECORD_BYTES) -> tuple[Any, Survey]:
    """As `decode`, with the survey of the document, which the parser needs itself.

    Asking the library's parser to check each key, object and integer costs more than parsing. What is laid out as our
    writer leaves it is therefore parsed plainly, and shown afterwards to hold nothing that those checks refuse. All
    else, and whatever turns out not to be well, is parsed again with every check, which alone says what is wrong.
    """
    if len(data) > limit_bytes:
        raise ValueError(f"{len(data)} bytes is more than the {limit_bytes} a record may have")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    if _is_compact(data) and not _has_wide_integer(data):
        try:
            doc = _PLAIN.decode(text)
            found = Survey(doc, MAX_DEPTH)
            # A key that stands twice is one entry of its object and two of these: `"` and `:` are always neighbours
            # between a key and its value here. Inside a string they make the count too large, which only costs time.
            if found.num_keys == data.count(b'":') and found.widest <= MAX_KEYS:
                return doc, found
        except (ValueError, RecursionError):
            pass
    return _decode_checked(text)


def _is_compact(data: bytes) -> bool:
    """Whether no white space can stand between a key and its colon; false where it only might."""
    return b"\n" not in data[:-1] and b"\t" not in data and b"\r" not in data and b" :" not in data


def _has_wide_integer(data: bytes) -> bool:
    """Whether an integer may have as many digits as the largest one allowed. Digits of a fraction do not count."""
    digits = data.translate(_DIGITS)
    at = digits.find(_WIDE)
    while at >= 0:
        if at == 0 or data[at - 1] in _BEFORE_NUMBER:
            return True
        end = digits.find(b"x", at)
        at = digits.find(_WIDE, end) if end > 0 else -1
    return False


def _decode_checked(text: str) -> tuple[Any, Survey]:
    """Parse with every check. Raises ValueError."""
    try:
        doc = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_checked_int,
            parse_float=_checked_float,
        )
    except RecursionError:
        raise ValueError(f"nesting is deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    return doc, Survey(doc, MAX_DEPTH)


def depth_of(doc: Any, limit: int = MAX_DEPTH) -> int:
    """How deeply `doc` nests. Iterative. Raises ValueError above `limit`."""
    return Survey(doc, limit).depth
