"""Exact bytes: how a record is written once, named by its sha256, and read back strictly.

Standard library only, because it runs beside the ranks. Bytes are the record: nothing that was read is ever
re-serialised to be hashed again. The encoding is deterministic (sorted keys, no spaces, UTF-8, one final newline), so
that the digest of a *case* can be recomputed by anyone; it refuses NaN and infinities, which JSON does not have.
"""

from __future__ import annotations

import hashlib
import json
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
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large for a double")
    return value


def decode(data: bytes, limit_bytes: int = MAX_RECORD_BYTES) -> Any:
    """Parse strictly: UTF-8, no duplicate keys, no NaN or infinity, bounded size, depth and integers.

    Raises ValueError, whose text says what is wrong without quoting more than 80 characters of the input.
    """
    if len(data) > limit_bytes:
        raise ValueError(f"{len(data)} bytes is more than the {limit_bytes} a record may have")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
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
    depth_of(doc)
    return doc


def depth_of(doc: Any, limit: int = MAX_DEPTH) -> int:
    """How deeply `doc` nests. Iterative. Raises ValueError above `limit`."""
    level, deepest = ([doc] if isinstance(doc, (dict, list)) else []), 0
    while level:
        deepest += 1
        if deepest > limit:
            raise ValueError(f"nesting is deeper than {limit} levels")
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
    return deepest
