"""What a record of the training lane says of a command of the user's own. Client side: needs pydantic.

Two fields beside the reference stack's, both missing where Lanemark's own program ran: what was asked (`case.script`),
and how it was measured (`training.script`). What a command does not show is unavailable with a reason elsewhere.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lanemark.records.schema_parts import Count, Many, Observed, Part, Positive

#: `marks`: two lines in the script. `callback`: a framework's callback. `hooks`: torch's optimizer-step hook, no line.
WayOfMeasuring = Literal["marks", "callback", "hooks"]


class ScriptCasePart(Part):
    """What a case says of a command, beyond the command itself."""

    tokens_per_step: Positive | None = Field(
        default=None,
        description="Tokens of the global batch in one step, as declared. Missing where nobody declared them. Never a "
        "source of a figure.",
    )


class ScriptPart(Part):
    """How a command of the user's own was measured."""

    measured_by: Observed[WayOfMeasuring] = Field(
        description="How its steps were counted: `marks`, two lines in the script; `callback`, of its framework; "
        "`hooks`, by optimizer steps, without a line. Unavailable when no rank came that far."
    )
    tokens: Literal["counted", "declared", "absent"] = Field(
        description="Where its tokens are known from. Only counted ones make a throughput."
    )
    steps_per_s: Observed[float] = Field(
        description="Steps a second: 1 over the seconds of the mean measured step. Unavailable without a receipt."
    )
    reported_tokens_per_s: Observed[float] = Field(
        description="Tokens a second as the script itself reported them, rank 0 first. Beside the measured figure, "
        "never in its place."
    )
    parameter_dtypes: Observed[Many[str]] = Field(
        description="Number formats of the trained parameters. What products are computed in may differ (autocast)."
    )
    ranks_found: Count = Field(description="Ranks that said that they are one.")
    found_by: Many[Literal["environment", "import", "process_group", "step"]] = Field(
        description="How they were found: each way once."
    )
    restarts: Count = Field(description="Times that a rank was started again after it had taken steps; the largest.")
    command_status: Observed[int] = Field(
        description="How the command itself ended: its exit status. Absent when a signal ended it."
    )
