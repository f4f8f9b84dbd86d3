"""The tables of a view: ranks, packages, settings, data files, evidence, course. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lanemark.records.observation import value_of
from lanemark.report.cells import Cell, plain, shown
from lanemark.report.quantities import count, duration, size
from lanemark.report.timeline import phase_words


@dataclass(frozen=True)
class TableView:
    """A plain table: a caption for those who cannot see its place, column heads, cells."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def _text(value: object) -> Cell:
    return Cell(plain(value), "stated")


def _ending(end: Mapping[str, Any] | None) -> Cell:
    """How one rank's process ended, in words, and where it was last seen when it left no end marker."""
    if end is None:
        return Cell("unavailable: the supervisor did not see it end", "unavailable")
    signal, status = end["signal"], end["status"]
    if signal["status"] == "observed":
        sender = {"nobody": "", "supervisor": " from the supervisor", "other": " from outside"}.get(
            end["signal_by"], ", sender unknown"
        )
        how = Cell(f"{plain(signal['value'])}{sender}", "observed", plain(signal["source"]))
    elif status["status"] == "observed":
        how = Cell(f"exit {plain(status['value'])}", "observed", plain(status["source"]))
    else:
        how = shown(status)
    if end["end_marker"]:
        return how
    phase, step = value_of(end["last_phase"]), value_of(end["last_step"])
    last = "" if phase is None else f", last in {phase_words(phase)}" + ("" if step is None else f" at step {step:,}")
    return Cell(f"{how.text}, no end marker{last}", how.status, how.source)


def ranks(parts: Sequence[Mapping[str, Any]], ends: Sequence[Mapping[str, Any]]) -> TableView:
    """What each rank reported beside how its process ended; a rank missing from one side still has its line."""
    end_of = {end["rank"]: end for end in ends}
    part_of = {part["rank"]: part for part in parts}
    anyone_said = any(value_of(end["exception"]) is not None for end in ends)

    def said(end: Mapping[str, Any] | None) -> tuple[Cell, ...]:
        if not anyone_said:
            return ()
        return (shown(end["exception"]) if end else Cell("unavailable: the rank's end was not seen", "unavailable"),)

    rows = []
    for rank in sorted({*end_of, *part_of}):
        part = part_of.get(rank)
        if part is None:
            figures = tuple(Cell("unavailable: the rank left no report", "unavailable") for _ in range(8))
        else:
            figures = (
                Cell(count(part["steps_recorded"]), "observed"),
                shown(part["step_p50_s"], lambda value: duration(value, 4)),
                shown(part["data_wait_s"], duration),
                shown(part["compile_s"], duration),
                shown(part["compile_end_s"], duration),
                shown(part["first_step_s"], duration),
                shown(part["window_arrival_s"], duration),
                shown(part["memory_peak_bytes"], size),
            )
        rows.append((Cell(str(rank), "stated"), _ending(end_of.get(rank)), *figures, *said(end_of.get(rank))))
    return TableView(
        "Ranks: how each ended and what it reported",
        (
            "rank", "ended", "steps", "step p50", "data wait", "compile", "compile end", "first step", "window from",
            "peak memory", *(("exception",) if anyone_said else ()),
        ),
        tuple(rows),
    )  # fmt: skip


def endings(ends: Sequence[Mapping[str, Any]]) -> TableView:
    """How each rank's process ended and what it said, in a lane whose ranks report no steps."""
    rows = tuple((Cell(str(end["rank"]), "stated"), _ending(end), shown(end["exception"])) for end in ends)
    return TableView("Ranks: how each ended", ("rank", "ended", "exception"), rows)


def layers(tried: Sequence[Mapping[str, Any]]) -> TableView:
    """Layers of the compile cache's seed, in the order in which they were tried."""

    def line(layer: Mapping[str, Any]) -> tuple[Cell, ...]:
        words = (layer["source"], layer["kind"].replace("_", " "), layer["outcome"].replace("_", " "), layer["reason"])
        figures = (count(layer["files"]), size(layer["bytes"]), duration(layer["seconds"]))
        return (*map(_text, words), *(Cell(figure, "stated") for figure in figures))

    return TableView(
        "Layers of the compile cache's seed, in order",
        ("layer", "kind", "outcome", "why", "files", "size", "took"),
        tuple(line(layer) for layer in tried),
    )


