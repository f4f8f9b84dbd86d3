"""Argument parsing shared by the verbs: argparse, but its complaints are errors of ours with a slug."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from lanemark.records.attempt import Home
from lanemark.records.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse's parser, raising `UsageError` instead of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("arguments-invalid", f"{self.prog}: {message}", f"see `{self.prog} --help`")


def parser(verb: str, description: str) -> Parser:
    """A parser for one verb, with our conventions: no prefixes of long options, `--json` left to the verb."""
    return Parser(prog=f"lanemark {verb}", description=description, allow_abbrev=False)


def home() -> Home:
    """`$LANEMARK_HOME`, or the platform's user data directory. Touches nothing."""
    import os

    given = os.environ.get("LANEMARK_HOME")
    if given:
        return Home(Path(given).absolute())
    from platformdirs import user_data_path

    return Home(user_data_path("lanemark", appauthor=False))


def print_json(doc: Any) -> None:
    """One JSON document on stdout and nothing else there."""
    json.dump(doc, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def advise(line: str) -> None:
    """Progress and advice go to stderr."""
    print(line, file=sys.stderr, flush=True)


def terminal_width() -> int | None:
    """Columns of the terminal stdout is, or None for a pipe or a file, which takes lines of any length."""
    import shutil

    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None


def unicode_output() -> bool:
    """Whether stdout takes characters beyond ASCII."""
    return "utf" in (sys.stdout.encoding or "").lower()
