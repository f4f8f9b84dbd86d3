"""What every Python of a launched command runs before its script: find out whether it is a rank. Never in its way.

Python imports a module of this name at start-up, from the first place on its path that has one (source: the `site`
module). So nothing of the script changes, and it does not matter who starts it: torchrun, accelerate, a shell
script. A `sitecustomize` that the environment has of its own is run as if ours were not there.

Every Python process of the command pays for this file, compile workers and data loaders included; it imports what the
interpreter has loaded already, and the rest of Lanemark only in a process that belongs to an attempt.
"""

from __future__ import annotations

import os
import sys


def _run_the_others(here: str) -> None:
    """Import the `sitecustomize` that would have been imported without us, under its own name."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    others = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    ours = sys.modules.get("sitecustomize")
    sys.modules["sitecustomize"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # what it raises is the environment's own business, and `site` reports it as ever
        if ours is not None:
            sys.modules["sitecustomize"] = ours
        raise


def _bring_lanemark() -> None:
    """Make this very package importable, from where it lies, and nothing else that lies there."""
    from importlib.util import module_from_spec, spec_from_file_location

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    init = os.path.join(package, "__init__.py")
    spec = spec_from_file_location("lanemark", init, submodule_search_locations=[package])
    if spec is None or spec.loader is None:
        raise ImportError(f"{init} cannot be loaded")
    module = module_from_spec(spec)
    sys.modules["lanemark"] = module
    spec.loader.exec_module(module)


def _find_ranks() -> None:
    if not os.environ.get("LANEMARK_ATTEMPT_DIR"):
        return
    try:
        _bring_lanemark()
        from lanemark.measure.finding import start

        start()
    except Exception as error:  # an interpreter too old for us, a damaged attempt: the command runs, unmeasured
        if os.environ.get("LANEMARK_DEBUG"):
            sys.stderr.write(f"lanemark: this process is not watched ({type(error).__name__}: {error})\n")


_find_ranks()
_run_the_others(os.path.realpath(os.path.dirname(__file__)))
