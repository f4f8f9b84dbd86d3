"""Verify a record in numbered steps. Any failure closes: later steps are then skipped, and nothing is "mostly fine".

    1 size      the file is a regular file no larger than a record may be     record-missing, record-too-large
    2 digest    its bytes hash to the id it is named by                       record-corrupt
    3 syntax    its bytes are strict JSON                                     record-malformed
    4 version   it is a record, of a major version that we read               record-foreign, record-too-new
    5 schema    it has exactly the shape of a record                          record-unfit
    6 plan      its inline case hashes to its plan digest, and its subjects   plan-mismatch
                are the case, the image and the commit that it observed
    7 rules     it keeps every rule of its lane                               lane-rule-broken
    8 evidence  the files it rests on are the ones it names                   evidence-mismatch
    9 figures   what it states of its steps follows from those files          figures-not-derived
   10 signature every key that was asked for has signed exactly its bytes     signature-missing, signature-invalid
   11 log       the ledger's log, where there is one, includes it             log-entry-missing, log-damaged

Step 2 is skipped, and says so, for a lone file that no digest names. Evidence that is not at hand is reported as that:
it is no failure, because records travel without it; evidence with other bytes is one. Figures are derived again only
where every rank's samples are at hand (`lanemark.ledger.rederive`). Signatures are checked against the keys that a
caller names, and against no others: without one they are "not checked", never "good". The log is asked about the
records of its own ledger only; a ledger without one, and a file from elsewhere, skip the step and say so.

What steps 1 to 9 prove: the record is whole, says one consistent thing, and rests on these files. Who vouches for it is
step 10's; that the machine it describes exists is nobody's: `assurance` says what is claimed about that. Step 11 proves
nothing against the log's owner by itself, see `lanemark.ledger.log`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from lanemark.lanes.rules import broken_rules
from lanemark.ledger.objects import evidence_path, hash_file, object_path, read_file
from lanemark.records.encoding import MAX_RECORD_BYTES, Survey, digest, encode
from lanemark.records.errors import LanemarkError, RecordError
from lanemark.records.observation import value_of
from lanemark.records.reading import check_version, parse_surveyed, printable, validate

if TYPE_CHECKING:
    from lanemark.ledger.keys import PublicKey

Status = Literal["ok", "failed", "skipped"]

#: Names of the steps; a step's number is its place here, from 1.
STEPS: Final = (
    "size", "digest", "syntax", "version", "schema", "plan", "rules", "evidence", "figures", "signature", "log",
)  # fmt: skip
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Step:
    """One step's outcome.

    Attributes:
        number: from 1.
        name: one of `STEPS`.
        status: `ok`, `failed` or `skipped`.
        detail: one sentence fragment: what was found.
        slug: the error slug of a failure, or None.
    """

    number: int
    name: str
    status: Status
    detail: str
    slug: str | None = None


@dataclass(frozen=True)
class Verification:
    """The report of one verification.

    Attributes:
        subject: the file, as it was named.
        record_id: `sha256:…` of the bytes that were read, or None when none could be.
        steps: all of `STEPS`, in order.
        not_at_hand: evidence named by the record and found nowhere.
    """

    subject: str
    record_id: str | None
    steps: tuple[Step, ...]
    not_at_hand: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing failed and everything that proves the record was really done."""
        required = {"size", "syntax", "version", "schema", "plan", "rules"}
        done = {step.name for step in self.steps if step.status == "ok"}
        return required <= done and all(step.status != "failed" for step in self.steps)

    @property
    def failure(self) -> Step | None:
        """The step that failed, or None."""
        return next((step for step in self.steps if step.status == "failed"), None)

    def to_json(self) -> dict[str, Any]:
        doc: dict[str, Any] = {
            "file": self.subject,
            "ok": self.ok,
            "steps": [
                {"number": s.number, "step": s.name, "status": s.status, "detail": s.detail}
                | ({"slug": s.slug} if s.slug else {})
                for s in self.steps
            ],
            "evidence_not_at_hand": list(self.not_at_hand),
        }
        if self.record_id is not None:
            doc["record_id"] = self.record_id
        return doc

    def raise_if_failed(self) -> None:
        """Raise the RecordError of the step that failed, if one did."""
        step = self.failure
        if step is not None:
            raise RecordError(
                step.slug or "record-unfit",
                f"{self.subject} does not verify at step {step.number} ({step.name}): {step.detail}",
                "do not quote it; fetch the record again from a copy",
            )


class _Skip(Exception):  # noqa: N818 - an outcome, not an error
    """A step has nothing to check here; the text says why."""


@dataclass
class _Bench:
    """What the steps hand to one another. Private to one verification."""

    read: Callable[[], bytes]
    expected: str | None
    places: tuple[Path, ...]
    ledger_root: Path | None
    keys: tuple[PublicKey, ...] = ()
    data: bytes = b""
    record_id: str = ""  # of `data`: hashed once
    survey: Survey | None = None  # of `doc`
    doc: dict[str, Any] = field(default_factory=dict)
    not_at_hand: list[str] = field(default_factory=list)
    found: dict[str, Path] = field(default_factory=dict)  # evidence by its name, once its bytes were the ones named


