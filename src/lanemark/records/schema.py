"""The record's shape, version 1: one strict, frozen statement with the lane as its discriminator.

Runs where records are kept (it needs pydantic, imported lazily by its callers). The writer beside the ranks is
`lanemark.lanes` + `lanemark.records.statement`, standard library only; a corpus of records holds them together.

A record of one lane has that lane's part and no other's. `json_schema` publishes the same shape for any validator of
JSON Schema 2020-12, and accepts what our reader accepts, with one exception that JSON Schema cannot express: to it
`1.0` is an integer, and the reader wants `1`.
"""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from lanemark.records.case import LANES
from lanemark.records.schema_envelope import (
    CompilePart,
    DataPart,
    DistributedPart,
    EnvironmentPart,
    EvidencePart,
    FindingPart,
    HardwarePart,
    ImagePart,
    OutcomePart,
    SourcePart,
    SurfacePart,
    TimesPart,
    ToolchainPart,
    TransitionPart,
)
from lanemark.records.schema_parts import Digest, Many, Part, Positive, Text
from lanemark.records.schema_promotion import PromotionCasePart, PromotionPart
from lanemark.records.schema_sparse import SparseCasePart, SparsePart
from lanemark.records.schema_startup import StartupPart
from lanemark.records.schema_training import TrainingCasePart, TrainingPart
from lanemark.records.statement import RECORD_VERSION

#: `$id` of the schema of all lanes; a lane's own has the lane's name behind it.
SCHEMA_ID: Final = "urn:x-lanemark:schema:record:v1"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_OUR_MINOR: Final = int(RECORD_VERSION.partition(".")[2])


class Predicate(Part):
    """What a record of every lane says."""

    record_version: Annotated[str, Field(pattern=r"^1\.[0-9]{1,4}$")] = Field(
        description="MAJOR.MINOR. A newer minor may have fields that this version ignores; a newer major is refused."
    )
    run_id: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{8}T[0-9]{6}Z-[0-9a-z]{8}$")] = Field(
        description="The attempt's id: lane, UTC time of preparation, random suffix."
    )
    attempt: Positive = Field(description="Which attempt at the case this was, from 1.")
    plan_digest: Digest = Field(description="Digest of the case's canonical bytes: fixed before the run.")
    assurance: Literal["self_attested", "ci_attested", "reproduced"] = Field(
        description="Who says so: the machine itself, a build service, or a second machine as well."
    )
    surface: SurfacePart = Field(description="Where it ran.")
    times: TimesPart = Field(description="When.")
    hardware: HardwarePart = Field(description="On what.")
    distributed: DistributedPart = Field(description="How ranks worked together.")
    compile: CompilePart = Field(description="What was compiled.")
    image: ImagePart = Field(description="In which container image.")
    source: SourcePart = Field(description="From which sources, by which command.")
    environment: EnvironmentPart = Field(description="With which settings.")
    toolchain: ToolchainPart = Field(description="With which packages.")
    startup: StartupPart = Field(description="From which starting line.")
    data: DataPart = Field(description="Over which data path.")
    transitions: Annotated[Many[TransitionPart], Field(min_length=1)] = Field(
        description="Every state of the attempt, in order."
    )
    findings: Many[FindingPart] = Field(description="What detectors concluded.")
    outcome: OutcomePart = Field(description="How it ended.")
    evidence: Many[EvidencePart] = Field(description="The files that the record rests on.")


class TrainingPredicate(Predicate):
    """A record of the training lane: steady-state throughput of real training steps."""

    lane: Literal["training"] = Field(description="The lane.")
    case: TrainingCasePart = Field(description="The question.")
    training: TrainingPart = Field(description="The lane's own part.")


class SparsePredicate(Predicate):
    """A record of the sparse lane: which backend really ran."""

    lane: Literal["sparse"] = Field(description="The lane.")
    case: SparseCasePart = Field(description="The question.")
    sparse: SparsePart = Field(description="The lane's own part.")


class PromotionPredicate(Predicate):
    """A record of the promotion lane: is a kernel path accepted, and on what evidence."""

    lane: Literal["promotion"] = Field(description="The lane.")
    case: PromotionCasePart = Field(description="The question.")
    promotion: PromotionPart = Field(description="The lane's own part.")


