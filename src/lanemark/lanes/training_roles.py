"""What every field of a training record is to a comparison (`lanemark.lanes.shared_roles` explains the roles).

The metrics of this lane are those of the measured loop and the time to the first step. Start-up state is a circumstance
of the first and the very question of the second.
"""

from __future__ import annotations

from typing import Final

from lanemark.lanes.shared_roles import SHARED_ROLES, Role

_MEASURED: Final = "what is measured is not a circumstance of measuring"

TRAINING_ROLES: Final[tuple[Role, ...]] = (
    *SHARED_ROLES,
    Role("case.steps", "noise", "the window that was measured is below"),
    Role("case.warmup", "noise", "the window that was measured is below"),
    Role("case.sequence", "key", "attention grows with its square", optional=True),
    Role("case.micro_batch", "factor", "the same tokens a step, split otherwise", "batch", optional=True),
    Role("case.grad_accum", "factor", "the same tokens a step, split otherwise", "batch", optional=True),
    Role("case.script.tokens_per_step", "noise", "declared; what was counted is a key", optional=True),
    Role("training.window.steps", "noise", "the measured ones count"),
    Role("training.window.warmup", "key", "the window's protocol: what was left out of it"),
    Role("training.window.measured", "covariate", "a longer window has a narrower spread, and more chances of a stall"),
    Role("training.tokens_per_step", "key", "throughput of another batch is another throughput", optional=True),
    Role("training.tokens_per_s", "noise", _MEASURED),
    Role("training.step_time", "noise", _MEASURED),
    Role("training.samples.unit", "key", "nanoseconds are compared with nanoseconds"),
    Role("training.samples.warmup", "noise", _MEASURED),
    Role("training.samples.measured", "noise", _MEASURED),
    Role("training.split.*", "noise", _MEASURED),
    Role("training.ranks[].rank", "noise", "tells the items apart"),
    Role("training.ranks[].steps_recorded", "noise", _MEASURED),
    Role("training.ranks[].step_p50_s", "noise", _MEASURED),
    Role("training.ranks[].data_wait_s", "noise", _MEASURED),
    Role("training.ranks[].compile_s", "noise", _MEASURED),
    Role("training.ranks[].compile_end_s", "noise", _MEASURED),
    Role("training.ranks[].window_arrival_s", "noise", _MEASURED),
    Role("training.ranks[].first_step_s", "noise", _MEASURED),
    Role("training.ranks[].memory_peak_bytes", "noise", _MEASURED),
    Role("training.ranks[].tokens", "noise", "a gate holds them to the case"),
    Role("training.ranks[].phases", "noise", _MEASURED),
    Role("training.ranks[].cache", "noise", "the state is drawn from it", since=1),
    Role("training.ranks[].first_step", "noise", "where the time to the first step went", since=1),
    Role("training.memory.*", "noise", _MEASURED),
    Role("training.loss.*", "noise", "rounding differs between kernels; a receipt needs it finite"),
    Role("training.model.parameters", "key", "a preset's name does not make two models one"),
    Role("training.model.parameters_active", "key", "a preset's name does not make two models one"),
    Role("training.model.flops_per_token", "key", "a preset's name does not make two models one"),
    Role("training.mfu", "noise", _MEASURED),
    Role("training.script.measured_by", "covariate", "another way of counting ends steps elsewhere", optional=True),
    Role("training.script.tokens", "noise", "a throughput needs them counted", optional=True),
    Role("training.script.parameter_dtypes", "factor", "precision changes the kernels", "dtype", optional=True),
    Role("training.script.restarts", "covariate", "a restarted run began from a checkpoint", optional=True),
    Role("training.script.steps_per_s", "noise", _MEASURED, optional=True),
    Role("training.script.reported_tokens_per_s", "noise", "a script's own word", optional=True),
    Role("training.script.command_status", "noise", "the outcome rests on it", optional=True),
    Role("training.script.ranks_found", "noise", "a rule holds it to the world's size", optional=True),
    Role("training.script.found_by", "noise", "how, not what", optional=True),
    Role("training.does_not_prove", "noise", "words"),
)
