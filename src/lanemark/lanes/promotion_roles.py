"""What every field of a promotion record is to a comparison (`lanemark.lanes.shared_roles` explains the roles).

The lane has no metric and never yields a ratio. What a comparison of two of its records can say is whether both stand
on the same circumstances, so that the verdict of one may be read beside the verdict of the other.
"""

from __future__ import annotations

from typing import Final

from lanemark.lanes.shared_roles import SHARED_ROLES, Role

_RESULT: Final = "what was found is not a circumstance of looking"
_PROBLEM: Final = "another problem is another test"
_PARITY: Final = "promotion.parity[name+direction]"

PROMOTION_ROLES: Final[tuple[Role, ...]] = (
    *SHARED_ROLES,
    Role("case.promotion.mode", "noise", "equal to promotion.mode, which is a key"),
    Role("case.promotion.candidate", "noise", "equal to the candidate's name, which is a factor"),
    Role("case.promotion.direction", "noise", "equal to the scope's, which is a key"),
    Role("case.promotion.matrix", "key", "another matrix asks other things"),
    Role("case.promotion.cases", "key", "other cases ask other things"),
    Role("promotion.mode", "key", "another family of kernels is held to other evidence"),
    Role("promotion.candidate.name", "factor", "the kernel path in question", "candidate"),
    Role("promotion.candidate.source_digest", "factor", "another build of it", "candidate"),
    Role("promotion.candidate.applicable", "noise", _RESULT),
    Role("promotion.candidate.applicable_reason", "noise", "words"),
    Role("promotion.scope.surface", "key", "an acceptance holds for one surface"),
    Role("promotion.scope.arch", "key", "an acceptance holds for one architecture"),
    Role("promotion.scope.dtype", "key", "an acceptance holds for one precision"),
    Role("promotion.scope.direction", "key", "forward says nothing of backward"),
    Role("promotion.ladder.*", "noise", _RESULT),
    Role("promotion.state", "noise", _RESULT),
    Role("promotion.state_reason", "noise", "words"),
    Role("promotion.execute_proof", "noise", _RESULT),
    *(
        Role(f"{_PARITY}.{name}", "key", _PROBLEM)
        for name in (
            "batch", "queries", "keys", "heads", "kv_heads", "head_dim", "head_dim_v", "masking", "input_scale",
            "reference",
        )
    ),
    Role(f"{_PARITY}.name", "noise", "tells the items apart"),
    Role(f"{_PARITY}.direction", "noise", "tells the items apart"),
    *(Role(f"{_PARITY}.{name}", "noise", "a fresh seed is asked for") for name in ("seed",)),
    *(
        Role(f"{_PARITY}.{name}", "noise", _RESULT)
        for name in (
            "dense_fro", "dense_row", "fro", "fro_limit", "row", "row_limit", "masks_equal", "poisoned_output",
            "lse_max_error", "bitwise_equal", "mutants", "verdict",
        )
    ),
    Role(f"{_PARITY}.repeats", "covariate", "fewer repeats notice less"),
    Role("promotion.stop_rules.*", "noise", _RESULT),
    Role("promotion.promotion_ready", "noise", _RESULT),
    Role("promotion.promotion_status", "noise", _RESULT),
    Role("promotion.promoted_on", "noise", _RESULT),
    Role("promotion.evidence_key.digest", "noise", "of the components, which are judged where they were observed"),
    Role("promotion.evidence_key.components.image", "noise", "judged as image.digest"),
    Role("promotion.evidence_key.components.driver", "noise", "judged as the observed driver"),
    Role("promotion.evidence_key.components.torch", "noise", "judged as the torch build"),
    Role("promotion.evidence_key.components.cuda", "noise", "judged as the observed toolkit"),
    Role("promotion.evidence_key.components.packages", "factor", "kernel packages and versions", "packages"),
    Role("promotion.evidence_key.components.kernel_source", "factor", "another build of it", "candidate"),
    Role("promotion.evidence_key.components.selectors", "factor", "can switch a backend", "environment"),
    Role("promotion.evidence_key.components.matrix", "key", "another matrix or rule table asks other things"),
    Role("promotion.wave.*", "noise", "which wave it belongs to"),
    Role("promotion.import_health.*", "noise", "imports prove nothing about parity, nor the other way"),
    Role("promotion.remote.worker", "factor", "the program that ran the matrix", "source"),
    Role("promotion.remote.lanemark_digest", "factor", "the program that ran the matrix", "source"),
    Role("promotion.remote.python", "factor", "the worker's interpreter", "python"),
    Role("promotion.remote.torch", "factor", "the worker's torch", "torch"),
    Role("promotion.remote.arch", "key", "the architecture that kernels are chosen by"),
    Role("promotion.collector.completed_at", "gate", "a run that was not seen to end has no result"),
    Role("promotion.collector.*", "noise", "who looked, and when"),
    Role("promotion.does_not_prove", "noise", "words"),
)  # fmt: skip
