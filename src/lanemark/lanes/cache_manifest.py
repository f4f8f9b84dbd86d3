"""`Manifest`: what one run found in its compile cache, rank by rank and file by file; read back with suspicion. Pure.

A manifest is written beside the cache after a run, travels as the first member of a seed archive, and says what such an
archive may hold. It therefore comes from strangers: every path, size, hash and rank in it is checked before anything
acts on it, and what does not fit is a `ValueError` that says what and never quotes more than 120 characters.

Nothing in it is taken as proof. Whether a cache covers a case is decided by `lanemark.lanes.coverage` from the bytes
that are on the disk now.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lanemark.observe.compile_cache import (
    KINDS,
    MAX_BYTES,
    MAX_FILES,
    ListedFile,
    kind_of,
    seedable_parts,
)
from lanemark.records.encoding import decode, digest, encode

VERSION: Final = 1
#: A row is some 250 bytes, so this is more than `MAX_FILES` rows of ordinary length.
MAX_MANIFEST_BYTES: Final = 128 * 1024**2
#: PATH_MAX and NAME_MAX of Linux (limits.h), less room for the directory that a cache lies in.
_MAX_PATH_BYTES: Final = 2048
_MAX_NAME_BYTES: Final = 255
_UNSAFE: Final = frozenset((b"", b".", b".."))
_MAX_RANKS: Final = 1024
_MAX_KEYS: Final = 100_000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: Keys of torch's caches are base32 behind one letter; nothing that could climb out of a directory.
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_FIELDS: Final = frozenset(
    ("version", "question", "fingerprint", "world_size", "cache_layout", "cache_root", "ranks", "files", "run_id",
     "captured_at")
)  # fmt: skip

Layout = Literal["shared", "per_rank"]
LAYOUTS: Final = ("shared", "per_rank")


@dataclass(frozen=True)
class RankUse:
    """What one rank said that it used: keys it looked up, and binaries that were mapped into it.

    Attributes:
        rank: its number.
        fx: keys of compiled graphs.
        aot: keys of joint forward and backward graphs.
        binaries: paths below the rank's own cache root.
    """

    rank: int
    fx: tuple[str, ...]
    aot: tuple[str, ...]
    binaries: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"rank": self.rank, "fx": list(self.fx), "aot": list(self.aot), "binaries": list(self.binaries)}


@dataclass(frozen=True)
class Manifest:
    """One checked manifest.

    Attributes:
        question: what was compiled for (`lanemark.lanes.coverage.compile_question`).
        fingerprint: what the keys depend on, a component each (`lanemark.observe.fingerprint`).
        world_size: ranks of the run.
        cache_layout: whether they shared the cache directory.
        cache_root: the directory it was, as text: Triton's group files hold absolute paths.
        ranks: what each of them used; fewer than `world_size` when some could not say.
        files: every file of the cache then, by path.
        run_id: the attempt that is vouched for.
        captured_at: UTC, RFC 3339.
    """

    question: dict[str, Any]
    fingerprint: dict[str, Any]
    world_size: int
    cache_layout: Layout
    cache_root: str
    ranks: tuple[RankUse, ...]
    files: tuple[ListedFile, ...]
    run_id: str
    captured_at: str

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files)

    @property
    def name(self) -> str:
        """The file's name below `coverage/`: 16 hexadecimal digits of the question's digest, and `.json`."""
        return manifest_name(self.question)

    @property
    def holds_triton(self) -> bool:
        """Whether any file stores absolute paths of the cache it was made in (Triton's group files)."""
        return any("/__grp__" in file.path for file in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "question": self.question,
            "fingerprint": self.fingerprint,
            "world_size": self.world_size,
            "cache_layout": self.cache_layout,
            "cache_root": self.cache_root,
            "ranks": [use.to_json() for use in self.ranks],
            "files": [file._asdict() for file in self.files],
            "run_id": self.run_id,
            "captured_at": self.captured_at,
        }

    def encoded(self) -> bytes:
        """Its bytes, the same for the same content."""
        return encode(self.to_json())


def manifest_name(question: Mapping[str, Any]) -> str:
    """The name below `coverage/` of the manifest that answers a question."""
    return f"{digest(encode(dict(question)))[7:23]}.json"


def rank_prefix(layout: str, rank: int) -> str:
    """What the paths of one rank's files begin with: nothing where ranks share a cache."""
    return f"rank-{rank}/" if layout == "per_rank" else ""


def read_manifest(data: bytes) -> Manifest:
    """Check bytes that may come from anywhere. Raises ValueError with what is wrong."""
    doc = decode(data, MAX_MANIFEST_BYTES)
    if not isinstance(doc, dict) or set(doc) != _FIELDS:
        raise ValueError("it is not a coverage manifest: its fields are others")
    if doc["version"] != VERSION:
        raise ValueError(f"its version is {str(doc['version'])[:20]!r} and this program reads {VERSION}")
    for name in ("question", "fingerprint"):
        if not isinstance(doc[name], dict):
            raise ValueError(f"its {name} is no object")  # noqa: TRY004 - readers of foreign bytes raise ValueError
    layout, world_size = doc["cache_layout"], _whole(doc["world_size"], "world_size", 1, _MAX_RANKS)
    if layout not in LAYOUTS:
        raise ValueError("its cache_layout is none that we know")
    files = _files(doc["files"])
    return Manifest(
        question=doc["question"],
        fingerprint=doc["fingerprint"],
        world_size=world_size,
        cache_layout=layout,
        cache_root=_text(doc["cache_root"], "cache_root", _MAX_PATH_BYTES),
        ranks=_ranks(doc["ranks"], world_size),
        files=files,
        run_id=_text(doc["run_id"], "run_id", 200),
        captured_at=_text(doc["captured_at"], "captured_at", 40),
    )


def checked_path(path: object) -> str:
    """A relative path that stays inside the directory it is joined to. Raises ValueError."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("a path is no text, empty, or holds a NUL")
    shown = repr(path[:120])
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the path {shown} is no UTF-8") from None
    if len(raw) > _MAX_PATH_BYTES:
        raise ValueError(f"the path {shown}… is longer than {_MAX_PATH_BYTES} bytes")
    parts = raw.split(b"/")
    if not _UNSAFE.isdisjoint(parts):
        raise ValueError(f"the path {shown} is absolute, climbs, or is not in its shortest form")
    if max(map(len, parts)) > _MAX_NAME_BYTES:
        raise ValueError(f"the path {shown}… has a name longer than {_MAX_NAME_BYTES} bytes")
    return path


def _files(rows: object) -> tuple[ListedFile, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_FILES:
        raise ValueError(f"its files are no list, or more than {MAX_FILES}")
    out: list[ListedFile] = []
    total = 0
    for row in rows:
        if not isinstance(row, dict) or set(row) != set(ListedFile._fields):
            raise ValueError("a file's fields are others than path, bytes, sha256 and kind")
        path = checked_path(row["path"])
        if not seedable_parts(path.split("/")):
            raise ValueError(f"the path {path[:120]!r} is a lock, a temporary or no part of a cache")
        size = _whole(row["bytes"], "size", 0, MAX_BYTES)
        if not isinstance(row["sha256"], str) or not _SHA256.fullmatch(row["sha256"]):
            raise ValueError(f"the hash of {path[:120]!r} is no sha256")
        if row["kind"] not in KINDS or row["kind"] != kind_of(path):
            raise ValueError(f"{path[:120]!r} is not of the kind that is claimed")
        out.append(ListedFile(path, size, row["sha256"], row["kind"]))
        total += size
    if total > MAX_BYTES:
        raise ValueError(f"its files are {total} bytes together, more than {MAX_BYTES}")
    _ordered(out)
    return tuple(out)


def _ordered(files: list[ListedFile]) -> None:
    """Sorted, each once, and none a directory of another. Raises ValueError."""
    paths = {file.path for file in files}
    for before, after in itertools.pairwise(files):
        if before.path >= after.path:
            raise ValueError(f"{after.path[:120]!r} stands twice or out of order")
    parents = {file.path.rpartition("/")[0] for file in files}
    while parents := parents - {""}:
        both = parents & paths
        if both:
            raise ValueError(f"{min(both)[:120]!r} is claimed to be a file and a directory")
        parents = {parent.rpartition("/")[0] for parent in parents}


def _ranks(rows: object, world_size: int) -> tuple[RankUse, ...]:
    if not isinstance(rows, list) or len(rows) > world_size:
        raise ValueError("its ranks are no list, or more than its world size")
    out = []
    for row in rows:
        if not isinstance(row, dict) or set(row) != {"rank", "fx", "aot", "binaries"}:
            raise ValueError("a rank's fields are others than rank, fx, aot and binaries")
        rank = _whole(row["rank"], "rank", 0, world_size - 1)
        out.append(RankUse(rank, _keys(row["fx"]), _keys(row["aot"]), tuple(map(checked_path, _list(row["binaries"])))))
    if sorted({use.rank for use in out}) != [use.rank for use in out]:
        raise ValueError("a rank stands twice or out of order")
    return tuple(out)


def rank_use(rank: int, value: object) -> RankUse:
    """One rank's word on its cache, as `compile_cache` in its report has it. Raises ValueError when it is no such word.

    Args:
        rank: who says it.
        value: an object with at least `fx`, `aot` and `binaries`.
    """
    if not isinstance(value, Mapping) or not {"fx", "aot", "binaries"} <= set(value):
        raise ValueError("it does not name keys and binaries")
    binaries = tuple(sorted({checked_path(path) for path in _list(value["binaries"])}))
    return RankUse(rank, _sorted(_keys(value["fx"])), _sorted(_keys(value["aot"])), binaries)


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))


def _keys(words: object) -> tuple[str, ...]:
    out = _list(words)
    for word in out:
        if not isinstance(word, str) or not _KEY.fullmatch(word):
            raise ValueError(f"{str(word)[:60]!r} is no key of a compile cache")
    return tuple(out)


def _list(words: object) -> list[Any]:
    if not isinstance(words, (list, tuple)) or len(words) > _MAX_KEYS:
        raise ValueError(f"a list of keys or binaries is none, or longer than {_MAX_KEYS}")
    return list(words)


def _whole(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"its {name} is not a whole number from {low} to {high}")
    return value


def _text(value: object, name: str, limit: int) -> str:
    if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
        raise ValueError(f"its {name} is no line of text")
    return value
