"""Files that were written beside their place: moved there whole, in the order given, or not at all."""

from pathlib import Path

import pytest

from lanemark.measure.durable import place_staged, staged_name


def test_staged_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "ranks" / "0").mkdir(parents=True)
    (tmp_path / "exits.json").write_bytes(b"old")
    files = []
    for name in ("exits.json", "ranks/0/end.json"):
        staged = staged_name(tmp_path / name)
        assert staged.parent == (tmp_path / name).parent
        assert staged.name.startswith(".")
        assert staged != staged_name(tmp_path / name), "two writers of one file stage apart"
        staged.write_bytes(name.encode())
        files.append((name, staged))
    assert (tmp_path / "exits.json").read_bytes() == b"old", "until it is placed"
    assert place_staged(tmp_path, files) == ["exits.json", "ranks/0/end.json"]
    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {
        name: name.encode() for name, _ in files
    }


def test_what_was_never_staged_is_an_error_and_what_came_before_it_is_in_place(tmp_path: Path) -> None:
    staged = staged_name(tmp_path / "a")
    staged.write_bytes(b"a")
    with pytest.raises(FileNotFoundError):
        place_staged(tmp_path, [("a", staged), ("b", staged_name(tmp_path / "b"))])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert place_staged(tmp_path, []) == []
