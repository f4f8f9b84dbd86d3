"""One digest over contents, from a real wheel and from what pip's rules make of it."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from lanemark.observe.wheels import contents_digest, copied_rows, installed_contents, wheel_facts


def row(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}"


FILES = {
    "fused_add/__init__.py": b"from fused_add import kernel\n",
    "fused_add/kernel.py": b"NAME = 'add'\n",
    "fused_add-1.2.data/scripts/tool": b"#!python\n",
    "fused_add-1.2.data/purelib/fused_extra.py": b"MORE = 1\n",
    "fused_add-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Fused_Add\nVersion: 1.2\n",
    "fused_add-1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
}
RECORD = "fused_add-1.2.dist-info/RECORD"


def wheel(directory: Path, files: dict[str, bytes] = FILES) -> Path:
    path = directory / "fused_add-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(RECORD, "\n".join([*(row(*item) for item in files.items()), f"{RECORD},,"]) + "\n")
    return path


def install(site: Path, files: dict[str, bytes] = FILES) -> None:
    """As an installer does: relocate, leave scripts elsewhere, add byte code and files of its own, write RECORD anew."""
    rows = [f"{RECORD},,", "../../bin/tool,,", "fused_add/__pycache__/kernel.cpython-311.pyc,,"]
    rows.append(row("fused_add-1.2.dist-info/INSTALLER", b"pip\n"))
    for name, data in files.items():
        if "/scripts/" in name:
            continue
        place = site / name.replace("fused_add-1.2.data/purelib/", "")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        rows.append(row(place.relative_to(site).as_posix(), data))
    (site / RECORD).write_text("\n".join(reversed(rows)) + "\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    return place


def test_what_was_installed_from_a_wheel_has_its_contents(tmp_path: Path, site: Path) -> None:
    facts = wheel_facts(wheel(tmp_path))
    assert (facts.distribution, facts.version, facts.module) == ("fused-add", "1.2", "fused_add")
    assert installed_contents("fused-add").status == "absent"
    install(site)
    assert installed_contents("fused-add").value == facts.contents


def test_a_file_that_was_exchanged_after_installing_is_seen(tmp_path: Path, site: Path) -> None:
    facts = wheel_facts(wheel(tmp_path))
    install(site)
    (site / "fused_add" / "kernel.py").write_bytes(b"NAME = 'sub'\n")  # RECORD still says the old hash
    exchanged = installed_contents("fused-add")
    assert exchanged.status == "observed"
    assert exchanged.value != facts.contents
    (site / "fused_add" / "kernel.py").unlink()
    assert installed_contents("fused-add").value not in (facts.contents, exchanged.value)


def test_another_build_of_the_version_is_seen_and_no_record_is_no_look(tmp_path: Path, site: Path) -> None:
    facts = wheel_facts(wheel(tmp_path))
    install(site, {**FILES, "fused_add/kernel.py": b"NAME = 'another build'\n"})
    assert installed_contents("fused-add").value not in (None, facts.contents)
    (site / RECORD).unlink()
    assert installed_contents("fused-add").status == "unavailable"


def test_order_and_spelling_do_not_matter_and_content_does() -> None:
    rows = copied_rows("a.py,sha256=AA,1\nb/c.py,sha256=BB,1\n")
    assert contents_digest(rows.items()) == contents_digest(reversed(list(rows.items())))
    assert contents_digest(rows.items()) != contents_digest({**rows, "a.py": "BB"}.items())
    for bad in ("a.py,md5=AA,1\n", "a.py,,\n", "a.py\n"):
        with pytest.raises(ValueError, match="RECORD"):
            copied_rows(bad)


@pytest.mark.parametrize("data", [b"", b"PK no zip", b"PK\x03\x04" + b"\0" * 60])
def test_what_is_no_wheel_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.whl").write_bytes(data)
    with pytest.raises(ValueError, match="wheel"):
        wheel_facts(tmp_path / "x.whl")
    with zipfile.ZipFile(tmp_path / "y.whl", "w") as archive:
        archive.writestr("a/__init__.py", "")
    with pytest.raises(ValueError, match="RECORD"):
        wheel_facts(tmp_path / "y.whl")
    nameless = wheel(tmp_path, {**FILES, "fused_add-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\n"})
    with pytest.raises(ValueError, match="METADATA"):
        wheel_facts(nameless)
