"""The environment of a launched command: what it needs to be found by, and nothing that could change its speed. Pure.

The ranks of the reference stack get a tuned environment; a command of the user's own is measured as it runs without us:
no thread count, no setting of NCCL and no tuning flag is touched. What is set leads its compilers to a cache that can
be looked at, and makes a failure speak. The operator's own setting wins here as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lanemark.launch.environment import CACHE_VARIABLES, CacheDirectory, Setting

_MAX_VALUE_CHARS: Final = 4096
_KEPT: Final = "set in the operator's environment, which wins"
#: What a launcher around us left for its own ranks: taken by a command, it would make ranks of processes that are none.
_FOREIGN: Final = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
    "ROLE_WORLD_SIZE",
)  # fmt: skip
#: Of CACHE_VARIABLES, what a command is led to. TMPDIR is its own: it may keep data there.
_LED: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def command_settings(operator: Mapping[str, str], *, cache: CacheDirectory) -> tuple[Setting, ...]:
    """What is set and scrubbed for a command, in order of name, each with its reason."""
    settings = [
        Setting(name[:_MAX_VALUE_CHARS], None, "scrubbed", why) for name in operator if (why := _scrubbed(name))
    ]
    table = [
        ("PYTHONFAULTHANDLER", "1", "a crash in native code leaves the Python stack in the log"),
        ("PYTHONUNBUFFERED", "1", "a killed rank's last lines are in the log and not in a lost buffer"),
        ("TORCH_FR_BUFFER_SIZE", "512", "the last collectives of every rank can be asked for while it hangs"),
    ]
    table += [
        (name, str(cache.path / below), f"compile cache: {cache.reason}")
        for name, below in CACHE_VARIABLES
        if name in _LED
    ]
    for name, value, reason in table:
        own = operator.get(name)
        settings.append(
            Setting(name, own[:_MAX_VALUE_CHARS], "operator", _KEPT)
            if own
            else Setting(name, value, "lanemark", reason)
        )
    return tuple(sorted(settings, key=lambda setting: setting.name))


def hook_path(operator: Mapping[str, str], package: Path) -> Setting:
    """PYTHONPATH with the import hook first, and the operator's own behind it.

    The directory holds the hook alone, which brings this very package along: to put the directory of an installed one
    on the path would give the command every other package that is installed there.

    Args:
        operator: the environment Lanemark was started in.
        package: the directory of the `lanemark` package.
    """
    hook = str(package / "measure" / "hook")
    # A relative entry stays one: the command runs where it was typed.
    others = [entry for entry in operator.get("PYTHONPATH", "").split(os.pathsep) if entry not in (hook, "")]
    value = os.pathsep.join([hook, *others])
    return Setting("PYTHONPATH", value, "lanemark", "ranks are found by an import hook, whoever starts them")


def _scrubbed(name: str) -> str | None:
    if name in _FOREIGN or name.startswith("TORCHELASTIC_"):
        return "left by another launcher around this one"
    if name.startswith("LANEMARK_") and name not in ("LANEMARK_HOME", "LANEMARK_DEBUG"):
        return "belongs to another attempt"
    return None
