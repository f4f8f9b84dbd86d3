"""Does this cache hold everything that this case will look up? A pure judgement over a manifest and a listing.

A compile cache covers a case when, for *every* rank, each key that a real run of the same question used is there with
the content it had then, and so is each binary. Keys alone are no coverage: with the compiled libraries deleted, torch
reports hits and compiles everything again. One rank's keys are no coverage of another's: on CUDA the device index is
part of a key. A cache from another question, another world size, another layout or another toolchain covers nothing,
however full it is, and each of these is refused in its own words.

What must not be concluded: `covered` promises that nothing *known* is missing. Whether the run then compiled anything
is observed afterwards, from the files it wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from lanemark.lanes.cache_manifest import Manifest, RankUse, rank_prefix
from lanemark.lanes.presets import preset
from lanemark.observe.compile_cache import ListedFile, is_header
from lanemark.observe.fingerprint import differences
from lanemark.records.case import SCRIPT_PRESET, Case
from lanemark.records.encoding import digest, encode

#: Shorter than this share of what it was, a precompiled header is cut off, and no other build of itself.
_HEADER_SHARE: Final = 0.99


@dataclass(frozen=True)
class Coverage:
    """What a cache holds of what a case needs.

    Attributes:
        covered: everything that is known to be needed is there, byte for byte.
        required: how many keys and binaries are needed, over all ranks; 0 when nothing says what is needed.
        missing: what is not there, one phrase each, by rank.
        mismatches: why the manifest does not speak for this case, one phrase each.
    """

    covered: bool
    required: int
    missing: tuple[str, ...]
    mismatches: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "covered": self.covered,
            "required": self.required,
            "missing": list(self.missing),
            "mismatches": list(self.mismatches),
        }


def uncovered(reason: str) -> Coverage:
    """Nothing can be said to cover anything, for one reason."""
    return Coverage(covered=False, required=0, missing=(), mismatches=(reason,))


def compile_question(case: Case) -> dict[str, Any]:
    """The part of a case that decides which graphs are compiled.

    Steps, seed and data do not: shapes and code do. The recipe's digest stands beside the preset's name, because a name
    keeps when the recipe behind it changes. Accumulation changes the graphs of a whole-model posture only: a block is
    the same block however often it is called.
    """
    question = case.sparse or case.promotion
    if question is not None:
        return {
            "preset": case.preset,
            "recipe": digest(encode(question.to_json())),
            "compile": case.compile,
            "nproc": case.nproc,
        }
    if case.script is not None:
        return {
            "preset": case.preset,
            "recipe": digest(encode({"command": list(case.command)})),
            "compile": case.compile,
            "nproc": case.nproc,
        }
    return {
        "preset": case.preset,
        "recipe": digest(encode(asdict(preset(case.preset)))),
        "mode": case.mode,
        "compile": case.compile,
        "dtype": case.dtype,
        "sequence": case.sequence,
        "micro_batch": case.micro_batch,
        "nproc": case.nproc,
        "accumulates": case.compile == "model" and case.grad_accum > 1,
    }


def question_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a manifest of one question does not answer another, a phrase a part; empty when they are one question."""
    out = []
    for name in sorted(set(theirs) | set(ours)):
        there, here = theirs.get(name, "nothing"), ours.get(name, "nothing")
        if there == here:
            continue
        if name == "nproc":
            out.append(
                f"it was compiled by {_ranks(there)}, and {_ranks(here)} {'is' if here == 1 else 'are'} asked for"
            )
        elif name == "recipe" and theirs.get("preset") == ours.get("preset") == SCRIPT_PRESET:
            out.append("it was compiled by another command, or with other arguments")
        elif name == "recipe":
            out.append("the recipe behind the preset's name has changed since")
        else:
            out.append(f"{name} was {str(there)[:60]}, and {str(here)[:60]} is asked for")
    return tuple(out)


def _ranks(number: object) -> str:
    return "1 rank" if number == 1 else f"{str(number)[:20]} ranks"


