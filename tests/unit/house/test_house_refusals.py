"""Bad input, as a user gives it: one sentence, its slug, the exit code of its kind, no traceback, nothing started."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from lanemark.cli import gates
from lanemark.cli.main import main
from lanemark.lanes.coverage import Coverage, uncovered
from lanemark.ledger.ledger import Ledger
from lanemark.observe.shards import MANIFEST_VERSION, dataset_digest
from lanemark.records.case import Case, DataAsked
from lanemark.records.errors import GateRefused, LanemarkError
from lanemark.records.observation import absent, observed, unavailable
from lanemark.records.shards import ShardEntry, header


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and a `run` that must never be reached."""
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    def reached(*args: object, **kwargs: object) -> None:
        raise AssertionError("a refused request was started")

    monkeypatch.setattr("lanemark.cli.run.run", reached)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, slug and sentence of a command that is refused."""
    code = main(list(args))
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("lanemark: ")
    assert "Traceback" not in err
    sentence, _, slug = last.removeprefix("lanemark: ").rpartition(" [")
    assert sentence.endswith(".")
    return code, slug.rstrip("]"), sentence


USAGE = {
    "arguments-invalid": [
        ["nonsense"],
        ["plan", "training", "--no-such-option"],
        ["plan"],
        ["plan", "training", "--step", "9"],
    ],
    "preset-unknown": [["plan", "training", "--preset", "dense"], ["plan", "training", "--preset", ""]],
    "surface-unavailable": [["plan", "training", "--surface", "slurm"]],
    "modal-image-unpinned": [["plan", "training", "--surface", "modal"]],
    "nproc-invalid": [["plan", "training", "--nproc", n] for n in ("0", "-1", "1.5", "two", "", " 2", "100000")],
    "mode-invalid": [["plan", "training", "--nproc", "2", "--mode", "single"]],
    "steps-too-few": [["plan", "training", "--steps", "6", "--warmup", "4"], ["run", "training", "--steps", "0"]],
    "warmup-invalid": [
        ["plan", "training", "--steps", "9", "--warmup", "0"],
        ["plan", "training", "--steps", "9", "--warmup", "-1"],
    ],
    "gpu-spec-invalid": [
        ["plan", "training", "--gpu", spec] for spec in ("H100:", "H100:9", "Z80", "cpu!", "any:2", "")
    ],
    "value-invalid": [
        ["plan", "training", "--compile", "fast"],
        ["plan", "training", "--dtype", "fp8"],
        ["plan", "training", "--stall-timeout", "nan"],
        ["plan", "training", "--seed", "x"],
        ["plan", "elsewhere"],
        ["plan", "training", "--region", "us-east"],
    ],
}


@pytest.mark.parametrize(
    ("slug", "args"), [(slug, args) for slug, lines in USAGE.items() for args in lines], ids=lambda v: v if isinstance(v, str) else " ".join(v)
)  # fmt: skip
def test_a_request_that_cannot_be_meant(capsys: pytest.CaptureFixture[str], slug: str, args: list[str]) -> None:
    assert refused(capsys, *args)[:2] == (2, slug)


def test_json_gets_the_refusal_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "training", "--preset", "dense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["slug"] == "preset-unknown"


def shard(tokens: int, declared: int | None = None) -> bytes:
    return header(tokens if declared is None else declared) + struct.pack(
        f"<{tokens}H", *(i % 50 for i in range(tokens))
    )


def manifest(*files: tuple[str, bytes, int], **changes: object) -> bytes:
    """A manifest of shards (name, bytes, token count) as the corpus builder would write it, then changed."""
    entries = [ShardEntry(name, len(data), hashlib.sha256(data).hexdigest(), count) for name, data, count in files]
    doc = {
        "manifest_version": MANIFEST_VERSION,
        "shards": [entry.to_json() for entry in entries],
        "dataset_digest": dataset_digest(entries),
        "vocab": 50,
    }
    return json.dumps({**doc, **changes}).encode()


BIG = shard(9000)
OTHER = shard(9000)[:-2] + b"\x07\0"


@pytest.mark.parametrize(
    ("slug", "files"),
    [
        ("data-empty", {}),
        ("data-empty", {"a.bin": shard(0)}),
        ("data-empty", {"a.bin": shard(10)}),
        ("shard-truncated", {"a.bin": shard(100, declared=5000)}),
        ("shard-truncated", {"a.bin": b"short"}),
        ("shard-mislabelled", {"a.bin": b"\x7fELF" + bytes(4096)}),
        ("shard-mislabelled", {"a.bin": shard(100) + b"trailing"}),
        ("manifest-invalid", {"a.bin": BIG, "manifest.json": b"{"}),
        (
            "manifest-invalid",
            {"a.bin": BIG, "manifest.json": manifest(("a.bin", BIG, 9000), dataset_digest="sha256:0")},
        ),
        ("data-missing", {"a.bin": BIG, "manifest.json": manifest(("a.bin", BIG, 9000), ("b.bin", BIG, 9000))}),
        ("manifest-mismatch", {"a.bin": BIG, "b.bin": BIG, "manifest.json": manifest(("a.bin", BIG, 9000))}),
        ("manifest-mismatch", {"a.bin": shard(8000), "manifest.json": manifest(("a.bin", BIG, 9000))}),
        ("manifest-mismatch", {"a.bin": OTHER, "manifest.json": manifest(("a.bin", BIG, 9000))}),
        ("vocab-mismatch", {"a.bin": BIG, "manifest.json": manifest(("a.bin", BIG, 9000), vocab=60000)}),
    ],
)
def test_data_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], place: Path, slug: str, files: dict[str, bytes]
) -> None:
    there = place / "it's data"
    there.mkdir()
    for name, data in files.items():
        (there / name).write_bytes(data)
    code, said, sentence = refused(capsys, "plan", "training", "--data", str(there))
    assert (code, said) == (2, slug)
    assert "it's data" in sentence


def test_data_that_is_well_described_is_planned(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lanemark.cli.plan.find_spec", lambda name: None)  # torch's own count of the model is not asked
    (place / "a.bin").write_bytes(BIG)
    (place / "manifest.json").write_bytes(manifest(("a.bin", BIG, 9000)))
    assert main(["plan", "training", "--preset", "dense-nano", "--micro-batch", "1", "--data", str(place)]) == 0
    assert json.loads(capsys.readouterr().out)["case"]["data"]["kind"] == "shards"


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert refused(capsys, "plan", "training", "--data", str(place / "gone"))[:2] == (2, "data-missing")


def test_a_home_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("not a directory", encoding="utf-8")
    monkeypatch.setenv("LANEMARK_HOME", str(place / "file" / "home"))
    assert refused(capsys, "run", "training", "--data", "synthetic")[:2] == (4, "home-unwritable")


def test_too_little_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEMARK_MIN_FREE_MB", str(2**40))
    assert refused(capsys, "run", "training", "--data", "synthetic")[:2] == (4, "disk-short")


def test_no_torch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setenv("LANEMARK_MIN_FREE_MB", "0")
    assert refused(capsys, "run", "training", "--data", "synthetic")[:2] == (4, "torch-missing")


def case(**changes: object) -> Case:
    fields: dict[str, object] = {
        "lane": "training", "preset": "dense-nano", "nproc": 2, "mode": "fsdp2", "compile": "regional", "dtype": "fp32",
        "steps": 10, "warmup": 3, "sequence": 64, "micro_batch": 1, "data": DataAsked("synthetic"), **changes,
    }  # fmt: skip
    return Case(**fields)  # type: ignore[arg-type]


def refuses(gate: object, *args: object, **kwargs: object) -> str:
    """The slug a gate refuses with."""
    with pytest.raises(GateRefused) as caught:
        gate(*args, **kwargs)  # type: ignore[operator]
    assert caught.value.exit_code == 4
    return caught.value.slug


def test_the_compiler_gate() -> None:
    missing, there = absent("PATH").to_json(), observed("g++ 12", "PATH").to_json()
    assert refuses(gates.compiler, case(), missing, on_gpu=False) == "compiler-missing"
    gates.compiler(case(), there, on_gpu=False)
    gates.compiler(case(), missing, on_gpu=True)
    gates.compiler(case(compile="eager"), missing, on_gpu=False)
    gates.compiler(case(), unavailable("PATH", "not readable").to_json(), on_gpu=False)


def test_the_device_gate() -> None:
    none, eight = absent("nvml", "no driver"), observed("H100", "nvml")
    assert refuses(gates.devices, case(gpu="H100!"), none, absent("nvml")) == "gpu-missing"
    assert refuses(gates.devices, case(gpu="B200!"), eight, observed(8, "nvml")) == "gpu-missing"
    assert refuses(gates.devices, case(gpu="H100"), eight, observed(1, "nvml")) == "gpu-missing"
    gates.devices(case(gpu="H100!"), eight, observed(8, "nvml"))
    gates.devices(case(gpu="any"), none, absent("nvml"))
    gates.devices(case(gpu="H100!"), unavailable("nvml", "no answer"), unavailable("nvml", "no answer"))


def test_the_cache_gate_wants_coverage_where_it_is_required(tmp_path: Path) -> None:
    asked = case(cache_policy="require")
    short = Coverage(covered=False, required=44, missing=("rank 1: binary a.so is missing",) * 3, mismatches=())
    foreign = Coverage(covered=False, required=44, missing=(), mismatches=("dtype was bf16, and fp32 is asked for",))
    for coverage in (short, foreign, uncovered("no run of this case has recorded what it needs")):
        with pytest.raises(GateRefused, match=r"`lanemark run …`\.$") as caught:
            gates.cache_ready(asked, tmp_path, coverage, "lanemark run …")
        assert (caught.value.slug, caught.value.exit_code) == ("cache-uncovered", 4)
        assert gates.shortfall(coverage) in str(caught.value)
    assert gates.shortfall(short) == (
        "3 of 44 keys and binaries that its ranks need are not there "
        "(rank 1: binary a.so is missing; rank 1: binary a.so is missing; and 1 more)"
    )
    whole = Coverage(covered=True, required=44, missing=(), mismatches=())
    gates.cache_ready(asked, tmp_path, whole, "")
    gates.cache_ready(case(cache_policy="seed"), tmp_path, short, "")
    gates.cache_ready(case(cache_policy="require", compile="eager"), tmp_path, short, "")


def test_the_cache_gate_wants_a_directory_that_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANEMARK_MIN_FREE_MB", raising=False)
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.mkdir()
    told = {"needed_bytes": 1, "remedy": "lanemark run"}
    assert refuses(gates.cache_usable, gone, required=True, **told) == "cache-missing"
    gates.cache_usable(gone, required=False, **told)
    gates.cache_usable(there, required=True, **told)
    assert refuses(gates.cache_usable, there, required=True, needed_bytes=2**60, remedy="") == "cache-disk-short"
    monkeypatch.setenv("LANEMARK_MIN_FREE_MB", "1")
    gates.cache_usable(there, required=True, needed_bytes=2**60, remedy="")

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", deny)
    assert refuses(gates.cache_usable, there, required=False, **told) == "cache-unwritable"
    assert list(there.iterdir()) == []


def test_what_a_run_may_still_write_grows_with_what_is_unknown() -> None:
    covered = gates.cache_needs_bytes(case(), layout="shared", covered=True, manifest_bytes=10**12)
    unknown = gates.cache_needs_bytes(case(), layout="shared", covered=False, manifest_bytes=0)
    apart = gates.cache_needs_bytes(case(), layout="per_rank", covered=False, manifest_bytes=0)
    known = gates.cache_needs_bytes(case(), layout="shared", covered=False, manifest_bytes=10**12)
    assert covered < unknown <= apart < known


@pytest.mark.parametrize(
    ("slug", "args"),
    [
        ("attempt-missing", ["collect", "training-20260101T000000Z-00000000"]),
        ("attempt-missing", ["collect", "../../etc"]),
        ("record-missing", ["show", "sha256:" + "0" * 64]),
        ("record-missing", ["show", "no-such-record"]),
        ("record-missing", ["report", "0000", "-o", "x.html"]),
    ],
)
def test_what_is_not_here(capsys: pytest.CaptureFixture[str], slug: str, args: list[str]) -> None:
    assert refused(capsys, *args)[:2] == (1, slug)


def test_a_report_that_cannot_be_written(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    good = min((Path(__file__).resolve().parents[2] / "assets" / "records" / "good").glob("*.json"))
    record = Ledger(place / "home" / "ledger").append(good.read_bytes())
    gone = str(place / "no such directory" / "report.html")
    assert refused(capsys, "report", record.id, "-o", gone)[:2] == (1, "output-unwritable")
    assert main(["report", record.id, "-o", str(place / "report.html")]) == 0


def test_an_error_is_one_sentence_with_what_and_what_to_do() -> None:
    error = LanemarkError("value-invalid", "it is wrong", "make it right")
    assert str(error) == "it is wrong; make it right."


def test_nothing_was_left_by_refusals(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    refused(capsys, "run", "training", "--nproc", "0")
    assert os.listdir(place) == []
