"""What a command line says of the compile cache: the policy nobody asked for, layers, capture, layout; and the plan."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lanemark.cli import plan
from lanemark.cli.asked import Asked, add_arguments, default_policy, understand
from lanemark.cli.deciding import CAPTURE_VARIABLE, capture_destination, check_layout, decide
from lanemark.cli.parsing import parser
from lanemark.cli.warming import untried
from lanemark.records.attempt import Home
from lanemark.records.errors import UsageError

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"
TRAINING = ("training", "--data", "synthetic", "--preset", "diagnostic")


def asked(*words: str) -> Asked:
    verb = parser("run", "")
    add_arguments(verb)
    options: argparse.Namespace = verb.parse_args([*TRAINING, *words])
    return understand(options)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    """A home of one's own, and an environment that says nothing of caches."""
    for name in [name for name in os.environ if name.startswith(("LANEMARK_", "TORCHINDUCTOR_", "TRITON_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ((), "seed"),
        (("--compile", "regional"), "seed"),
        (("--nproc", "2"), "seed"),
        (("--nproc", "2", "--compile", "regional"), "require"),
        (("--nproc", "8", "--compile", "model"), "require"),
    ],
)
def test_the_policy_that_nobody_asked_for_has_its_reason(words: tuple[str, ...], policy: str) -> None:
    found = asked(*words)
    assert found.case.cache_policy == policy
    assert found.reasons["cache_policy"] == default_policy(found.case.nproc, found.case.compile)[1]


@pytest.mark.parametrize("policy", ["require", "seed", "cold"])
def test_a_policy_that_was_asked_for_needs_none(policy: str) -> None:
    found = asked("--nproc", "2", "--compile", "regional", "--cache-policy", policy)
    assert found.case.cache_policy == policy
    assert "cache_policy" not in found.reasons


def test_prewarming_and_the_timeout_are_part_of_the_question() -> None:
    usual, other = asked(), asked("--prewarm", "off", "--collective-timeout", "90")
    assert (usual.case.prewarm, usual.case.collective_timeout_s) == ("auto", 600.0)
    assert (other.case.prewarm, other.case.collective_timeout_s) == ("off", 90.0)
    assert usual.case.digest != other.case.digest


def test_where_the_cache_lies_is_no_part_of_the_question() -> None:
    other = asked(
        "--cache-layout", "per-rank", "--cache-from", "/a.tar.zst", "--cache-from", "/b", "--cache-to", "/c.tar.zst"
    )
    assert other.case.digest == asked().case.digest
    assert (other.cache_layout, other.cache_from, other.cache_to) == ("per_rank", ("/a.tar.zst", "/b"), "/c.tar.zst")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cache-layout", "mine"), "--cache-layout"),
        (("--prewarm", "on"), "--prewarm"),
        (("--collective-timeout", "0"), "--collective-timeout"),
        (("--cache-policy", "warm"), "--cache-policy"),
    ],
)
def test_other_words_are_refused_by_name(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        asked(*words)
    assert caught.value.slug == "value-invalid"


def test_the_cache_is_captured_to_a_file_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capture_destination(None) is capture_destination("") is None
    monkeypatch.chdir(tmp_path)
    assert capture_destination("seed.tar.zst") == tmp_path / "seed.tar.zst"
    for text in ("seed.tar", "s3://bucket/seed.tar.zst"):
        with pytest.raises(UsageError) as caught:
            capture_destination(text)
        assert caught.value.slug == "cache-source-invalid"


def test_the_environment_names_layers_and_destination_where_the_command_line_does_not(
    bare: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEMARK_CACHE_FROM", "/a.tar.zst https://host/seeds/dense/")
    monkeypatch.setenv(CAPTURE_VARIABLE, "/kept.tar.zst")
    decided = decide(asked("--compile", "regional"), bare, build=False)
    assert [source.kind for source in decided.sources] == ["archive", "per_file"]
    assert decided.capture_to == Path("/kept.tar.zst")
    decided = decide(
        asked("--compile", "regional", "--cache-from", "/b", "--cache-to", "/c.tar.zst"), bare, build=False
    )
    assert ([source.text for source in decided.sources], decided.capture_to) == (["/b"], Path("/c.tar.zst"))


def test_a_cache_each_and_one_cache_for_all_exclude_each_other(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    check_layout({"TMPDIR": "/tmp/mine", "TRITON_CACHE_DIR": ""})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/one")
    apart = asked("--nproc", "2", "--compile", "regional", "--cache-layout", "per-rank")
    with pytest.raises(UsageError, match="TORCHINDUCTOR_CACHE_DIR"):
        decide(apart, bare, build=False)
    assert decide(asked("--compile", "regional"), bare, build=False).placement.cache_dir == Path("/one")


def test_a_layer_that_was_not_asked_is_told_like_the_others() -> None:
    done = untried("/a.tar.zst", "archive", "a cold start is measured")
    assert done == {
        "source": "/a.tar.zst", "kind": "archive", "outcome": "not_tried", "reason": "a cold start is measured",
        "files": 0, "bytes": 0, "seconds": 0.0,
    }  # fmt: skip


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert plan.main([*TRAINING, *words]) == 0
    doc: dict[str, Any] = json.loads(capsys.readouterr().out)
    return doc


@pytest.mark.usefixtures("bare")
def test_the_plan_says_what_will_be_done_with_the_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, update_golden: bool
) -> None:
    monkeypatch.setattr(
        plan, "find_spec", lambda _name: None
    )  # counting parameters takes a torch, and is not asked here
    doc = planned(
        capsys, "--nproc", "2", "--compile", "regional", "--gpu", "cpu", "--cache-layout", "per-rank", "--cache-from",
        "https://host/seed.tar.zst?X-Amz-Signature=secret", "--cache-to", "/kept/seed.tar.zst",
    )  # fmt: skip
    own = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR", "LANEMARK_CACHE_DIR")
    kept = {
        **{name: doc[name] for name in ("case", "plan_digest", "cache", "prewarm", "reasons")},
        "launch_cache": doc["request"]["cache"],
        "rank_1": {name: doc["request"]["rank_variables"][1][name] for name in own},
        "settings": sorted({setting["name"] for setting in doc["request"]["settings"]} - {"PYTHONPATH"}),
    }
    text = json.dumps(kept, indent=1, sort_keys=True).replace(str(tmp_path), "HOME") + "\n"
    path = GOLDEN / "plan_cache.json"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run pytest with --update-golden if this change is meant"
    assert "secret" not in json.dumps(doc)


@pytest.mark.usefixtures("bare")
def test_the_plan_of_an_eager_run_has_no_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda _name: None)
    doc = planned(capsys, "--nproc", "2")
    assert doc["prewarm"] == {"planned": False, "reason": "nothing is compiled"}
    assert "directory" not in doc["request"]["cache"]
    assert "LANEMARK_CACHE_DIR" not in doc["request"]["rank_variables"][0]
