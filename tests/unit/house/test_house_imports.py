"""What each side may import, proved by blocking the rest in a fresh interpreter.

The client side works without torch, the worker side with nothing but the standard library, and `lanemark --help` loads
neither. import-linter reads the source; this runs it, so that lazy and conditional imports are held to it as well.
"""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lanemark

ROOT = Path(__file__).resolve().parents[3]
STACK = ("torch", "numpy", "tokenizers")
CLIENT = ("pydantic", "rich", "jinja2", "platformdirs", "pynvml", "cryptography", "modal")
#: Rooms laid beside the ranks. `records.schema` and the parts of it are the client-side modules among them.
WORKER_ROOMS = ("records", "observe", "lanes", "measure", "launch", "diagnose", "collect")
WORKER_LEDGER = ("lanemark.ledger.objects",)
#: The two modules that speak to the SDK: one on the launching host, one where the service brings the SDK itself.
MODAL = ("lanemark.launch.modal_client", "lanemark.launch.modal_inside")

PROGRAM = """
import importlib, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked", name=name)

asked = json.loads(sys.argv[1])
BLOCKED = frozenset(asked["blocked"])
sys.meta_path.insert(0, Blocked())
failed = {}
for name in asked["modules"]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""


def modules(*rooms: str) -> list[str]:
    """Every module of the rooms, found without importing any."""
    found = []
    for room in rooms:
        base = f"lanemark.{room}"
        directories = [str(Path(path) / room) for path in lanemark.__path__]
        found += [base, *(info.name for info in pkgutil.iter_modules(directories, base + "."))]
    return found


def failures(names: list[str], blocked: tuple[str, ...], python: str = sys.executable) -> dict[str, str]:
    """Which of the modules cannot be imported while `blocked` cannot."""
    asked = json.dumps({"modules": names, "blocked": blocked})
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM, asked], capture_output=True, text=True, env=env, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def worker_modules() -> list[str]:
    found = [name for name in modules(*WORKER_ROOMS) if not name.startswith("lanemark.records.schema")]
    return [name for name in found if name not in MODAL] + list(WORKER_LEDGER)


def find_python310() -> str | None:
    """A Python 3.10 that runs, from PATH or where version managers keep theirs."""
    candidates = [*(Path(part) / "python3.10" for part in os.environ.get("PATH", "").split(os.pathsep))]
    for base in (Path.home() / ".pyenv" / "versions", Path(os.environ.get("PYENV_ROOT", "/nonexistent")) / "versions"):
        candidates += sorted(base.glob("3.10.*/bin/python"))
    candidates += [Path("/usr/local/bin/python3.10"), Path("/opt/python3.10/bin/python3.10")]
    for path in candidates:
        if not path.is_file():
            continue
        question = [str(path), "-c", "import sys; print(sys.version_info[:2] == (3, 10))"]
        done = subprocess.run(question, capture_output=True, text=True, timeout=30, check=False)
        if done.stdout.strip() == "True":
            return str(path)
    return None


def test_the_block_blocks() -> None:
    assert failures(["lanemark.records.schema"], ("pydantic",)) == {
        "lanemark.records.schema": "ImportError: pydantic is blocked"
    }


def test_the_client_side_imports_without_the_training_stack() -> None:
    rooms = (
        "records",
        "observe",
        "lanes",
        "launch",
        "diagnose",
        "stage",
        "judge",
        "report",
        "ledger",
        "collect",
        "cli",
    )
    assert failures(modules(*rooms), STACK) == {}


def test_the_worker_side_imports_with_the_standard_library_alone() -> None:
    assert failures(worker_modules(), CLIENT + STACK) == {}


def test_two_modules_need_modal_and_no_other() -> None:
    assert set(failures(modules("launch", "collect", "cli"), ("modal",))) == set(MODAL)


def test_the_training_stack_imports_without_the_client_side() -> None:
    pytest.importorskip("torch", reason="the training stack needs torch")
    assert failures(modules("stack"), CLIENT) == {}


def test_the_worker_side_imports_on_python_3_10() -> None:
    python = find_python310()
    if python is None:
        pytest.skip("no Python 3.10 on this machine")
    assert failures(worker_modules(), CLIENT + STACK, python) == {}


def test_all_the_source_compiles_on_python_3_10() -> None:
    """The client side as well: an image's interpreter must be able to read the package it is given."""
    python = find_python310()
    if python is None:
        pytest.skip("no Python 3.10 on this machine")
    program = "import sys; [compile(open(path, 'rb').read(), path, 'exec') for path in sys.argv[1:]]"
    paths = [str(path) for path in (ROOT / "src").rglob("*.py")]
    done = subprocess.run([python, "-c", program, *paths], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_loads_nothing_heavy() -> None:
    """The shape of a fast `--help`; how fast it is, `benchmarks/cli_help.py` says."""
    program = (
        "import json, sys; from lanemark.cli.main import main; code = main(['--help']);"
        "print('\\n' + json.dumps([code, sorted(name for name in sys.modules if '.' not in name)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    heavy = {*STACK, *CLIENT, "sqlite3", "asyncio", "multiprocessing", "ssl"}
    assert heavy & set(loaded) == set()
