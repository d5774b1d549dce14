"""The report's page in headless Chromium: on a screen, on a phone, in the dark and on paper."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

MILLIMETRE = 96 / 25.4  # CSS pixels
PAPER = round((210 - 24) * MILLIMETRE), round((297 - 24) * MILLIMETRE)  # A4 less its margins, upright and across
LIGHT, DARK = "preferredColorScheme=1", "preferredColorScheme=0"

# What is wider than the page, though in no box that scrolls, is cut off or makes the page scroll.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const images = [...document.images], width = document.documentElement.clientWidth;
  const scrolls = each => each.closest(".wide") && getComputedStyle(each.closest(".wide")).overflowX === "auto";
  const wide = [...document.body.querySelectorAll("*")]
    .filter(each => each.getBoundingClientRect().right > width + 1 && !(scrolls(each) && !each.matches(".wide")))
    .map(each => [each.tagName, each.closest(".landscape") !== null]);
  const table = document.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex(each => each.textContent.startsWith("PSNR"));
  const values = () => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
  const before = values();
  heads[column].querySelector("button").click();
  const sort = heads[column].getAttribute("aria-sort"), sorted = values();
  const contrast = ["body", ".badge"].map(each => getComputedStyle(document.querySelector(each)))
    .map(each => [each.color, each.backgroundColor]);
  parent.postMessage(JSON.stringify({
    width, wide, before, sort, sorted, contrast, errors,
    scrolls: document.documentElement.scrollWidth > width + 1,
    alts: images.map(each => each.alt), pixels: images.map(each => each.naturalWidth),
    shown: images.filter(each => each.checkVisibility()).length,
    requests: performance.getEntriesByType("resource").map(each => each.name),
    tables: [...document.querySelectorAll(".wide")]
      .filter(each => each.querySelector("table") && each.scrollWidth > each.clientWidth).length,
    decision: document.querySelector("#decision").getBoundingClientRect().bottom,
    heads: [...document.querySelectorAll("th")].filter(each => !each.scope).length,
  }), "*");
}, 100));
</script></body>"""
ERRORS = """<head><script>
const errors = [];
addEventListener("error", each => errors.push(String(each.message)), true);
</script>"""
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", each => { document.title = each.data; });
</script><iframe src="page.html" style="border:0;width:WIDTHpx;height:900px"></iframe></body>"""


def chromium(folder, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *options]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []
    return result.stdout


def look(page, folder, width, scheme=LIGHT):
    """What a script finds on a page that is shown `width` pixels wide; a window has at least 500, a frame has not."""
    (folder / "page.html").write_text(page.replace("<head>", ERRORS).replace("</body>", PROBE))
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    options = f"--window-size={max(width, 500)},900", f"--blink-settings={scheme}", "--virtual-time-budget=10000"
    shown = chromium(folder, *options, "--dump-dom", (folder / "frame.html").as_uri())
    return json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", shown, re.DOTALL)[0]))


@pytest.fixture(scope="module")
def page(reported):
    return (reported[0] / "index.html").read_text()


@pytest.mark.parametrize(("width", "scheme"), [(1440, LIGHT), (1440, DARK), (390, LIGHT), (390, DARK)])
def test_a_screen_shows_all_without_an_error_or_a_request(page, reported, tmp_path, width, scheme):
    found = look(page, tmp_path, width, scheme)
    assert found["errors"] == found["requests"] == found["wide"] == []
    assert not found["scrolls"]
    assert found["width"] in range(width - 20, width + 1), "less a scroll bar"
    assert len(found["pixels"]) == len(list(reported[0].glob("*.png")))
    assert min(found["pixels"]) > 100
    assert found["shown"] < len(found["pixels"]), "some are folded"
    assert min(map(len, found["alts"])) > 40
    assert not any(".png" in alt for alt in found["alts"])
    assert len(set(found["alts"])) == len(found["alts"])
    assert found["heads"] == 0, "every head of a table says what it is the head of"
    assert found["decision"] <= 900
    if width == 1440:
        assert found["tables"] == 0, "none has to be scrolled"
    (text, ground), _ = found["contrast"]
    brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (text, ground)]
    assert (brightness[0] > brightness[1]) == (scheme == DARK)
    assert abs(brightness[0] - brightness[1]) > 400


def test_a_column_sorts_by_its_values(page, tmp_path):
    found = look(page, tmp_path, 1440)
    numbers = [float(value) for value in found["before"] if value]
    assert found["sort"] == "descending"
    assert [float(value) for value in found["sorted"] if value] == sorted(numbers, reverse=True)
    assert found["sorted"][len(numbers) :] == [""] * (len(found["before"]) - len(numbers)), "those without come last"


@pytest.mark.parametrize("is_landscape", [False, True])
def test_paper_holds_all_that_is_printed(page, tmp_path, is_landscape):
    """The style of print on a screen as wide as the paper: what has no place there would be cut off."""
    found = look(page.replace("@media print", "@media all"), tmp_path, PAPER[is_landscape])
    assert [tag for tag, is_there in found["wide"] if is_there == is_landscape] == []
    assert found["shown"] == len(found["alts"]), "what is folded is printed too"


def test_a_pdf_has_a4_pages(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    chromium(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri())
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", (tmp_path / "page.pdf").read_bytes())
    sizes = {tuple(round(float(side) / 72 * 25.4) for side in box) for box in boxes}
    assert sizes == {(210, 297), (297, 210)}


def test_the_first_screen_says_how_sure_the_decision_is(page):
    first = page[page.index("<h1>") : page.index('id="verdicts"')]
    assert re.search(r'<span class="badge (firm|provisional)">\1</span> <strong>Plain:</strong> Take R3', first)
    for text in ("What would change it: ", "Evidence:</strong> 1 seed a run, 2 epochs, 3 scenes (12 layouts)"):
        assert text in first


def test_the_page_says_what_made_it(page):
    made = page[page.index('id="made"') :]
    for text in (" UTC", "python -m imginav_jax.report ", "imginav_jax", "commit", "jax", "flax"):
        assert text in made
    assert "the original&#39;s MSE" not in page.replace("'", "&#39;"), "no column without a value"


def test_the_screen_has_a_table_of_a_hundred_columns(reported):
    _, screen = reported
    table = screen[screen.index("boundary") : screen.index("Where no output is named")]
    assert max(map(len, table.splitlines())) <= 100
    assert "mIoU" in table
