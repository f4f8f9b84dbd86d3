"""The figures we keep: their names, targets and meaning, how a result is judged, and the page made from the results.

`FIGURES` is the only list of names. A benchmark that reports another name, or none of its own, is an error row in the
results; nothing is dropped silently. Pure: `run.py` beside this file does the reading, starting and writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

#: Where the table goes in `template.md`.
TABLE_MARK: Final = "<!-- table -->"
#: What stands for the target of a figure that has none.
NO_TARGET: Final = "none"


@dataclass(frozen=True)
class Figure:
    """One named figure.

    Attributes:
        name: `room.what_unit`, stable: scripts and the trend of past results rely on it.
        module: the file under `benchmarks/` that measures it, without `.py`.
        sense: whether a good value is at most or at least `limit`.
        limit: the target, in `unit`; None where nobody has set one: the value is kept to be watched, and meets nothing.
        unit: unit of the value; `ratio` for a quotient of two measurements of the same run.
        meaning: what it says, in one phrase for the page.
    """

    name: str
    module: str
    sense: Literal["<=", ">="]
    limit: float | None
    unit: str
    meaning: str

    @property
    def target(self) -> str:
        """The target as text: `<= 100`, or `none`."""
        return NO_TARGET if self.limit is None else f"{self.sense} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        """Whether `value` reaches the target. Without one it always does."""
        if self.limit is None:
            return True
        return value <= self.limit if self.sense == "<=" else value >= self.limit


FIGURES: Final = (
    Figure(
        name="cli.help_cpu_ms",
        module="cli_help",
        sense="<=",
        limit=100,
        unit="ms",
        meaning="CPU time of `lanemark --help` in a fresh process",
    ),
    Figure(
        name="collect.thousand_s",
        module="detached",
        sense="<=",
        limit=30,
        unit="s",
        meaning="time to collect 1,000 finished detached runs: fetched, sealed and in the ledger, durably",
    ),
    Figure(
        name="datapath.class_ms",
        module="loader",
        sense="<=",
        limit=50,
        unit="ms",
        meaning="time that all looks of one rank at its data path take, none of them in the window",
    ),
    Figure(
        name="detach.return_s",
        module="detached",
        sense="<=",
        limit=1,
        unit="s",
        meaning="from the end of validation to the return of `run --detach`",
    ),
    Figure(
        name="hang.false_alarms_in_20",
        module="hang",
        sense="<=",
        limit=0,
        unit="count",
        meaning="healthy runs, eight ranks on two cores among them, in which something was named wrong",
    ),
    Figure(
        name="hang.seconds_to_name",
        module="hang",
        sense="<=",
        limit=5,
        unit="s",
        meaning="worst time from the last progress of a hung launch to the name of the rank that compiles",
    ),
    Figure(
        name="hang.seeded_passes_of_20",
        module="hang",
        sense=">=",
        limit=20,
        unit="count",
        meaning="launches that would hang and pass once their compile caches are seeded",
    ),
    Figure(
        name="judge.false_positive",
        module="judge_statistics",
        sense="<=",
        limit=0.06,
        unit="ratio",
        meaning="share of comparisons of a thing with itself that are called a difference, at a nominal 5 %",
    ),
    Figure(
        name="judge.frontier_100k_s",
        module="judge",
        sense="<=",
        limit=2,
        unit="s",
        meaning="time to draw the frontier over 100,000 records of a ledger",
    ),
    Figure(
        name="judge.interval_coverage",
        module="judge_statistics",
        sense=">=",
        limit=0.9,
        unit="ratio",
        meaning="share of 95 % intervals within a run that hold the true mean, at an autocorrelation of up to 0.9",
    ),
    Figure(
        name="judge.pairs_right",
        module="judge",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="share of curated pairs of records with the right verdict, reasons and conclusion",
    ),
    Figure(
        name="judge.series_10k_s",
        module="judge",
        sense="<=",
        limit=2,
        unit="s",
        meaning="time to group 10,000 records into series",
    ),
    Figure(
        name="judge.verdict_us",
        module="judge",
        sense="<=",
        limit=200,
        unit="us",
        meaning="time of a verdict on two parsed records of 8 ranks",
    ),
    Figure(
        name="ledger.filter_1m_ms",
        module="ledger",
        sense="<=",
        limit=5,
        unit="ms",
        meaning="time of a filtered `lanemark list` over a million records, beyond starting the interpreter",
    ),
    Figure(
        name="ledger.ingest_vs_mlflow",
        module="ledger",
        sense=">=",
        limit=100,
        unit="ratio",
        meaning="records appended durably per second over runs of the same content per second in MLflow's SQLite store",
    ),
    Figure(
        name="ledger.latest_1m_s",
        module="ledger",
        sense="<=",
        limit=1,
        unit="s",
        meaning="time to find the newest record of each series among a million",
    ),
    Figure(
        name="ledger.rebuild_us",
        module="ledger",
        sense="<=",
        limit=60,
        unit="us",
        meaning="time a record to rebuild the index from the files, each read and hashed",
    ),
    Figure(
        name="ledger.stream_1m_mb",
        module="ledger",
        sense="<=",
        limit=10,
        unit="MB",
        meaning="memory that reading every row of a million records takes",
    ),
    Figure(
        name="ledger.verify_cpu_ms",
        module="ledger",
        sense="<=",
        limit=1,
        unit="ms",
        meaning="CPU time of verifying one record with its evidence",
    ),
    Figure(
        name="loader.vs_hf_iterable",
        module="loader",
        sense=">=",
        limit=5,
        unit="ratio",
        meaning="tokens per processor second of the loader, over Hugging Face's shuffled iterable of the same rows",
    ),
    Figure(
        name="loader.vs_memmap",
        module="loader",
        sense=">=",
        limit=0.9,
        unit="ratio",
        meaning="tokens per processor second of the loader, over a bare memory map that is told the same windows",
    ),
    Figure(
        name="modal.collect_lost",
        module="modal_collect",
        sense="<=",
        limit=0,
        unit="runs",
        meaning="of 1,000 ended runs on Modal, how many a collector with their manifests alone did not bring home once",
    ),
    Figure(
        name="modal.collect_thousand_s",
        module="modal_collect",
        sense="<=",
        limit=None,
        unit="s",
        meaning="time to collect 1,000 ended runs on Modal from their manifests alone, durably",
    ),
    Figure(
        name="modal.preflight_s",
        module="modal_preflight",
        sense="<=",
        limit=5,
        unit="s",
        meaning="until a run on Modal that cannot start is refused with what to do",
    ),
    Figure(
        name="promotion.broken_rejected",
        module="promotion",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="share of draws of broken kernels that the promotion lane rejects, for the right reason",
    ),
    Figure(
        name="promotion.correct_passed",
        module="promotion",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="share of draws of correct kernels that pass parity, every one of them with power",
    ),
    Figure(
        name="record.seal_append_cpu_ms",
        module="record_cost",
        sense="<=",
        limit=20,
        unit="ms",
        meaning="CPU time to seal a record and append it, beyond starting the interpreter",
    ),
    Figure(
        name="script.ranks_found",
        module="script",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="share of 50 launches of unmodified programs in which every rank was found",
    ),
    Figure(
        name="script.step_vs_peers",
        module="script",
        sense="<=",
        limit=0.05,
        unit="ratio",
        meaning="cost of a marked step over that of the cheapest of MLflow, W&B offline and TensorBoard",
    ),
    Figure(
        name="script.vs_bare",
        module="script",
        sense="<=",
        limit=0.01,
        unit="ratio",
        meaning="distance from 1 of the measured over the bare loop's processor time, of the worse way of counting",
    ),
    Figure(
        name="sparse.parity_bf16_worst",
        module="sparse",
        sense="<=",
        limit=5e-3,
        unit="ratio",
        meaning="largest error against float64 over the largest magnitude, all backends, bf16 cases of the matrix",
    ),
    Figure(
        name="sparse.parity_fp32_worst",
        module="sparse",
        sense="<=",
        limit=1e-6,
        unit="ratio",
        meaning="largest error against float64 over the largest magnitude, all backends, fp32 cases of the matrix",
    ),
    Figure(
        name="sparse.union_vs_gather",
        module="sparse",
        sense=">=",
        limit=5,
        unit="ratio",
        meaning="processor time of exact gather attention over that of the better block backend, S 4096, local sets",
    ),
    Figure(
        name="stage.faults_survived",
        module="stage",
        sense=">=",
        limit=10,
        unit="count",
        meaning="faults of networks and stores that end in right data or one clear error, of ten",
    ),
    Figure(
        name="stage.peak_mb",
        module="stage",
        sense="<=",
        limit=300,
        unit="MB",
        meaning="peak memory of staging, at any size",
    ),
    Figure(
        name="stage.small_vs_s5cmd",
        module="stage",
        sense=">=",
        limit=1,
        unit="ratio",
        meaning="rate of staging 100,000 small objects, each verified, over s5cmd's, which verifies none",
    ),
    Figure(
        name="stage.vs_rclone",
        module="stage",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="throughput of staging with every byte verified over rclone's without verification",
    ),
    Figure(
        name="stage.vs_rclone_checked",
        module="stage",
        sense=">=",
        limit=1.5,
        unit="ratio",
        meaning="throughput of staging with every byte verified over rclone's with its checksum",
    ),
    Figure(
        name="startup.seed_vs_tar_zstd",
        module="seed_archive",
        sense=">=",
        limit=0.8,
        unit="ratio",
        meaning="processor time of `tar` piped through `zstd -T0` and back, over that of capturing and seeding 200 MB",
    ),
    Figure(
        name="startup.warm_vs_cold_cpu",
        module="startup",
        sense="<=",
        limit=1 / 7,
        unit="ratio",
        meaning="processor time of step 0 on a seeded compile cache over an empty one",
    ),
    Figure(
        name="startup.warm_vs_ideal",
        module="startup",
        sense="<=",
        limit=1.15,
        unit="ratio",
        meaning="processor time of step 0 on a seeded compile cache over an untouched copy of a warm one",
    ),
    Figure(
        name="supervisor.core_share",
        module="supervisor_share",
        sense="<=",
        limit=0.01,
        unit="ratio",
        meaning="share of one core that the supervisor takes",
    ),
    Figure(
        name="training.loop_vs_bare",
        module="training_loop",
        sense=">=",
        limit=0.99,
        unit="ratio",
        meaning="throughput of the measured loop over a bare loop of the same model and step",
    ),
    Figure(
        name="training.loop_vs_nanogpt",
        module="training_loop",
        sense=">=",
        limit=1.0,
        unit="ratio",
        meaning="throughput of our step over a plain nanoGPT-style loop of equal size",
    ),
    Figure(
        name="training.step_record_us",
        module="step_record",
        sense="<=",
        limit=1,
        unit="us",
        meaning="time a rank pays to record one step",
    ),
    Figure(
        name="watch.false_alarm",
        module="judge_statistics",
        sense="<=",
        limit=0.05,
        unit="ratio",
        meaning="share of series of 60 runs without a change that are reported as regressed",
    ),
    Figure(
        name="watch.finds_5pct",
        module="judge_statistics",
        sense=">=",
        limit=0.95,
        unit="ratio",
        meaning="share of simulated series of 60 runs whose last 20 are 5 % slower that are reported there",
    ),
    Figure(
        name="watch.finds_5pct_real",
        module="judge_statistics",
        sense=">=",
        limit=0.95,
        unit="ratio",
        meaning="the same of series of real runs on this machine, each with a core to itself, in drawn orders",
    ),
)


def by_name() -> dict[str, Figure]:
    """The figures by name."""
    return {figure.name: figure for figure in FIGURES}


def failed(name: str, error: str) -> dict[str, Any]:
    """The row of a figure that could not be measured. It never meets its target."""
    figure = by_name().get(name)
    return {
        "name": name,
        "value": None,
        "unit": figure.unit if figure else "",
        "target": figure.target if figure else "undeclared",
        "ok": False,
        "method": "",
        "error": error,
    }


def judged(result: Any) -> dict[str, Any]:
    """A benchmark's own result as a row. `ok` is decided here against our target: a benchmark may only be stricter.

    Anything unusable (another name, no finite number) becomes an error row that says so.
    """
    if not isinstance(result, dict) or not isinstance(result.get("name"), str):
        return failed("unnamed", f"a benchmark returned {str(result)[:80]!r}, which has no name")
    name, value = result["name"], result.get("value")
    figure = by_name().get(name)
    if figure is None:
        return failed(name, "the name is not declared in benchmarks/figures.py")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return failed(name, str(result.get("error") or f"the value {str(value)[:80]!r} is not a finite number"))
    return {
        "name": name,
        "value": value,
        "unit": figure.unit,
        "target": figure.target,
        "ok": figure.met_by(value) and result.get("ok", True) is True,
        "method": str(result.get("method", "")),
    }


def rows_of(module: str, results: Any) -> list[dict[str, Any]]:
    """Every row a module owes: what it returned, judged, and an error row for each of its figures it left out."""
    if not isinstance(results, list):
        results = []
    rows = [judged(result) for result in results]
    seen = {row["name"] for row in rows}
    owed = [figure.name for figure in FIGURES if figure.module == module and figure.name not in seen]
    return rows + [failed(name, f"benchmarks/{module}.py did not return it") for name in owed]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "not measured"
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"{row['value']:.4g}{unit}"


def _met(row: dict[str, Any]) -> str:
    if not row["ok"]:
        return "**no**"
    return "" if row["target"] == NO_TARGET else "yes"


def page(template: str, rows: list[dict[str, Any]]) -> str:
    """`docs/BENCHMARKS.md`: the template with the table, the methods, and where the values come from."""
    meanings = {figure.name: figure.meaning for figure in FIGURES}
    out = ["| figure | value | target | met | what it says |", "|---|---|---|---|---|"]
    out += [
        f"| `{row['name']}` | {_value(row)} | {row['target']} | {_met(row)} "
        f"| {_cell(meanings.get(row['name'], 'undeclared'))} |"
        for row in rows
    ]
    out += ["", "### How each was measured", ""]
    out += [f"- `{row['name']}`: {_cell(row.get('error') or row['method'] or 'no method given')}" for row in rows]
    origins = sorted({f"commit `{row['commit']}` on {_cell(row['machine'])}" for row in rows})
    out += ["", "### Where", "", *(f"- {origin}" for origin in origins)]
    if TABLE_MARK not in template:
        raise ValueError(f"the template has no line {TABLE_MARK}")
    return template.replace(TABLE_MARK, "\n".join(out))
