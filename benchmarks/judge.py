"""The judge: what a verdict costs, how fast records are grouped and the frontier drawn, and whether it is right.

The pairs (`judge_pairs.py`) have answers that were written down by hand. What two ways of comparing figures alone would
say of the same runs is asked in the same process (`peers/figures_only.py`); the table of all answers is in
`docs/comparing.md`.

A verdict is timed from two records that were parsed and admitted: reading both documents along the role table, and
comparing them. What admission costs once a record (every rule of its lane) is in the method. Grouping is timed over
10,000 different records of 8 ranks, parsed before the clock starts. The frontier is the one of the command, over a
ledger of 100,000 rows.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT / "benchmarks"), str(ROOT / "benchmarks/peers")) if path not in sys.path]

from figures_only import benchstat, pytest_benchmark  # noqa: E402 - the folder is found first
from judge_pairs import Pair, pairs  # noqa: E402

RECORDS, ROWS, TURNS, BATCHES = 10_000, 100_000, 2_000, 10


class Answer(NamedTuple):
    """What each said of one pair, and whether that is right."""

    pair: Pair
    ours: str
    benchstat: str
    pytest: str
    ours_right: bool
    benchstat_right: bool
    pytest_right: bool


def compared(pair: Pair, vary: tuple[str, ...] | None = None) -> Any:
    """Our comparison of a pair."""
    from lanemark.judge.admission import admit
    from lanemark.judge.sets import compare_sets
    from lanemark.records.encoding import digest, encode

    sides = [[admit(digest(encode(doc)), encode(doc)) for doc in side] for side in (pair.a, pair.b)]
    return compare_sets(sides[0], sides[1], pair.metric, pair.vary if vary is None else vary)


@functools.cache
def answers() -> tuple[Answer, ...]:
    """Every pair, asked of all three."""
    out = []
    for pair in pairs():
        found = compared(pair)
        verdict = found.verdict
        conclusions = {effect.verdict for effect in found.effects.values()}
        ours = conclusions.pop() if len(conclusions) == 1 else "none"
        right = (
            verdict.word == pair.verdict
            and set(pair.codes) <= set(verdict.codes())
            and (ours == pair.conclusion if verdict.comparable else not found.effects)
            and (verdict.comparable or pair.unblock is None or verdict.unblock == pair.unblock)
        )
        given = [code for code in pair.codes if code in verdict.codes()] or list(verdict.codes())[:1]
        said = _worded(ours, verdict.word, given)
        theirs = benchstat(pair.a, pair.b, pair.metric), pytest_benchmark(pair.a, pair.b, pair.metric)
        out.append(Answer(pair, said, *theirs, right, _fits(theirs[0], pair), _fits(theirs[1], pair)))
    return tuple(out)


def _worded(conclusion: str, verdict: str, codes: list[str]) -> str:
    """An answer in a few words: what may be concluded, with which caveat, or why nothing may."""
    if verdict == "not_comparable":
        return f"refuses: {', '.join(codes)}"
    word = {"none": "the same circumstances"}.get(conclusion, conclusion)
    return f"{word}, with {', '.join(codes)}" if codes else word


def _fits(said: str, pair: Pair) -> bool:
    """Whether what a peer said is right. Generous: a warning counts as a refusal, and making no call as not knowing."""
    if pair.verdict == "not_comparable":
        return said in ("refuses", "warns")
    wanted = {
        "faster": ("faster",), "slower": ("slower",), "equivalent": ("same", "no call"), "none": ("refuses",),
        "inconclusive": ("no call",), "unreplicated": ("no call",),
    }  # fmt: skip
    return said in wanted[pair.conclusion]


def table() -> str:
    """The table of all answers, as Markdown: a wrong one in bold."""
    from lanemark.judge.page import table as markdown

    def shown(said: str, *, right: bool) -> str:
        return said if right else f"**{said}**"

    rows = []
    for found in answers():
        right = _worded(found.pair.conclusion, found.pair.verdict, list(found.pair.codes))
        rows.append((
            found.pair.name, found.pair.trap, right, shown(found.ours, right=found.ours_right),
            shown(found.benchstat, right=found.benchstat_right), shown(found.pytest, right=found.pytest_right),
        ))  # fmt: skip
    return markdown(("pair", "what misleads", "right", "Lanemark", "benchstat-like", "pytest-benchmark-like"), rows)


def verdict_us() -> tuple[float, float]:
    """(verdict, admission): microseconds of CPU time of a verdict on two records of 8 ranks, and to admit one."""
    from lanemark.judge.admission import Admitted, admit_predicate
    from lanemark.judge.comparing import compare

    a = json.loads((ROOT / "tests/assets/records/good/cuda_h100_8.json").read_bytes())["predicate"]
    b = copy.deepcopy(a)
    b["run_id"] = b["run_id"][:-8] + "00000002"
    b["distributed"]["observed"]["mode"]["value"] = "ddp"
    b["startup"]["state"]["value"] = "seeded"
    b["hardware"]["observed"]["driver"]["value"] = "580.1"
    verdicts: list[float] = []
    admissions: list[float] = []
    for _ in range(BATCHES):  # the least of several medians: what other programs on the machine add is not ours
        turns, doors = [], []
        for _ in range(TURNS // BATCHES):
            begin = time.process_time_ns()
            found = compare(Admitted("a", a, ()), Admitted("b", b, ()))
            turns.append((time.process_time_ns() - begin) / 1000)
            assert found.unblock == ("mode",)
            begin = time.process_time_ns()
            admit_predicate("a", a)
            doors.append((time.process_time_ns() - begin) / 1000)
        verdicts.append(statistics.median(turns))
        admissions.append(statistics.median(doors))
    return min(verdicts), min(admissions)


def series_s() -> tuple[float, int]:
    """(seconds of CPU time, series) of grouping 10,000 parsed records of 8 ranks into series."""
    from lanemark.judge.admission import Admitted
    from lanemark.judge.series import grouped

    data = (ROOT / "tests/assets/records/good/cuda_h100_8.json").read_bytes()
    base = json.loads(data)["predicate"]
    records = []
    for number in range(RECORDS):
        doc = {**base, "run_id": f"training-20260101T000000Z-{number:08d}"}
        doc["source"] = {
            **base["source"],
            "commit": {"status": "observed", "source": "git", "value": f"{number % 400:040x}"},
        }
        records.append(Admitted(f"sha256:{number:064x}", doc, ()))
    begin = time.process_time()
    groups = grouped(records)
    return time.process_time() - begin, len(groups)


def frontier_s() -> tuple[float, int]:
    """(seconds of CPU time, cells) of the frontier over a ledger of 100,000 rows.

    Each cell's newest record is a real one, whose body is read; the others are rows put straight into the index.
    """
    from lanemark.cli.frontier import frontier_of
    from lanemark.ledger.ledger import Ledger
    from lanemark.ledger.rows import Filters, row_of
    from lanemark.ledger.tables import insert
    from lanemark.records.encoding import digest, encode

    base = json.loads((ROOT / "tests/assets/records/good/cuda_h100_8.json").read_bytes())
    cells = [
        (mode, posture, device, preset)
        for mode in ("single", "ddp", "fsdp2")
        for posture in ("eager", "regional", "model")
        for device in ("H100", "H200", "B200", "cpu", "A100-80GB", "L40S")
        for preset in ("dense-1b", "moe-52")
    ]
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger", {**os.environ, "XDG_CACHE_HOME": directory})
        rows = []
        with ledger.many():
            for number, (mode, posture, device, preset) in enumerate(cells):
                doc = copy.deepcopy(base)
                predicate = doc["predicate"]
                predicate["run_id"] = f"training-20261122T152233Z-{number:08d}"
                predicate["case"] |= {"preset": preset, "compile": posture}
                predicate["distributed"]["observed"]["mode"]["value"] = mode
                predicate["hardware"]["observed"]["device_class"]["value"] = device
                data = encode(doc)
                ledger.append(data)
                rows.append(row_of(digest(data), doc))
        older = [
            rows[number % len(rows)]._replace(
                id=f"sha256:{number:064x}", created=f"2026-01-01T{number:09d}", outcome=("ok", "error")[number % 7 == 0]
            )
            for number in range(ROWS - len(rows))
        ]
        for place in (ledger.root / "objects" / f"{number:02x}" for number in range(256)):
            place.mkdir(exist_ok=True)
            os.utime(place, (1, 1))
        ledger.sync()  # every directory is known and unchanged from here on, so that rows without a file stay
        with contextlib.closing(sqlite3.connect(ledger.index_file)) as db, db:
            insert(db, older)
        begin = time.process_time()
        found = frontier_of(ledger, Filters())
        spent = time.process_time() - begin
        assert sum(cell.runs for cell in found.cells) == ROWS
        assert all(cell.newest is not None for cell in found.cells)
        return spent, len(found.cells)


def results() -> list[dict[str, Any]]:
    """The figures, as the benchmark runner collects them."""
    verdict, admission = verdict_us()
    grouping, series = series_s()
    drawing, cells = frontier_s()
    found = answers()
    right = {name: sum(getattr(each, f"{name}_right") for each in found) for name in ("ours", "benchstat", "pytest")}
    return [
        {
            "name": "judge.verdict_us",
            "value": round(verdict, 1),
            "unit": "us",
            "method": (
                f"least of {BATCHES} medians of CPU time over {TURNS // BATCHES} turns of a verdict on two parsed "
                f"records of 8 ranks that differ in four fields, both read anew; admitting one, once, with every rule "
                f"of its lane: {admission:.0f} us"
            ),
        },
        {
            "name": "judge.series_10k_s",
            "value": round(grouping, 2),
            "unit": "s",
            "method": f"CPU time of grouping {RECORDS:,} parsed records of 8 ranks into {series} series",
        },
        {
            "name": "judge.frontier_100k_s",
            "value": round(drawing, 2),
            "unit": "s",
            "method": f"CPU time of a frontier over {ROWS:,} records of a ledger: {cells} cells, a body read for each",
        },
        {
            "name": "judge.pairs_right",
            "value": right["ours"] / len(found),
            "unit": "ratio",
            "method": (
                f"share of {len(found)} curated pairs with the right verdict, reasons and conclusion; of the same "
                f"pairs a benchstat-like comparison is right on {right['benchstat']}, a pytest-benchmark-like one on "
                f"{right['pytest']} (docs/comparing.md)"
            ),
        },
    ]


if __name__ == "__main__":
    print(json.dumps(results(), indent=2))
