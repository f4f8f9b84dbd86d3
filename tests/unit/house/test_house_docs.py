"""The pages agree with the program and with one another."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lanemark.cli.main import EXIT_CODES, VERBS

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
]
VERB_ROW = re.compile(r"^\| `lanemark (?P<verb>[a-z]+)[^`]*` \|", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_verbs_that_help_lists(readme: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lanemark", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    listed = re.findall(
        r"^  ([a-z]+) +\S", done.stdout.partition("verbs:")[2].partition("exit codes:")[0], re.MULTILINE
    )
    assert listed == list(VERBS)
    assert VERB_ROW.findall(readme) == listed


def test_the_readme_has_the_exit_codes_of_the_program(readme: str) -> None:
    table = readme.partition("| exit code |")[2]
    assert [int(code) for code in re.findall(r"^\| (\d) \|", table, re.MULTILINE)] == [code for code, _ in EXIT_CODES]


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to files or headings that do not exist."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links(ROOT / name) == []


def test_a_broken_link_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](page.md#one-two) [c](#three) [d](gone.md)\n", encoding="utf-8")
    assert broken_links(page) == ["#three", "gone.md"]


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences"], page.name


def test_every_dependency_is_explained_and_pinned() -> None:
    """Each package that pyproject.toml asks for has its line in the decision about dependencies and its exact version."""
    tomllib = pytest.importorskip("tomllib")
    doc = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = doc["project"]["optional-dependencies"]
    unlocked = extras.pop("fa4")  # over a gigabyte: in no lock, and therefore pinned where it stands
    assert all("==" in item for item in unlocked)
    wanted = [
        *doc["build-system"]["requires"],
        *doc["project"]["dependencies"],
        *(item for extra in extras.values() for item in extra),
    ]
    names = [re.match(r"[A-Za-z0-9_.-]+", item)[0].lower().replace("_", "-") for item in wanted]  # type: ignore[index]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert [name for name in names if name not in pinned] == []
    explained = (ROOT / "docs" / "adr" / "0004-dependencies.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in explained] == []
    assert [item for item in unlocked if item.partition("==")[0] not in explained] == []


def test_the_package_version_is_one() -> None:
    import lanemark

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{lanemark.__version__}"\n' in project
    assert f"## [{lanemark.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_benchmarks_page_is_the_one_its_results_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from figures import page

    results = ROOT / "benchmarks" / "results.json"
    template = (ROOT / "benchmarks" / "template.md").read_text(encoding="utf-8")
    expected = page(template, json.loads(results.read_text(encoding="utf-8")))
    assert (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8") == expected
