"""What the numbers of one parity case amount to: pass, fail with a reason, or no power. Pure.

The engine (`lanemark.stack.promotion`) measures and concludes nothing; this concludes and measures nothing. A case can
fail before there are numbers, when what came back is not what the signature promises; such a case has no entry in a
record's parity list, because there is nothing that could be held against a limit, and its candidate is rejected.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, get_args

from lanemark.lanes.readiness import no_power
from lanemark.records.observation import absent, observed, unavailable
from lanemark.records.terms import LSE_LIMIT, fro_limit, row_limit

Doc = dict[str, Any]
#: What came back is not what was promised.
Violation = Literal[
    "raised", "shape_wrong", "dtype_wrong", "device_wrong", "lse_shape_wrong", "inputs_changed", "gradient_missing",
]  # fmt: skip
#: What the numbers of a parity case show.
Numbers = Literal[
    "nan_in_padding", "nonfinite_output", "zero_output", "zeroed_rows", "rerouted_to_full", "future_token_seen",
    "token_dropped", "wrong_scale", "kv_heads_mixed_up", "frobenius_error", "row_error", "lse_error", "not_repeatable",
]  # fmt: skip
#: Who ran, or what a stop rule saw.
Other = Literal["name_forged", "silently_dense", "selection_ignored", "another_backend_ran", "stop_rule_broken"]
#: Why a candidate is rejected, most telling first: the first that holds is the reason.
Rejection = Literal[Violation, Numbers, Other]
REJECTIONS: Final[tuple[str, ...]] = get_args(Rejection)
#: Forward and backward runs on equal inputs, whose results must have equal bits (facts of the field).
REPEATS: Final = {"forward": 20, "backward": 3}
_SOURCE: Final = "the candidate's own log-sum-exp against float64"


class Judgement(NamedTuple):
    """What one direction of one case amounts to. `reason` is empty for a pass."""

    verdict: Literal["pass", "fail", "no_power"]
    reason: str
    words: str


def entry(case: Doc, measured: Doc) -> Doc:
    """A record's parity entry (`schema_promotion.PromotionParityPart`) from what the engine measured.

    Args:
        case: the case's shape: `name`, `seed`, `batch`, … as the engine wrote them.
        measured: one direction's numbers.
    """
    direction = measured["direction"]
    lse = measured.get("lse_max_error")
    seen = (
        observed(float(lse), _SOURCE) if lse is not None
        else absent(_SOURCE, "gradients have none") if direction == "backward"
        else absent(_SOURCE, "the candidate returns none") if not measured.get("lse_returned")
        else unavailable(_SOURCE, "its infinities do not stand where they belong, so that there is no difference")
    )  # fmt: skip
    shape = ("batch", "queries", "keys", "heads", "kv_heads", "head_dim", "head_dim_v", "masking", "input_scale")
    out = {
        "name": case["name"], "direction": direction, "seed": case["seed"],
        **{key: case[key] for key in shape}, "reference": "float64",
        "dense_fro": measured["dense_fro"], "dense_row": measured["dense_row"],
        "fro": measured["fro"], "fro_limit": fro_limit(direction, measured["dense_fro"]),
        "row": measured["row"], "row_limit": row_limit(measured["dense_row"]),
        "masks_equal": measured["masks_equal"], "poisoned_output": measured["poisoned_output"],
        "lse_max_error": seen.to_json(), "repeats": measured["repeats"], "bitwise_equal": measured["bitwise_equal"],
        "mutants": [mutant_entry(direction, measured, mutant) for mutant in measured["mutants"]],
    }  # fmt: skip
    out["verdict"] = judge(out, measured).verdict
    return out


def mutant_entry(direction: str, measured: Doc, mutant: Doc) -> Doc:
    """A planted fault with whether the case's limits notice it; of gradients, those of the gradient it shows in."""
    theirs = mutant if "dense_fro" in mutant else measured
    killed = (
        mutant["fro"] > fro_limit(direction, theirs["dense_fro"])
        or mutant["row"] > row_limit(theirs["dense_row"])
        or not mutant["masks_equal"]
    )
    return {"name": mutant["name"], "killed": killed, "fro": mutant["fro"]}


def judge(parity: Doc, measured: Doc | None = None) -> Judgement:
    """Pass, fail or no power. A failure is a failure whatever the mutants did; a pass needs every one of them noticed.

    Args:
        parity: a record's entry, whose `verdict` is not read.
        measured: the engine's numbers, which tell a failure's reason more closely; None where only a record is there.
    """
    name, lse = parity["name"], parity["lse_max_error"].get("value")
    near = (measured or {}).get("looks_like")
    if not parity["masks_equal"]:
        reason = (measured or {}).get("nonfinite") or "nonfinite_output"
        return Judgement("fail", reason, f"{name}: values that are no numbers do not stand where they belong")
    if parity["fro"] > parity["fro_limit"]:
        words = f"{name}: relative error {parity['fro']:.2g} is over {parity['fro_limit']:.2g}"
        return Judgement("fail", near or "frobenius_error", words)
    if parity["row"] > parity["row_limit"]:
        words = f"{name}: the worst row's error {parity['row']:.2g} is over {parity['row_limit']:.2g}"
        return Judgement("fail", near or "row_error", words)
    if lse is not None and lse > LSE_LIMIT:
        return Judgement("fail", "lse_error", f"{name}: the log-sum-exp is off by {lse:.2g}, over {LSE_LIMIT:g}")
    if not parity["bitwise_equal"]:
        return Judgement(
            "fail", "not_repeatable", f"{name}: equal inputs gave different bits in {parity['repeats']} runs"
        )
    weak = no_power(parity)
    if weak is not None:
        return Judgement("no_power", "no_power", f"{name}: {weak}")
    return Judgement("pass", "", "")
