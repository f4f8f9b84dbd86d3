"""What every part of the record's schema is made of: the strict base, the observation, and the named kinds of value.

Client side: it needs pydantic. The parts themselves are in `schema_envelope` (what all lanes share), `schema_runtime`
(what really ran), `schema_training`, `schema_sparse` and `schema_promotion`; `schema` puts them together.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

T = TypeVar("T")

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Stamp = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
#: Names of backends, kernels, cases: what may stand in a file name or a table cell. `:` is for `module:function`.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,119}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
#: A dimensionless size of something, such as a relative error.
Magnitude = Annotated[float, Field(ge=0)]
#: A list whose first wrong item ends it: a file with millions of them must not become millions of complaints.
Many = Annotated[list[T], Field(fail_fast=True)]


class Part(BaseModel):
    """Base of every part: frozen, strict, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Observed(Part, Generic[T]):
    """A value with its source, or why there is none. See `lanemark.records.observation`."""

    status: Literal["observed", "absent", "unavailable"] = Field(
        description="`observed`: we looked and saw a value. `absent`: we looked and it is not there. `unavailable`: we "
        "could not look."
    )
    source: Text = Field(description="What was read: a file, a call, a tool. Never a request.")
    value: T | None = Field(default=None, description="Present when, and only when, `status` is `observed`.")
    reason: Text | None = Field(
        default=None, description="Why there is no value: required when `unavailable`, never there when `observed`."
    )

    @model_validator(mode="after")
    def _pairing(self) -> Observed[T]:
        if self.status == "observed" and (self.value is None or self.reason is not None):
            raise ValueError("an observed value has a value and no reason")
        if self.status != "observed" and self.value is not None:
            raise ValueError(f"an {self.status} observation has no value")
        if self.status == "unavailable" and not self.reason:
            raise ValueError("an unavailable observation says why")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The pairing of status, value and reason as three alternatives, so that any JSON Schema validator holds it."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        fields = schema.pop("properties")
        kinds = [kind for kind in fields["value"].pop("anyOf") if kind != {"type": "null"}]
        value = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        nothing: dict[str, Any] = {"type": "null"}
        text = next(kind for kind in fields["reason"]["anyOf"] if kind != nothing)
        alternatives = (
            ("observed", value, nothing, ["status", "source", "value"]),
            ("absent", nothing, {"anyOf": [text, nothing]}, ["status", "source"]),
            ("unavailable", nothing, text, ["status", "source", "reason"]),
        )
        schema.pop("required")
        schema["oneOf"] = [
            {
                "type": "object",
                "properties": {
                    "status": {"const": status}, "source": fields["source"], "value": value, "reason": reason,
                },
                "required": required,
                "additionalProperties": schema["additionalProperties"],
            }
            for status, value, reason, required in alternatives
        ]  # fmt: skip
        del schema["additionalProperties"]
        return reference
