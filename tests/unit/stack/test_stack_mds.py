"""The library that decodes MDS, where it cannot be imported. Its rows are read in `tests/real/test_real_mds.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the loader needs torch")

from lanemark.records.errors import GateRefused
from lanemark.stack.mds import mds_reader


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms does"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("", "ModuleNotFoundError: No module named 'streaming.base'"),
    ],
)  # fmt: skip
def test_a_library_that_does_not_import_is_one_sentence_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    assert not [name for name in sys.modules if name.split(".")[0] == "streaming"]
    (tmp_path / "streaming").mkdir()
    (tmp_path / "streaming" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(GateRefused, match="which this interpreter cannot import") as caught:
        mds_reader()
    sys.modules.pop("streaming", None)
    assert caught.value.slug == "mds-missing"
    assert said in caught.value.what