def verify_file(
    path: Path,
    *,
    ledger_root: Path | None = None,
    attempt_dir: Path | None = None,
    keys: Sequence[PublicKey] = (),
) -> Verification:
    """Verify a record's file: one in a ledger, or a lone one anywhere. Never raises for what the file holds.

    Args:
        path: the file. When its name is 64 hexadecimal digits, its bytes must hash to them.
        ledger_root: where evidence lies by digest; found from the path for a file inside a ledger.
        attempt_dir: where evidence lies by name; the file's own directory is always looked at.
        keys: each of them must have signed the record; signatures are looked for in the ledger's `sigs/` and in one
            beside the file.
    """
    expected = f"sha256:{path.stem}" if _HEX.fullmatch(path.stem) else None
    if ledger_root is None and path.parent.parent.name == "objects":
        ledger_root = path.parent.parent.parent
    places = (path.parent,) if attempt_dir is None else (attempt_dir, path.parent)
    bench = _Bench(lambda: read_file(path), expected, places, ledger_root, tuple(keys))
    return _verify(printable(str(path)), bench)


def verify_bytes(
    data: bytes,
    *,
    expected_id: str | None = None,
    ledger_root: Path | None = None,
    attempt_dir: Path | None = None,
    keys: Sequence[PublicKey] = (),
) -> Verification:
    """Verify a record's bytes, held against `expected_id` where one is given. Never raises for what they are."""
    places = () if attempt_dir is None else (attempt_dir,)
    bench = _Bench(lambda: data, expected_id, places, ledger_root, tuple(keys))
    return _verify(expected_id or "the record", bench)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles of garbage meanwhile: a parsed record and its model have none, and are a thousand objects.

    Searching among all of a process's objects whenever some hundreds were made is a fifth of the time of verifying. All
    that is made here is freed without it. Should two threads verify at once, searching begins again with the first that
    is done.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _verify(subject: str, bench: _Bench) -> Verification:
    with _uncollected():
        return _verified(subject, bench)


def _verified(subject: str, bench: _Bench) -> Verification:
    steps: list[Step] = []
    closed: int | None = None
    for number, (name, check) in enumerate(zip(STEPS, _CHECKS, strict=True), 1):
        if closed is not None:
            steps.append(Step(number, name, "skipped", f"not reached: step {closed} failed"))
            continue
        try:
            steps.append(Step(number, name, "ok", check(bench)))
        except _Skip as why:
            steps.append(Step(number, name, "skipped", str(why)))
        except LanemarkError as error:
            steps.append(Step(number, name, "failed", error.what, error.slug))
        except Exception as error:  # a defect of ours must not pass for a verified record
            steps.append(Step(number, name, "failed", f"the check itself broke ({type(error).__name__})"))
        if steps[-1].status == "failed":
            closed = number
    return Verification(subject, bench.record_id if bench.data else None, tuple(steps), tuple(bench.not_at_hand))


def _size(bench: _Bench) -> str:
    try:
        bench.data = bench.read()
    except OSError as error:
        raise RecordError(
            "record-missing", f"the file cannot be read ({error.strerror or type(error).__name__})", "check its path"
        ) from None
    if len(bench.data) > MAX_RECORD_BYTES:
        bench.data = b""  # what was read is only the beginning of the file: its digest would name nothing
        raise RecordError(
            "record-too-large", f"the file is larger than the {MAX_RECORD_BYTES} bytes of a record", "name a record"
        )
    bench.record_id = digest(bench.data)
    return f"{len(bench.data)} bytes"


def _digest(bench: _Bench) -> str:
    found = bench.record_id
    if bench.expected is None:
        raise _Skip(f"no digest names the file; its bytes are {found}")
    if found != bench.expected:
        raise RecordError("record-corrupt", f"it is named {bench.expected} and its bytes are {found}", "get a copy")
    return found


def _syntax(bench: _Bench) -> str:
    bench.doc, bench.survey = parse_surveyed(bench.data)
    return "strict JSON"


def _version(bench: _Bench) -> str:
    major, minor = check_version(bench.doc)
    return f"record version {major}.{minor}"


def _schema(bench: _Bench) -> str:
    validate(bench.doc)
    return "every field is known, typed and in range"


def _plan(bench: _Bench) -> str:
    predicate = bench.doc["predicate"]
    found = digest(encode(predicate["case"]))
    if found != predicate["plan_digest"]:
        raise _plan_mismatch(f"the case hashes to {found}, and plan_digest says {predicate['plan_digest']}")
    about = {subject["name"]: subject["digest"] for subject in bench.doc["subject"]}
    if len(about) != len(bench.doc["subject"]):
        raise _plan_mismatch("the statement names one subject twice")
    image = value_of(predicate["image"]["digest"])
    commit = value_of(predicate["source"]["commit"])
    expected = {"case": {"sha256": found.removeprefix("sha256:")}}
    if image is not None:
        expected["image"] = {"sha256": image.removeprefix("sha256:")}
    if commit is not None:
        expected["source"] = {"gitCommit": commit}
    for name in sorted(expected.keys() | about.keys()):
        if about.get(name) != expected.get(name):
            raise _plan_mismatch(f"the statement's subject {name[:40]!r} is not what the record says of it")
    return f"the case is {found}"


