"""From `lanemark run training … -- COMMAND` to a case: what is read from the command, what is refused, what stays open."""

from __future__ import annotations

import json

import pytest

from lanemark.cli.asked import Asked, add_arguments, parsed, understand
from lanemark.cli.asked_script import ranks_of
from lanemark.cli.main import main
from lanemark.cli.parsing import parser
from lanemark.cli.repeating import joined, without_own
from lanemark.records.errors import UsageError


def asked(*words: str) -> Asked:
    verb = parser("run", "")
    add_arguments(verb)
    return understand(parsed(verb, list(words)))


def test_a_command_is_taken_verbatim_and_what_it_decides_stays_open():
    case = asked("training", "--steps", "40", "--", "torchrun", "--nproc-per-node=4", "train.py", "--steps", "9").case
    assert case.command == ("torchrun", "--nproc-per-node=4", "train.py", "--steps", "9")
    assert (case.nproc, case.steps, case.warmup) == (4, 40, 10)
    assert {case.mode, case.compile, case.dtype} == {"any"}
    assert (case.preset, case.data.kind, case.cache_policy) == ("script", "own", "seed")
    assert case.script is not None
    assert case.script.tokens_per_step is None
    assert asked("training", "--tokens-per-step", "4096", "--", "x").case.tokens_per_step == 4096


@pytest.mark.parametrize(
    ("command", "nproc"),
    [
        ("python train.py", 1),
        ("torchrun --nproc_per_node 8 train.py", 8),
        ("torchrun --nnodes=2 --nproc-per-node=4 train.py", 8),
        ("accelerate launch --num_processes 4 train.py --nproc-per-node 9", 4),
        ("deepspeed --num_gpus 2 train.py", 2),
        ("python -m torch.distributed.run --nproc-per-node 2 -m pkg.train", 2),
        ("sh train.sh", 1),
    ],
)
def test_the_number_of_ranks_is_read_from_the_commands_launcher(command: str, nproc: int):
    assert ranks_of("1", tuple(command.split()))[0] == nproc
    assert ranks_of("3", tuple(command.split())) == (3, None)


@pytest.mark.parametrize("number", ["gpu", "auto", "0"])
def test_a_number_that_only_the_launcher_knows_has_to_be_given(number: str):
    with pytest.raises(UsageError) as caught:
        ranks_of("1", ("torchrun", "--nproc-per-node", number, "train.py"))
    assert caught.value.slug == "nproc-invalid"


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        (["training", "--preset", "dense-nano", "--", "x"], "value-invalid"),
        (["training", "--mode", "ddp", "--", "x"], "value-invalid"),
        (["training", "--compile", "model", "--", "x"], "value-invalid"),
        (["training", "--data", "synthetic", "--", "x"], "value-invalid"),
        (["training", "--cache-layout", "per-rank", "--", "x"], "value-invalid"),
        (["training", "--tokens-per-step", "0", "--", "x"], "value-invalid"),
        (["training", "--tokens-per-step", "9"], "value-invalid"),
        (["sparse", "--", "x"], "value-invalid"),
        (["training", "--"], "arguments-invalid"),
        (["training", "--steps", "4", "--warmup", "2", "--", "x"], "steps-too-few"),
        (["training", "--warmup", "0", "--", "x"], "warmup-invalid"),
    ],
)
def test_what_a_command_decides_itself_or_cannot_be_is_refused(words: list[str], slug: str):
    with pytest.raises(UsageError) as caught:
        asked(*words)
    assert caught.value.slug == slug


def test_a_command_that_is_not_there_is_a_gate_that_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    assert main(["run", "training", "--", "no-such-program-here"]) == 4
    assert "[command-missing]" in capsys.readouterr().err


def test_a_node_joins_what_is_there_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    assert main(["run", "training", "--join", "training-20260101T000000Z-00000000", "--", "true"]) == 2
    assert "[join-invalid]" in capsys.readouterr().err
    with pytest.raises(UsageError) as caught:
        asked("training", "--join", "x", "--", "true")
    assert caught.value.slug == "join-invalid"


def test_a_command_on_modal_says_what_is_rented_and_has_no_cache_there():
    rent = ("--surface", "modal", "--image", "a@sha256:" + "0" * 64)
    found = asked("training", *rent, "--gpu", "cpu", "--", "torchrun", "--nproc-per-node", "2", "train.py")
    assert (found.case.surface, found.case.nproc, found.rental.code) == ("modal", 2, None)
    assert found.case.command[0] == "torchrun"
    for slug, words in (
        ("modal-image-unpinned", ("--surface", "modal", "--gpu", "cpu")),
        ("gpu-spec-invalid", rent),
        ("value-invalid", (*rent, "--gpu", "cpu", "--cache-from", "seed.tar.zst")),
        ("value-invalid", (*rent, "--gpu", "cpu", "--cache-policy", "require")),
        ("value-invalid", ("--image", "a@sha256:" + "0" * 64)),
    ):
        with pytest.raises(UsageError) as caught:
            asked("training", *words, "--", "true")
        assert caught.value.slug == slug


def test_the_plan_of_a_command_is_what_would_be_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANEMARK_HOME", str(tmp_path))
    assert main(["plan", "training", "--gpu", "cpu", "--", "torchrun", "--nproc-per-node", "2", "train.py"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["request"]["argv"] == ["torchrun", "--nproc-per-node", "2", "train.py"]
    assert plan["case"]["nproc"] == 2
    assert plan["measured_steps"] == 50
    assert "tokens_per_step" not in plan
    assert plan["reasons"]["nproc"] == "torchrun is told so in the command"


def test_repeats_leave_the_command_alone():
    words = ["training", "--repeat", "3", "--json", "--", "x", "--repeat", "4"]
    assert without_own(joined(words)) == ["training", "--", "x", "--repeat", "4"]
