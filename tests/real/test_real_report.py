"""The report in a real browser: it lays out at every width, keeps its style, complains about nothing, runs nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lanemark.report.html import render_html
from lanemark.report.view import RecordView, record_view

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

#: No network, no first-run traffic, no profile left behind; `--no-sandbox` because containers run tests as root.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
)  # fmt: skip

#: Lays the page out in frames of several widths. A frame made from text shares its parent's origin, so that the parent
#: may measure it, while the page's own policy stays in force inside.
PROBE = """<!doctype html><body><pre id="result">nothing was measured</pre><script>
const page = PAGE, widths = WIDTHS, out = [];
const next = () => {
  if (!widths.length) { document.getElementById("result").textContent = JSON.stringify(out); return; }
  const frame = document.createElement("iframe");
  const width = widths.shift();
  frame.style.cssText = `border:0;height:900px;width:${width}px`;
  frame.onload = () => {
    const doc = frame.contentDocument, root = doc.documentElement, wide = [];
    for (const node of doc.querySelectorAll("body *")) {
      if (node.closest(".scroll, svg, .unseen")) continue;
      if (node.getBoundingClientRect().right > width + 0.5) wide.push(node.tagName + "." + node.className);
    }
    const labels = [...doc.querySelectorAll("svg.plot > text, svg.scale > text")].filter(
      text => text.getBoundingClientRect().right > width || text.getBoundingClientRect().left < 0);
    out.push({width, scroll: root.scrollWidth, wide, labels: labels.length, height: root.scrollHeight,
      digits: frame.contentWindow.getComputedStyle(doc.body).fontVariantNumeric});
    frame.remove();
    next();
  };
  frame.srcdoc = page;
  document.body.append(frame);
};
next();
</script>"""


def _samples() -> ModuleType:
    path = Path(__file__).parents[1] / "unit" / "report" / "sample_records.py"
    spec = importlib.util.spec_from_file_location("report_sample_records", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SAMPLES: dict[str, Any] = _samples().SAMPLES


def view_of(name: str) -> RecordView:
    doc = SAMPLES[name]()
    return record_view("sha256:" + "0123456789abcdef" * 4, doc["predicate"])


def load(browser: str, path: Path, profile: Path) -> tuple[str, list[str]]:
    """The document as the browser sees it after loading, and what it wrote to its console."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, stdin=subprocess.DEVNULL)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measure(browser: str, page: str, widths: list[int], directory: Path) -> list[dict[str, Any]]:
    probe = directory / "probe.html"
    quoted = json.dumps(page).replace("</", "<\\/")
    probe.write_text(PROBE.replace("WIDTHS", json.dumps(widths)).replace("PAGE", quoted), encoding="utf-8")
    dom, console = load(browser, probe, directory / "profile")
    assert console == []
    result: list[dict[str, Any]] = json.loads(dom.split('<pre id="result">')[1].split("</pre>")[0])
    return result


@pytest.mark.parametrize(
    "names", [("ok_cpu",), ("ok_cuda",), ("hostile",), ("killed", "lost", "long_run", "synthetic")]
)
def test_nothing_overflows_from_380_to_1600_pixels(browser: str, tmp_path: Path, names: tuple[str, ...]) -> None:
    page = render_html([view_of(name) for name in names])
    measured = measure(browser, page, [380, 768, 1600], tmp_path)
    assert [frame["width"] for frame in measured] == [380, 768, 1600]
    for frame in measured:
        assert frame["scroll"] <= frame["width"]
        assert frame["wide"] == []
        assert frame["labels"] == 0
        assert frame["height"] > 1000
        assert frame["digits"] == "tabular-nums", "the policy refused the page's own style sheet"


def test_the_file_loads_from_disk_without_a_word_on_the_console(browser: str, tmp_path: Path) -> None:
    path = tmp_path / "a report 'with' a hard name.html"
    path.write_text(render_html([view_of("ok_cpu"), view_of("hostile")]), encoding="utf-8")
    dom, console = load(browser, path, tmp_path / "profile")
    assert console == []
    assert "11,892 tok/s" in dom


def test_a_script_that_slipped_into_the_page_would_not_run(browser: str, tmp_path: Path) -> None:
    page = render_html([view_of("ok_cpu")])
    path = tmp_path / "tampered.html"
    path.write_text(page.replace("</main>", "<script>document.title = 'it ran'</script></main>"), encoding="utf-8")
    dom, console = load(browser, path, tmp_path / "profile")
    assert "<title>it ran</title>" not in dom
    assert any("Content Security Policy" in line for line in console)
