"""The results Volume: which execution stands for the run, and what of a far side's files is believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lanemark.launch.modal_results import CarriedFile, Done, chosen, listing, plain

RUN = "training-20260101T000000Z-00000000"
FILE = CarriedFile("ranks/0/end.json", 3, "ab" * 32)
DONE = Done(RUN, 1, "ok", True, "every rank ended", "2026-01-01T00:00:00.000Z", "sha256:" + "cd" * 32, (FILE,))


def test_a_manifest_reads_back_and_another_document_does_not() -> None:
    assert Done.from_json(DONE.to_json()) == DONE
    good = DONE.to_json()
    hostile = {"name": "../x", "bytes": 1, "sha256": "ab" * 32}
    for bad in (None, [], {}, {**good, "format": 2}, {**good, "files": [hostile]}, {**good, "files": 3}):
        with pytest.raises(ValueError, match=r"\S"):
            Done.from_json(bad)


def test_the_first_final_execution_stands_for_the_run() -> None:
    taken_away = replace(DONE, final=False, state="cancelled")
    second, third = replace(DONE, execution=2), replace(DONE, execution=3)
    assert chosen([third, second, taken_away]) == second
    assert chosen([taken_away]) is None
    assert chosen([]) is None


def test_a_listing_sorts_paths_and_takes_no_other() -> None:
    paths = [f"{RUN}/intent.json", f"{RUN}/executions/1/claim.json", f"{RUN}/executions/2/attempt/ranks/0/end.json",
             f"{RUN}/executions/2/done.json", f"{RUN}/executions/x/done.json", f"{RUN}/executions/3/attempt/../../up",
             "another/executions/9/done.json"]  # fmt: skip
    found = listing(RUN, paths)
    assert found.intent
    assert found.last == 2
    assert found.done == (2,)
    assert found.executions[2] == {"done.json", "attempt/ranks/0/end.json"}
    assert listing(RUN, []).last is None


@pytest.mark.parametrize("name", ["", "/etc/x", "a/../b", "a//b", "a\0b", "./a", "x" * 600, 3])
def test_a_name_that_leaves_the_directory_is_not_plain(name: object) -> None:
    assert not plain(name)
    assert plain("ranks/0/stdout.log")