def caches(parts: Sequence[Mapping[str, Any]]) -> TableView:
    """What each rank used of the compile cache, by its own word, and the files that are new, seen from outside."""
    rows = []
    for part in sorted(parts, key=lambda part: int(part["rank"])):
        cache = part.get("cache")
        if cache is None:
            continue
        used = cache["used"]
        value = value_of(used)
        if value is None:
            said = (shown(used), *(Cell("not known", "unavailable") for _ in range(4)))
        else:
            source = plain(used["source"])
            texts = (
                f"{value['fx_keys']} and {value['aot_keys']}",
                count(value["binaries"]),
                *(f"{value[name]['fx']} and {value[name]['aot']}" for name in ("hits", "misses", "bypasses")),
            )
            said = tuple(Cell(text, "observed", source) for text in texts)
        rows.append((Cell(str(part["rank"]), "stated"), *said, shown(cache["new_files"], count)))
    return TableView(
        "The compile cache by rank",
        ("rank", "graphs and joint graphs", "binaries mapped", "hits", "misses", "bypasses", "new files"),
        tuple(rows),
    )


def packages(packages: Sequence[Mapping[str, Any]]) -> TableView:
    """Packages, with the outcome of importing each."""
    return TableView(
        "Packages that bear on the number",
        ("package", "version", "imported", "digest of RECORD"),
        tuple(
            (
                _text(package["name"]), shown(package["version"]), shown(package["imported"]),
                shown(package["record_digest"]),
            )
            for package in packages
        ),
    )  # fmt: skip


def settings(settings: Sequence[Mapping[str, Any]]) -> TableView:
    """Settings given to the ranks; what was removed and what was not kept are told apart."""

    def value(setting: Mapping[str, Any]) -> Cell:
        given = setting.get("value")
        if given is not None:
            return _text(given)
        return Cell("removed" if setting["origin"] == "scrubbed" else "not kept", "stated")

    return TableView(
        "Environment settings the ranks were given",
        ("setting", "value", "set by", "reason"),
        tuple(
            (_text(setting["name"]), value(setting), _text(setting["origin"]), _text(setting["reason"]))
            for setting in settings
        ),
    )


def variables(variables: Mapping[str, str]) -> TableView:
    """The rest of the allow-listed snapshot."""
    return TableView(
        "Other environment variables kept by the allow-list",
        ("variable", "value"),
        tuple((_text(name), _text(value)) for name, value in sorted(variables.items())),
    )


def shards(shards: Sequence[Mapping[str, Any]]) -> TableView:
    """The token shards, as the manifest or the reader named them."""
    return TableView(
        "Token shards",
        ("shard", "size", "tokens", "sha256"),
        tuple(
            (
                _text(shard["name"]),
                Cell(size(shard["bytes"]), "stated"),
                Cell(count(shard["tokens"]), "stated"),
                shown(shard["sha256"]),
            )
            for shard in shards
        ),
    )


def paths(paths: Sequence[Mapping[str, Any]]) -> TableView:
    """One line a data file and rank."""
    return TableView(
        "Data files as the ranks had them open",
        ("rank", "file", "path class", "file system", "mounted at", "from", "device", "why this class"),
        tuple(
            (
                _text(path["rank"]), _text(path["name"]), _text(path["path_class"].replace("_", " ")),
                _text(path["filesystem"]), _text(path["mount_point"]), _text(path["mount_source"]),
                _text(path.get("device", "not kept")), _text(path["reason"]),
            )
            for path in paths
        ),
    )  # fmt: skip


def evidence(evidence: Sequence[Mapping[str, Any]]) -> TableView:
    """Files by digest."""
    return TableView(
        "Evidence the record rests on, by digest",
        ("file", "size", "type", "digest"),
        tuple(
            (_text(item["name"]), Cell(size(item["bytes"]), "stated"), _text(item["media_type"]), _text(item["digest"]))
            for item in evidence
        ),
    )


def transitions(transitions: Sequence[Mapping[str, Any]]) -> TableView:
    """The life of the attempt."""

    def since(transition: Mapping[str, Any]) -> Cell:
        elapsed = transition.get("monotonic_s")
        if elapsed is None:
            return Cell("unavailable: another clock", "unavailable")
        return Cell(duration(elapsed), "observed", "monotonic clock")

    return TableView(
        "State transitions",
        ("state", "at", "since prepared", "reason"),
        tuple((_text(move["state"]), _text(move["at"]), since(move), _text(move["reason"])) for move in transitions),
    )
