r"""Merkle tree arithmetic of RFC 6962: roots, inclusion proofs, consistency proofs, and the checks of both. Pure.

A tree over n entries is the largest complete tree that fits on the left, joined with the tree over what remains:

                root(7)
               /       \
          root(4)     root(3)          a hash of entries [i * 2**h, (i + 1) * 2**h) never changes once they are there:
          /     \     /     \          only the right edge of a growing tree is made of other hashes each time
        ...    ...  ...    leaf 6

A leaf is hashed behind the byte 0x00 and an inner node behind 0x01 (RFC 6962 section 2.1). Without that an inner node
could be passed off as an entry: the two children of a node are 64 bytes like any others.

Making a proof needs the tree; checking one needs two roots and nothing else. The two halves of this module therefore
share only the hash functions: the checks follow RFC 9162 sections 2.1.3.2 and 2.1.4.2, not the way proofs are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

HASH_BYTES: Final = 32
#: The root over no entries (RFC 6962 section 2.1).
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

#: `at(height, index)` gives the hash over entries [index * 2**height, (index + 1) * 2**height), all of them present.
HashAt = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The hash over 2**k sibling hashes, k from 0."""
    level = list(hashes)
    assert level
    assert len(level) & (len(level) - 1) == 0, "a complete tree has a power of two of leaves"
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def range_hash(at: HashAt, begin: int, end: int) -> bytes:
    """The hash over entries [begin, end), which must be a node of some tree: `begin` a multiple of its left part."""
    count = end - begin
    assert count > 0
    if count & (count - 1) == 0:
        return at(count.bit_length() - 1, begin // count)
    split = _split(count)
    return node_hash(range_hash(at, begin, begin + split), range_hash(at, begin + split, end))


class Peaks:
    """A tree that only grows, as the hashes of its complete subtrees from the left: all that its root needs."""

    def __init__(self) -> None:
        #: (how many entries, their hash) each; the numbers are the powers of two that add up to the size.
        self._peaks: list[tuple[int, bytes]] = []

    @classmethod
    def of(cls, at: HashAt, size: int) -> Peaks:
        """The peaks of a tree of `size` entries."""
        made, begin = cls(), 0
        for height in reversed(range(size.bit_length())):
            if size >> height & 1:
                made._peaks.append((1 << height, at(height, begin >> height)))
                begin += 1 << height
        return made

    def add(self, leaf: bytes) -> None:
        """One more entry, by its leaf hash."""
        count, found = 1, leaf
        while self._peaks and self._peaks[-1][0] == count:
            found = node_hash(self._peaks.pop()[1], found)
            count *= 2
        self._peaks.append((count, found))

    def root(self) -> bytes:
        """The root over all entries."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            found = node_hash(left, found)
        return found


def root(at: HashAt, size: int) -> bytes:
    """The root over the first `size` entries."""
    return range_hash(at, 0, size) if size else EMPTY_ROOT


def inclusion_proof(at: HashAt, index: int, size: int) -> tuple[bytes, ...]:
    """The hashes that lead from entry `index` to the root over `size` entries, lowest first."""
    assert 0 <= index < size
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(range_hash(at, middle, end))
            end = middle
        else:
            path.append(range_hash(at, begin, middle))
            begin = middle
    return tuple(reversed(path))


def consistency_proof(at: HashAt, old_size: int, size: int) -> tuple[bytes, ...]:
    """The hashes which show that the first `old_size` of `size` entries are what they were, lowest first."""
    assert 0 <= old_size <= size
    if old_size in (0, size):
        return ()
    path: list[bytes] = []
    begin, end, whole = 0, size, True
    while end != old_size:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(range_hash(at, middle, end))
            end = middle
        else:
            path.append(range_hash(at, begin, middle))
            begin, whole = middle, False
    if not whole:  # a whole old tree is the old root itself, which the checker has
        path.append(range_hash(at, begin, end))
    return tuple(reversed(path))


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether `proof` shows that the leaf hash `leaf` is entry `index` of the tree of `size` entries with that root."""
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0 or len(sibling) != HASH_BYTES:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and found == expected_root


def consistent(old_size: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `size` entries with `new_root` begins with the old tree, unchanged.

    Of an empty old tree there is nothing to show: any tree begins with it, provided its root is that of no entries.
    """
    if not 0 <= old_size <= size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT and (size > 0 or new_root == EMPTY_ROOT)
    if old_size == size:
        return not proof and old_root == new_root
    if not proof or any(len(sibling) != HASH_BYTES for sibling in proof):
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def _split(count: int) -> int:
    """The largest power of two smaller than `count` (RFC 6962 section 2.1: k < n <= 2k)."""
    return 1 << ((count - 1).bit_length() - 1)
