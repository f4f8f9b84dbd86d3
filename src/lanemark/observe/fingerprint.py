"""What a compile cache's keys depend on, one named component each, so that a mismatch can say what changed.

torch hashes all of this into one key: a cache that does not fit gives a miss and no word of why. Here every ingredient
is looked at apart: torch's build, the paths that stand in compile commands, the compiler, the processor and its
features (`-march=native` is literal text in a command, so two processors share a key and not a program), the GPU, and
the variables that torch reads into its configuration. Measured with torch 2.13: the number of threads,
`TORCHINDUCTOR_VEC_ISA_OK`, `TORCHINDUCTOR_CPP_MARCH` and `CI` change keys; the cache's directory and the number of
compile workers do not.

Nothing imports torch: a supervisor has none. `torch/version.py` is read as text, packages by their metadata.
A component that could not be looked at fits nothing, not even another that could not be looked at. The one exception is
the image, which enters no key and which most containers are not told: it stands for what is named beside it.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lanemark.observe.environment import snapshot
from lanemark.observe.host import parse_cpu_flags_digest, parse_cpu_model
from lanemark.observe.image import image_facts
from lanemark.observe.packages import cxx_facts, installed
from lanemark.observe.reading import guarded, read_text, reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: Prefix of the components that are variables of the ranks' environment.
VARIABLE: Final = "env."
#: Variables that torch and Triton read into what they compile, by prefix, and by name (torch 2.13: `config.py` of
#: `_inductor`, `_dynamo` and `_functorch`; triton: `knobs.py`).
_KEY_PREFIXES: Final = ("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE_", "TORCH_DYNAMO_", "TRITON_")
_KEY_NAMES: Final = frozenset(
    ("ATEN_CPU_CAPABILITY", "CC", "CI", "CXX", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONOPTIMIZE")
)
#: Of those prefixes, what says where files lie, how many work at compiling, and what is logged: it reaches no key.
_NO_KEY: Final = re.compile(
    r"TORCHINDUCTOR_(CACHE_DIR|COMPILE_THREADS|FILE_LOCK_TIMEOUT|FX_GRAPH_CACHE.*|AUTOGRAD_CACHE|WORKER_.*|.*_TIMEOUT|"
    r".*_TIMEOUT_SECONDS)|TRITON_(HOME|CACHE_.*|DUMP_.*|KERNEL_DUMP|PRINT_.*)|TORCH_COMPILE_DEBUG.*"
)
#: What stands for others and enters no key itself.
_PROXIES: Final = frozenset(("image",))
_VERSION_LINE: Final = re.compile(
    r"^(__version__|cuda|hip|git_version)\b[^=\n]*= *(?:'([^'\n]*)'|None) *$", re.MULTILINE
)
_MAX_SHOWN: Final = 100


def fingerprint(
    environ: Mapping[str, str],
    *,
    devices: Mapping[str, Observation[Any]],
    root: Path = Path("/"),
    package: Path | None = None,
) -> dict[str, Any]:
    """Every component, as the JSON form of its observation. Never raises.

    Args:
        environ: what the ranks will be given (threads and compiler switches are theirs, not ours).
        devices: from `lanemark.observe.devices.device_facts`.
        root: where /proc is; another directory only in tests.
        package: the directory of this package, whose stack is compiled; ours when None.
    """
    stack = Path(__file__).resolve().parents[1] if package is None else package
    image = image_facts(environ, root)
    parts: dict[str, Observation[Any]] = {
        "torch": guarded("torch/version.py", torch_build),
        "triton": installed("triton")[0],
        "python": observed(f"{sys.implementation.name} {sys.version.split()[0]}", "sys.version"),
        "include_paths": guarded("paths in compile commands", _include_paths),
        "compiler": cxx_facts(environ),
        "cpu": _cpu(root, parse_cpu_model),
        "cpu_flags": _cpu(root, parse_cpu_flags_digest),
        "gpu": devices["device_class"],
        "gpu_names": _distinct(devices["device_names"]),
        "image": image["digest"] if image["digest"].status == "observed" else image["reference"],
        "user": guarded("getpass.getuser", _user),
        "stack": guarded("the reference stack's source", lambda: stack_digest(stack)),
    }
    for name, value in snapshot(environ).items():
        if enters_key(name):
            parts[VARIABLE + name] = observed(value, "the environment of the ranks")
    return {name: parts[name].to_json() for name in sorted(parts)}


def enters_key(name: str) -> bool:
    """Whether a variable of this name can change a key of the compile cache. Doubt says yes."""
    if name in _KEY_NAMES:
        return True
    return name.startswith(_KEY_PREFIXES) and _NO_KEY.fullmatch(name) is None


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, ...]:
    """What does not fit between two fingerprints, a phrase a component with both values; empty when they fit. Pure.

    Args:
        theirs: of the run that compiled; may come from anywhere.
        ours: of this host and the coming run.
    """
    out = []
    for name in sorted(set(theirs) | set(ours)):
        there, here = _state(theirs.get(name), name), _state(ours.get(name), name)
        both_unseen = there[0] == here[0] == "unavailable"
        if (there == here and not both_unseen) or (both_unseen and name in _PROXIES):
            continue
        label = name[len(VARIABLE) :] if name.startswith(VARIABLE) else name.replace("_", " ")
        out.append(f"{label[:_MAX_SHOWN]} was {_said(there)}, and here it is {_said(here)}")
    return tuple(out)


def _state(entry: object, name: str) -> tuple[str, Any]:
    """Status and value of one component. A variable that is not listed was not set."""
    if entry is None:
        return ("absent", None) if str(name).startswith(VARIABLE) else ("unavailable", "nothing was recorded")
    if not isinstance(entry, dict) or entry.get("status") not in ("observed", "absent", "unavailable"):
        return ("unavailable", "what was recorded does not read")
    status = str(entry["status"])
    return (status, entry.get("value") if status == "observed" else entry.get("reason") if status != "absent" else None)


def _said(state: tuple[str, Any]) -> str:
    status, value = state
    if status == "observed":
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return repr(safe_text(shown)[:_MAX_SHOWN])
    return "not there" if status == "absent" else f"not known ({safe_text(str(value))[:_MAX_SHOWN]})"


def torch_build(directory: Path | None = None) -> Observation[str]:
    """`2.13.0+cpu, git cf30153c…, cuda 12.8` from `torch/version.py`, read as text.

    The version alone does not tell two builds of one release apart, and torch's own key covers its whole source.
    """
    if directory is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return absent("torch/version.py", "torch is not installed")
        directory = Path(spec.origin).parent
    found = {match[1]: match[2] for match in _VERSION_LINE.finditer(read_text(directory / "version.py", 64 * 1024))}
    if not found.get("__version__") or not found.get("git_version"):
        return unavailable("torch/version.py", "it states no version, or no commit")
    words = [found["__version__"], f"git {found['git_version']}"]
    words += [f"{name} {found[name]}" for name in ("cuda", "hip") if found.get(name)]
    return observed(", ".join(words), "torch/version.py")


def stack_digest(package: Path) -> Observation[str]:
    """One digest over what the reference stack is made of: another model code compiles other graphs."""
    source = "files of lanemark.stack"
    content = hashlib.sha256()
    names = sorted((package / "stack").glob("*.py"))
    if not names:
        return absent(source, "this installation has no reference stack")
    for path in names:
        content.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return observed(f"sha256:{content.hexdigest()}", source)


def _include_paths() -> Observation[str]:
    """Directories that stand literally in the commands that compile for a processor, and so in their keys."""
    spec = importlib.util.find_spec("torch")
    where = "no torch" if spec is None or spec.origin is None else str(Path(spec.origin).parent / "include")
    return observed(safe_text(f"{where}{os.pathsep}{sysconfig.get_path('include')}"), "find_spec and sysconfig")


def _user() -> Observation[str]:
    """The user's name, which torch puts into the path of its precompiled headers (`torchinductor_<user>`)."""
    return observed(safe_text(getpass.getuser()), "getpass.getuser")


def _distinct(names: Observation[Any]) -> Observation[str]:
    """Names of the GPUs, each once: a key has the name of one device, however many are visible."""
    if not isinstance(names.value, list):
        return names
    return observed(", ".join(sorted(set(map(str, names.value)))), names.source)


def _cpu(root: Path, parse: Callable[[str], Observation[str]]) -> Observation[str]:
    source = "/proc/cpuinfo"
    try:
        return parse(read_text(root / "proc/cpuinfo"))
    except OSError as error:
        return unavailable(source, reason_of(error))
