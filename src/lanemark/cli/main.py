"""`lanemark`: find the verb, let its module parse and run, turn errors into one sentence and an exit code.

Nothing is imported here that `--help` does not need: each verb's module is loaded when it is called.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from lanemark.records.errors import LanemarkError, UsageError

#: verb → (module under `lanemark.cli`, one line of help). The order is the order of use.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "run": ("run", "run a benchmark and leave one sealed record"),
    "matrix": ("matrix", "run a small grid of cases in turns, and say how each compares with the first"),
    "plan": ("plan", "print what `run` would launch, as JSON; launch nothing"),
    "wave": ("modal_wave", "plan, launch and sum up many isolated runs on Modal, under a cap on dollars"),
    "runs": ("runs", "list attempts and their states"),
    "collect": ("collect", "bring detached runs home; seal attempts whose supervisor was lost"),
    "cancel": ("cancel", "end runs and seal their records"),
    "doctor": ("doctor", "say what is wrong with an attempt, and what to do next"),
    "list": ("listing", "list records, newest first"),
    "show": ("show", "show one record: requested, observed, figures, and what it does not prove"),
    "verify": ("verify", "check a record step by step, from its bytes to its signatures and the log"),
    "compare": ("compare", "say whether records may be compared, and why not; only then which is faster"),
    "cite": ("cite", "print the narrowest honest sentence a record supports, or check one that somebody wrote"),
    "route": ("route", "from a question to the lane, the command and the records that answer it"),
    "frontier": ("frontier", "what is known to work: lane, mode, compile posture and device class, with its age"),
    "watch": ("watch", "say whether a series of runs got slower, since when, and what changed there; for CI"),
    "promotion": ("promotion", "where kernel paths stand: promoted, rejected, still owed; and one wave as a matrix"),
    "promote": (
        "promote",
        "promote a kernel path on the records that show it, or reject it: the only way its status moves",
    ),
    "sign": ("sign", "sign records with an Ed25519 key, or make a key"),
    "log": ("log", "keep and check the log that shows whether a record was removed or altered"),
    "stage": ("stage", "copy a data set to a local directory, every byte held to its digest"),
    "cache": ("cache", "look at, seed, gate, capture or bake a compile cache"),
    "env": ("env", "print what can be observed of this host"),
    "report": ("report", "write one self-contained HTML file from records"),
    "export": ("export", "write records for other programs: JSON lines, CSV or Parquet"),
    "import": ("import_", "take in the records of another ledger, verified"),
    "schema": ("schema", "print the record's JSON Schema, or the page that documents every field"),
    "index": ("index", "rebuild the ledger's disposable index from its files"),
}

EXIT_CODES: Final = (
    (0, "done and healthy"),
    (1, "the run or the check failed (a record exists)"),
    (2, "usage or bad input"),
    (3, "not comparable"),
    (4, "a gate refused to start; the message names the command that satisfies it"),
)


def usage() -> str:
    """The text of `lanemark --help`."""
    width = max(map(len, VERBS))
    lines = [
        "usage: lanemark VERB [ARGUMENT ...]",
        "",
        "Benchmark training stacks; leave one checkable record per run.",
        "",
        "verbs:",
        *(f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()),
        "",
        "exit codes:",
        *(f"  {code}  {meaning}" for code, meaning in EXIT_CODES),
        "",
        "`lanemark VERB --help` explains a verb. State lives under $LANEMARK_HOME.",
    ]
    return "\n".join(lines)


def _close(word: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, VERBS, n=1)
    return f"did you mean `lanemark {near[0]}`" if near else "see `lanemark --help` for the verbs"


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from lanemark import __version__

        print(f"lanemark {__version__}")
        return 0
    verb = args[0]
    if verb not in VERBS:
        raise UsageError("arguments-invalid", f"there is no verb {verb[:40]!r}", _close(verb))
    module = importlib.import_module(f"lanemark.cli.{VERBS[verb][0]}")
    code: int = module.main(args[1:])
    return code


def _report(error: LanemarkError, args: Sequence[str]) -> None:
    print(f"lanemark: {error} [{error.slug}]", file=sys.stderr)
    if "--json" in args:
        import json

        print(json.dumps({"error": {"slug": error.slug, "message": str(error)}}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never raises for bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except LanemarkError as error:
        _report(error, args)
        return error.exit_code
    except KeyboardInterrupt:
        print("lanemark: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of a pipe went away (`lanemark list | head`): that is not an error, and Python must not say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
