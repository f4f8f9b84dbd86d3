"""`lanemark cache`: status, seed, gate, capture and bake, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import seed_caches as made
from lanemark.cli import cache as cache_verb
from lanemark.cli.asked import add_arguments, understand
from lanemark.cli.cache import training_words, without_policy
from lanemark.cli.main import main
from lanemark.cli.parsing import parser
from lanemark.launch.environment import apply_settings
from lanemark.launch.local import LocalSurface
from lanemark.launch.surface import Placement
from lanemark.observe.devices import device_facts
from lanemark.observe.fingerprint import fingerprint
from lanemark.records.attempt import Home
from lanemark.records.case import Case
from lanemark.stage.coverage import write_coverage

pytest.importorskip("zstandard")
WORDS = [
    "training",
    "--preset",
    "dense-nano",
    "--nproc",
    "2",
    "--compile",
    "regional",
    "--dtype",
    "fp32",
    "--sequence",
    "64",
    "--micro-batch",
    "2",
    "--gpu",
    "cpu",
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "LANEMARK_CACHE_FROM",
        "LANEMARK_CACHE_TO",
        "LANEMARK_MIN_FREE_MB",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache_verb, "compiler", lambda *args, **kwargs: None)  # nothing is compiled here
    return tmp_path


def asked_case() -> Case:
    verb = parser("run", "")
    add_arguments(verb)
    return understand(verb.parse_args([*WORDS, "--data", "synthetic", "--cache-policy", "seed"])).case


def good_run(place: Path) -> Path:
    """The cache as a good run of the arguments would leave it on this machine."""
    cache = made.fill(place / "home" / "cache")
    case = asked_case()
    request = LocalSurface().request(case, Placement(Home(place / "home"), cache_dir=cache))
    seen = fingerprint(apply_settings(os.environ, request.settings), devices=device_facts())
    written = write_coverage(cache, case, "shared", [made.report()] * 2, "training-run-1", fingerprint=seen)
    assert isinstance(written, Path), written
    return cache


def lanemark(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["cache", *args])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, Any]:
    code, out, _ = lanemark(capsys, *args, "--json")
    return code, json.loads(out)


def test_the_whole_way(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gate shut, capture of a good run, another machine's empty cache seeded from it, gate open."""
    cache = good_run(place)
    archive = place / "seed.tar.zst"
    code, doc = as_json(capsys, "capture", *WORDS, "-o", str(archive))
    assert (code, doc["captured"], doc["ranks"]) == (0, True, 2)
    shutil.rmtree(cache)
    code, out, err = lanemark(capsys, "gate", *WORDS)
    assert (code, out) == (4, "")
    assert "[cache-missing]" in err
    code, doc = as_json(
        capsys, "seed", *WORDS, "--cache-from", str(place / "none.tar.zst"), "--cache-from", str(archive)
    )
    assert (code, doc["coverage"]["covered"]) == (0, True)
    assert [layer["outcome"] for layer in doc["layers"]] == ["unreachable", "used"]
    code, out, _ = lanemark(capsys, "gate", *WORDS)
    assert (code, out) == (0, "open: the compile cache covers the case\n")
    code, doc = as_json(capsys, "gate", *WORDS)
    assert (code, doc["open"]) == (0, True)
    code, out, _ = lanemark(capsys, "status")
    assert f"from{archive}" in "".join(out.split())  # wherever a long path is broken


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("stripped", "4 of 10 keys and binaries that its ranks need are not there (rank 0: binary"),
        ("truncated", "is truncated: 4 of "),
        ("nothing", "no run of this case has recorded what it needs"),
    ],
)
def test_the_gate_names_what_is_missing_and_the_command(
    place: Path, capsys: pytest.CaptureFixture[str], harm: str, words: str
) -> None:
    cache = good_run(place)
    if harm == "stripped":
        for path in cache.rglob("*.so"):
            path.unlink()
    elif harm == "truncated":
        (cache / made.BINARIES[0]).write_bytes(b"half")
    else:
        shutil.rmtree(cache / "coverage")
    code, _, err = lanemark(capsys, "gate", *WORDS, "--cache-policy", "require")
    assert code == 4
    assert words in err
    assert f"`lanemark run {' '.join(WORDS)} --cache-policy seed`" in err
    code, doc = as_json(capsys, "gate", *WORDS)
    assert (code, doc["open"], doc["error"]["slug"]) == (4, False, "cache-uncovered")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--dtype", "bf16"), "dtype was fp32, and bf16 is asked for"),
        (("--nproc", "1"), "it was compiled by 2 ranks, and 1 rank is asked for"),
        (("--nproc", "4"), "it was compiled by 2 ranks, and 4 ranks are asked for"),
        (("--cache-layout", "per-rank"), "the cache's layout was shared, and per_rank is asked for"),
    ],
)
def test_another_case_is_not_covered(
    place: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: str
) -> None:
    good_run(place)
    code, _, err = lanemark(capsys, "gate", *WORDS, *change)
    assert (code, words in err) == (4, True), err


