"""A compiled graph is told by the kernels in its stored code; a graph whose code is not at hand stays a hash."""

from pathlib import Path

from lanemark.stack.sparse.graphs import kernels_of, with_kernels

KEY = "f75f4yo4hdvooobgpqxefmt6xgih5cia2ukw4bibfqotkescpyx2"
EVENT = f"## Call CompiledFxGraph {KEY} ##"


def stored(cache: Path, *files: bytes) -> None:
    directory = cache / "fxgraph" / KEY[1:3] / KEY
    directory.mkdir(parents=True)
    for number, data in enumerate(files):
        (directory / f"v{number}").write_bytes(data)


def test_kernels_are_read_out_of_the_stored_code(tmp_path: Path) -> None:
    code = (
        b"\x80\x04junk\ncpp_fused_flex_attention_0 = async_compile.cpp_pybinding([])\ncpp_fused_add_1 = async_compile.x"
    )
    stored(tmp_path, code, code)
    assert kernels_of(KEY, tmp_path) == ["cpp_fused_flex_attention_0", "cpp_fused_add_1"]
    assert with_kernels(EVENT, tmp_path)[1] == f"CompiledFxGraph {KEY[:16]}: cpp_fused_flex_attention_0"


def test_a_graph_without_its_code_says_nothing(tmp_path: Path) -> None:
    assert with_kernels(EVENT, tmp_path) == [EVENT]
    assert with_kernels(EVENT, None) == [EVENT]
    stored(tmp_path, b"a graph that mentions flex_attention and compiles no kernel of that name")
    assert with_kernels(EVENT, tmp_path) == [EVENT]


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("aten::bmm", "CompiledFxGraph", "CompiledFxGraph ../../etc"):
        assert with_kernels(name, tmp_path) == [name]
