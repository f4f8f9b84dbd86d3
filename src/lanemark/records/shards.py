"""Token shards: the public llm.c `.bin` layout, and the manifest we write beside them. Pure.

A shard is a header of 256 little-endian int32 followed by uint16 tokens (source: karpathy/llm.c `dev/data`):
`header[0]` is 20240520, `header[1]` the version 1, `header[2]` the number of tokens. Nothing else is in the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

MAGIC: Final = 20240520
VERSION: Final = 1
HEADER_BYTES: Final = 256 * 4
TOKEN_BYTES: Final = 2
MANIFEST_NAME: Final = "manifest.json"
_HEAD: Final = struct.Struct("<3i")


class ShardError(ValueError):
    """A file is no shard, or not the shard it says it is. `slug` is the error slug a user is shown."""

    def __init__(self, slug: str, text: str) -> None:
        super().__init__(text)
        self.slug = slug


def header(num_tokens: int) -> bytes:
    """The 1,024 header bytes of a shard with `num_tokens` tokens."""
    return _HEAD.pack(MAGIC, VERSION, num_tokens).ljust(HEADER_BYTES, b"\0")


def token_count(head: bytes, file_bytes: int) -> int:
    """Tokens in a shard, from its header and its size. Raises ShardError when the two do not agree.

    Args:
        head: the first bytes of the file (at least 12; fewer is a truncated shard).
        file_bytes: size of the whole file.
    """
    if file_bytes < HEADER_BYTES or len(head) < _HEAD.size:
        raise ShardError("shard-truncated", f"is {file_bytes} bytes, shorter than a shard's {HEADER_BYTES}-byte header")
    magic, version, count = (int(word) for word in _HEAD.unpack_from(head))
    if magic != MAGIC:
        raise ShardError("shard-mislabelled", f"begins with {magic}, not the llm.c magic {MAGIC}")
    if version != VERSION:
        raise ShardError(
            "shard-mislabelled", f"is of shard version {version}, and only version {VERSION} (uint16) is read"
        )
    expected = HEADER_BYTES + TOKEN_BYTES * count
    if count < 0 or file_bytes > expected:
        raise ShardError("shard-mislabelled", f"declares {count} tokens but is {file_bytes} bytes, not {expected}")
    if file_bytes < expected:
        raise ShardError("shard-truncated", f"declares {count} tokens ({expected} bytes) but is {file_bytes} bytes")
    return count


@dataclass(frozen=True)
class ShardEntry:
    """One shard in a manifest: its file name, size, digest and token count."""

    name: str
    bytes: int
    sha256: str
    tokens: int

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256, "tokens": self.tokens}
