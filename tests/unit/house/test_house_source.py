"""Rules that hold over every file of the project: sizes, no machine's paths, no registry, no unsafe calls."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Directories that hold no source of ours.
GENERATED = {".git", ".venv", ".cache", "build", "dist", "bench-out", "__pycache__"}
TEXT = {".py", ".md", ".toml", ".txt", ".j2", ".json", ".cfg", ".yml", ".yaml", ""}
MAX_LINES = 600
MAX_FUNCTION_LINES = 90  # the guide says about 60; this catches what nobody would call about


def sources() -> list[Path]:
    """Every text file of the project: what git tracks or would, else a walk (an unpacked archive has no .git)."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(listing, capture_output=True, check=True, timeout=60)
        names = [name for name in os.fsdecode(done.stdout).split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
    paths = [ROOT / name for name in names]
    return [p for p in paths if p.suffix in TEXT and p.is_file() and not GENERATED & set(p.relative_to(ROOT).parts)]


def code() -> list[Path]:
    return [path for path in sources() if path.suffix == ".py"]


def ours(path: Path) -> bool:
    return path.is_relative_to(ROOT / "src")


def test_there_is_source_to_judge() -> None:
    assert len([path for path in code() if ours(path)]) > 10


def test_no_module_is_longer_than_the_limit() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in code()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def long_functions(text: str, limit: int) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, functions)]
    return [node.name for node in nodes if (node.end_lineno or node.lineno) - node.lineno >= limit]


def test_no_function_is_far_over_the_guide() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in code()
        if ours(path) and (names := long_functions(path.read_text(encoding="utf-8"), MAX_FUNCTION_LINES))
    }
    assert found == {}


def test_a_long_function_would_be_noticed() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * 5, 5) == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * 4, 5) == []


#: Paths of one particular machine, and addresses from which packages come: neither belongs in any file, this one included.
MACHINE = re.compile(r"(?<![\w.$}])/(?:root|work)/[\w.]|https?://[\w.-]*\bp" + r"ypi\b")


def machine_words(text: str) -> list[str]:
    return [match[0] for match in MACHINE.finditer(text)]


def test_no_file_names_a_path_of_one_machine_or_a_registry() -> None:
    found = {
        str(path.relative_to(ROOT)): words
        for path in sources()
        if path != Path(__file__) and (words := machine_words(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_a_machine_path_would_be_noticed() -> None:
    planted = ["/" + "work/x", "/" + "root/.", "https:" + "//p" + "ypi"]
    assert machine_words(f"see {planted[0]}, {planted[1]}y and {planted[2]}.example/simple") == planted
    assert machine_words("under $HOME/work/x, ./work/y, tests/work/z, /usr/bin") == []


FORBIDDEN_CALLS = {"eval", "exec", "breakpoint"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def unsafe(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found += [name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
    return found


def test_the_package_evaluates_no_text_and_reads_no_pickle() -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for path in code()
        if ours(path) and (calls := unsafe(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_an_unsafe_call_would_be_noticed() -> None:
    assert unsafe("import pickle\nfrom marshal import loads\neval('1')") == ["pickle", "marshal", "eval"]
    assert unsafe("model.eval()") == []


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "NotImplementedError"])
def test_nothing_is_left_for_later(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b")
    found = [str(path.relative_to(ROOT)) for path in code() if ours(path) and pattern.search(path.read_text("utf-8"))]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for path in code()
        if ours(path) and not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    assert bare == []


def annotated(source: bytes) -> bool:
    nodes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.AnnAssign)
    return any(isinstance(node, nodes) for node in ast.walk(ast.parse(source)))


def test_every_module_postpones_annotations() -> None:
    """Python 3.10 reads the package, so annotations of later syntax must never be evaluated."""
    missing = [
        str(path.relative_to(ROOT))
        for path in code()
        if ours(path)
        and annotated(path.read_bytes())
        and "from __future__ import annotations" not in path.read_text(encoding="utf-8")
    ]
    assert missing == []
