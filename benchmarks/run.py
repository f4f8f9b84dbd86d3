"""Run every benchmark in a fresh process, one at a time; write `results.json` and `docs/BENCHMARKS.md`.

    python benchmarks/run.py [--only NAME]

NAME is a figure (`cli.help_cpu_ms`) or a module (`cli_help`); the rows of the others are kept as they were. A benchmark
is a file here that defines `results() -> list of {"name", "value", "unit", "target", "ok", "method"}`. One that raises,
hangs or leaves a figure out costs a row that says so, and this program then ends with status 1.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

from figures import FIGURES, failed, page, rows_of

HERE: Final = Path(__file__).resolve().parent
RESULTS: Final = HERE / "results.json"
TEMPLATE: Final = HERE / "template.md"
PAGE: Final = HERE.parent / "docs" / "BENCHMARKS.md"
#: The longest benchmark (the training loop against its peers) takes about three minutes on two cores.
LIMIT_S: Final = 900.0


def modules() -> list[str]:
    """Names of the files here that define `results`, found without running any, plus those that `FIGURES` names."""
    found = {figure.module for figure in FIGURES}
    for path in HERE.glob("*.py"):
        tree = ast.parse(path.read_bytes(), str(path))
        if any(isinstance(node, ast.FunctionDef) and node.name == "results" for node in tree.body):
            found.add(path.stem)
    return sorted(found)


def chosen(only: str | None) -> list[str]:
    """The modules to run. Exits with status 2 when `only` names nothing."""
    everything = modules()
    if only is None:
        return everything
    hits = [name for name in everything if name == only]
    hits += [figure.module for figure in FIGURES if figure.name == only]
    if not hits:
        names = ", ".join([*everything, *(figure.name for figure in FIGURES)])
        print(f"benchmarks: {only!r} names no benchmark and no figure; choose from {names}", file=sys.stderr)
        raise SystemExit(2)
    return hits[:1]


def commit() -> str:
    """The commit measured, marked when the tree differs from it; otherwise why it is not known."""
    try:
        git = ["git", "-C", str(HERE.parent)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        # The two files this program writes are outputs: they make no tree dirty.
        status = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results.json", ":!docs/BENCHMARKS.md"]
        dirty = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {type(error).__name__}"
    return head.stdout.strip() + ("+changes" if dirty else "")


def machine() -> str:
    """What it was measured on, in one line."""
    model = "unknown CPU"
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError as error:
        model = f"unknown CPU ({type(error).__name__})"
    try:
        torch = "torch " + importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "no torch"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {len(os.sched_getaffinity(0))} usable cores, {system}, {torch}"


def measure(module: str) -> list[dict[str, Any]]:
    """Rows of one module, run in a process of its own."""
    owed = [figure.name for figure in FIGURES if figure.module == module] or [module]
    if not (HERE / f"{module}.py").exists():
        return [failed(name, f"benchmarks/{module}.py does not exist") for name in owed]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        command = [sys.executable, __file__, "--child", module, str(answer)]
        try:
            # The child's own output is progress: it goes to stderr, and only the answer file counts.
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=LIMIT_S, check=False)
            if done.returncode != 0:
                return [failed(name, f"benchmarks/{module}.py ended with status {done.returncode}") for name in owed]
            results = json.loads(answer.read_bytes())
            if isinstance(results, dict):
                return [failed(name, results["error"]) for name in owed]
            return rows_of(module, results)
        except subprocess.TimeoutExpired:
            return [failed(name, f"benchmarks/{module}.py was ended after {LIMIT_S:g} s") for name in owed]
        except (OSError, ValueError) as error:
            return [failed(name, f"its answer could not be read: {error}") for name in owed]


def child(module: str, answer: str) -> None:
    """Inside the fresh process: import one benchmark and write what its `results()` returns, or why it could not."""
    results: Any
    try:
        results = importlib.import_module(module).results()
    except Exception as error:  # whatever broke is the figure's row; the traceback is for the person watching
        traceback.print_exc()
        results = {"error": f"{type(error).__name__}: {error}"}
    Path(answer).write_text(json.dumps(results), encoding="utf-8")


def kept(measured: set[str]) -> list[dict[str, Any]]:
    """Rows of an earlier `results.json` that this run did not measure again and that are still declared."""
    declared = {figure.name for figure in FIGURES}
    try:
        rows = json.loads(RESULTS.read_bytes())
    except FileNotFoundError:
        return []
    return [row for row in rows if row["name"] in declared and row["name"] not in measured]


def main() -> int:
    """Run, write, print. Returns the exit status: 0 when every figure measured meets its target."""
    parser = argparse.ArgumentParser(description="Measure the figures we keep and write them down.")
    parser.add_argument("--only", metavar="NAME", help="one figure or one module")
    parser.add_argument("--child", nargs=2, metavar=("MODULE", "ANSWER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return 0
    todo = chosen(asked.only)
    origin = {"commit": commit(), "machine": machine()}
    rows: list[dict[str, Any]] = []
    for number, module in enumerate(todo, 1):
        print(f"benchmarks: {number}/{len(todo)} {module} ...", file=sys.stderr, flush=True)
        begun_s = time.monotonic()
        new = measure(module)
        rows += [{**row, **origin} for row in new]
        print(f"benchmarks: {number}/{len(todo)} {module} took {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
        for row in new:
            value = row.get("error") or f"{row['value']:.4g} {row['unit']}"
            print(f"{row['name']:<28} {value}  (target {row['target']}) {'ok' if row['ok'] else 'NOT MET'}", flush=True)
    table = rows + (kept({row["name"] for row in rows}) if asked.only else [])
    table.sort(key=lambda row: row["name"])
    RESULTS.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(TEMPLATE.read_text(encoding="utf-8"), table), encoding="utf-8")
    print(f"benchmarks: wrote {RESULTS.name} and docs/{PAGE.name}", file=sys.stderr)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
