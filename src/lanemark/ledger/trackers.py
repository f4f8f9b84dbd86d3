"""Records put where people already look: an MLflow run, a Weights & Biases run kept offline. One way.

The run carries the record's digest as a tag, its figures as metrics, its step times as a series, and nothing that was
not observed. What is shown there is a copy: whoever doubts it verifies the record of that digest.

Both libraries are extras and are imported here alone, when they are asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lanemark.ledger.exchange import figures, labels
from lanemark.records.errors import GateRefused, LedgerError

_EXPERIMENT = "lanemark"


def check(form: str) -> None:
    """Raise GateRefused `tracker-missing` unless the library of `mlflow` or `wandb` is here."""
    _library(form)


def _library(form: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        return importlib.import_module(form)
    except ImportError:
        raise GateRefused(
            "tracker-missing",
            f"--format {form} needs the package {form}, which this interpreter does not have",
            f"run `pip install 'lanemark[{form}]'`, or take --format jsonl",
        ) from None


def settings_of(predicate: Mapping[str, Any]) -> dict[str, str]:
    """The case, flat and as text: what trackers call parameters."""
    return {name: str(value) for name, value in predicate["case"].items() if name != "data"}


def steps_of(predicate: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Each measured step and its seconds; empty without a receipt and in other lanes."""
    if not figures(predicate):
        return []
    part = predicate["training"]
    return [(part["window"]["warmup"] + at, took / 1e9) for at, took in enumerate(part["samples"]["measured"])]


def to_mlflow(record_id: str, predicate: Mapping[str, Any], uri: str) -> str:
    """One MLflow run; returns its id.

    Args:
        record_id: the record's digest, which becomes the tag `lanemark.record`.
        predicate: the record proper.
        uri: of the tracking store, as MLflow takes it.

    Raises:
        GateRefused: MLflow is not installed.
        LedgerError: it would not take the run.
    """
    mlflow = _library("mlflow")
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(_EXPERIMENT)
        experiment = client.create_experiment(_EXPERIMENT) if known is None else known.experiment_id
        tags = {f"lanemark.{name}": value for name, value in labels(record_id, predicate).items()}
        run = client.create_run(experiment, tags=tags, run_name=predicate["run_id"])
        entities = importlib.import_module("mlflow.entities")
        at_ms = int(run.info.start_time)
        metrics = [entities.Metric(name, value, at_ms, 0) for name, value in figures(predicate).items()]
        metrics += [entities.Metric("step_s", value, at_ms, step) for step, value in steps_of(predicate)]
        params = [entities.Param(name, value[:500]) for name, value in settings_of(predicate).items()]
        for start in range(0, max(len(metrics), len(params), 1), 100):  # MLflow's own bound of one request
            client.log_batch(run.info.run_id, metrics=metrics[start : start + 100], params=params[start : start + 100])
        client.set_terminated(run.info.run_id, "FINISHED" if predicate["outcome"]["state"] == "ok" else "FAILED")
    except Exception as error:  # whatever the library raises: a store that is not there, a server that refuses
        raise _refused("mlflow", record_id, uri, error) from error
    return str(run.info.run_id)


def to_wandb(record_id: str, predicate: Mapping[str, Any], directory: Path) -> str:
    """One offline run below `directory`, which `wandb sync` would upload; returns its directory.

    Raises:
        GateRefused: wandb is not installed.
        LedgerError: it would not write the run.
    """
    wandb = _library("wandb")
    tags = [f"{name}:{value}"[:64] for name, value in labels(record_id, predicate).items() if name != "record"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=_EXPERIMENT, name=predicate["run_id"], dir=str(directory), mode="offline",
            tags=[record_id[:19], *tags],
            config={"lanemark_record": record_id, **settings_of(predicate)}, reinit="finish_previous",
            settings=wandb.Settings(console="off"),
        )  # fmt: skip
        try:
            for step, value in steps_of(predicate):
                run.log({"step_s": value}, step=step)
            run.summary.update({"lanemark_record": record_id, **figures(predicate)})
            where = str(Path(run.dir).parent)
        finally:
            run.finish()
    except Exception as error:
        raise _refused("wandb", record_id, str(directory), error) from error
    return where


def finish(form: str) -> None:
    """Wait until what was handed over is on disk: wandb writes in a process of its own, which may be behind."""
    if form == "wandb":
        _library(form).teardown()


def _refused(form: str, record_id: str, where: str, error: Exception) -> LedgerError:
    return LedgerError(
        "output-unwritable",
        f"{form} did not take {record_id[:19]} at {where[:200]!r} ({type(error).__name__}: {str(error)[:200]})",
        "check the place; the record itself is where it was",
    )
