"""The short form of a record's rows, for a terminal: related figures share a line, digests are shortened. Pure.

`sections` is the whole; this is the part of it that a reviewer reads. Nothing appears here that is not there, and what
has no value keeps its words: absent, unavailable and why, withheld and why.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, CellStatus, Group, Row, group, plain, row, stated_row
from lanemark.report.columns import HARD_SPACE
from lanemark.report.data_ranks import more_rows
from lanemark.report.first_step import slowest
from lanemark.report.headline import Receipt
from lanemark.report.quantities import count, duration, percent, plural, scaled, short_digest, size
from lanemark.report.quoting import quoted
from lanemark.report.script_rows import script_rows, step_tokens
from lanemark.report.sections import fine, inventory, loss_cell, path_words, prewarm, purpose, seeded_from

Form = Callable[[Any], str]
_SHORT: Final = 32


def brief(predicate: Mapping[str, Any], receipt: Receipt) -> tuple[Group, ...]:
    """Start-up, data path, figures and provenance, each in a handful of lines."""
    return (
        brief_startup(predicate), _data(predicate["data"]), _figures(predicate["training"], receipt), origin(predicate),
    )  # fmt: skip


def _joined(parts: list[str]) -> str:
    """Parts side by side; a short one is kept on one line, its figure beside its name and its unit."""
    return " · ".join(part.replace(" ", HARD_SPACE) if len(part) <= _SHORT else part for part in parts)


def _together(label: str, parts: tuple[tuple[str, Mapping[str, Any], Form], ...]) -> Row:
    """Several observations on one line; one reason where none of them has a value."""
    cells = [(words, row(label, seen, form).cell) for words, seen, form in parts]
    if len({cell.text for _, cell in cells}) == 1 and cells[0][1].status != "observed":
        return Row(label, cells[0][1])
    some: CellStatus = "observed" if any(cell.status == "observed" for _, cell in cells) else "unavailable"
    return Row(label, Cell(_joined([f"{words} {cell.text}" for words, cell in cells]), some, cells[0][1].source))


def brief_startup(predicate: Mapping[str, Any]) -> Group:
    """Where the run started from, in a handful of lines."""
    start, compiled = predicate["startup"], predicate["compile"]["observed"]
    takes_steps = "training" in predicate
    way = slowest(predicate["training"]["ranks"]) if takes_steps else None
    seeded = value_of(start["layers"]) is not None
    return group(
        "Start-up",
        row("state", start["state"], lambda value: f"{path_words(value)} (declared: {plain(start['declared'])} cache)"),
        row("good for", start["purpose"], purpose),
        *((row("first step", start["time_to_first_step_s"], _after_launch),) if takes_steps else ()),
        *((Row("of which", way),) if way is not None else ()),
        *((row("seed", start["layers"], seeded_from),) if seeded else ()),
        *((row("pre-warm", start["prewarm"], prewarm),) if value_of(start["prewarm"]) is not None else ()),
        _together(
            "compiled",
            (("times", compiled["compilations"], count), ("slowest rank", compiled["compile_s_max"], duration)),
        ),
        _together("cache", (("before", start["cache_before"], inventory), ("after", start["cache_after"], inventory))),
    )


def _after_launch(value: float) -> str:
    return f"{duration(value)} after launch"


def _data(data: Mapping[str, Any]) -> Group:
    def dataset(digest: str) -> str:
        checked = value_of(data["manifest_verified"])
        state = "not known to be verified" if checked is None else "verified" if checked else "NOT as its manifest says"
        return f"{short_digest(digest)} in {plural(len(data['shards']), 'shard')}, {state}"

    return group(
        "Data path",
        row("class", data["path_class"], path_words),
        row("dataset", data["dataset_digest"], dataset),
        row("tokens", data["tokens_consumed"], lambda value: f"{count(value)} consumed"),
        *_rank_rows(data),
    )


def _rank_rows(data: Mapping[str, Any]) -> tuple[Row, ...]:
    """The page cache, over all ranks, and the stalls; nothing for a record that has neither."""
    rows = list(more_rows(data))
    before = [value for each in data.get("ranks") or () if (value := value_of(each["resident_before"])) is not None]
    after = [value for each in data.get("ranks") or () if (value := value_of(each["resident_after"])) is not None]
    if before and after and all(value["bytes"] for value in (*before, *after)):
        least = [min(value["resident_bytes"] / value["bytes"] for value in side) for side in (before, after)]
        text = f"{percent(least[0])} of the shards before, {percent(least[1])} after"
        rows.append(Row("page cache", Cell(f"at least {text}", "observed", "the ranks' looks at their files")))
    return tuple(rows)


def _step_line(step: Mapping[str, Any]) -> str:
    names = ("p50", "p95", "p99", "mean", "max")
    stalls = plural(step["stalls"], "stall") if step["stalls"] else "no stall"
    return _joined([*(f"{name} {fine(step[f'{name}_s'])}" for name in names), stalls])


def _figures(training: Mapping[str, Any], receipt: Receipt) -> Group:
    split, memory, model, window = training["split"], training["memory"], training["model"], training["window"]
    recorded = len(training["samples"]["measured"])
    return group(
        "Figures",
        quoted("throughput", training["tokens_per_s"], receipt),
        *script_rows(training, receipt),
        row("step time", training["step_time"], _step_line),
        stated_row(
            "window",
            f"{plural(window['measured'], 'step')} after {count(window['warmup'])} of warm-up, "
            f"{count(recorded)} recorded, {step_tokens(training)}",
        ),
        _together(
            "split",
            (
                ("window", split["window_s"], duration),
                ("data wait", split["data_wait_s"], duration),
                ("compile", split["compile_s"], duration),
                ("other", split["other_s"], duration),
            ),
        ),
        _memory(memory),
        Row("loss", loss_cell(training["loss"])),
        _together(
            "model",
            (
                ("parameters", model["parameters"], count),
                ("active", model["parameters_active"], count),
                ("per token", model["flops_per_token"], lambda value: scaled(value, "FLOP")),
            ),
        ),
        quoted("MFU", training["mfu"], receipt, percent),
    )


def _memory(memory: Mapping[str, Any]) -> Row:
    """Allocator peaks where there is an accelerator; where there is none, its absence is not news on a short page."""
    resident = ("resident", memory["rss_peak_bytes"], size)
    device = (
        ("allocated", memory["allocated_peak_bytes"], size),
        ("reserved", memory["reserved_peak_bytes"], size),
    )
    if all(seen["status"] == "absent" for _, seen, _ in device):
        return _together("memory", (resident,))
    return _together("memory", (*device, resident))


def origin(predicate: Mapping[str, Any]) -> Group:
    """What exactly ran, in a handful of lines."""
    source, image, times = predicate["source"], predicate["image"], predicate["times"]

    def commit(digest: str) -> str:
        dirty = value_of(source["dirty"])
        state = "cleanliness not observed" if dirty is None else "with uncommitted changes" if dirty else "clean"
        return f"{plain(digest)[:12]}, {state}"

    return group(
        "Provenance",
        row("commit", source["commit"], commit),
        row("image", image["digest"], short_digest),
        row("torch", predicate["toolchain"]["torch_build"]),
        stated_row("argv", shlex.join(source["argv"]) or "none"),
        stated_row("run", f"{predicate['run_id']}, attempt {predicate['attempt']}, sealed {times['sealed_at']}"),
        stated_row("plan", short_digest(predicate["plan_digest"])),
        stated_row("assurance", predicate["assurance"].replace("_", " ")),
    )
