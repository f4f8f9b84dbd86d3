"""docs/messages.md has one entry for every slug, finding and reason, headed by the sentence the code has."""

import re
from pathlib import Path

import pytest

from lanemark.records.errors import SLUGS, LanemarkError
from lanemark.records.finding import FINDINGS
from lanemark.records.verdict import REASONS

ROOT = Path(__file__).resolve().parents[3]
ENTRY = re.compile(r"^### (?P<name>\S+)\n\*\*(?P<sentence>.+?)\.\*\*(?P<body>.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def entries(text: str) -> dict[str, tuple[str, str]]:
    return {match["name"]: (match["sentence"], match["body"]) for match in ENTRY.finditer(text)}


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")


def test_every_slug_and_finding_has_exactly_one_entry_and_no_other_exists(page: str) -> None:
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert sorted(headings) == sorted([*SLUGS, *FINDINGS, *REASONS])


@pytest.mark.parametrize("name", [*SLUGS, *FINDINGS, *REASONS])
def test_an_entry_says_what_the_code_says_and_what_to_do(page: str, name: str) -> None:
    sentence, body = entries(page)[name]
    assert sentence == {**SLUGS, **FINDINGS, **REASONS}[name]
    assert "\n*Usual cause:* " in body
    assert "\n*Do:* " in body


def test_an_entry_without_advice_would_be_noticed() -> None:
    parsed = entries("### slug\n**It broke.** Badly.\n\n### other\n**It too.**\n*Do:* run.\n")
    assert parsed == {"slug": ("It broke", " Badly.\n\n"), "other": ("It too", "\n*Do:* run.\n")}


def test_every_slug_and_finding_is_used_by_the_code() -> None:
    """A slug that nothing raises is a promise that nothing keeps."""
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "src").rglob("*.py")
        if path.name not in ("errors.py", "finding.py", "verdict.py")
    )
    unused = [name for name in [*SLUGS, *FINDINGS, *REASONS] if f'"{name}"' not in code]
    assert unused == []


@pytest.mark.parametrize("slug", SLUGS)
def test_every_slug_is_asked_for_by_a_test(slug: str) -> None:
    """A weak net under a strong rule: each error has a test that provokes it, and that test names its slug."""
    others = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(slug in path.read_text(encoding="utf-8") for path in others)


def test_an_undeclared_slug_cannot_be_raised() -> None:
    with pytest.raises(AssertionError, match="undeclared"):
        LanemarkError("no-such-slug", "it broke", "mend it")
