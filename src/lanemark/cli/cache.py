"""`lanemark cache`: what the compile cache holds, and the four things that are done with a seed of it.

    status   what is there, for which cases, and whether it is whole
    seed     fill the cache for a case from layers
    gate     would `run --cache-policy require` start?
    capture  write an archive of what a case needs
    bake     write a seed directory for an image, and the image's lines

All but a bare `status` take the arguments of `run`, because a cache is only ever good for a case. A command of the
user's own is named as there, behind `--`.
"""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lanemark.cli.asked import add_arguments, parsed, understand
from lanemark.cli.cache_status import case_lines, directory_doc, directory_lines, rank_docs
from lanemark.cli.deciding import cache_place, decide
from lanemark.cli.gates import check_cache, compiler, shortfall
from lanemark.cli.parsing import Parser, advise, home, parser, print_json
from lanemark.lanes.cache_manifest import Manifest
from lanemark.lanes.coverage import Coverage
from lanemark.launch.command import local_surface
from lanemark.launch.environment import apply_settings
from lanemark.launch.surface import Placement
from lanemark.observe.fingerprint import fingerprint
from lanemark.observe.packages import cxx_facts
from lanemark.records.case import Case
from lanemark.records.errors import GateRefused, LanemarkError, RunFailed, UsageError
from lanemark.stage.bake import bake, image_lines
from lanemark.stage.capture import capture_cache, current_manifest
from lanemark.stage.coverage import check_coverage, read_coverage
from lanemark.stage.seed_member import Unusable
from lanemark.stage.seed_source import ARCHIVE_SUFFIX, SOURCES_VARIABLE, parse_sources
from lanemark.stage.seeding import seed_cache

_ORDERS: Final = {
    "status": "what the compile cache holds, for which cases, and whether it is whole",
    "seed": "fill the compile cache for a case from layers, in order",
    "gate": "say whether `run --cache-policy require` would start; exit 4 when not",
    "capture": "write an archive of what a case needs of the compile cache",
    "bake": "write a seed directory to build into an image, and print the image's lines",
}


@dataclass(frozen=True)
class _Question:
    """A case and the cache that is to serve it here.

    Attributes:
        case: fully pinned, but for its data, which compiles nothing.
        cache_dir: of the compile cache.
        placement: with the layout.
        fingerprint: of what the ranks would be given.
        words: the arguments as they were typed, for commands that are suggested.
    """

    case: Case
    cache_dir: Path
    placement: Placement
    fingerprint: dict[str, Any]
    words: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """The command that fills the cache by running the case once."""
        return filling_command(self.words)

    def coverage(self) -> Coverage:
        return check_coverage(self.cache_dir, self.case, self.placement.cache_layout, fingerprint=self.fingerprint)


def main(args: list[str]) -> int:
    """Do one thing with the compile cache. Exit 0; 1 it could not be done, 2 bad input, 4 the gate refused."""
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    orders: dict[str, Callable[[list[str]], int]] = {
        "status": _status, "seed": _seed, "gate": _gate, "capture": _capture, "bake": _bake,
    }  # fmt: skip
    if args[0] not in orders:
        raise UsageError(
            "arguments-invalid", f"`lanemark cache` has no {args[0][:40]!r}", f"give one of {', '.join(_ORDERS)}"
        )
    return orders[args[0]](args[1:])


def _usage() -> str:
    width = max(map(len, _ORDERS))
    return "\n".join(
        ["usage: lanemark cache ACTION [TRAINING ARGUMENTS] … [-- COMMAND …]", ""]
        + [f"  {order:<{width}}  {line}" for order, line in _ORDERS.items()]
        + ["", "The training arguments are those of `lanemark run`. `lanemark cache ACTION --help` lists them."]
    )


def _status(args: list[str]) -> int:
    if not [word for word in args if word != "--json"]:
        place = home()
        chosen = cache_place(place, cold=False)
        doc = directory_doc(chosen.path, chosen.reason)
        if "--json" in args:
            print_json(doc)
        else:
            print("\n".join(directory_lines(doc)))
        return 0
    verb = _parser("status")
    options = parsed(verb, args)
    question = _question(options, args)
    doc = directory_doc(question.cache_dir, "the training arguments' cache")
    coverage = question.coverage()
    manifest = read_coverage(question.cache_dir, question.case)
    doc["case"] = {
        "coverage": coverage.to_json(),
        "ranks": rank_docs(manifest, coverage) if isinstance(manifest, Manifest) else [],
        "remedy": question.remedy,
    }
    if options.json:
        print_json(doc)
    else:
        print("\n".join([*directory_lines(doc), "", *case_lines(doc["case"], question.case)]))
    return 0


def _seed(args: list[str]) -> int:
    verb = _parser("seed")
    options = parsed(verb, args)
    question = _question(options, args)
    sources = parse_sources(options.cache_from, os.environ)
    if not sources:
        raise UsageError(
            "value-invalid", "no layer was named to seed from", f"give --cache-from SOURCE, or set {SOURCES_VARIABLE}"
        )
    outcomes = seed_cache(
        sources,
        question.cache_dir,
        case=question.case,
        layout=question.placement.cache_layout,
        fingerprint=question.fingerprint,
    )
    coverage = question.coverage()
    if options.json:
        print_json({"layers": [done.to_json() for done in outcomes], "coverage": coverage.to_json()})
    else:
        for done in outcomes:
            print(f"{done.outcome.replace('_', ' '):<16} {done.source}\n{'':<16} {done.reason}")
    if not coverage.covered:
        _say(
            RunFailed(
                "cache-seed-refused",
                f"no layer made {str(question.cache_dir)!r} cover the case: {shortfall(coverage)}",
                f"name a layer that fits, or fill the cache once with `{question.remedy}`",
            )
        )
        return 1
    return 0