def mismatches(
    manifest: Manifest,
    *,
    question: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    layout: str,
    cache_root: str,
) -> tuple[str, ...]:
    """Everything because of which a manifest does not speak for a case here; empty when it does."""
    out = list(question_differences(manifest.question, question))
    if manifest.cache_layout != layout:
        out.append(f"the cache's layout was {manifest.cache_layout}, and {layout} is asked for")
    out += differences(manifest.fingerprint, fingerprint)
    if manifest.holds_triton and manifest.cache_root != cache_root:
        out.append(
            f"its Triton files hold absolute paths below {manifest.cache_root[:200]}, and this cache is "
            f"{cache_root[:200]}"
        )
    if manifest.world_size == question.get("nproc"):
        absent = sorted(set(range(manifest.world_size)) - {use.rank for use in manifest.ranks})
        if absent:
            named = ", ".join(map(str, absent[:8])) + ("" if len(absent) <= 8 else ", …")
            out.append(f"nothing is known of what rank {named} of {manifest.world_size} used")
    return tuple(out)


def covers(
    manifest: Manifest,
    *,
    question: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    listing: Iterable[ListedFile],
    layout: str = "shared",
    cache_root: str = "",
) -> Coverage:
    """Whether the files of `listing` cover the question. Pure.

    Args:
        manifest: what a run of the question used.
        question: of the case, from `compile_question`.
        fingerprint: of this host and the environment that ranks are given.
        listing: the files of the cache as they are now.
        layout: how ranks divide the cache.
        cache_root: the cache's directory, absolute.
    """
    wrong = mismatches(manifest, question=question, fingerprint=fingerprint, layout=layout, cache_root=cache_root)
    here = {file.path: file for file in listing}
    required = 0
    missing: list[str] = []
    for use in manifest.ranks:
        needed = needs(manifest, use)
        required += len(needed)
        for what, files in needed.items():
            trouble = _trouble(files, here)
            if trouble is not None:
                missing.append(f"rank {use.rank}: {what} {trouble}")
    silent = [use.rank for use in manifest.ranks if not (use.fx or use.aot)]
    wrong += tuple(f"it names no key that rank {rank} used" for rank in silent)
    return Coverage(not wrong and not missing, required, tuple(missing), wrong)


def needs(manifest: Manifest, use: RankUse) -> dict[str, list[ListedFile]]:
    """Phrase → files that one rank needs; an empty list for what the manifest itself does not hold.

    A rank names the binaries that were mapped into it, and that is not all it needs: kernels are loaded by a driver
    from their files, and the libraries by which inductor finds out what the processor can do are loaded in a process
    of their own (6 of 19 were, on a processor). So every binary below the rank's root counts, and so does a precompiled
    header, which torch makes before it looks whether anything is to be compiled.
    """
    prefix = rank_prefix(manifest.cache_layout, use.rank)
    found: dict[str, list[ListedFile]] = {f"graph {key}": [] for key in use.fx}
    found |= {f"joint graph {key}": [] for key in use.aot}
    found |= {f"binary {prefix}{path}": [] for path in use.binaries}
    for file in manifest.files:
        if not file.path.startswith(prefix):
            continue
        parts = file.path.split("/")
        if is_header(parts):
            if file.path.endswith(".gch"):
                found[f"precompiled header {file.path}"] = [file]
        elif file.kind == "binary":
            found.setdefault(f"binary {file.path}", []).append(file)
        elif file.kind == "fx":
            _under(found, f"graph {_part(parts, 'fxgraph', 2)}", file)
        elif file.kind == "aot":
            _under(found, f"joint graph {_part(parts, 'aotautograd', 1)}", file)
    return found


def _under(found: dict[str, list[ListedFile]], what: str, file: ListedFile) -> None:
    if what in found:
        found[what].append(file)


def _part(parts: list[str], directory: str, offset: int) -> str:
    """The key in a path: so many parts after the cache's own directory (`fxgraph/<2>/<key>`, `aotautograd/<key>`)."""
    at = parts.index(directory) + offset
    return parts[at] if at < len(parts) - 1 else ""


def _trouble(files: list[ListedFile], here: Mapping[str, ListedFile]) -> str | None:
    """What is wrong with one needed thing, or None. Every file of it must be as it was."""
    if not files:
        return "was in no file when the manifest was written"
    for file in files:
        wrong = trouble(file, here.get(file.path))
        if wrong is not None:
            return wrong
    return None


def trouble(file: ListedFile, found: ListedFile | None) -> str | None:
    """Why what was found does not serve for a file, or None.

    Two precompiled headers of one name serve alike: they hold the path that they were made under, and so differ by some
    hundred bytes of 150 MB.
    """
    if found is None:
        return "is missing"
    header = is_header(file.path.split("/"))
    if found.bytes < (file.bytes * _HEADER_SHARE if header else file.bytes):
        return f"is truncated: {found.bytes} of {file.bytes} bytes"
    return None if header or found.sha256 == file.sha256 else "has another content"
