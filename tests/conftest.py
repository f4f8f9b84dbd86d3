"""What every test shares: the golden-file option, and markers that skip with a reason.

A machine without a browser or a GPU can still run everything else, and says what it left out. In continuous integration
(`CI=true`) a missing browser is a failure: there it would be a broken setup and not a choice.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Names that headless Chromium goes by, in the order they are tried.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture(autouse=True)
def _caches_of_the_compiler_named_by_nobody() -> Iterator[None]:
    """Once it has compiled in this process, torch keeps its default cache's path in the environment, and every process that
    a later test starts would share that cache."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def find_browser() -> str | None:
    """The first installed browser that runs headless, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not Path("/dev/nvidiactl").exists():
        pytest.skip("needs an NVIDIA GPU, and this host has no /dev/nvidiactl")
    if item.get_closest_marker("browser") and find_browser() is None:
        reason = f"needs headless Chromium, and none of {', '.join(BROWSERS)} is on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@functools.cache
def launches_torch(file: str) -> bool:
    """Whether a test file starts ranks with torch, by the marker in its text: the controller collects nothing."""
    path = ROOT / file
    return path.is_file() and "mark.torch" in path.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How two workers share the tests: by file, so that a server is started once, and never two real launches at once.

    All files that start ranks with torch are one unit of work, and the first one: a launch keeps both cores of a small
    machine busy, and half of the time of all tests is theirs. One worker does them, the other does the rest meanwhile.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "torch" if launches_torch(file) else file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take units in this order: the longest first, and what is short last, so that both end together."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        place = {True: 0, False: 1}
        real = {item.path: "real" in item.path.parts for item in items}
        torch = {path: launches_torch(os.fspath(path.relative_to(ROOT))) for path in real}
        items.sort(key=lambda item: (place[torch[item.path]], place[real[item.path]]))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew (`--update-golden`)."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def browser() -> str:
    """Path of headless Chromium; use it with the `browser` marker."""
    found = find_browser()
    assert found is not None
    return found
