"""Coverage: what a cache must hold for a case, by rank, and every way in which it may not, each in its own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import seed_caches as made
from lanemark.lanes.cache_manifest import Manifest, RankUse
from lanemark.lanes.coverage import Coverage, compile_question, covers, question_differences
from lanemark.lanes.presets import PRESETS
from lanemark.observe.compile_cache import ListedFile


@pytest.fixture
def known(tmp_path: Path) -> Manifest:
    return made.manifest(made.fill(tmp_path / "cache"))


def judge(known: Manifest, *, without: str = "", **more: object) -> Coverage:
    told = {
        "question": compile_question(made.case()),
        "fingerprint": made.FINGERPRINT,
        "listing": [file for file in known.files if not without or without not in file.path],
        "layout": "shared",
        "cache_root": known.cache_root,
    }
    return covers(known, **{**told, **more})  # type: ignore[arg-type]


def changed(known: Manifest, path: str, **more: object) -> list[ListedFile]:
    return [file._replace(**more) if path in file.path else file for file in known.files]  # type: ignore[arg-type]


def test_a_whole_cache_covers_its_own_case(known: Manifest) -> None:
    assert judge(known) == Coverage(covered=True, required=2 * (2 + 1 + 2), missing=(), mismatches=())


def test_what_nobody_needs_may_be_missing(known: Manifest) -> None:
    assert judge(known, without=".cpp").covered
    assert judge(known, without=".py").covered


@pytest.mark.parametrize("suffix", [".so", "fxgraph", "aotautograd"])
def test_keys_without_binaries_cover_nothing_nor_binaries_without_keys(known: Manifest, suffix: str) -> None:
    seen = judge(known, without=suffix)
    assert not seen.covered
    assert {phrase.partition(":")[0] for phrase in seen.missing} == {"rank 0", "rank 1"}
    assert all(phrase.endswith("is missing") for phrase in seen.missing)


def test_a_truncated_binary_and_one_of_other_bytes(known: Manifest) -> None:
    size = next(file.bytes for file in known.files if file.path == made.BINARIES[0])
    short = judge(known, listing=changed(known, made.BINARIES[0], bytes=10, sha256="0" * 64))
    assert short.missing[0] == f"rank 0: binary {made.BINARIES[0]} is truncated: 10 of {size} bytes"
    other = judge(known, listing=changed(known, made.BINARIES[0], sha256="0" * 64))
    assert other.missing[0] == f"rank 0: binary {made.BINARIES[0]} has another content"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dtype": "bf16"}, "dtype was fp32, and bf16 is asked for"),
        ({"nproc": 8}, "it was compiled by 2 ranks, and 8 ranks are asked for"),
        ({"nproc": 1}, "it was compiled by 2 ranks, and 1 rank is asked for"),
        ({"sequence": 128}, "sequence was 64, and 128 is asked for"),
        ({"mode": "ddp"}, "mode was fsdp2, and ddp is asked for"),
        ({"compile": "model", "grad_accum": 2}, "accumulates was False, and True is asked for"),
    ],
)
def test_another_case_is_refused_in_its_own_words(known: Manifest, asked: dict[str, object], words: str) -> None:
    seen = judge(known, question=compile_question(made.case(**asked)))
    assert not seen.covered
    assert words in seen.mismatches


def test_what_compiles_nothing_is_no_part_of_the_question() -> None:
    ours = compile_question(made.case())
    for more in ({"steps": 99}, {"seed": 7}, {"cache_policy": "cold"}, {"prewarm": "off"}, {"grad_accum": 4}):
        assert question_differences(compile_question(made.case(**more)), ours) == ()


def test_a_recipe_that_changed_behind_its_name_is_another_question(known: Manifest) -> None:
    question = compile_question(made.case())
    assert question_differences({**question, "recipe": "sha256:0"}, question) == (
        "the recipe behind the preset's name has changed since",
    )
    assert len({compile_question(made.case(preset=name))["recipe"] for name in PRESETS}) == len(PRESETS)


def test_a_changed_toolchain_names_the_component_and_both_values(known: Manifest) -> None:
    seen = judge(known, fingerprint=made.changed_fingerprint(compiler="g++ 13", env_OMP_NUM_THREADS="4"))
    assert seen.mismatches == (
        "compiler was 'g++ 12', and here it is 'g++ 13'",
        "OMP_NUM_THREADS was '1', and here it is '4'",
    )


def test_one_ranks_word_covers_no_other_rank(known: Manifest) -> None:
    one = replace(known, ranks=known.ranks[:1])
    seen = judge(one)
    assert not seen.covered
    assert seen.mismatches == ("nothing is known of what rank 1 of 2 used",)


def test_a_manifest_that_needs_nothing_covers_nothing(known: Manifest) -> None:
    idle = replace(known, ranks=(RankUse(0, (), (), ()), RankUse(1, (), (), ())))
    assert judge(idle).mismatches == (
        "it names no key that rank 0 used",
        "it names no key that rank 1 used",
    )


def test_a_key_that_the_manifest_has_no_file_of_is_never_covered(known: Manifest) -> None:
    more = replace(known, ranks=(replace(known.ranks[0], fx=("fnowhere",)), known.ranks[1]))
    assert judge(more).missing == ("rank 0: graph fnowhere was in no file when the manifest was written",)


def test_layouts_do_not_cover_each_other(tmp_path: Path) -> None:
    apart = made.manifest(made.fill(tmp_path / "cache", layout="per_rank"), layout="per_rank")
    assert judge(apart, layout="per_rank", listing=apart.files).covered
    assert judge(apart, layout="shared", listing=apart.files).mismatches == (
        "the cache's layout was per_rank, and shared is asked for",
    )
    seen = judge(apart, layout="per_rank", without="rank-1/")
    assert len(seen.missing) == 5
    assert all(phrase.startswith("rank 1: ") for phrase in seen.missing)


def test_kernels_that_drivers_load_are_needed_though_nothing_maps_them(known: Manifest) -> None:
    kernel = ListedFile("triton/HASH/k.cubin", 10, "1" * 64, "binary")
    more = replace(known, files=tuple(sorted([*known.files, kernel])))
    assert judge(more).covered
    assert judge(more, without="cubin").missing[0] == "rank 0: binary triton/HASH/k.cubin is missing"


def test_tritons_absolute_paths_bind_a_cache_to_its_directory(known: Manifest) -> None:
    group = ListedFile("triton/HASH/__grp__k.json", 10, "1" * 64, "other")
    more = replace(known, files=tuple(sorted([*known.files, group])))
    assert judge(more).covered
    moved = judge(more, cache_root="/elsewhere/cache")
    assert "hold absolute paths" in moved.mismatches[0]
    assert judge(known, cache_root="/elsewhere/cache").covered


def test_a_precompiled_header_is_needed_and_any_whole_one_of_its_name_serves(known: Manifest) -> None:
    header = ListedFile("tmp/torchinductor_me/precompiled_headers/c1.h.gch", 100_000, "1" * 64, "other")
    more = replace(known, files=tuple(sorted([*known.files, header])))
    assert judge(more).covered
    assert judge(more, listing=changed(more, "c1.h.gch", bytes=99_900, sha256="2" * 64)).covered
    assert judge(more, without="gch").missing[0] == f"rank 0: precompiled header {header.path} is missing"
    cut = judge(more, listing=changed(more, "c1.h.gch", bytes=50_000, sha256="2" * 64))
    assert cut.missing[0].endswith("is truncated: 50000 of 100000 bytes")
