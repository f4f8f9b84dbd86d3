"""Which source ran: the commit under the working directory, whether it was clean, and a digest of our own files.

Git is asked through its own program, because its work-tree rules are its own. A repository is data from elsewhere,
though, and its configuration can name programs: file-system monitors, hooks, filters, pagers. None of them is run
from here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.observe.child import ChildResult, run_child
from lanemark.observe.reading import guarded, reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: `git status` of a tree with a million files takes seconds; beyond this the answer is not worth a launch's wait.
GIT_TIMEOUT_S: Final = 10.0
#: Settings that could start a program or open a connection, turned off (git-config(1), each under its own name).
_SAFE: Final = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.askPass=", "credential.helper=",
    "status.submoduleSummary=false", "protocol.allow=never", "color.ui=false", "core.quotePath=true",
)  # fmt: skip
#: Where git may look for a repository is the operator's business; every other GIT_ variable would point elsewhere.
_KEPT_VARIABLES: Final = ("GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")
_OBJECT_NAME: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PLAIN_KEY: Final = re.compile(r"filter\.([A-Za-z0-9._-]+)\.(?:clean|smudge|process)", re.IGNORECASE)


def git_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a git that takes no locks, asks nobody, fetches nothing and speaks plain English."""
    kept = {k: v for k, v in environ.items() if not k.startswith("GIT_") or k in _KEPT_VARIABLES}
    return {
        **kept,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_PAGER": "cat",
        "LC_ALL": "C",
    }


class _Git:
    """One repository asked a few questions."""

    def __init__(self, program: str, directory: str, environ: Mapping[str, str], timeout_s: float) -> None:
        self._head = [program, "--no-pager", *(part for setting in _SAFE for part in ("-c", setting))]
        self._env = git_environment(environ)
        self._directory = directory
        self._timeout_s = timeout_s

    def ask(self, *arguments: str, settings: tuple[str, ...] = ()) -> ChildResult:
        extra = [part for setting in settings for part in ("-c", setting)]
        return run_child(
            [*self._head, *extra, *arguments], timeout_s=self._timeout_s, env=self._env, cwd=self._directory
        )


def _refusal(result: ChildResult, source: str, timeout_s: float) -> Observation[Any]:
    """Why git gave no answer. Only its plain statement that there is no repository is an absence."""
    if result.timed_out:
        return unavailable(source, f"git did not answer within {timeout_s:g} s")
    said = next((line for line in result.stderr.splitlines() if line.strip()), f"status {result.returncode}")
    if "not a git repository" in said:
        return absent(source, "the working directory is in no git repository")
    if "must be run in a work tree" in said:
        return absent(source, "the repository has no work tree here")
    return unavailable(source, safe_text(said.strip())[:300])


def source_facts(
    directory: str | os.PathLike[str], environ: Mapping[str, str] | None = None, *, timeout_s: float = GIT_TIMEOUT_S
) -> dict[str, Observation[Any]]:
    """`commit`, `dirty` and `repository_root` of the repository that holds `directory`. Never raises.

    Args:
        directory: the working directory of the launch.
        environ: ours when None.
        timeout_s: for each question to git.
    """
    env = dict(os.environ if environ is None else environ)
    names = ("commit", "dirty", "repository_root")
    program = shutil.which("git", path=env.get("PATH"))
    if program is None:
        return {name: unavailable("git", "there is no git program on PATH") for name in names}
    try:
        git = _Git(program, os.fspath(directory), env, timeout_s)
        top = git.ask("rev-parse", "--show-toplevel")
        if top.returncode != 0:
            refusal = _refusal(top, "git rev-parse --show-toplevel", timeout_s)
            return dict.fromkeys(names, refusal)
    except OSError as error:
        return {name: unavailable("git", reason_of(error)) for name in names}
    return {
        "repository_root": observed(safe_text(top.stdout.rstrip("\n")), "git rev-parse --show-toplevel"),
        "commit": guarded("git rev-parse HEAD", lambda: _commit(git, timeout_s)),
        "dirty": guarded("git status", lambda: _dirty(git, timeout_s)),
    }


def _commit(git: _Git, timeout_s: float) -> Observation[str]:
    source = "git rev-parse HEAD"
    result = git.ask("rev-parse", "--verify", "--quiet", "HEAD")
    if result.returncode == 1 and not result.stderr.strip():
        return absent(source, "the repository has no commit yet")
    name = result.stdout.strip()
    if result.returncode != 0 or _OBJECT_NAME.fullmatch(name) is None:
        return _refusal(result, source, timeout_s)
    if git.ask("cat-file", "-e", f"{name}^{{commit}}").returncode != 0:
        return unavailable(source, f"HEAD names {name}, and the repository does not hold that commit")
    return observed(name, source)


def _dirty(git: _Git, timeout_s: float) -> Observation[bool]:
    """Whether anything tracked differs or anything untracked and not ignored is there.

    The repository's own filter programs are not run. Git then compares such files unfiltered, which can only err
    towards "differs": so a clean answer stands, and a dirty one is not claimed.
    """
    source = "git status (tracked changes and untracked files; submodules by commit only)"
    keys = _filters(git)
    plain = [match[1] for match in map(_PLAIN_KEY.fullmatch, keys) if match]
    if len(plain) != len(keys):
        return unavailable(source, "the repository's configuration names a filter that cannot safely be left out")
    off = tuple(
        f"filter.{name}.{part}"
        for name in sorted(set(plain))
        for part in ("clean=", "smudge=", "process=", "required=false")
    )
    result = git.ask("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=dirty", settings=off)
    if result.returncode != 0:
        return _refusal(result, source, timeout_s)
    changed = bool(result.stdout.strip())
    if changed and plain:
        return unavailable(source, f"the repository's own filter {plain[0]!r} is not run, and without it files differ")
    return observed(changed, source)


def _filters(git: _Git) -> list[str]:
    """Filter settings that the repository itself brings; the operator's own (global, system) are trusted and kept."""
    pattern = r"^filter\..*\.(clean|smudge|process)$"
    result = git.ask("config", "--show-scope", "--name-only", "-z", "--get-regexp", pattern)
    if result.returncode == 1:
        return []
    if result.returncode != 0:  # before git 2.26 there is no --show-scope: treat every filter as the repository's
        result = git.ask("config", "--name-only", "-z", "--get-regexp", pattern)
        return [key for key in result.stdout.split("\0") if key]
    fields = result.stdout.split("\0")
    return [key for scope, key in zip(fields[::2], fields[1::2], strict=False) if scope not in ("global", "system")]


def lanemark_digest(package: Path | None = None) -> Observation[str]:
    """`sha256:…` over every `.py` file of the installed package: sorted lines of relative path and content digest."""
    base = package if package is not None else Path(__file__).resolve().parents[1]
    source = "lanemark's own .py files"

    def read() -> Observation[str]:
        total = hashlib.sha256()
        paths = sorted((path.relative_to(base).as_posix(), path) for path in base.rglob("*.py"))
        if not paths:
            return unavailable(source, "the package is not laid out as files")
        for relative, path in paths:
            total.update(f"{relative}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return observed(f"sha256:{total.hexdigest()}", f"{source} ({len(paths)} files)")

    return guarded(source, read)
