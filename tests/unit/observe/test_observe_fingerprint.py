"""The fingerprint: one named component for each thing that a compile cache's keys depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lanemark.observe.devices import FIELDS
from lanemark.observe.fingerprint import differences, enters_key, fingerprint, stack_digest, torch_build
from lanemark.records.observation import absent, observed, unavailable

NO_GPU = {name: absent("nvml", "no driver") for name in FIELDS}
EIGHT = NO_GPU | {"device_class": observed("H100", "nvml"), "device_names": observed(["NVIDIA H100"] * 8, "nvml")}


def proc(root: Path, flags: str = "avx2 fma", model: str = "Some Processor") -> Path:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    text = f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags}\n"
    (root / "proc/cpuinfo").write_text(text)
    return root


def package(root: Path, text: str = "x = 1\n") -> Path:
    (root / "stack").mkdir(parents=True, exist_ok=True)
    (root / "stack/model.py").write_text(text)
    return root


def look(tmp_path: Path, environ: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "devices": NO_GPU,
        "root": proc(tmp_path / "root"),
        "package": package(tmp_path / "package"),
    }
    return fingerprint(environ or {"PATH": "/usr/bin:/bin"}, **{**told, **more})


def test_the_same_place_has_no_differences(tmp_path: Path) -> None:
    ours = look(tmp_path)
    assert {
        "torch",
        "triton",
        "python",
        "include_paths",
        "compiler",
        "cpu",
        "cpu_flags",
        "gpu",
        "stack",
        "image",
    } <= set(ours)
    assert differences(ours, look(tmp_path)) == ()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"environ": {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "4"}},
            "OMP_NUM_THREADS was not there, and here it is '4'",
        ),
        ({"environ": {"PATH": "/usr/bin:/bin", "CI": "true"}}, "CI was not there, and here it is 'true'"),
        ({"devices": EIGHT}, "gpu was not there, and here it is 'H100'"),
    ],
)
def test_each_change_is_named_with_both_values(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    assert words in differences(look(tmp_path), look(tmp_path, **more))


def test_another_processor_of_the_same_name_is_told_by_its_flags(tmp_path: Path) -> None:
    """`-march=native` is literal text in a compile command: two processors share a key and not a program."""
    there = look(tmp_path)
    here = look(tmp_path, root=proc(tmp_path / "other", flags="avx2 fma avx512f"))
    (difference,) = differences(there, here)
    assert difference.startswith("cpu flags was 'sha256:")


def test_another_stack_is_another_build(tmp_path: Path) -> None:
    there = look(tmp_path)
    here = look(tmp_path, package=package(tmp_path / "newer", "x = 2\n"))
    assert [text.partition(" ")[0] for text in differences(there, here)] == ["stack"]
    assert stack_digest(tmp_path / "nowhere").status == "absent"


def test_how_many_gpus_are_visible_does_not_matter_and_which_does(tmp_path: Path) -> None:
    eight = look(tmp_path, devices=EIGHT)
    two = look(tmp_path, devices=EIGHT | {"device_names": observed(["NVIDIA H100"] * 2, "nvml")})
    other = look(tmp_path, devices=EIGHT | {"device_names": observed(["NVIDIA H100 NVL"] * 8, "nvml")})
    assert differences(eight, two) == ()
    assert [text.partition(" was")[0] for text in differences(eight, other)] == ["gpu names"]


def test_what_could_not_be_looked_at_fits_nothing_but_a_proxy(tmp_path: Path) -> None:
    blind = EIGHT | {"device_class": unavailable("nvml", "the driver does not answer")}
    ours = look(tmp_path, devices=blind)
    (difference,) = differences(ours, ours)
    assert difference == (
        "gpu was not known (the driver does not answer), and here it is not known (the driver does not answer)"
    )
    unseen = unavailable("markers", "a container is not told").to_json()
    assert differences({"image": unseen}, {"image": unseen}) == ()
    assert differences({"image": unseen}, {"image": observed("im-1", "x").to_json()}) != ()


@pytest.mark.parametrize("strange", [7, {}, {"status": "maybe"}, None, [], {"status": "observed", "value": {"a": 1}}])
def test_a_strange_entry_is_a_difference_and_no_crash(strange: Any) -> None:
    assert differences({"torch": strange}, {"torch": observed("2.13", "x").to_json()}) != ()
    assert all(len(text) < 500 for text in differences({"torch" * 1000: strange}, {}))


@pytest.mark.parametrize(
    ("name", "enters"),
    [
        ("OMP_NUM_THREADS", True), ("CI", True), ("CXX", True), ("TORCHINDUCTOR_VEC_ISA_OK", True),
        ("TORCHINDUCTOR_CPP_MARCH", True), ("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", True), ("TRITON_DEFAULT_NUM_STAGES", True),
        ("TORCHINDUCTOR_SOMETHING_NEW", True), ("TORCHINDUCTOR_MAX_AUTOTUNE", True),
        ("TORCHINDUCTOR_CACHE_DIR", False), ("TRITON_CACHE_DIR", False), ("TORCHINDUCTOR_COMPILE_THREADS", False),
        ("TMPDIR", False), ("RANK", False), ("MASTER_PORT", False), ("NCCL_DEBUG", False), ("HOME", False),
    ],
)  # fmt: skip
def test_which_variables_enter_a_key(name: str, enters: bool) -> None:
    assert enters_key(name) is enters


def test_no_secret_is_kept(tmp_path: Path) -> None:
    seen = look(tmp_path, {"PATH": "/usr/bin:/bin", "TORCHINDUCTOR_API_TOKEN": "hf_abcdefghijklmnop"})
    assert "hf_abcdefghijklmnop" not in str(seen)


def test_torchs_build_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu128'\ndebug = False\ncuda: Optional[str] = '12.8'\n"
        "git_version = 'abc123'\nhip: Optional[str] = None\n"
    )
    assert torch_build(tmp_path).value == "2.13.0+cu128, git abc123, cuda 12.8"
    (tmp_path / "version.py").write_text("__version__ = '2.13.0'\n")
    assert torch_build(tmp_path).status == "unavailable"
