"""Merkle arithmetic against a naive recursive reading of RFC 6962, and tiles against the whole tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lanemark.ledger import merkle
from lanemark.ledger.tiles import (
    WIDTH,
    TileError,
    TileFile,
    Tiles,
    file_at,
    grown,
    pack,
    right_edge,
    stale_partials,
    unpack,
)

#: The test tree of the Certificate Transparency reference implementation, and its published roots for 1 to 8 leaves.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(entries):
    """RFC 6962 section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\1" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_path(m, entries):
    """RFC 6962 section 2.1.1, PATH(m, D[n])."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_subproof(m, entries, whole):
    """RFC 6962 section 2.1.2, SUBPROOF(m, D[n], b)."""
    if m == len(entries):
        return [] if whole else [naive_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m <= k:
        return [*naive_subproof(m, entries[:k], whole), naive_root(entries[k:])]
    return [*naive_subproof(m - k, entries[k:], False), naive_root(entries[:k])]


def tree(entries):
    """`merkle.HashAt` over a list, without tiles."""

    def at(height, index):
        return naive_root(entries[index << height : (index + 1) << height])

    return at


def some(count):
    return [f"entry {number}".encode() for number in range(count)]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_of_the_reference_tree(size):
    entries = CT_LEAVES[:size]
    assert naive_root(entries).hex() == CT_ROOTS[size - 1]
    assert merkle.root(tree(entries), size).hex() == CT_ROOTS[size - 1]


def test_the_root_over_nothing():
    assert merkle.root(tree([]), 0) == merkle.EMPTY_ROOT == naive_root([])


def test_an_inner_node_cannot_pass_for_an_entry():
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    root = merkle.node_hash(left, right)
    assert not merkle.included(merkle.leaf_hash(left + right), 0, 1, (), root)


def test_proofs_are_those_of_the_standard_and_are_accepted():
    for size in range(1, 40):
        entries = some(size)
        at, root = tree(entries), naive_root(entries)
        for index in range(size):
            proof = merkle.inclusion_proof(at, index, size)
            assert list(proof) == naive_path(index, entries)
            assert merkle.included(merkle.leaf_hash(entries[index]), index, size, proof, root)
        for old in range(size + 1):
            proof = merkle.consistency_proof(at, old, size)
            assert list(proof) == (naive_subproof(old, entries, True) if old else [])
            assert merkle.consistent(old, size, naive_root(entries[:old]), root, proof)


def test_a_proof_proves_nothing_else():
    size = 23
    entries = some(size)
    at, root = tree(entries), naive_root(entries)
    for index in range(size):
        leaf, proof = merkle.leaf_hash(entries[index]), merkle.inclusion_proof(at, index, size)
        for other in range(size + 3):
            assert merkle.included(leaf, other, size, proof, root) == (other == index)
        assert not merkle.included(leaf, -1, size, proof, root)
        assert not merkle.included(merkle.leaf_hash(b"x"), index, size, proof, root)
        assert not merkle.included(leaf, index, size, proof[:-1], root)
        assert not merkle.included(leaf, index, size, (*proof, root), root)
        assert not merkle.included(leaf, index, size, (proof[0][:31], *proof[1:]), root)
        assert not merkle.included(leaf, index, size, proof, merkle.EMPTY_ROOT)


@pytest.mark.parametrize("old", range(1, 23))
def test_a_changed_past_is_not_consistent(old):
    size = 23
    entries = some(size)
    at, new_root, old_root = tree(entries), naive_root(entries), naive_root(entries[:old])
    proof = merkle.consistency_proof(at, old, size)
    assert merkle.consistent(old, size, old_root, new_root, proof)
    for past in (
        entries[: old - 1],
        [*entries[: old - 1], b"altered"],
        [*reversed(entries[:old])] if old > 1 else [b"y"],
        [],
    ):
        assert not merkle.consistent(old, size, naive_root(past), new_root, proof)
    assert not merkle.consistent(old, size, old_root, old_root, proof)
    assert not merkle.consistent(old, size, old_root, new_root, ())
    assert not merkle.consistent(old, size, old_root, new_root, (*proof, new_root))
    assert not merkle.consistent(old, size, old_root, new_root, proof[:-1])
    assert not merkle.consistent(old - 1, size, old_root, new_root, proof)
    assert not merkle.consistent(size, old, new_root, old_root, proof)
    assert not merkle.consistent(old, size, old_root, new_root, (b"short", *proof[1:]))


def test_the_empty_tree_is_the_beginning_of_every_tree_and_of_no_other():
    root = naive_root(some(3))
    assert merkle.consistent(0, 3, merkle.EMPTY_ROOT, root, ())
    assert merkle.consistent(0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, ())
    assert not merkle.consistent(0, 3, root, root, ())
    assert not merkle.consistent(0, 3, merkle.EMPTY_ROOT, root, (root,))
    assert not merkle.consistent(0, 0, merkle.EMPTY_ROOT, root, ())
    assert not merkle.consistent(3, 3, root, root, (root,))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=70), st.data())
def test_any_tree(entries, data):
    at, root = tree(entries), naive_root(entries)
    index = data.draw(st.integers(0, len(entries) - 1))
    old = data.draw(st.integers(0, len(entries)))
    assert merkle.included(
        merkle.leaf_hash(entries[index]), index, len(entries), merkle.inclusion_proof(at, index, len(entries)), root
    )
    proof = merkle.consistency_proof(at, old, len(entries))
    assert merkle.consistent(old, len(entries), naive_root(entries[:old]), root, proof)


# -- tiles -------------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_layout():
    assert TileFile(0, 1234067, WIDTH).name == "tile/0/x001/x234/067"
    assert TileFile(1, 0, 17).name == "tile/1/000.p/17"
    assert TileFile(None, 999, WIDTH).name == "tile/entries/999"
    assert TileFile(None, 1000, 3).name == "tile/entries/x001/000.p/3"


def test_the_right_edge_is_the_one_of_the_specifications_example():
    assert right_edge(70_000) == (
        TileFile(None, 273, 112),
        TileFile(0, 273, 112),
        TileFile(1, 1, 17),
        TileFile(2, 0, 1),
    )
    assert right_edge(256) == (TileFile(1, 0, 1),)
    assert right_edge(0) == ()
    assert file_at(0, 272, 70_000) == TileFile(0, 272, WIDTH)
    with pytest.raises(TileError, match="no tile 274"):
        file_at(0, 274, 70_000)


def write(directory, size, entries):
    for file, data in grown(Tiles(directory, size), entries):
        path = directory / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize("steps", [(1,), (255,), (256,), (257,), (255, 1), (256, 1), (1, 300, 211), (3, 253, 256, 512)])
def test_a_tree_grown_in_steps_is_the_tree(tmp_path, steps):
    entries, size = some(sum(steps)), 0
    for step in steps:
        write(tmp_path, size, entries[size : size + step])
        size += step
        tiles = Tiles(tmp_path, size)
        assert merkle.root(tiles.at, size) == naive_root(entries[:size])
        assert all((tmp_path / file.name).is_file() for file in right_edge(size))
    tiles = Tiles(tmp_path, size)
    assert [entry for bundle in tiles.entries() for entry in bundle] == entries
    for index in range(0, size, 37):
        assert tiles.find(entries[index]) == index
        proof = merkle.inclusion_proof(tiles.at, index, size)
        assert merkle.included(merkle.leaf_hash(entries[index]), index, size, proof, naive_root(entries))
    assert tiles.find(b"entry") is None  # occurs inside every entry, and is none


def test_three_levels_of_tiles(tmp_path):
    entries = some(65_536 + 300)
    write(tmp_path, 0, entries)
    tiles = Tiles(tmp_path, len(entries))
    assert (tmp_path / "tile/2/000.p/1").stat().st_size == 32
    assert merkle.root(tiles.at, len(entries)) == naive_root(entries)
    index = 65_000
    proof = merkle.inclusion_proof(tiles.at, index, len(entries))
    assert list(proof) == naive_path(index, entries)


def test_a_tile_that_is_not_what_it_must_be_is_refused(tmp_path):
    write(tmp_path, 0, some(300))
    with pytest.raises(TileError, match="no hash"):
        Tiles(tmp_path, 300).at(3, 37)
    path = tmp_path / "tile/0/001.p/44"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TileError, match="should have 1408"):
        Tiles(tmp_path, 300).hashes(0, 1)
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(TileError, match="should have 1408"):
        Tiles(tmp_path, 300).hashes(0, 1)
    path.unlink()
    with pytest.raises(TileError, match="missing") as caught:
        Tiles(tmp_path, 300).hashes(0, 1)
    assert caught.value.gone


def test_bundles_come_back_exactly_or_not_at_all():
    entries = (b"", b"a", b"x" * 65_535)
    data = pack(entries)
    assert unpack(data, 3, "bundle") == entries
    for bad, count in ((data[:-1], 3), (data, 2), (data, 4), (data + b"\0", 3), (b"\0", 1), (b"", 1)):
        with pytest.raises(TileError, match=r"cut off|more than"):
            unpack(bad, count, "bundle")


def test_only_partials_that_nobody_needs_are_stale(tmp_path):
    where = tmp_path / "tile/0/000.p"
    where.mkdir(parents=True)
    for name in ("5", "7", "9", "notes"):
        (where / name).write_bytes(b"")
    needed = frozenset({TileFile(0, 0, 9)})
    assert sorted(p.name for p in stale_partials(tmp_path, TileFile(0, 0, 5), needed)) == ["5", "7"]
    assert list(stale_partials(tmp_path, TileFile(0, 1, 5), needed)) == []


@given(size=st.integers(0, 70), more=st.integers(0, 40))
def test_a_tree_that_only_grows_needs_no_more_than_its_peaks(size, more):
    entries = [b"%d" % number for number in range(size + more)]
    peaks = merkle.Peaks.of(tree(entries[:size]), size)
    assert peaks.root() == naive_root(entries[:size])
    for count in range(size, size + more):
        peaks.add(merkle.leaf_hash(entries[count]))
        assert peaks.root() == naive_root(entries[: count + 1])


@pytest.mark.parametrize("count", range(1, 9))
def test_peaks_give_the_published_roots(count):
    peaks = merkle.Peaks()
    for leaf in CT_LEAVES[:count]:
        peaks.add(merkle.leaf_hash(leaf))
    assert peaks.root().hex() == CT_ROOTS[count - 1]