def _plan_mismatch(what: str) -> RecordError:
    return RecordError("plan-mismatch", what, "do not quote it")


def _rules(bench: _Bench) -> str:
    broken = broken_rules(bench.doc["predicate"], bench.survey)
    if broken:
        first = broken[0]
        more = f" (and {len(broken) - 1} more: {', '.join(b.rule for b in broken[1:])})" if len(broken) > 1 else ""
        what = printable(f"rule {first.rule}: {first.problem}{more}")
        raise RecordError("lane-rule-broken", what, "do not quote it")
    return "no rule of the lane is broken"


def _evidence(bench: _Bench) -> str:
    named = bench.doc["predicate"]["evidence"]
    if not named:
        raise _Skip("the record names no evidence")
    checked = 0
    for entry in named:
        path = _locate(bench, entry["name"], entry["digest"])
        if path is None:
            bench.not_at_hand.append(printable(entry["name"]))
            continue
        try:
            found, size = hash_file(path)
        except OSError as error:
            why = error.strerror or type(error).__name__
            bench.not_at_hand.append(printable(f"{entry['name']} ({why})"))
            continue
        if (f"sha256:{found}", size) != (entry["digest"], entry["bytes"]):
            raise RecordError(
                "evidence-mismatch",
                printable(
                    f"{entry['name']!r} has {size} bytes that hash to sha256:{found}, not the named {entry['bytes']}"
                )
                + f" bytes of {entry['digest']}",
                "do not quote it",
            )
        bench.found[entry["name"]] = path
        checked += 1
    missing = len(named) - checked
    if not checked:
        raise _Skip(f"none of the {len(named)} files is at hand")
    return f"{checked} files are the ones named" + (f", {missing} not at hand" if missing else "")


def _locate(bench: _Bench, name: str, digest_named: str) -> Path | None:
    """The file a record calls `name`: by digest in the ledger, else by name beside the record; None when nowhere."""
    if bench.ledger_root is not None and os.path.isfile(kept := evidence_path(bench.ledger_root, digest_named)):
        return kept
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name:
        return None  # the rule on evidence names refuses these; never follow one whatever the order of steps
    for place in bench.places:
        candidate = place.joinpath(*inside.parts)
        if candidate.is_file() and place.resolve() in candidate.resolve().parents:
            return candidate
    return None


def _figures(bench: _Bench) -> str:
    if not any(name.endswith("/samples.bin") for name in bench.found):
        raise _Skip("no rank's samples are at hand to derive figures from")
    from lanemark.ledger.rederive import NotAtHandError, check_figures

    try:
        return check_figures(bench.doc["predicate"], bench.found)
    except NotAtHandError as why:
        raise _Skip(printable(str(why))) from None


def _signature(bench: _Bench) -> str:
    from lanemark.ledger.signing import check_signatures, signers

    places = (*(() if bench.ledger_root is None else (bench.ledger_root,)), *bench.places)
    if bench.keys:
        check_signatures(places, bench.data, bench.keys)
    try:
        others = set(signers(places, bench.record_id)) - {key.keyid for key in bench.keys}
        seen = f"{len(others)} at hand"
    except OSError as error:
        seen = f"those at hand cannot be listed ({error.strerror or type(error).__name__})"
    if not bench.keys:
        raise _Skip(f"signatures are not checked, because no key was named with --key; {seen}")
    signed = "; ".join(f"{key.source} ({key.keyid[:12]})" for key in bench.keys)
    return printable(f"signed by {signed}; by other keys, not checked: {seen}")


def _log(bench: _Bench) -> str:
    from lanemark.ledger.log import TransparencyLog

    if bench.ledger_root is None:
        raise _Skip("the record is not read from a ledger, so there is no log to ask")
    log = TransparencyLog(bench.ledger_root)
    if not log.exists():
        raise _Skip("there is no log in the ledger's directory")
    try:
        object_path(bench.ledger_root, bench.record_id).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _Skip("the record is not one of this ledger, whose log says nothing about it") from None
    found = log.prove(bench.record_id)
    return (
        f"entry {found.number} of {found.head.size} under the log's present root; against the log's owner this proves "
        "something only with a checkpoint that somebody else keeps (`lanemark log verify --checkpoint FILE`)"
    )


_CHECKS: Final[tuple[Callable[[_Bench], str], ...]] = (
    _size, _digest, _syntax, _version, _schema, _plan, _rules, _evidence, _figures, _signature, _log,
)  # fmt: skip
