"""A file of any size is refused by its size, in little memory and at once; so is whatever fits and is no record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lanemark.records.encoding import MAX_RECORD_BYTES

ROOT = Path(__file__).resolve().parents[2]
GOOD = ROOT / "tests" / "assets" / "records" / "good" / "synthetic.json"
#: Verifies a file under an address-space limit far below the file's size, and says what step refused it.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from lanemark.ledger.verify import verify_file
import lanemark.records.schema
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
failure = verify_file(Path(sys.argv[1])).failure
print(json.dumps([failure.name, failure.slug, failure.detail[:200]]))
"""


def verified(path: Path, limit_bytes: int) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout)
    return found


def test_a_gigabyte_of_garbage_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "garbage.json"
    with path.open("wb") as file:
        file.write(b'{"predicate":' * 1000)
        file.truncate(1 << 30)  # a hole: it takes no disk, and reads as a gigabyte of zeros
    assert verified(path, 600 << 20)[:2] == ["size", "record-too-large"]


def test_the_command_refuses_a_gigabyte_of_garbage(tmp_path: Path) -> None:
    path = tmp_path / "garbage.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "LANEMARK_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "lanemark", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "record-too-large" in done.stdout
    assert "Traceback" not in done.stderr


def record_with(**changes: object) -> bytes:
    doc = json.loads(GOOD.read_bytes())
    doc["predicate"].update(changes)
    return json.dumps(doc, separators=(",", ":")).encode()


def ranks() -> bytes:
    outcome = json.loads(GOOD.read_bytes())["predicate"]["outcome"]
    return record_with(outcome={**outcome, "ranks": [{}] * 3_000_000})


def samples() -> bytes:
    training = json.loads(GOOD.read_bytes())["predicate"]["training"]
    training["samples"]["measured"] = [-1] * 3_000_000
    return record_with(training=training)


#: name: (bytes that fit into a record's size, the step that must refuse them)
HOSTILE = {
    "brackets": (lambda: b"[" * MAX_RECORD_BYTES, "syntax"),
    "empty_lists": (lambda: b"[" + b"[]," * 3_000_000 + b"1]", "syntax"),
    "digits": (lambda: b"1" * MAX_RECORD_BYTES, "syntax"),
    "open_string": (lambda: b'"' + b"a" * (MAX_RECORD_BYTES - 1), "syntax"),
    "lone_surrogates": (lambda: b'{"a":"' + b"\\ud800" * 2_000_000 + b'"}', "syntax"),
    "zeros": (lambda: bytes(MAX_RECORD_BYTES), "syntax"),
    "keys": (lambda: record_with(**{f"{place:x}": 0 for place in range(1_000_000)}), "syntax"),
    "wrong_ranks": (ranks, "schema"),
    "wrong_samples": (samples, "schema"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_fits_and_is_no_record_costs_little_memory_and_no_time(name: str, tmp_path: Path) -> None:
    make, step = HOSTILE[name]
    path = tmp_path / f"{name}.json"
    path.write_bytes(make())
    assert path.stat().st_size <= MAX_RECORD_BYTES
    slug = {"syntax": "record-malformed", "schema": "record-unfit"}[step]
    assert verified(path, 1 << 30)[:2] == [step, slug]
