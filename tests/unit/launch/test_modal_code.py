"""The directory of a command as an archive: what goes along, what stays, and what is not unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from lanemark.launch.modal_code import Code, pack, unpack, volume_path
from lanemark.records.errors import UsageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory as people have them."""
    root = tmp_path / "project"
    for name, text in {
        "train.py": "print()", "models/gpt.py": "x = 1\n", "run.sh": "exec true\n", ".env": "TOKEN=1", ".git/HEAD": "ref",
        "models/__pycache__/gpt.cpython-311.pyc": "bytes", "old.pyc": "bytes", "train.py~": "", "venv/bin/python": "",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "run.sh").chmod(0o755)
    (root / "weights.pt").symlink_to("/etc/hostname")
    return root


def test_code_goes_along_and_what_is_hidden_or_left_by_tools_stays(project: Path, tmp_path: Path) -> None:
    code, data = pack(project)
    unpack(data, code.digest, tmp_path / "there")
    found = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert found == {"train.py", "models/gpt.py", "run.sh"}
    assert (code.num_files, code.num_bytes) == (3, len("print()" + "x = 1\n" + "exec true\n"))
    assert os.access(tmp_path / "there" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "there" / "train.py", os.X_OK)
    assert code.to_json() == {"digest": code.digest, "files": 3, "bytes": code.num_bytes}
    assert volume_path(code.digest) == f"code/{code.digest[7:]}.tar"


def test_the_same_files_give_the_same_archive_and_others_another(project: Path) -> None:
    code, _ = pack(project)
    os.utime(project / "train.py", (1, 1))
    (project / "models").touch()
    assert pack(project)[0] == code
    (project / "train.py").write_text("print(1)")
    assert pack(project)[0].digest != code.digest


def test_a_directory_of_data_does_not_go_along(project: Path) -> None:
    assert pack(project, max_bytes=64)[0].num_files == 3
    (project / "tokens.bin").write_bytes(bytes(64))
    with pytest.raises(UsageError) as caught:
        pack(project, max_bytes=64)
    assert caught.value.slug == "modal-code-unfit"
    assert "train.py" in caught.value.what or "tokens.bin" in caught.value.what


def test_other_bytes_than_were_planned_are_not_unpacked(project: Path, tmp_path: Path) -> None:
    code, data = pack(project)
    with pytest.raises(ValueError, match="not those that were planned"):
        unpack(data + b"\0", code.digest, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("hostile", ["../escaped", "/etc/escaped", "link"])
def test_an_archive_that_is_none_of_ours_is_refused(tmp_path: Path, hostile: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(hostile)
        if hostile == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    data = packed.getvalue()
    with pytest.raises(ValueError, match="no plain file"):
        unpack(data, f"sha256:{hashlib.sha256(data).hexdigest()}", tmp_path / "there")
    garbage = b"no archive" * 100
    with pytest.raises(ValueError, match="no archive"):
        unpack(garbage, f"sha256:{hashlib.sha256(garbage).hexdigest()}", tmp_path / "elsewhere")


def test_an_empty_directory_goes_along_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, data = pack(tmp_path / "empty")
    assert code == Code(code.digest, 0, 0)
    unpack(data, code.digest, tmp_path / "there")
    assert (tmp_path / "there").is_dir()
