"""The shell around the code: it parses, refuses in words, and passes failures on."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
#: What the scripts need of the system before anything is set up.
SHELL_TOOLS = (
    "bash",
    "env",
    "dirname",
    "mkdir",
    "flock",
    "sha256sum",
    "cut",
    "cat",
    "grep",
    "id",
    "mktemp",
    "rm",
    "tail",
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_stops_at_errors_and_may_be_executed(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert os.access(script, os.X_OK)


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, timeout=30, check=True)
    assert re.findall(r"^  make ([a-z]+) ", done.stdout, re.MULTILINE) == targets
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    assert phony[1].split() == targets


def stub(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text("#!/bin/sh\n" + text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A directory to be the whole PATH: the tools every script needs, and nothing else."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in SHELL_TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (directory / name).symlink_to(found)
    return directory


def checkout(tmp_path: Path, *scripts: str) -> Path:
    """A checkout at a path with a space and a quote, with only what the scripts read."""
    there = tmp_path / "it's here"
    (there / "scripts").mkdir(parents=True)
    for name in scripts:
        shutil.copy(ROOT / "scripts" / name, there / "scripts" / name)
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, there / name)
    return there


def run(script: Path, path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(path / "bash"), str(script), *arguments],
        capture_output=True,
        text=True,
        env={"PATH": str(path), **env},
        timeout=60,
        check=False,
    )


def test_setup_refuses_an_old_python_in_words(tmp_path: Path, shell: Path) -> None:
    stub(shell, "python3", "exit 1\n")
    done = run(checkout(tmp_path, "setup") / "scripts" / "setup", shell)
    assert done.returncode == 1
    assert "no Python 3.11 or newer on PATH" in done.stderr
    assert "PYTHON" in done.stderr


def test_setup_refuses_the_python_it_is_given_and_takes_no_other(tmp_path: Path, shell: Path) -> None:
    stub(shell, "python3", "exit 0\n")
    stub(shell, "old", "exit 1\n")
    done = run(checkout(tmp_path, "setup") / "scripts" / "setup", shell, PYTHON=str(shell / "old"))
    assert done.returncode == 1
    assert "old is not a Python 3.11 or newer" in done.stderr


def test_setup_names_the_package_where_venv_is_missing(tmp_path: Path, shell: Path) -> None:
    stub(shell, "python3", 'case "$2" in *ensurepip*) exit 1 ;; esac\nexit 0\n')
    done = run(checkout(tmp_path, "setup") / "scripts" / "setup", shell)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_setup_does_nothing_when_its_stamp_is_true_and_something_when_it_is_not(tmp_path: Path, shell: Path) -> None:
    there = checkout(tmp_path, "setup")
    stub(shell, "python3", "exit 1\n")  # reaching for it is a failure, which shows that setup went on
    (there / ".venv" / "bin").mkdir(parents=True)
    stub(there / ".venv" / "bin", "python", "exit 0\n")
    digest = subprocess.run(
        ["bash", "-c", "(pwd -P; cat constraints.txt pyproject.toml scripts/setup) | sha256sum | cut -d ' ' -f 1"],
        cwd=there, capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    (there / ".venv" / ".lanemark-setup").write_text(digest, encoding="utf-8")
    assert run(there / "scripts" / "setup", shell).returncode == 0
    (there / "constraints.txt").write_text("torch==0\n", encoding="utf-8")
    assert run(there / "scripts" / "setup", shell).returncode == 1


def test_system_says_what_will_skip_and_succeeds_without_apt(shell: Path) -> None:
    done = run(ROOT / "scripts" / "system", shell)
    assert done.returncode == 0
    for package in ("chromium", "g++", "git", "zstd", "fuse3", "postgresql", "ceph-mon", "ceph-osd", "radosgw"):
        assert f"system: {package} is missing" in done.stderr


def test_system_is_silent_when_everything_is_there(shell: Path) -> None:
    for name in ("chromium", "g++", "git", "zstd", "fusermount3", "pg_ctl", "ceph-mon", "ceph-osd", "radosgw"):
        stub(shell, name, "exit 0\n")
    stub(shell, "apt-get", "exit 1\n")
    done = run(ROOT / "scripts" / "system", shell)
    assert (done.returncode, done.stderr) == (0, "")


def test_system_survives_a_failing_apt(shell: Path) -> None:
    for name in ("chromium", "git"):
        stub(shell, name, "exit 0\n")
    (shell / "id").unlink()
    stub(shell, "id", "echo 0\n")
    stub(shell, "timeout", 'shift\nexec "$@"\n')
    stub(shell, "apt-get", "echo 'E: no route' >&2\nexit 100\n")
    done = run(ROOT / "scripts" / "system", shell)
    assert done.returncode == 0
    assert "apt-get failed: E: no route" in done.stderr
    assert "system: g++ is missing" in done.stderr


LANEMARK = """
echo "$*" >> calls
case "$1" in
  run) printf '%s' "$ANSWER"; exit "$STATUS" ;;
  show) echo "record $2" ;;
esac
"""


@pytest.fixture
def bench(tmp_path: Path, shell: Path) -> Path:
    """A checkout whose `lanemark` only notes how it was called."""
    there = checkout(tmp_path, "bench")
    (there / ".venv" / "bin").mkdir(parents=True)
    stub(there / ".venv" / "bin", "lanemark", LANEMARK)
    stub(there / ".venv" / "bin", "python", f'exec {shlex.quote(sys.executable)} "$@"\n')
    return there


def test_bench_runs_shows_and_reports(bench: Path, shell: Path) -> None:
    stub(shell, "g++", "exit 0\n")
    answer = json.dumps({"record_id": "sha256:ab"})
    done = run(bench / "scripts" / "bench", shell, "--steps", "9", ANSWER=answer, STATUS="0")
    assert (done.returncode, done.stdout) == (0, "record sha256:ab\n")
    calls = (bench / "calls").read_text("utf-8").splitlines()
    assert (
        calls[0]
        == "run training --preset dense-nano --nproc 2 --mode fsdp2 --compile regional --cache-policy seed --json --steps 9"
    )
    assert calls[1:] == ["show sha256:ab", "report sha256:ab -o bench-out/report.html"]


def test_bench_runs_eager_without_a_compiler_and_says_so(bench: Path, shell: Path) -> None:
    done = run(bench / "scripts" / "bench", shell, ANSWER=json.dumps({"record_id": "sha256:ab"}), STATUS="0")
    assert "no C++ compiler" in done.stderr
    assert "--compile eager" in (bench / "calls").read_text("utf-8")


def test_bench_reports_a_failed_run_and_fails(bench: Path, shell: Path) -> None:
    done = run(bench / "scripts" / "bench", shell, ANSWER=json.dumps({"record_id": "sha256:ab"}), STATUS="1")
    assert done.returncode == 1
    assert "report sha256:ab" in (bench / "calls").read_text("utf-8")


@pytest.mark.parametrize(
    ("answer", "status", "expected"), [("", "2", 2), ('{"error": {}}', "4", 4), ("not json", "0", 1)]
)
def test_bench_without_a_record_ends_as_the_run_did(
    bench: Path, shell: Path, answer: str, status: str, expected: int
) -> None:
    done = run(bench / "scripts" / "bench", shell, ANSWER=answer, STATUS=status)
    assert done.returncode == expected
    assert len((bench / "calls").read_text("utf-8").splitlines()) == 1
