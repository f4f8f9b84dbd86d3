"""The rank program with real processes: modes agree with one another, losses fall on real tokens, bad data is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the reference stack needs torch")
pytest.importorskip("tokenizers", reason="the corpus is built with the tokenizers library")

from stack_ranks import Ended, a_case, run_ranks

from lanemark.lanes.presets import preset
from lanemark.records.case import DataAsked
from lanemark.records.shards import header
from lanemark.stage.corpus import build_corpus
from lanemark.stage.sources import torch_headers

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SHARDS = DataAsked("shards", "sha256:" + "0" * 64)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of real C++ tokens."""
    destination = tmp_path_factory.mktemp("data") / "corpus"
    build_corpus([torch_headers() / "c10"], destination, vocab=4096, max_bytes=2_000_000)
    return destination


def healthy(ranks: list[Ended]) -> list[Ended]:
    for ended in ranks:
        assert ended.status == 0, ended.stderr
        assert ended.error is None
        assert ended.end is not None
        assert "Warning" not in ended.stderr, ended.stderr
        assert ended.end["losses"]["finite"]["value"] is True
        assert ended.samples is not None
        assert ended.samples.window_end_ns is not None
    assert len({ended.loss("last") for ended in ranks}) == 1
    return ranks


def run(tmp_path: Path, tokens: Path, **changes: Any) -> list[Ended]:
    case = a_case(data=SHARDS, **changes)
    ranks = healthy(run_ranks(tmp_path / "attempt", case, data=tokens))
    for ended in ranks:
        assert ended.end is not None
        assert ended.observed is not None
        assert ended.value("mode_observed") == case.mode
        assert ended.value("compile_observed") == case.compile
        assert ended.value("world_size_observed") == case.nproc
        assert ended.value("parameters") == preset(case.preset).num_parameters
        per_step = case.micro_batch * case.grad_accum * case.sequence
        assert ended.end["tokens"] == per_step * case.measured_steps
        assert ended.end["tokens_warmup"] == per_step * case.warmup
        assert ended.observed["data_files"], "the rank held its shards open"
    return ranks


def test_one_rank_leaves_a_whole_account_of_itself(tmp_path: Path):
    (ended,) = healthy(run_ranks(tmp_path / "attempt", a_case()))
    assert ended.observed is not None
    assert ended.end is not None
    assert ended.samples is not None
    assert ended.value("device_class") == "cpu"
    assert ended.value("backend") == "gloo"
    assert ended.value("threads") == 1
    assert ended.observed["data_files"] == []
    assert ended.observed["packages"]["torch"]["value"] is True
    assert ended.end["memory"]["rss_peak_bytes"]["value"] > 50e6
    assert ended.end["compilations"] == 0
    assert len(ended.samples.rows) == 6
    # Uniform tokens cannot be learned: the loss stays near ln(4096) = 8.3.
    assert 8.0 < ended.loss("last") < 8.7


def test_ddp_and_fsdp2_and_one_rank_train_alike_on_one_global_batch(tmp_path: Path, tokens: Path):
    whole = run(tmp_path / "one", tokens, nproc=1, mode="single", micro_batch=4, steps=8)[0]
    for name, mode, micro_batch, grad_accum in (
        ("ddp", "ddp", 1, 2),
        ("fsdp2", "fsdp2", 2, 1),
    ):
        shared = run(
            tmp_path / name, tokens, nproc=2, mode=mode, micro_batch=micro_batch, grad_accum=grad_accum, steps=8
        )[0]
        assert shared.loss("first") == pytest.approx(whole.loss("first"), rel=1e-5), name
        assert shared.loss("last") == pytest.approx(whole.loss("last"), rel=1e-3), name


@pytest.mark.parametrize(
    ("recipe", "mode", "dtype"),
    [
        ("dense-nano", "fsdp2", "bf16"),
        ("moe-nano", "fsdp2", "fp32"),
        ("moe-nano", "ddp", "bf16"),
    ],
)
def test_the_nano_presets_learn_real_tokens_on_two_ranks(
    tmp_path: Path, tokens: Path, recipe: str, mode: str, dtype: str
):
    ranks = run(tmp_path, tokens, preset=recipe, nproc=2, mode=mode, dtype=dtype, sequence=128, micro_batch=2, steps=8)
    assert ranks[0].loss("last") < ranks[0].loss("first") - 0.4


@pytest.mark.parametrize("mode", ["fsdp2"])
def test_blocks_compiled_alike_train_like_eager_ones(tmp_path: Path, tokens: Path, mode: str):
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    eager = run(tmp_path / "eager", tokens, nproc=2, mode=mode)[0]
    case = a_case(data=SHARDS, nproc=2, mode=mode, compile="regional", steps=6)
    ranks = healthy(run_ranks(tmp_path / "regional", case, data=tokens, env=cache))
    for ended in ranks:
        assert ended.end is not None
        assert ended.samples is not None
        assert ended.value("compile_observed") == "regional"
        assert ended.value("compile_hooks") is True
        assert ended.end["compilations"] >= 1
        assert ended.end["compile_ns"] > 0
        # Two blocks, one graph; nothing is compiled once the window is open.
        assert ended.samples.rows[1].compile_ns == ended.samples.rows[-1].compile_ns
    assert ranks[0].loss("last") == pytest.approx(eager.loss("last"), rel=1e-3)


@pytest.mark.parametrize(
    ("damage", "slug_words"),
    [
        ("truncated", "corpus_train_000000.bin declares"),
        ("no directory", "no data directory was given"),
    ],
)
def test_bad_data_ends_the_rank_with_the_file_by_name(tmp_path: Path, damage: str, slug_words: str):
    data = tmp_path / "data"
    if damage == "truncated":
        data.mkdir()
        (data / "corpus_train_000000.bin").write_bytes(header(1000) + bytes(1000))
    (ended,) = run_ranks(tmp_path / "attempt", a_case(data=SHARDS), data=None if damage == "no directory" else data)
    assert ended.status != 0
    assert ended.end is None
    assert ended.error is not None
    assert slug_words in ended.error["message"]["message"]
    assert ended.error["message"]["message"].startswith("DataError")
