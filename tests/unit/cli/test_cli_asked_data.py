"""What a command line says of the data path: a class that is held to what is seen, and never stands for it."""

from __future__ import annotations

import argparse

import pytest

from lanemark.cli.asked import Asked, add_arguments, understand
from lanemark.cli.parsing import parser
from lanemark.records.case import PATH_CLASSES
from lanemark.records.errors import UsageError


def asked(*words: str) -> Asked:
    verb = parser("run", "")
    add_arguments(verb)
    options: argparse.Namespace = verb.parse_args(["training", *words])
    return understand(options)


@pytest.mark.parametrize("path_class", PATH_CLASSES)
def test_a_class_is_part_of_the_question(path_class: str) -> None:
    case = asked("--data-class", path_class).case
    assert case.data.path_class == path_class
    assert case.digest != asked().case.digest
    assert asked().case.data.path_class is None


@pytest.mark.parametrize(
    "words", [("--data-class", "nvme"), ("--data-class", "unknown"), ("--data-class", "synthetic")]
)
def test_a_class_that_there_is_not_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"--data-class .* is none of object_mount") as caught:
        asked(*words)
    assert caught.value.slug == "value-invalid"


def test_synthetic_tokens_are_read_through_nothing() -> None:
    with pytest.raises(UsageError, match="synthetic tokens are no files"):
        asked("--data", "synthetic", "--data-class", "ram")
