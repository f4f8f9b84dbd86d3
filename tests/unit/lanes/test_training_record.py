"""A whole record from hand-made facts: what it claims, what it refuses to claim, and that it keeps its own rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lanemark.lanes.order import batch_positions, sequence_at
from lanemark.lanes.presets import preset
from lanemark.lanes.record import training_predicate
from lanemark.lanes.reports import AttemptFacts, RankReport, Span
from lanemark.lanes.rules import broken_rules
from lanemark.lanes.training import check_window
from lanemark.lanes.windows import sum_of
from lanemark.measure.samples import Samples, StepRow
from lanemark.records.case import Case, DataAsked
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import UsageError
from lanemark.records.finding import Finding
from lanemark.records.observation import absent, observed, unavailable, value_of
from lanemark.records.reading import read_record
from lanemark.records.statement import seal, subjects

STEP_NS = 200_000_000
DATASET = digest(b"tokens")
RECIPE = preset("dense-nano")
CASE = Case(
    lane="training", preset="dense-nano", nproc=2, mode="fsdp2", compile="eager", dtype="bf16", steps=8, warmup=2,
    sequence=256, micro_batch=2, data=DataAsked("shards", DATASET), gpu="H100!:2",
)  # fmt: skip


def seen(value: Any) -> dict[str, Any]:
    return observed(value, "a test").to_json()


def samples(
    rank: int, *, steps: int = 8, closed: bool = True, wait_ns: int = 1000, compile_in: int | None = None
) -> Samples:
    rows, begin, compiled = [], 1_000, 0
    for step in range(steps):
        compiled += 5_000_000 if step == compile_in else 0
        rows.append(StepRow(step, begin, begin + wait_ns, begin + STEP_NS, compiled, None))
        begin += STEP_NS
    opened = rows[2].begin_ns if steps > 2 else None
    return Samples(rank, 2, 8, tuple(rows), opened, rows[-1].end_ns if closed and opened is not None else None)


def rank(number: int, **changes: Any) -> RankReport:
    facts = {
        "device_class": seen("H100"),
        "device_name": seen("NVIDIA H100 80GB HBM3"),
        "device_uuid": seen(f"GPU-{number}"),
        "device_memory_bytes": seen(85_000_000_000),
        "cuda": seen("13.0"),
        "mode_observed": seen("fsdp2"),
        "world_size_observed": seen(2),
        "backend": seen("nccl"),
        "compile_observed": seen("eager"),
        "parameters": seen(RECIPE.num_parameters),
        "torch_version": seen("2.13.0"),
        "torch_build": seen("2.13.0+cu130"),
        "nccl": seen("2.29"),
        "token_source": seen("shards"),
        "data_files": [
            {
                "name": "train_000000.bin", "path_class": "local_disk", "filesystem": "ext4", "mount_point": "/",
                "mount_source": "/dev/nvme0n1", "reason": "a local block device",
            }
        ],
    }  # fmt: skip
    extra: dict[str, Any] | None = changes.pop("observed", {})
    base = RankReport(
        rank=number,
        samples=samples(number),
        observed={**facts, **extra} if extra is not None else None,
        end={
            "losses": {"first": seen(8.3), "last": seen(7.1), "finite": seen(True)},
            "tokens": 2 * 256 * 6,
            "memory": {
                "allocated_peak_bytes": seen(1 << 30),
                "reserved_peak_bytes": seen(1 << 31),
                "rss_peak_bytes": seen(1 << 29),
            },
        },
        spans=(Span("import", 100, 500, -1), Span("warmup", 500, 900, 0)),
        beacon={"phase": "done", "step": 8, "label": "", "compilations": 0, "compile_ns": 0, "pid": 10 + number},
        exit={"rank": number, "pid": 10 + number, "status": 0, "ended_ns": 5, "signal_by": "nobody"},
    )
    return replace(base, **changes)


def facts(*ranks: RankReport, case: Case = CASE, state: str = "ok") -> AttemptFacts:
    stamp = "2026-11-22T15:22:33.123Z"
    steps = [
        {"state": word, "at": stamp, "monotonic_s": 1.0, "reason": "because"} for word in ("prepared", "running", state)
    ]
    why = unavailable("a test", "not looked at")
    host = {
        "hardware": {key: why.to_json() for key in ("driver", "kernel")},
        "source": {
            "commit": seen("a" * 40), "dirty": seen(False), "repository_root": absent("git").to_json(),
            "lanemark_digest": seen(digest(b"source")),
        },
        "toolchain": {"packages": [], "cxx": absent("PATH").to_json()},
        "image": {"digest": absent("/", "not in a container").to_json(), "reference": absent("/").to_json()},
        "cache_before": absent("disk").to_json(),
    }  # fmt: skip
    shard = {"name": "train_000000.bin", "bytes": 4096, "tokens": 1536, "sha256": seen("b" * 64)}
    manifest = {
        "run_id": "training-20261122T152233Z-7k3f9q2x", "argv": ["lanemark", "run"], "argv_redacted": False,
        "boot_id": "boot", "transitions": steps,
        "data": {
            "dataset_digest": seen(DATASET), "tokenizer_digest": absent("manifest").to_json(),
            "manifest_verified": absent("manifest").to_json(), "shards": [shard],
        },
    }  # fmt: skip
    return AttemptFacts(
        manifest=manifest, case=case, host=host, host_end={"cache_after": absent("disk").to_json()}, launch={},
        ranks=ranks or (rank(0), rank(1)), findings=(), cause=None, state=state, reason="because", launched_ns=0,
        duration_s=observed(9.0, "CLOCK_MONOTONIC"), sealed_at=stamp, transitions=tuple(steps), lanemark_version="0.1.0",
    )  # fmt: skip


def built(*ranks: RankReport, **changes: Any) -> dict[str, Any]:
    """The predicate, sealed and read back strictly; it keeps every rule of its lane."""
    predicate = training_predicate(facts(*ranks, **changes), RECIPE)
    about = subjects(plan_digest=changes.get("case", CASE).digest, image_digest=None, commit="a" * 40)
    view = read_record(seal(predicate, about).data)
    assert broken_rules(view.doc["predicate"]) == ()
    return decode(view.data)["predicate"]


def kinds(predicate: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in predicate["findings"]}


def test_a_good_run_gets_its_figures() -> None:
    predicate = built()
    training = predicate["training"]
    assert predicate["outcome"]["receipt"] is True
    assert value_of(training["tokens_per_s"]) == pytest.approx(2 * 2 * 256 / 0.2)
    peak = 989.4e12
    flops = RECIPE.flops_per_token(256)
    assert value_of(training["mfu"]) == pytest.approx(2 * 2 * 256 / 0.2 * flops / (2 * peak), rel=0.01)
    assert predicate["hardware"]["observed"]["device_count"]["value"] == 2
    assert kinds(predicate) == set()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"end": None}, "end marker"),
        ({"samples": samples(1, closed=False)}, "end marker"),
        ({"samples": None, "samples_problem": "the rank never reached its step loop"}, "end marker"),
        ({"samples": samples(1, steps=4)}, "2 measured steps are fewer than 3"),
        ({"samples": samples(1, steps=6)}, "4 steps were measured where 6 were declared"),
    ],
)
def test_what_is_missing_is_no_receipt_and_is_named(broken: dict[str, Any], reason: str) -> None:
    predicate = built(rank(0), rank(1, **broken))
    assert predicate["outcome"]["receipt"] is False
    assert reason in predicate["outcome"]["receipt_reason"]
    assert predicate["training"]["tokens_per_s"] == {
        "status": "unavailable",
        "source": predicate["training"]["tokens_per_s"]["source"],
        "reason": predicate["outcome"]["receipt_reason"],
    }
    assert predicate["training"]["mfu"]["status"] == "unavailable"


def test_a_loss_that_is_not_finite_is_no_receipt() -> None:
    end = dict(rank(1).end or {})
    gone = unavailable("train.py", "the loss is not a finite number").to_json()
    predicate = built(
        rank(0), rank(1, end={**end, "losses": {"first": seen(8.0), "last": gone, "finite": seen(False)}})
    )
    assert "loss" in predicate["outcome"]["receipt_reason"]
    assert value_of(predicate["training"]["loss"]["finite"]) is False


def test_tokens_that_were_not_consumed_are_no_receipt() -> None:
    predicate = built(rank(0), rank(1, end={**(rank(1).end or {}), "tokens": 1}))
    assert predicate["outcome"]["receipt"] is False
    assert value_of(predicate["data"]["token_parity"]) is False


def test_a_substitute_for_a_pinned_device_is_no_receipt_and_for_another_one_a_caveat() -> None:
    h200 = {"device_class": seen("H200")}
    pinned = built(rank(0, observed=h200), rank(1, observed=h200))
    assert pinned["outcome"]["receipt"] is False
    assert "gpu_substituted" in kinds(pinned)
    loose = built(rank(0, observed=h200), rank(1, observed=h200), case=replace(CASE, gpu="H100:2"))
    assert loose["outcome"]["receipt"] is True
    assert "gpu_substituted" in kinds(loose)
    assert any("H200" in text for text in loose["training"]["does_not_prove"])


def test_ranks_that_disagree_leave_the_fact_unavailable() -> None:
    predicate = built(rank(0), rank(1, observed={"backend": seen("gloo")}))
    assert predicate["distributed"]["observed"]["backend"]["status"] == "unavailable"
    assert "ranks_disagree" in kinds(predicate)


def test_another_model_than_the_preset_gets_no_utilisation() -> None:
    other = {"parameters": seen(17)}
    predicate = built(rank(0, observed=other), rank(1, observed=other))
    assert predicate["training"]["model"]["flops_per_token"]["status"] == "unavailable"
    assert "17 parameters" in predicate["training"]["mfu"]["reason"]


def test_what_happened_inside_the_window_is_said() -> None:
    predicate = built(rank(0, samples=samples(0, compile_in=4)), rank(1, samples=samples(1, wait_ns=STEP_NS // 4)))
    assert {"compiled_in_window", "data_wait"} <= kinds(predicate)
    assert value_of(predicate["compile"]["observed"]["last_end_step"]) == 4
    assert value_of(predicate["training"]["split"]["data_wait_s"]) == pytest.approx(6 * 0.05)


def test_a_mount_is_named_and_a_silent_rank_is_no_observation() -> None:
    files = [{**(rank(0).observed or {})["data_files"][0], "path_class": "object_mount"}]
    remote = built(rank(0, observed={"data_files": files}), rank(1, observed={"data_files": files}))
    assert value_of(remote["data"]["path_class"]) == "object_mount"
    assert "data_path_remote" in kinds(remote)
    mixed = built(rank(0, observed={"data_files": files}), rank(1))
    assert value_of(mixed["data"]["path_class"]) == "mixed"
    silent = built(rank(0), rank(1, observed={"data_files": []}))
    assert silent["data"]["path_class"]["status"] == "unavailable"


CACHE = {"bytes": 4096, "resident_bytes": 4096, "files": 1, "files_open": 1}
SEQUENCES = (1536 - 1) // 256


def told(number: int, *, resident: int = 4096, fetched: int = 0, windows: Any = None) -> RankReport:
    """A rank that tells of its data path, as the reference program does."""
    mine = windows or {"count": 12, "sum": sum_of(windows_of(number)), "sequences": SEQUENCES}
    cache = seen({**CACHE, "resident_bytes": resident})
    base = rank(number, observed={"data_path": {"resident_before": cache}})
    path = {"io": seen({"read_bytes": fetched, "rchar": 10}), "resident_after": cache, "look_s": 0.002}
    return replace(base, end={**(base.end or {}), "windows": mine, "data_path": path})


def windows_of(number: int) -> list[int]:
    places = [
        place
        for forward in range(CASE.warmup, CASE.steps)
        for place in batch_positions(forward, rank=number, world_size=2, micro_batch=2)
    ]
    return [place - place % SEQUENCES + sequence_at(place, SEQUENCES, 0) for place in places]


def test_evidence_makes_a_local_disk_the_page_cache_or_not() -> None:
    cached = built(told(0), told(1))["data"]
    assert value_of(cached["path_class"]) == "page_cache"
    assert [value_of(row["path_class"]) for row in cached["ranks"]] == ["page_cache"] * 2
    assert value_of(cached["ranks"][0]["resident_after"])["resident_bytes"] == 4096
    assert value_of(cached["ranks"][1]["look_s"]) == 0.002
    one_fetched = built(told(0), told(1, resident=100, fetched=8192))["data"]
    assert value_of(one_fetched["path_class"]) == "local_disk"
    untold = built()["data"]
    assert value_of(untold["path_class"]) == "local_disk"
    assert untold["ranks"][0]["resident_before"]["status"] == "unavailable"
    assert untold["windows"]["status"] == "unavailable"
    assert value_of(untold["token_parity"]) is True, "what nobody looked at takes no receipt away"


def test_ranks_that_read_the_same_windows_get_no_receipt() -> None:
    good = built(told(0), told(1))
    assert value_of(good["data"]["windows"])["as_expected"]
    assert good["outcome"]["receipt"]
    both = {"count": 12, "sum": sum_of(windows_of(0)), "sequences": SEQUENCES}
    bad = built(told(0), told(1, windows=both))
    assert value_of(bad["data"]["windows"])["as_expected"] is False
    assert value_of(bad["data"]["token_parity"]) is False
    assert not bad["outcome"]["receipt"]
    assert "one is missing, foreign or read twice" in bad["outcome"]["receipt_reason"]
    short = built(told(0), told(1, windows={**both, "count": 11}))
    assert "read 23 windows of tokens where the case has 24" in short["outcome"]["receipt_reason"]
    odd = built(told(0), told(1, windows={**both, "sequences": 4}))
    assert "the ranks count [4, 5] sequences" in odd["data"]["windows"]["reason"]


def test_what_was_said_of_the_path_is_held_to_what_was_seen() -> None:
    said = replace(CASE, data=replace(CASE.data, path_class="object_mount"))
    predicate = built(told(0), told(1), case=said)
    assert "data_class_contradicted" in kinds(predicate)
    assert predicate["data"]["requested"]["path_class"] == "object_mount"
    assert value_of(predicate["data"]["path_class"]) == "page_cache", "what is said never fills what is observed"
    disk = replace(CASE, data=replace(CASE.data, path_class="local_disk"))
    assert "data_class_contradicted" not in kinds(built(told(0), told(1), case=disk))
    unseen = built(rank(0, observed={"data_files": []}), rank(1, observed={"data_files": []}), case=said)
    assert unseen["data"]["path_class"]["status"] == "unavailable"
    assert "data_class_contradicted" not in kinds(unseen)
    assert CASE.digest != said.digest
    assert "path_class" not in CASE.to_json()["data"], "a case that says nothing keeps its bytes"
    assert Case.from_json(said.to_json()) == said


def test_stalls_are_listed_by_step_and_rank() -> None:
    quiet = built()
    assert value_of(quiet["data"]["stalls"]) == {"count": 0, "wait_s": 0.0, "longest": []}
    rows = list(samples(1).rows)
    rows[5] = rows[5]._replace(data_ready_ns=rows[5].begin_ns + STEP_NS // 2)
    rows[1] = rows[1]._replace(data_ready_ns=rows[1].end_ns)  # of the warm-up, which is not measured
    predicate = built(rank(0), rank(1, samples=replace(samples(1), rows=tuple(rows))))
    stalls = value_of(predicate["data"]["stalls"])
    assert stalls["count"] == 1
    assert stalls["longest"] == [{"rank": 1, "step": 5, "wait_s": 0.1, "step_s": 0.2}]
    (finding,) = [each for each in predicate["findings"] if each["kind"] == "data_wait"]
    assert "rank 1" in finding["summary"]
    assert finding["evidence"] == ["rank 1, step 5: waited 0.1000 s of 0.2000 s"]
    lost = rank(1, samples=None, samples_problem="it died", end=None)
    facts_of_loss = replace(facts(rank(0), lost, state="error"), cause=None)
    assert training_predicate(facts_of_loss, RECIPE)["data"]["stalls"]["status"] == "unavailable"


def test_synthetic_tokens_are_recorded_as_such() -> None:
    case = replace(CASE, data=DataAsked("synthetic"))
    none = {"data_files": [], "token_source": seen("synthetic")}
    predicate = built(rank(0, observed=none), rank(1, observed=none), case=case)
    assert value_of(predicate["data"]["path_class"]) == "synthetic"
    assert predicate["data"]["shards"] == []
    assert "data_synthetic" in kinds(predicate)
    assert predicate["data"]["dataset_digest"]["status"] == "absent"


def test_a_request_for_synthetic_tokens_is_no_observation_of_them() -> None:
    """Ranks that died before they opened a loader saw nothing, whatever the case asked for."""
    case = replace(CASE, data=DataAsked("synthetic"))
    silent = [rank(number, observed=None, end=None, samples=None, samples_problem="it died") for number in (0, 1)]
    cause = Finding("rank_raised", "failure", "rank 0 raised ValueError", rank=0)
    made = replace(facts(*silent, case=case, state="error"), cause=cause, findings=(cause,))
    predicate = training_predicate(made, RECIPE)
    assert predicate["data"]["path_class"]["status"] == "unavailable"
    assert broken_rules(predicate) == ()


@pytest.mark.parametrize(
    ("steps", "warmup", "slug"), [(5, 3, "steps-too-few"), (9, 0, "warmup-invalid"), (0, 0, "warmup-invalid")]
)
def test_a_window_that_could_be_no_receipt_is_refused(steps: int, warmup: int, slug: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_window(steps, warmup)
    assert caught.value.slug == slug
    check_window(4, 1)
