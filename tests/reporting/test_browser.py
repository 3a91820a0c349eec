"""The report in a real browser: no script runs, nothing overflows, and every fold is closed."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest

from derta.reporting import render_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
# The page is in an iframe as wide as a phone or a desktop; the script belongs to the outer page, the report has none.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="f" style="width:{width}px;height:800px;border:0"
srcdoc="{page}"></iframe><script>document.getElementById("f").onload = event => {{
  const page = event.target.contentDocument, root = page.documentElement;
  document.body.dataset.measured = JSON.stringify({{
    title: page.title, width: root.clientWidth, needed: root.scrollWidth,
    open: page.querySelectorAll("details[open]").length, folded: page.querySelectorAll("details").length,
    harm: page.querySelector(".harm").checkVisibility({{contentVisibilityAuto: true}}),
    added: page.querySelectorAll("script,img,.pwned").length,
    heights: [...page.querySelectorAll("figure svg[role=img]")].map(svg => svg.getBoundingClientRect().height),
  }});
}}</script></body>"""
HOSTILE = (
    "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"></details><b class=pwned>"
    + "long" * 200
)


@pytest.fixture
def measure(tmp_path):
    """Return a function that opens a page in Chromium at a given width and measures it."""
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")

    def open_page(page, *, width):
        probe = tmp_path / "probe.html"
        probe.write_text(PROBE.format(width=width, page=escape(page)), encoding="utf-8")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900"]
        result = subprocess.run(  # noqa: S603 the browser found on the PATH, on our own file
            [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        match = re.search(r'data-measured="([^"]*)"', result.stdout)
        assert match is not None, result.stderr[-500:]
        return json.loads(unescape(match[1]))

    return open_page


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("text", ["tea", HOSTILE], ids=["benign", "hostile"])
def test_a_browser_runs_no_script_fits_the_page_and_keeps_the_folds_closed(
    measure, whole_summary, make_transcript, text, width
):
    rows = [make_transcript(text, method=m, attack=text, category=text, judge=text) for m in ("plain", text)]
    page = measure(render_report(whole_summary(text), rows), width=width)
    assert page["title"] == text
    assert page["needed"] <= page["width"] == width
    assert page["open"] == 0 < page["folded"]
    assert page["harm"] is False
    assert page["added"] == 0
    assert all(100 < height < 400 for height in page["heights"])
