"""What every test shares: the golden-file option, and markers that skip with a reason.

A machine without a browser or a GPU can still run everything else, and says what it left out. In continuous integration
(`CI=true`) a missing browser is a failure: there it would be a broken setup and not a choice.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Names that headless Chromium goes by, in the order they are tried.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


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
