"""Source facts from real repositories, hostile ones included."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lanemark.observe.source import git_environment, lanemark_digest, source_facts

GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(GIT is None, reason="needs git")


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    (tmp_path / "home").mkdir()


def git(where: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.invalid", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=where, check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    where = tmp_path / "a repo"
    where.mkdir()
    git(where, "init", "-q")
    (where / "f.py").write_text("print(1)\n")
    (where / ".gitignore").write_text("ignored/\n")
    git(where, "add", ".")
    git(where, "commit", "-q", "-m", "first")
    return where


def test_clean_then_dirty_then_untracked(repository: Path) -> None:
    facts = source_facts(repository)
    assert facts["commit"].value == git(repository, "rev-parse", "HEAD").strip()
    assert facts["dirty"].value is False
    assert facts["repository_root"].value == os.path.realpath(repository)
    (repository / "ignored").mkdir()
    (repository / "ignored/x").write_text("")
    below = source_facts(repository / "ignored")
    assert below["dirty"].value is False
    assert below["commit"] == facts["commit"]
    (repository / "new.py").write_text("")
    assert source_facts(repository)["dirty"].value is True
    (repository / "new.py").unlink()
    (repository / "f.py").write_text("print(2)\n")
    assert source_facts(repository)["dirty"].value is True


def test_no_repository_and_no_commit(tmp_path: Path) -> None:
    environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    assert {seen.status for seen in source_facts(tmp_path, environ).values()} == {"absent"}
    git(tmp_path, "init", "-q")
    facts = source_facts(tmp_path, environ)
    assert facts["commit"].status == "absent"
    assert "no commit yet" in (facts["commit"].reason or "")
    assert facts["repository_root"].status == "observed"


def test_no_git_and_no_directory_are_unavailable(repository: Path, tmp_path: Path) -> None:
    facts = source_facts(repository, {"PATH": str(tmp_path / "empty")})
    assert {seen.status for seen in facts.values()} == {"unavailable"}
    assert {seen.status for seen in source_facts(tmp_path / "none").values()} == {"unavailable"}


def test_broken_repository_is_unavailable(repository: Path) -> None:
    (repository / ".git/HEAD").write_text("ref: refs/heads/main\n")
    for found in (repository / ".git/objects").glob("??"):
        shutil.rmtree(found)
    facts = source_facts(repository)
    assert facts["commit"].status == "unavailable"
    assert facts["dirty"].status == "unavailable"


def test_bare_repository_has_no_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "bare.git")
    assert source_facts(tmp_path / "bare.git")["dirty"].status == "absent"


def test_a_git_that_hangs_is_unavailable(repository: Path, tmp_path: Path) -> None:
    slow = tmp_path / "bin/git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    facts = source_facts(repository, {"PATH": f"{slow.parent}:/usr/bin:/bin"}, timeout_s=0.5)
    assert {seen.status for seen in facts.values()} == {"unavailable"}
    assert "0.5 s" in (facts["commit"].reason or "")


def test_operator_git_variables_do_not_redirect(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    environ = {**os.environ, "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert source_facts(repository, environ)["repository_root"].value == os.path.realpath(repository)
    assert "GIT_DIR" not in git_environment(environ)


def test_no_program_of_a_hostile_repository_is_run(repository: Path, tmp_path: Path) -> None:
    """Monitor, hooks, pager, filters, attributes: each would leave a file; none does."""
    proof = tmp_path / "proof"
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch '{proof}'\ncat\n")
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "pager.status",
        "core.editor",
        "core.sshCommand",
        "core.askPass",
        "diff.external",
    ):
        git(repository, "config", key, str(trap))
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "pre-commit", "reference-transaction", "fsmonitor-watchman"):
        shutil.copy(trap, hooks / name)
    git(repository, "config", "core.hooksPath", str(hooks))
    facts = source_facts(repository)
    assert facts["dirty"].value is False
    for part in ("clean", "smudge", "process"):
        git(repository, "config", f"filter.evil.{part}", str(trap))
    git(repository, "config", "filter.evil.required", "true")
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/attributes").write_text("*.py filter=evil\n")
    os.utime(repository / "f.py", (1, 1))  # makes git look at the content again
    assert source_facts(repository)["dirty"].value is False
    (repository / "f.py").write_text("print(3)\n")
    dirty = source_facts(repository)["dirty"]
    assert (dirty.status, "evil" in (dirty.reason or "")) == ("unavailable", True)
    assert not proof.exists()


def test_an_oddly_named_filter_is_not_guessed_at(repository: Path) -> None:
    git(repository, "config", "filter.a b=c.clean", "true")
    assert source_facts(repository)["dirty"].status == "unavailable"


def test_the_operators_own_filter_is_trusted(repository: Path) -> None:
    git(repository, "config", "--global", "filter.lfs.clean", "cat")
    (repository / "f.py").write_text("print(4)\n")
    assert source_facts(repository)["dirty"].value is True


def test_nothing_is_written_into_the_repository(repository: Path) -> None:
    os.utime(repository / "f.py", (5, 5))
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    source_facts(repository)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_digest_of_the_package_follows_its_content(tmp_path: Path) -> None:
    seen = lanemark_digest()
    assert (seen.value or "").startswith("sha256:")
    assert seen == lanemark_digest()
    (tmp_path / "a.py").write_text("1")
    first = lanemark_digest(tmp_path).value
    (tmp_path / "a.py").write_text("2")
    assert lanemark_digest(tmp_path).value != first
    assert lanemark_digest(tmp_path / "none").status == "unavailable"
