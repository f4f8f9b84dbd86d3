"""`lanemark plan`: what `run` would launch, as JSON. Launches nothing, allocates nothing, builds nothing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from lanemark.cli.artifacts import add_artifacts, planned_artifacts
from lanemark.cli.asked import add_arguments, check_surface, parsed, understand
from lanemark.cli.asked_modal import rental as rental_of
from lanemark.cli.asked_modal import rented
from lanemark.cli.deciding import decide
from lanemark.cli.parsing import home, parser, print_json
from lanemark.cli.renting import plan_rented
from lanemark.lanes.presets import Preset
from lanemark.lanes.prewarm import prewarm_plan
from lanemark.launch.command import local_surface
from lanemark.records.case import Case
from lanemark.records.observation import absent, observed, unavailable

#: Importing torch takes a few seconds on a cold disk; longer than this and something is wrong with it.
_DESCRIBE_TIMEOUT_S = 120.0


def main(args: list[str]) -> int:
    """Print the plan. Exit 0."""
    verb = parser("plan", "Print what `run` would launch, as JSON; launch nothing.")
    add_arguments(verb)
    add_artifacts(verb)
    verb.add_argument("--json", action="store_true", help="accepted for symmetry: a plan is always JSON")
    options = parsed(verb, args)
    if options.lane == "promotion":
        print_json(wave_plan(options))
        return 0
    asked = understand(options)
    place = home()
    artifacts = planned_artifacts(options.artifacts, place)
    if asked.rental is not None:
        print_json({**plan_rented(asked, place), **({"artifacts": artifacts} if artifacts else {})})
        return 0
    decided = decide(asked, place, build=False)
    request = local_surface(decided.case).request(decided.case, decided.placement)
    on_gpu = decided.case.gpu != "cpu" and decided.devices["device_class"].status == "observed"
    prewarm = prewarm_plan(decided.case, cuda=on_gpu)
    ours = decided.case.takes_steps and decided.case.script is None
    print_json(
        {
            "case": decided.case.to_json(),
            "plan_digest": decided.case.digest,
            **steps_facts(decided.case),
            "reasons": decided.reasons,
            "cache": {
                "policy": decided.case.cache_policy,
                "layout": decided.placement.cache_layout,
                "layers": [{"source": source.shown, "kind": source.kind} for source in decided.sources],
                **({} if decided.capture_to is None else {"capture_to": str(decided.capture_to)}),
            },
            **({"artifacts": artifacts} if artifacts else {}),
            **({"prewarm": {"planned": prewarm.do, "reason": prewarm.reason}} if ours else {}),
            **({} if asked.preset is None else {"model": model_facts(asked.preset, decided.case.sequence)}),
            "request": request.to_json(),
        }
    )
    return 0


def wave_plan(options: argparse.Namespace) -> dict[str, Any]:
    """What `run promotion` would launch, one case after another, and what it would leave out and why."""
    from lanemark.cli.asked_promotion import understand_wave

    check_surface(options)
    rental = rental_of(options)
    wave = understand_wave(options)
    place = home()
    cases = []
    for asked in wave.asked:
        if rental is not None:
            cases.append(plan_rented(rented(asked, rental), place))
            continue
        decided = decide(asked, place, build=False)
        request = local_surface(decided.case).request(decided.case, decided.placement)
        cases.append({
            "case": decided.case.to_json(), "plan_digest": decided.case.digest, "reasons": decided.reasons,
            "request": request.to_json(),
        })  # fmt: skip
    artifacts = planned_artifacts(options.artifacts, place)
    return {
        "wave": wave.preset, "arch": wave.arch, "cases": cases, "left_out": [vars(each) for each in wave.left_out],
        **({"artifacts": artifacts} if artifacts else {}),
    }  # fmt: skip


def steps_facts(case: Case) -> dict[str, int]:
    """What follows from the steps of a case that takes any."""
    if not case.takes_steps:
        return {}
    if case.script is not None:
        return {"measured_steps": case.measured_steps}
    return {"tokens_per_step": case.tokens_per_step, "measured_steps": case.measured_steps}


def model_facts(recipe: Preset, sequence: int) -> dict[str, Any]:
    """Sizes of the model: the closed form, and beside it the count on torch's meta device where torch is installed."""
    return {
        "preset": recipe.name,
        "purpose": recipe.purpose,
        "pattern": recipe.pattern,
        "depth": recipe.depth,
        "width": recipe.width,
        "num_heads": recipe.num_heads,
        "num_kv_heads": recipe.num_kv_heads,
        "num_experts": recipe.num_experts,
        "top_k": recipe.top_k,
        "vocab": recipe.vocab,
        "sequence": sequence,
        "parameters": recipe.num_parameters,
        "parameters_active": recipe.num_active_parameters,
        "flops_per_token": recipe.flops_per_token(sequence),
        "parameters_on_meta_device": _counted(recipe),
    }


def _counted(recipe: Preset) -> dict[str, Any]:
    source = "lanemark.stack.describe"
    if find_spec("torch") is None:
        return absent(source, "torch is not installed here").to_json()
    command = [sys.executable, "-m", "lanemark.stack.describe", "--preset", recipe.name, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_DESCRIBE_TIMEOUT_S, check=True)
        return observed(int(json.loads(done.stdout)["parameters"]), source).to_json()
    except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
        return unavailable(source, f"building on the meta device failed: {type(error).__name__}").to_json()