def _gate(args: list[str]) -> int:
    verb = _parser("gate")
    options = parsed(verb, args)
    question = _question(options, args, eager_too=True)
    case = replace(question.case, cache_policy="require")
    try:
        if case.compile != "eager":
            check_cache(
                case, question.cache_dir, question.placement.cache_layout, question.coverage(), remedy=question.remedy
            )
    except GateRefused as refusal:
        if not options.json:
            raise
        print_json({"open": False, "error": {"slug": refusal.slug, "message": str(refusal)}})
        _say(refusal)
        return refusal.exit_code
    said = "nothing is compiled" if case.compile == "eager" else "the compile cache covers the case"
    print_json({"open": True, "reason": said}) if options.json else print(f"open: {said}")
    return 0


def _capture(args: list[str]) -> int:
    verb = _parser("capture")
    verb.add_argument("-o", "--output", required=True, metavar="FILE", help=f"the archive, FILE{ARCHIVE_SUFFIX}")
    options = parsed(verb, args)
    if not options.output.endswith(ARCHIVE_SUFFIX) or "://" in options.output:
        raise UsageError(
            "value-invalid",
            f"{options.output[:120]!r} does not name an archive",
            f"give a path that ends in {ARCHIVE_SUFFIX}",
        )
    question = _question(options, args)
    done = capture_cache(
        question.cache_dir,
        Path(options.output).absolute(),
        case=question.case,
        layout=question.placement.cache_layout,
        fingerprint=question.fingerprint,
    )
    if not done.captured:
        raise RunFailed(
            "cache-not-captured",
            f"{str(question.cache_dir)!r} was not captured: {done.reason}",
            f"let the case run well once (`{question.remedy}`), and capture then",
        )
    if options.json:
        print_json({"path": str(Path(options.output).absolute()), **done.to_json()})
    else:
        print(f"{options.output}: {done.reason}, {done.bytes / 2**20:.1f} MiB, {done.digest}")
    return 0


def _bake(args: list[str]) -> int:
    verb = _parser("bake")
    verb.add_argument("-o", "--output", required=True, metavar="DIR", help="the seed directory, new or empty")
    options = parsed(verb, args)
    question = _question(options, args)
    out = Path(options.output).absolute()
    manifest = current_manifest(
        question.cache_dir, question.case, layout=question.placement.cache_layout, fingerprint=question.fingerprint
    )
    why = manifest if isinstance(manifest, str) else None
    if isinstance(manifest, Manifest):
        try:
            bake(question.cache_dir, manifest, out)
        except Unusable as verdict:
            why = verdict.reason
        except OSError as error:
            raise UsageError(
                "output-unwritable", f"the seed directory {str(out)!r} cannot be written ({error.strerror})",
                "name a directory that is new or empty",
            ) from None  # fmt: skip
    if why is not None:
        raise RunFailed(
            "cache-not-captured",
            f"{str(question.cache_dir)!r} was not captured: {why}",
            f"let the case run well once (`{question.remedy}`), and bake then",
        )
    lines = image_lines(out)
    if options.json:
        assert isinstance(manifest, Manifest)
        print_json(
            {"path": str(out), "files": len(manifest.files), "bytes": manifest.total_bytes}
            | {"dockerfile": lines.dockerfile, "modal": lines.modal}
        )
    else:
        print(f"# Dockerfile, with {out.name} beside it\n{lines.dockerfile}\n\n# Modal\n{lines.modal}")
    return 0


def _parser(order: str) -> Parser:
    verb = parser(f"cache {order}", f"{_ORDERS[order].capitalize()}.")
    add_arguments(verb)
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    return verb


def _question(options: Namespace, words: list[str], *, eager_too: bool = False) -> _Question:
    """The case behind the arguments and its cache. Data is not looked at: no token reaches a compiled graph's key."""
    options.data = None if options.command else "synthetic"
    options.cache_policy = "seed"
    place = home()
    decided = decide(understand(options), place, build=False)
    case, placement = decided.case, decided.placement
    if case.compile == "eager" and not eager_too:
        raise UsageError(
            "value-invalid", "--compile eager compiles nothing, so that no cache serves it", "give --compile regional"
        )
    if case.script is None:
        compiler(case, cxx_facts().to_json(), on_gpu=decided.devices["device_class"].status == "observed")
    cache_dir = placement.cache_dir or cache_place(place, cold=False).path
    request = local_surface(case).request(case, placement)
    seen = fingerprint(apply_settings(os.environ, request.settings), devices=decided.devices)
    return _Question(case, cache_dir.absolute(), placement, seen, tuple(words))


def filling_command(words: Sequence[str]) -> str:
    """The command that fills the cache by running a case once, from the arguments of `run`, or of this verb."""
    end = words.index("--") if "--" in words else len(words)
    ours = without_policy(training_words(words[:end]))
    return shlex.join(["lanemark", "run", *ours, "--cache-policy", "seed", *words[end:]])


def training_words(words: Sequence[str]) -> tuple[str, ...]:
    """The arguments that `run` takes too: without this verb's own. What stands behind `--` is no argument of either."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "--output"):
            skip = True
        elif word != "--json" and not word.startswith("--output="):
            kept.append(word)
    return tuple(kept)


def without_policy(words: tuple[str, ...]) -> list[str]:
    """The arguments without a cache policy, which a suggested command sets itself."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--cache-policy":
            skip = True
        elif not word.startswith("--cache-policy="):
            kept.append(word)
    return kept


def _say(error: LanemarkError) -> None:
    advise(f"lanemark: {error} [{error.slug}]")
