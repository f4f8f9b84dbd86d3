"""The HTML page: hostile text stays text, nothing is fetched, both themes can be read."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest
import sample_records as samples

from lanemark.report.html import render_html
from lanemark.report.timeline import PHASE_ORDER
from lanemark.report.view import RecordView, record_view

VOID = {"meta", "br", "hr", "img", "link", "input"}
#: Attributes through which a page could load something.
FETCHING = {"src", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href", "ping", "manifest"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.headings: list[int] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)


def view_of(name: str) -> RecordView:
    doc = samples.SAMPLES[name]()
    return record_view(samples.record_id(doc), doc["predicate"])


def page_of(*names: str) -> Page:
    return Page(render_html([view_of(name) for name in names]))


@pytest.mark.parametrize("names", [(), *((name,) for name in samples.SAMPLES), tuple(samples.SAMPLES)])
def test_the_page_is_well_formed_and_fetches_nothing(names: tuple[str, ...]) -> None:
    page = page_of(*names)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert name not in FETCHING
        assert not name.startswith("on")
        assert name != "style"
        if name == "href":
            assert tag == "a"
            assert value.startswith("#record-")
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert "@font-face" not in page.style


def test_the_policy_names_the_one_style_sheet() -> None:
    page = page_of("ok_cpu")
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_text_stays_text() -> None:
    page = page_of("hostile")
    shown = "</style></svg><script>alert('x')</script>\"'&{{ 7*7 }}{% raw %}\\x1b[31mred\\n\\u202egnp.exe \u05e9\u05dc\u05d5\u05dd "
    text = "".join(page.words)
    assert text.count(shown) > 10
    assert "https://example.org/x" in text
    assert page.style == page_of("ok_cpu").style
    assert "\u202e" not in text


def test_headings_never_skip_a_level() -> None:
    for names in (("ok_cpu",), ("ok_cpu", "killed", "lost")):
        levels = page_of(*names).headings
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_pictures_have_titles_and_descriptions() -> None:
    page = page_of("ok_cpu")
    pictures = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-labelledby"]
    assert len(pictures) == 3
    assert all(reference in page.ids for value in pictures for reference in value.split())
    assert page.tags.count("table") == page.tags.count("caption")


def test_a_record_without_steps_says_so_instead_of_drawing() -> None:
    text = "".join(page_of("lost").words)
    assert "No step was recorded, so there is no picture of step times." in text
    assert "No rank reported its phases, so there is no timeline." in text


def test_several_records_have_an_index_and_no_ratio() -> None:
    page = page_of("ok_cpu", "ok_cuda", "killed")
    text = "".join(page.words)
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    assert links == ["#record-1", "#record-2", "#record-3"]
    assert set(links) <= {f"#{name}" for name in page.ids}
    assert "are not compared" in text
    for word in ("speed-up", "speedup", "faster", "slower than", "25.5"):
        assert word not in text


def test_what_a_reader_needs_is_on_the_page() -> None:
    view = view_of("ok_cuda")
    text = "".join(page_of("ok_cuda").words)
    for wanted in (
        view.record_id, view.verify_command, view.headline.figure, view.headline.subject, "set by the operator, who wins over 1",
        "a data-only wheel has nothing to import", "H100:8 was requested and 8 × H200 were observed", "network volume",
        "anything about convergence: 220 steps were taken", "NVIDIA H200", "lanemark run training",
    ):  # fmt: skip
        assert wanted in text


def test_an_empty_page_says_that_it_is_empty() -> None:
    assert "No record was given" in render_html([])


# --- colours: read from the style sheet itself, so that a changed colour is checked again


def palette(style: str) -> tuple[dict[str, str], dict[str, str]]:
    light_part, dark_part = (
        style.split("@media screen and (prefers-color-scheme: dark)", maxsplit=1)[0],
        style.split("@media screen and (prefers-color-scheme: dark)")[1],
    )
    light = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", light_part))
    dark = {**light, **dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", dark_part.split("}\n}")[0]))}
    return light, dark


def linear(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue))  # type: ignore[return-value]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""
    light, dark = sorted(
        (0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(one), linear(other))), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_marks_have_enough_contrast(theme: int) -> None:
    colours = palette(page_of("ok_cpu").style)[theme]
    for text in ("--ink", "--soft", "--accent", "--bad", "--warn"):
        assert contrast(colours[text], colours["--paper"]) >= 4.5, text
    assert contrast(colours["--ink"], colours["--shade"]) >= 4.5
    for mark in ("--line", "--before", "--stall", "--p95", "--axis", "--ph-compile"):
        assert contrast(colours[mark], colours["--paper"]) >= 3, mark
    for fill in (
        "--ph-import",
        "--ph-warmup",
        "--ph-init",
        "--ph-build",
        "--ph-shard",
        "--ph-load",
        "--ph-late",
        "--ph-start",
    ):
        assert contrast(colours["--on-light"], colours[fill]) >= 4.5, fill
    assert contrast(colours["--on-dark"], colours["--ph-window"]) >= 4.5


#: Linear RGB as seen with full protanopia and deuteranopia (source: Machado, Oliveira and Fernandes, 2009, table 1).
SIGHT = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def lab(colour: str, sight: str) -> tuple[float, float, float]:
    seen = [
        min(1.0, max(0.0, sum(weight * channel for weight, channel in zip(line, linear(colour), strict=True))))
        for line in SIGHT[sight]
    ]
    rows = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
    xyz = [sum(weight * channel for weight, channel in zip(row, seen, strict=True)) for row in rows]
    x, y, z = (
        t ** (1 / 3) if (t := value / white) > 0.008856 else 7.787 * t + 16 / 116
        for value, white in zip(xyz, (0.95047, 1, 1.08883), strict=True)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", [0, 1])
def test_phases_that_meet_are_told_apart_by_everyone(theme: int, sight: str) -> None:
    colours = palette(page_of("ok_cpu").style)[theme]
    order = [
        "--ph-start",
        "--ph-import",
        "--ph-init",
        "--ph-build",
        "--ph-shard",
        "--ph-load",
        "--ph-warmup",
        "--ph-window",
        "--ph-late",
    ]
    pairs = [
        *itertools.pairwise(order),
        ("--ph-compile", "--ph-warmup"),
        ("--ph-compile", "--ph-window"),
        ("--line", "--stall"),
    ]
    for one, other in pairs:
        distance = (
            sum((a - b) ** 2 for a, b in zip(lab(colours[one], sight), lab(colours[other], sight), strict=True)) ** 0.5
        )
        assert distance >= 14, (one, other, round(distance, 1))


def test_every_phase_has_a_colour() -> None:
    style = page_of("ok_cpu").style
    for phase in PHASE_ORDER:
        assert phase == "failed" or f".ph-{phase.replace('_', '-')}" in style
