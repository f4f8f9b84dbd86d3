"""`python -m lanemark.observe.import_probe MODULE`: import one module and print how that went, as one JSON line.

A process of its own for each module: a broken kernel wheel can end the interpreter (a missing symbol, an illegal
instruction), register itself with torch, or take the GPU. What the module prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Final

MARK: Final = "lanemark-import-probe "


def main() -> None:
    """Import `sys.argv[1]`. The exit status is 0 whenever the outcome could be said."""
    name = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        importlib.import_module(name)
        outcome: dict[str, object] = {"imported": True}
    except BaseException as error:  # SystemExit as well: a module that exits on import was not imported
        text = next((line for line in str(error).splitlines() if line.strip()), "no detail")
        outcome = {"imported": False, "error": f"{type(error).__name__}: {text}"[:300]}
    answers.write(MARK + json.dumps(outcome) + "\n")
    answers.flush()
    # Kernel libraries are known to crash while they are unloaded; the answer stands before that can happen.
    os._exit(0)


if __name__ == "__main__":
    main()