def test_a_changed_environment_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good_run(place)
    monkeypatch.setenv("TORCHINDUCTOR_CPP_MARCH", "x86-64-v4")
    code, _, err = lanemark(capsys, "gate", *WORDS)
    assert code == 4
    assert "TORCHINDUCTOR_CPP_MARCH was not there, and here it is 'x86-64-v4'" in err


def test_eager_needs_no_cache_and_the_other_orders_say_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lanemark(capsys, "gate", "training", "--gpu", "cpu")
    assert (code, out) == (0, "open: nothing is compiled\n")
    code, _, err = lanemark(capsys, "status", "training", "--gpu", "cpu")
    assert (code, "compiles nothing" in err) == (2, True)


def test_status_reads_at_eighty_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lanemark(capsys, "status")
    assert code == 0
    assert "the directory does not exist" in out
    assert "nothing that a run has recorded" in out
    cache = good_run(place)
    (cache / made.BINARIES[1]).unlink()
    (cache / "coverage/damaged.json").write_text("{")
    code, out, _ = lanemark(capsys, "status", *WORDS)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    assert "dense-nano, fsdp2, regional, fp32, 2 ranks: 2 of 10 missing" in text
    assert "damaged.json cannot be used" in text
    assert "NOT covered" in text
    assert "rank 1 2 graphs, 1 joint graphs, 2 binaries; 1 missing" in text
    assert "fill it lanemark run training" in text


def test_status_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good_run(place)
    code, doc = as_json(capsys, "status", *WORDS)
    assert code == 0
    assert doc["case"]["coverage"]["covered"] is True
    assert [row["missing"] for row in doc["case"]["ranks"]] == [0, 0]
    (row,) = doc["manifests"]
    assert (row["world_size"], row["required"], row["missing"], row["run_id"]) == (2, 10, 0, "training-run-1")
    assert doc["free_bytes"]["value"] > 0
    assert doc["seeded"]["status"] == "absent"
    code, bare = as_json(capsys, "status")
    assert "case" not in bare
    assert bare["manifests"][0]["ranks"] == row["ranks"]


def test_seed_that_helps_nothing_is_a_failure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = lanemark(capsys, "seed", *WORDS, "--cache-from", str(place / "none.tar.zst"))
    assert code == 1
    assert out.startswith("unreachable ")
    assert "[cache-seed-refused]" in err
    code, _, err = lanemark(capsys, "seed", *WORDS)
    assert (code, "LANEMARK_CACHE_FROM" in err) == (2, True)
    code, _, err = lanemark(capsys, "seed", *WORDS, "--cache-from", "http://example.com/a.tar.zst")
    assert (code, "[cache-source-invalid]" in err) == (2, True)


def test_sources_from_the_environment(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = good_run(place)
    shutil.move(cache, place / "baked")
    monkeypatch.setenv("LANEMARK_CACHE_FROM", f"{place / 'none.tar.zst'} {place / 'baked'}")
    code, doc = as_json(capsys, "seed", *WORDS)
    assert (code, [layer["kind"] for layer in doc["layers"]]) == (0, ["archive", "image_directory"])


def test_bake_prints_what_an_image_needs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good_run(place)
    code, out, _ = lanemark(capsys, "bake", *WORDS, "-o", str(place / "my-seed"))
    assert code == 0
    assert "COPY my-seed /opt/lanemark-seed\nENV LANEMARK_CACHE_FROM=/opt/lanemark-seed" in out
    assert '.add_local_dir("my-seed", "/opt/lanemark-seed")' in out
    code, _, err = lanemark(capsys, "bake", *WORDS, "-o", str(place / "my-seed"))
    assert (code, "[output-unwritable]" in err) == (2, True)
    shutil.rmtree(place / "home/cache")
    code, doc = as_json(capsys, "seed", *WORDS, "--cache-from", str(place / "my-seed"))
    assert (code, doc["coverage"]["covered"]) == (0, True)


def test_capture_of_nothing_says_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for order, out in (("capture", "a.tar.zst"), ("bake", "seed")):
        code, _, err = lanemark(capsys, order, *WORDS, "-o", str(place / out))
        assert (code, "[cache-not-captured]" in err) == (1, True), err
        assert not (place / out).exists()
    code, _, err = lanemark(capsys, "capture", *WORDS, "-o", str(place / "a.zip"))
    assert (code, "[value-invalid]" in err) == (2, True)


def test_help_and_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert lanemark(capsys)[0] == 2
    code, out, _ = lanemark(capsys, "--help")
    assert code == 0
    assert all(order in out for order in ("status", "seed", "gate", "capture", "bake"))
    code, _, err = lanemark(capsys, "clean")
    assert (code, "[arguments-invalid]" in err) == (2, True)


def test_words_for_a_suggested_command() -> None:
    words = [*WORDS, "-o", "x", "--json", "--output=y", "--cache-policy", "cold"]
    assert training_words(words) == (*WORDS, "--cache-policy", "cold")
    assert without_policy(training_words(words)) == WORDS
    assert without_policy(("a", "--cache-policy=seed", "b")) == ["a", "b"]
