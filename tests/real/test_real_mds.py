"""Rows of MDS through MosaicML's own library, which is beside the environment (`scripts/aside`): written, read, trained on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.lanes.rules import broken_rules
from lanemark.records.reading import read_record

pytestmark = [pytest.mark.torch, pytest.mark.slow]

#: Its import has pictures' readers that do not load here; that is a warning, and no concern of token ids.
QUIET = "import warnings; warnings.filterwarnings('ignore', 'Failed to load image')\n"
WRITE = """
import random, sys
from pathlib import Path
import numpy as np
from streaming import MDSWriter

with MDSWriter(out=sys.argv[1], columns={"input_ids": "ndarray:int32"}, size_limit=50_000) as out:
    for number in range(600):
        out.write({"input_ids": np.array(random.Random(number).choices(range(256), k=33), dtype=np.int32)})
"""
READ = """
import sys
from pathlib import Path
import numpy as np, pytest, torch
from streaming import MDSWriter
from lanemark.observe.data_path import classify_self
from lanemark.observe.packed import open_tokens
from lanemark.records.errors import DataError
from lanemark.stack.loader import batch
from lanemark.stack.mds import MdsLoader

kinds = {"ndarray:uint16": "uint16", "ndarray:int32:40": "int32", "ndarray:uint32": "uint32", "ndarray:int64": "int64", "bytes": "int64"}
for number, (encoding, dtype) in enumerate(kinds.items()):
    where = Path(sys.argv[1]) / str(number)
    with MDSWriter(out=str(where), columns={"tokens": encoding}, size_limit=1000) as out:
        for row in range(12):
            ids = np.arange(row * 40, row * 40 + 40, dtype=dtype)
            out.write({"tokens": ids.tobytes() if encoding == "bytes" else ids})
    found = open_tokens(where)
    assert (found.row_tokens, found.tokens, len(found.shards) > 1) == (40, 480, True), found
    firsts = []
    for rank in range(3):
        loader = MdsLoader(found, vocab=480, sequence=16, micro_batch=8, rank=rank, world_size=3, seed=5)
        inputs, targets = batch(loader, 0, 8, 16)
        assert torch.equal(targets, inputs + 1)
        firsts += [int(row[0]) for row in inputs]
        assert [divmod(window, 2) for window in loader.windows(0)] == [(f // 40, f % 40 // 16) for f in firsts[-8:]]
    assert sorted(firsts) == [row * 40 + piece for row in range(12) for piece in (0, 16)], firsts
    assert [row["name"] for row in classify_self([one.path for one in found.shards])] == [one.name for one in found.shards]
    with pytest.raises(DataError, match="holds the token id 479") as caught:
        for forward in range(3):
            batch(MdsLoader(found, vocab=479, sequence=39, micro_batch=4), forward, 4, 39)
    assert caught.value.slug == "vocab-mismatch"
    path = found.shards[0].path
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"row \\d+ of .*shard\\.00000\\.mds (is not of 40 tokens|cannot be decoded)"):
        batch(MdsLoader(found, vocab=480, sequence=39, micro_batch=12), 0, 12, 39)
print("read")
"""


@pytest.fixture(scope="module")
def aside() -> str:
    place = Path(sys.prefix) / "aside" / "mds"
    if not place.is_dir():
        reason = "needs mosaicml-streaming: run scripts/aside"
        if os.environ.get("CI") == "true" and sys.version_info < (3, 12):
            pytest.fail(reason)  # from 3.12 on there is no torchvision for it that loads beside torch without CUDA
        pytest.skip(reason)
    return str(place)


def python(place: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip


def test_every_encoding_of_ids_is_read_as_the_library_wrote_it(aside: str, tmp_path: Path) -> None:
    done = python(aside, "-c", QUIET + READ, str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


def value(doc: dict[str, Any]) -> Any:
    assert doc["status"] == "observed", doc
    return doc["value"]


def test_two_ranks_train_on_rows_of_mds_and_the_record_names_them(aside: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    done = python(aside, "-c", QUIET + WRITE, str(rows))
    assert done.returncode == 0, done.stderr
    asked = [
        "run", "training", "--json", "--preset", "diagnostic", "--sequence", "32", "--steps", "8", "--warmup", "2",
        "--gpu", "cpu", "--nproc", "2", "--mode", "ddp", "--data", str(rows),
    ]  # fmt: skip
    done = python(aside, "-m", "lanemark", *asked, LANEMARK_HOME=str(tmp_path / "home"))
    said = json.loads(done.stdout or "{}")
    assert said.get("receipt"), done.stderr
    predicate = read_record(Path(said["record_path"]).read_bytes()).predicate
    assert broken_rules(predicate) == ()
    data = predicate["data"]
    shards = sorted(path.name for path in rows.glob("*.mds"))
    assert len(shards) == 2
    assert {one["name"]: value(one["sha256"]) for one in data["shards"]} == {
        name: hashlib.sha256((rows / name).read_bytes()).hexdigest() for name in shards
    }
    assert sum(one["tokens"] for one in data["shards"]) == 600 * 33
    windows = value(data["windows"])
    assert (windows["sequences"], windows["as_expected"]) == (600, True)
    assert windows["read"]["count"] == 6 * 2 * predicate["case"]["micro_batch"]
    assert value(data["token_parity"])
    sums = [value(row["windows"])["sum"] for row in data["ranks"]]
    assert sums[0] != sums[1]
    assert value(data["path_class"]) in ("local_disk", "page_cache", "ram")
    assert {entry["name"] for entry in data["paths"]} == set(shards)

    python(aside, "-c", QUIET + WRITE.replace("ndarray:int32", "pkl"), str(tmp_path / "pickled"))
    asked[-1] = str(tmp_path / "pickled")
    refused = python(aside, "-m", "lanemark", *asked, LANEMARK_HOME=str(tmp_path / "home"))
    assert (refused.returncode, "[shard-mislabelled]" in refused.stderr) == (2, True), refused.stderr
    assert "a column input_ids of 'pkl', none of bytes" in refused.stderr

    (tmp_path / "none").mkdir()
    asked[-1] = str(rows)
    refused = python(str(tmp_path / "none"), "-m", "lanemark", *asked, LANEMARK_HOME=str(tmp_path / "home"))
    assert (refused.returncode, "[mds-missing]" in refused.stderr) == (4, True), refused.stderr
