"""Bad input to the sparse lane: one sentence, its slug, nothing started."""

from pathlib import Path

import pytest

from lanemark.cli.main import main

ONE = '[[cases]]\nname = "a"\nsequence = 64\ntopk = 8\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))


def slug_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["plan", "sparse", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1].rpartition(" [")[2].rstrip("]")


@pytest.mark.parametrize(
    ("slug", "args"),
    [
        ("preset-unknown", ["--preset", "dense-nano"]),
        ("preset-unknown", ["--preset", ""]),
        ("value-invalid", ["--backends", "gather,fast"]),
        ("value-invalid", ["--backends", ""]),
        ("value-invalid", ["--steps", "9"]),
        ("value-invalid", ["--mode", "ddp"]),
        ("value-invalid", ["--data", "/shards"]),
        ("value-invalid", ["--repeats", "0"]),
        ("value-invalid", ["--time-indexer"]),
        ("nproc-invalid", ["--nproc", "2"]),
        ("case-set-invalid", ["--preset", "missing.toml"]),
    ],
)
def test_a_request_that_cannot_be_meant(capsys: pytest.CaptureFixture[str], slug: str, args: list[str]) -> None:
    assert slug_of(capsys, *args) == slug


def test_the_training_lane_takes_none_of_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "training", "--backends", "gather"]) == 2
    assert "[value-invalid]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "cases = 1",
        "cases = []",
        ONE + "speed = 1\n",
        ONE.replace("64", "0"),
        ONE.replace("64", "true"),
        ONE.replace('"a"', '"a b"'),
        ONE + ONE,
        ONE + "heads = 3\nkv_heads = 2\n",
        ONE + 'dtype = "fp8"\n',
        ONE + 'index_set = "file"\n',
        ONE + "empty_rows = 64\n",
        "repeats = 0\n" + ONE,
        'backends = "gather"\n' + ONE,
        "[[cases]]\nname = 'a'\n",
        "[[cases",
    ],
)
def test_a_case_set_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    assert slug_of(capsys, "--preset", str(file)) == "case-set-invalid"


def test_a_case_set_of_a_users_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('backends = ["gather"]\n' + ONE, encoding="utf-8")
    assert main(["plan", "sparse", "--preset", str(file)]) == 0
    assert '"preset": "own"' in capsys.readouterr().out
