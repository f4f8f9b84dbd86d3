"""`compare`, `cite`, `route` and `frontier` over a ledger of corpus records: what they print, and how they exit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli.main import main
from lanemark.ledger.ledger import Ledger
from lanemark.records.encoding import digest, encode

ROOT = Path(__file__).resolve().parents[3]
GOOD = ROOT / "tests" / "assets" / "records" / "good"
sys.path.append(str(ROOT / "benchmarks"))
from judge_runs import case_of, finding, made, mode, put, runs  # noqa: E402 - the folder is found first

STEADY = (1.0, 1.003, 0.998)
_later = put("times.sealed_at", "2026-11-25T00:00:00.000Z")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    monkeypatch.delenv("LANEMARK_LEDGER", raising=False)
    return Ledger(tmp_path / "ledger")


def kept(ledger: Ledger, *docs: dict[str, Any]) -> list[str]:
    """Append statements; their ids."""
    out = []
    for doc in docs:
        data = encode(doc)
        ledger.append(data)
        out.append(digest(data))
    return out


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(list(args))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_two_records_that_may_be_compared(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "a0"), made("cuda_h100_8", "b0", speed=1.3))
    code, out, _ = said(capsys, "compare", a, b)
    assert code == 0
    assert out.partition("\n")[0] == "comparable with caveats (tokens_per_s)"
    assert "STEADINESS_UNKNOWN" in out  # twelve steps are too few to tell
    assert "unreplicated: B is at 1.300 of A" in out


def test_two_that_may_not_and_what_would_admit_them(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "a0"), made("cuda_h100_8", "b0", mode("ddp"), speed=1.3))
    code, out, _ = said(capsys, "compare", a, b)
    assert code == 3
    assert "UNDECLARED_FACTOR" in out
    assert "it could be asked with --vary mode" in out
    assert "1.3" not in out
    assert said(capsys, "compare", a, b, "--vary", "mode")[0] == 0


def test_what_no_question_admits_is_said(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "a0"), json.loads((GOOD / "sparse_h100_triton.json").read_bytes()))
    code, out, _ = said(capsys, "compare", a, b)
    assert (code, "DIFFERENT_LANE" in out, "no --vary would" in out) == (3, True, True)


def test_sets_of_runs_and_json(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    a = kept(ledger, *runs("cuda_h100_8", "a", STEADY))
    b = kept(ledger, *runs("cuda_h100_8", "b", tuple(1.1 * speed for speed in STEADY), mode("ddp")))
    code, out, _ = said(capsys, "compare", "--a", *a, "--b", *b, "--vary", "mode", "--json")
    doc = json.loads(out)
    assert code == 0
    assert doc["verdict"] == "comparable_with_caveats"
    assert doc["question"] == ["mode"]
    assert doc["effects"][0]["verdict"] == "faster"
    assert (doc["a"], doc["b"]) == (a, b)
    # By series: one id on each side brings the other runs along.
    code, out, _ = said(capsys, "compare", a[0], b[0], "--series", "--vary", "mode", "--json")
    assert code == 0
    assert sorted(json.loads(out)["a"]) == sorted(a)
    code, out, _ = said(capsys, "compare", "--a", *a, "--b", *b)
    assert code == 3
    assert "effects" not in out


def test_earlier_runs_of_the_series_lend_their_spread(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ids = kept(ledger, *runs("cuda_h100_8", "a", (*STEADY, 1.002)), made("cuda_h100_8", "b0", mode("ddp"), speed=1.3))
    code, out, _ = said(capsys, "compare", ids[0], ids[-1], "--vary", "mode")
    assert code == 0
    assert "B is faster" in out
    assert "earlier runs" in out


def test_evidence_that_is_not_the_records_refuses(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    doc = made("cuda_h100_8", "a0")
    evidence = b"the samples"
    doc["predicate"]["evidence"] = [
        {
            "name": "ranks/0/samples.bin",
            "digest": digest(evidence),
            "bytes": 11,
            "media_type": "application/octet-stream",
        }
    ]
    ledger.append(encode(doc), [("ranks/0/samples.bin", evidence)])
    (other,) = kept(ledger, made("cuda_h100_8", "b0"))
    assert said(capsys, "compare", digest(encode(doc)), other)[0] == 0
    held = next(path for path in (ledger.root / "evidence").rglob("*") if path.is_file())
    held.chmod(0o600)
    held.write_bytes(b"other bytes")
    code, out, _ = said(capsys, "compare", digest(encode(doc)), other)
    assert code == 3
    assert "BAD_EVIDENCE" in out
    code, _, err = said(capsys, "cite", digest(encode(doc)))
    assert (code, "[cite-refused]" in err) == (1, True)


@pytest.mark.parametrize(
    ("args", "slug"),
    [
        (("compare", "A"), "arguments-invalid"),
        (("compare", "--a", "A"), "arguments-invalid"),
        (("compare", "A", "B", "--metric", "flops"), "metric-unknown"),
        (("compare", "A", "B", "--vary", "moon"), "vary-invalid"),
        (("compare", "A", "B", "--vary", "data.path_class"), "vary-invalid"),
        (("compare", "A", "sha256:0000"), "record-missing"),
        (("cite", "A", "--format", "poem"), "value-invalid"),
        (("cite", "A", "--against", "B"), "arguments-invalid"),
        (("cite", "sha256:0000"), "record-missing"),
        (("route", "why", "is", "the", "sky", "blue"), "question-unknown"),
        (("frontier", "--lane", "inference"), "value-invalid"),
        (("frontier", "--state", "sleepy"), "value-invalid"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], slug: str
) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "a0"), made("cuda_h100_8", "b0"))
    code, out, err = said(capsys, *({"A": a, "B": b}.get(word, word) for word in args))
    assert code == (1 if slug == "record-missing" else 2)
    assert err.endswith(f"[{slug}]\n")
    assert err.count("\n") == 1
    assert out == ""


def test_a_citation_in_every_form(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = kept(ledger, made("cuda_h100_8", "a0"))
    code, plain, _ = said(capsys, "cite", record)
    assert code == 0
    assert plain.startswith("training lane: dense-1b")
    assert plain.count("\n") == 1
    assert "**260,883 tok/s**" in said(capsys, "cite", record, "--format", "markdown")[1]
    assert json.loads(said(capsys, "cite", record, "--format", "badge")[1])["schemaVersion"] == 1
    assert said(capsys, "cite", record, "--format", "svg")[1].startswith("<svg ")
    assert json.loads(said(capsys, "cite", record, "--json")[1])["sentence"] + "\n" == plain


def test_a_record_that_supports_no_sentence_says_why(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = kept(ledger, json.loads((GOOD / "lost.json").read_bytes()))
    code, out, err = said(capsys, "cite", record)
    assert (code, out) == (1, "")
    assert "may not be quoted" in err
    assert err.endswith("[cite-refused]\n")


def test_a_sentence_is_checked(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = kept(ledger, made("cuda_h100_8", "a0"))
    _, own, _ = said(capsys, "cite", record)
    code, out, _ = said(capsys, "cite", record, "--check", own)
    assert code == 0
    assert "not to say that the sentence is true" in out
    code, out, err = said(capsys, "cite", record, "--check", "1.5x faster on 8x B200 at 390k tok/s")
    assert code == 1
    assert err.endswith("[claim-overreaches]\n")
    for rule in ("relative-without-verdict", "hardware-not-observed", "number-not-in-record"):
        assert rule in out
    code, out, _ = said(capsys, "cite", record, "--check", "on 8x B200", "--json")
    assert code == 1
    assert json.loads(out)["overreaches"][0]["rule"] == "hardware-not-observed"
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO("from a cold start"))
    assert said(capsys, "cite", record, "--check", "-")[0] == 0


def test_a_relative_sentence_is_checked_against_the_other_record(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = kept(ledger, made("cuda_h100_8", "a0"), made("cuda_h100_8", "b0", mode("ddp"), speed=1.3))
    code, out, _ = said(capsys, "cite", b, "--check", "DDP is faster", "--against", a, "--vary", "mode")
    assert code == 1
    assert "more than the spread between runs" in " ".join(out.split())
    kept(
        ledger,
        *runs("cuda_h100_8", "c", STEADY),
        *runs("cuda_h100_8", "d", tuple(1.3 * s for s in STEADY), mode("ddp")),
    )
    asked = ("cite", b, "--check", "DDP is 1.3x, so it is faster", "--against", a, "--vary", "mode", "--series")
    assert said(capsys, *asked)[0] == 0
    assert said(capsys, *(word.replace("1.3x", "1.6x") for word in asked))[0] == 1


def test_routes_and_the_records_that_answer(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "route")
    assert code == 0
    assert "can I promote this image?" in out
    assert len(json.loads(said(capsys, "route", "--json")[1])["routes"]) >= 10
    _, out, _ = said(capsys, "route", "is FSDP2 still worth it against DDP?")
    assert "none yet" in out
    a, b = kept(ledger, made("cuda_h100_8", "a0", mode("ddp")), made("cuda_h100_8", "b0"))
    _, out, _ = said(capsys, "route", "is FSDP2 still worth it against DDP?")
    assert out.startswith("training lane\n")
    assert f"lanemark compare {a[:19]} {b[:19]} --vary mode --series" in out
    kept(ledger, *(made("cuda_h100_8", f"x{n}", mode("ddp"), _later, case_of(seed=n, micro_batch=2)) for n in range(3)))
    _, out, _ = said(capsys, "route", "is FSDP2 still worth it against DDP?")
    assert "no two of these may be compared" in out
    doc = json.loads(said(capsys, "route", "did FA4 really run?", "--json")[1])
    assert (doc["lane"], doc["records"]) == ("sparse", [[]])
    assert said(capsys, "route", "what works on this box?")[1].startswith("all lanes\n")


def test_the_frontier_fits_80_columns_and_ages(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no record" in said(capsys, "frontier")[1]
    kept(
        ledger,
        made("cuda_h100_8", "a0", mode("ddp")),
        made("cuda_h100_8", "b0", _later, put("hardware.observed.driver", "580.65.06")),
        made("cuda_h100_8", "c0", put("hardware.observed.device_class", "H100-PCIe-MIG-1g.10gb with a long name")),
        json.loads((GOOD / "sparse_smoke.json").read_bytes()),
    )
    code, out, _ = said(capsys, "frontier")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "stale, seen with driver 570.86.15, and 580.65.06 is there now" in " ".join(out.split())
    doc = json.loads(said(capsys, "frontier", "--json", "--lane", "training", "--gpu", "h100")[1])
    states = {cell["mode"]: cell["state"] for cell in doc["cells"]}
    assert states == {"ddp": "stale", "fsdp2": "alive"}
    only = json.loads(said(capsys, "frontier", "--json", "--state", "stale")[1])
    assert {cell["state"] for cell in only["cells"]} == {"stale"}


def test_a_damaged_record_does_not_end_the_frontier(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = kept(ledger, made("cuda_h100_8", "a0", finding("stalls_in_window")))
    assert said(capsys, "frontier")[0] == 0
    path = ledger.find(record)
    path.chmod(0o600)
    path.write_bytes(b"{")
    code, out, err = said(capsys, "frontier")
    assert code == 0
    assert "unknown" in out or "no record" in out
    assert err
