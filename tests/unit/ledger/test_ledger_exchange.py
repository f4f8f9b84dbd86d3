"""Records in other programs' words, held against those programs: parsers, trackers and readers that are not ours."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.ledger import trackers
from lanemark.ledger.exchange import figures, mllog_lines, openmetrics, trace
from lanemark.ledger.ledger import Ledger
from lanemark.records.encoding import decode, digest
from lanemark.records.errors import GateRefused

CORPUS = Path(__file__).parents[2] / "assets" / "records" / "good"
GOOD = {path.stem: path.read_bytes() for path in sorted(CORPUS.glob("*.json"))}
QUOTED, FAILED = "eager_ddp_cpu", "error_rank_killed"


def record(name: str) -> tuple[str, dict[str, Any]]:
    return digest(GOOD[name]), decode(GOOD[name])["predicate"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    ledger = Ledger(tmp_path / "home" / "ledger", {})
    for name in (QUOTED, FAILED):
        ledger.append(GOOD[name])
    return ledger


def test_figures_are_those_of_a_receipt_alone() -> None:
    assert figures(record(QUOTED)[1])["tokens_per_s"] > 0
    assert figures(record(FAILED)[1]) == {}
    assert figures(record(next(name for name in GOOD if "sparse" in name))[1]) == {}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_record_of_every_lane_can_be_shown(name: str) -> None:
    record_id, predicate = record(name)
    lines = [json.loads(line.removeprefix(":::MLLOG ")) for line in mllog_lines(record_id, predicate)]
    assert [line["value"] for line in lines if line["key"] == "lanemark_record"] == [record_id]
    assert lines[-1]["key"] == "run_stop"
    assert [line["time_ms"] for line in lines[3:-1]] == sorted(line["time_ms"] for line in lines[3:-1])
    shown = trace(record_id, predicate)
    assert shown["otherData"]["record"] == record_id
    assert all(event["dur"] >= 0 for event in shown["traceEvents"] if event["ph"] == "X")


@pytest.fixture
def mlcommons(monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of MLCommons' compliance checker, importable."""
    aside = Path(sys.prefix) / "aside" / "mlperf-logging"  # scripts/aside: without what its package asks for
    if not aside.is_dir():
        reason = "needs mlperf-logging: run scripts/aside"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    monkeypatch.syspath_prepend(str(aside))
    return "mlperf_logging.compliance_checker"


def test_mlcommons_own_parser_reads_every_line(mlcommons: str, tmp_path: Path) -> None:
    parser = importlib.import_module(f"{mlcommons}.mlp_parser")
    file = tmp_path / "run.log"
    lines = list(mllog_lines(*record(QUOTED)))
    file.write_text("\n".join(["noise before", *lines, ""]))
    parsed, errors = parser.parse_file(str(file), ruleset="5.0.0")
    assert not errors
    assert [line.key for line in parsed] == [json.loads(line.split(" ", 1)[1])["key"] for line in lines]
    assert [line.full_string.count("INTERVAL_START") for line in parsed if line.key == "run_start"] == [1]
    assert all(line.timestamp > 0 for line in parsed)


#: What a submission has and a benchmark's record has not: who submits to which division (on which the limit of the time to
#: `init_stop` hangs), an evaluation, the sizes of the data sets, and a cleared cache. docs/your-script.md lists the same.
UNMET = {
    "submission_org", "submission_division", "init_stop", "eval_accuracy", "eval_samples", "train_samples", "cache_clear",
}  # fmt: skip
#: Since 6.1 also the lowest precision of three kinds of arithmetic, which no rank observes, and a configuration file.
UNMET_61 = UNMET | {
    "config_filename",
    *(f"lowest_numerical_precision_in_{what}" for what in ("linear", "attn", "comm")),
}
#: What a command's record does not know of a model that is not ours.
OF_A_COMMAND = {
    "tensor_parallelism", "pipeline_parallelism", "context_parallelism", "expert_parallelism", "micro_batch_size",
}  # fmt: skip


def unmet(mlcommons: str, lines: list[str], file: Path, ruleset: str) -> tuple[set[str], list[str]]:
    """What MLCommons' compliance checker has against a log: the keys, and what hangs on none of them alone."""
    compliance = importlib.import_module(f"{mlcommons}.mlp_compliance")
    file.write_text("\n".join([*lines, ""]))
    checker = compliance.make_checker("training", ruleset, quiet=False, werror=True)
    passed, *_ = compliance.main(str(file), f"training_{ruleset}/common.yaml", checker)
    assert not passed  # a record is no submission, and nothing here makes it look like one
    return set(checker.overwritable), checker.not_overwritable


@pytest.mark.parametrize(("ruleset", "expected"), [("5.1.0", UNMET), ("6.1.0", UNMET_61)])
@pytest.mark.parametrize("name", [QUOTED, "fsdp2_regional_warm", "cuda_h100_8"])
def test_mlcommons_own_compliance_checker_has_nothing_but_what_a_submission_adds(
    mlcommons: str, tmp_path: Path, ruleset: str, expected: set[str], name: str
) -> None:
    lines = list(mllog_lines(*record(name)))
    assert unmet(mlcommons, lines, tmp_path / "run.log", ruleset) == (expected, [])
    # What is left out is missed, so that the checker really looks: the window's end, and the run's.
    cut = [line for line in lines if '"block_stop"' not in line and '"run_stop"' not in line]
    keys, others = unmet(mlcommons, cut, tmp_path / "cut.log", ruleset)
    assert keys == expected | {"run_stop"}
    assert any("block_stop" in other for other in others)