class Subject(Part):
    """What the statement is about, by digest: the case, and the image and commit where they were observed."""

    name: Text = Field(description="`case`, `image` or `source`.")
    digest: dict[str, str] = Field(description="Algorithm to hexadecimal digest, as in-toto has it.")


class Statement(Part):
    """in-toto Statement v1 with our predicate (source: in-toto attestation framework, spec/v1/statement.md)."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = Field(
        description="The envelope's type."
    )
    subject: Annotated[Many[Subject], Field(min_length=1)] = Field(description="What the statement is about.")
    predicateType: Literal["urn:x-lanemark:record:v1"] = Field(  # noqa: N815 - the specification's spelling
        description="Our predicate's type, with its major version."
    )
    predicate: Annotated[TrainingPredicate | SparsePredicate | PromotionPredicate, Field(discriminator="lane")] = Field(
        description="The record proper."
    )


#: Each lane's predicate: what `Statement` chooses from by `lane`.
PREDICATES: Final[dict[str, type[Predicate]]] = {
    "training": TrainingPredicate,
    "sparse": SparsePredicate,
    "promotion": PromotionPredicate,
}
assert tuple(PREDICATES) == LANES


def json_schema(lane: str | None = None) -> dict[str, Any]:
    """The record's JSON Schema, draft 2020-12, of one lane or of all.

    Like our reader it has two readings: a record of our own minor or an older one may hold nothing that is not
    defined, and one of a newer minor may hold more. Both are generated from the same classes.

    Raises:
        KeyError: there is no such lane.
    """
    strict = TypeAdapter(Statement).json_schema(by_alias=True, mode="validation", ref_template="#/$defs/{model}")
    definitions = strict.pop("$defs")
    kept = [PREDICATES[lane]] if lane is not None else list(PREDICATES.values())
    strict["properties"]["predicate"] |= {"oneOf": [{"$ref": f"#/$defs/{predicate.__name__}"} for predicate in kept]}
    del strict["properties"]["predicate"]["discriminator"]  # OpenAPI's word: JSON Schema has no such keyword
    definitions["Statement"] = strict
    newer = _opened(definitions)
    known = "|".join(str(minor) for minor in range(_OUR_MINOR + 1))
    for predicate in PREDICATES.values():
        version = definitions[predicate.__name__]["properties"]["record_version"]
        version["pattern"] = rf"^1\.(?=[0-9]{{1,4}}$)0*(?:{known})$"
        newer["newer." + predicate.__name__]["properties"]["record_version"] = {
            "type": "string", "pattern": rf"^1\.(?=[0-9]{{1,4}}$)(?!0*(?:{known})$)",
        }  # fmt: skip
    schema = {
        "$schema": _DIALECT,
        "$id": SCHEMA_ID + (f":{lane}" if lane is not None else ""),
        "title": "Lanemark record" + (f" of the {lane} lane" if lane is not None else ""),
        "oneOf": [{"$ref": "#/$defs/Statement"}, {"$ref": "#/$defs/newer.Statement"}],
    }
    return {**schema, "$defs": _reachable(schema, {**definitions, **newer})}


def _opened(definitions: dict[str, Any]) -> dict[str, Any]:
    """A copy of the definitions that admits unknown fields, for records of a newer minor."""

    def opened(node: Any) -> Any:
        if isinstance(node, list):
            return [opened(item) for item in node]
        if not isinstance(node, dict):
            return node
        out = {}
        for key, value in node.items():
            if key == "properties":
                out[key] = {name: opened(schema) for name, schema in value.items()}
            elif key == "$ref":
                out[key] = value.replace("#/$defs/", "#/$defs/newer.")
            elif key not in ("description", "title") and not (key == "additionalProperties" and value is False):
                out[key] = opened(value)
        return out

    return {"newer." + name: opened(copy.deepcopy(schema)) for name, schema in definitions.items()}


def _reachable(root: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The definitions that `root` needs: a lane's schema is not to carry the others'."""
    needed: set[str] = set()
    waiting = [root]
    while waiting:
        names = set(re.findall(r"'\$ref': '#/\$defs/([^']+)'", str(waiting.pop()))) - needed
        needed |= names
        waiting += [definitions[name] for name in names]
    return {name: definitions[name] for name in sorted(needed)}
