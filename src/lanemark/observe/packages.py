"""Packages that bear on the number: version, the digest of what was installed, and whether it really imports.

Three questions with three sources. A version comes from the installed metadata, without importing anything. The
digest is of the distribution's RECORD file, which names every installed file with its hash: two builds of one version
differ there. The import is tried in a process of its own, because "installed" has never meant "works".
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from lanemark.observe.child import ChildResult, importable, run_child
from lanemark.observe.import_probe import MARK
from lanemark.observe.reading import guarded, reason_of
from lanemark.records.encoding import safe_text
from lanemark.records.observation import Observation, absent, observed, unavailable

#: Distributions looked for, and the module whose import shows that the compiled part loads; None: nothing to import.
DEFAULT: Final[dict[str, str | None]] = {
    "torch": None,  # every rank imports it and reports it
    "triton": "triton",
    "nvidia-nccl-cu12": None,  # a shared library; the ranks report the version that was loaded
    "nvidia-nccl-cu13": None,
    "nvidia-cudnn-cu12": None,
    "nvidia-cudnn-cu13": None,
    "flash-attn": "flash_attn",
    "flash-attn-3": "flash_attn_interface",
    "flash-attn-4": "flash_attn.cute",
    "xformers": "xformers.ops",
    "transformer-engine": "transformer_engine.pytorch",
    "mamba-ssm": "mamba_ssm",
    "causal-conv1d": "causal_conv1d",
    "deepspeed": "deepspeed",
    "apex": "apex",
    "liger-kernel": "liger_kernel",
    "numpy": "numpy",
    "tokenizers": "tokenizers",
}
_NO_MODULE: Final = {"torch": "not tried here: every rank imports it and reports it"}
#: Kernel packages import torch, which alone takes seconds on a cold disk.
IMPORT_TIMEOUT_S: Final = 60.0
_AT_ONCE: Final = 2  # probing must not crowd a small host before a measurement


@dataclass(frozen=True)
class PackageFacts:
    """One package as `toolchain.packages` has it."""

    name: str
    version: Observation[str]
    record_digest: Observation[str]
    imported: Observation[bool]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version.to_json(),
            "record_digest": self.record_digest.to_json(),
            "imported": self.imported.to_json(),
        }


def installed(name: str) -> tuple[Observation[str], Observation[str]]:
    """Version and RECORD digest of one distribution, from its metadata alone."""
    source = f"importlib.metadata of {name}"
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        gone = absent(source, "not installed")
        return gone, gone
    except Exception as error:  # damaged metadata raises whatever its parser does
        broken = unavailable(source, reason_of(error))
        return broken, broken

    def record() -> Observation[str]:
        text = found.read_text("RECORD")
        if not text:
            return absent(source, "installed without a RECORD file")
        return observed(f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}", f"RECORD of {name}")

    def version() -> Observation[str]:
        seen: Any = found.version  # None, against its type, where METADATA is missing or empty
        return observed(safe_text(seen), source) if seen else unavailable(source, "its metadata states no version")

    return guarded(source, version), guarded(source, record)


def parse_import(module: str, result: ChildResult, timeout_s: float) -> Observation[bool]:
    """What one import probe's output means. A failed import is an observation, with its error in the source."""
    source = f"import {module} in a fresh interpreter"
    for line in reversed(result.stdout.splitlines()):
        if line.startswith(MARK):
            doc = json.loads(line[len(MARK) :])
            if doc.get("imported") is True:
                return observed(value=True, source=source)
            return observed(value=False, source=safe_text(f"{source}: {doc.get('error', 'no detail')}"))
    if result.timed_out:
        return unavailable(source, f"it did not finish within {timeout_s:g} s")
    if result.returncode is not None and result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        return observed(value=False, source=f"{source}: the interpreter was ended by {name}")
    last = result.stderr.strip().splitlines()[-1:] or [f"status {result.returncode}"]
    return unavailable(source, safe_text(f"the probe gave no answer: {last[0]}"[:300]))


def try_import(
    module: str, environ: Mapping[str, str] | None = None, *, timeout_s: float = IMPORT_TIMEOUT_S
) -> Observation[bool]:
    """Import `module` in a fresh interpreter like ours."""
    env = importable(os.environ if environ is None else environ)
    argv = [sys.executable, "-m", "lanemark.observe.import_probe", module]
    return guarded(
        f"import {module} in a fresh interpreter",
        lambda: parse_import(module, run_child(argv, timeout_s=timeout_s, env=env), timeout_s),
    )


def package_facts(
    names: Mapping[str, str | None] | Iterable[str] = DEFAULT,
    environ: Mapping[str, str] | None = None,
    *,
    timeout_s: float = IMPORT_TIMEOUT_S,
) -> list[PackageFacts]:
    """Facts of each named distribution, in the order given. Never raises.

    Args:
        names: distributions; a mapping also says which module to import (None: none). A bare name not in `DEFAULT` is
            imported under its own name with dashes turned to underscores.
        environ: of the import probes; ours when None.
        timeout_s: for each import.
    """
    modules = (
        dict(names)
        if isinstance(names, Mapping)
        else {name: DEFAULT.get(name, name.replace("-", "_")) for name in names}
    )

    def one(name: str) -> PackageFacts:
        version, record = installed(name)
        module = modules[name]
        if version.status == "absent":
            imported: Observation[bool] = absent(f"importlib.metadata of {name}", "not installed")
        elif name in _NO_MODULE:
            imported = unavailable("import probe", _NO_MODULE[name])
        elif module is None:
            imported = absent("import probe", "it holds shared libraries and no module to import")
        else:
            imported = try_import(module, environ, timeout_s=timeout_s)
        return PackageFacts(name, version, record, imported)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, modules))


def cxx_facts(environ: Mapping[str, str] | None = None, *, timeout_s: float = 10.0) -> Observation[str]:
    """The C++ compiler that inductor would call for processor kernels: `$CXX`, else `g++`, and nothing else.

    Source: torch `_inductor/config.py` (`cpp.cxx`) and `_inductor/cpp_builder.py` (`cpp_compiler_search`). The value
    is the first line of `--version`.
    """
    env = dict(os.environ if environ is None else environ)
    name = env.get("CXX", "g++")
    source = f"{safe_text(name)[:200]} --version"
    program = shutil.which(name, path=env.get("PATH")) if name else None
    if program is None:
        others = [other for other in ("c++", "clang++") if shutil.which(other, path=env.get("PATH"))]
        hint = f"; {others[0]} is there, but inductor does not look for it unless CXX names it" if others else ""
        return absent(source, f"no such program on PATH{hint}")

    def ask() -> Observation[str]:
        result = run_child([program, "--version"], timeout_s=timeout_s, env=env)
        first = next((line.strip() for line in result.stdout.splitlines() if line.strip()), None)
        if result.timed_out or result.returncode != 0 or first is None:
            return unavailable(source, f"it did not state a version (status {result.returncode})")
        return observed(safe_text(first)[:300], source)

    return guarded(source, ask)