def test_of_a_command_the_lines_say_less_and_the_checker_misses_it(mlcommons: str, tmp_path: Path) -> None:
    record_id, predicate = record(QUOTED)
    predicate["case"]["script"] = {}
    keys, others = unmet(mlcommons, list(mllog_lines(record_id, predicate)), tmp_path / "run.log", "6.1.0")
    assert keys == UNMET_61 | OF_A_COMMAND
    # Blocks, epochs, evaluations: what a sample of a command is, nobody knows. The checker names each choice in the order of
    # a set, and one that two rules ask for once or twice.
    assert {frozenset(re.findall("'([a-z_]+)'", line)) for line in others} == {
        frozenset({some, f"block_{some.partition('_')[2]}"})
        for some in ("epoch_start", "epoch_stop", "eval_start", "eval_stop")
    }


def test_a_strict_reader_of_openmetrics_takes_the_text() -> None:
    parser = importlib.import_module("prometheus_client.openmetrics.parser")
    text = "".join(openmetrics([record(QUOTED), record(FAILED), record("fsdp2_regional_warm")]))
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    rates = families["lanemark_tokens_per_second"].samples
    assert [sample.labels["record"] for sample in rates] == [record(QUOTED)[0], record("fsdp2_regional_warm")[0]]
    assert rates[0].value == figures(record(QUOTED)[1])["tokens_per_s"]
    assert families["lanemark_step_p50_seconds"].unit == "seconds"


def test_a_trace_has_the_phases_of_each_rank_and_the_steps_of_all() -> None:
    record_id, predicate = record(QUOTED)
    events = [event for event in trace(record_id, predicate)["traceEvents"] if event["ph"] == "X"]
    steps = [event for event in events if event["cat"] == "step"]
    assert len(steps) == len(predicate["training"]["samples"]["measured"])
    assert sum(event["dur"] for event in steps) == pytest.approx(
        sum(predicate["training"]["samples"]["measured"]) / 1e3
    )
    ranks = {event["pid"] for event in events if event["cat"] == "phase"}
    assert ranks <= {rank["rank"] for rank in predicate["training"]["ranks"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
def test_mlflow_has_the_run_with_the_records_digest_as_a_tag(home: Ledger, tmp_path: Path, capsys: Any) -> None:
    mlflow = importlib.import_module("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    record_id, predicate = record(QUOTED)
    assert main(["export", record_id[:19], "--format", "mlflow", "-o", uri]) == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(capsys.readouterr().out.split()[-1])
    assert run.data.tags["lanemark.record"] == record_id
    assert run.data.metrics["tokens_per_s"] == pytest.approx(figures(predicate)["tokens_per_s"])
    assert len(client.get_metric_history(run.info.run_id, "step_s")) == len(
        predicate["training"]["samples"]["measured"]
    )


@pytest.mark.slow
def test_wandb_has_an_offline_run_with_the_records_digest(home: Ledger, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    record_id, _ = record(QUOTED)
    assert main(["export", record_id, "--format", "wandb", "-o", str(tmp_path / "runs")]) == 0
    where = Path(capsys.readouterr().out.splitlines()[-1].split()[-1])
    written = b"".join(path.read_bytes() for path in where.glob("*.wandb"))
    assert record_id.encode() in written
    assert b"tokens_per_s" in written


def test_the_newest_is_shown_where_none_is_named_and_files_are_written_whole(home: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    assert main(["export", "--format", "mllog", "-o", str(file)]) == 0
    assert file.read_text().startswith(":::MLLOG ")
    assert main(["export", "--format", "openmetrics", "-o", str(tmp_path / "metrics.txt")]) == 0
    assert (tmp_path / "metrics.txt").read_text().endswith("# EOF\n")
    assert main(["export", record(QUOTED)[0], "--format", "trace", "-o", str(tmp_path / "trace.json")]) == 0
    assert json.loads((tmp_path / "trace.json").read_bytes())["displayTimeUnit"] == "ms"


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        (["export", "--format", "mlflow"], "value-invalid"),
        (["export", "--format", "csv", "abc"], "value-invalid"),
        (["export", record(QUOTED)[0], record(FAILED)[0], "--format", "trace"], "value-invalid"),
    ],
)
def test_what_cannot_be_shown_is_refused(home: Ledger, capsys: Any, words: list[str], slug: str) -> None:
    assert main(words) == 2
    assert f"[{slug}]" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_or_does_not_take_it_is_one_sentence(
    home: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert main(["export", record(QUOTED)[0], "--format", "mlflow", "-o", "no-such-scheme://place"]) == 1
    assert "[output-unwritable]" in capsys.readouterr().err

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(trackers.importlib, "import_module", missing)
    with pytest.raises(GateRefused) as caught:
        trackers.check("mlflow")
    assert caught.value.slug == "tracker-missing"
