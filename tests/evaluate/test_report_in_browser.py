"""The report as a person sees it: in headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import re

import pytest
from chromium import find_chromium, open_page
from evaluate_scene import make_folders

from cellseg1_rt.evaluate import evaluate_folders
from cellseg1_rt.evaluate.report import write_report

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on the PATH (Debian: apt-get install chromium) or in CELLSEG1_RT_CHROMIUM",
)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"  # px
LONG_NAME = "a_very_long_file_name_without_any_place_to_break_" + "x" * 150


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with open_page(CHROMIUM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports with and without images, one with a failure, and names that are hard on a page."""
    folder = tmp_path_factory.mktemp("report")
    pred, true, images = make_folders(folder)
    (pred / "missing_labels.tif").unlink()
    for one, ending in ((pred, "_labels.tif"), (true, ".png"), (images, ".png")):
        (one / f"joined{ending}").rename(one / f"{LONG_NAME}{ending}")
        (one / f"fine{ending}").rename(one / f"<img src=x><script>throw 1{ending}")
    found = evaluate_folders(pred, true)
    write_report(folder / "with.html", found, images=images)
    write_report(folder / "without.html", found)
    return {"with images": folder / "with.html", "labels only": folder / "without.html"}


@pytest.mark.parametrize("report", ["with images", "labels only"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_complains_loads_or_overflows(report, width, scheme, page, reports):
    page.show(reports[report], width, scheme=scheme)
    assert page.complaints() == []
    assert [url[:5] for url in page.requests() if not url.startswith("data:")] == ["file:"]
    assert page.run("innerWidth") == width
    assert page.run(OVERFLOW) == 0
    sizes = page.run("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert sizes == [640] * 4
    overlays = page.run("[...document.querySelectorAll('.layers')].map(layers => {"
        "const [a, b] = [...layers.children].map(child => child.getBoundingClientRect());"
        "return Math.max(Math.abs(a.x - b.x), Math.abs(a.width - b.width),"
        " Math.abs(a.height - b.height)); })")  # fmt: skip
    assert len(overlays) == 4
    assert max(overlays) < 1


def contrast(first, second):
    """WCAG contrast of two CSS rgb() colours."""
    luminances = []
    for colour in (first, second):
        levels = [int(level) / 255 for level in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
        luminances.append(sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    low, high = sorted(luminances)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(scheme, page, reports):
    page.show(reports["with images"], 1280, scheme=scheme)
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in ("body", ".quiet", "table a", ".failures li", ".tiles dt", "thead button"):
        element = f"document.querySelector({selector!r})"
        assert contrast(page.run(f"getComputedStyle({element}).color"), ground) > 4.5, selector


def column(page, number):
    cells = f"table.sortable tbody tr > :nth-child({number})"
    return page.run(f"[...document.querySelectorAll('{cells}')].map(cell => cell.textContent)")


@pytest.mark.parametrize("head", ["image", "AP@0.5", "IoU", "missed"])
def test_the_table_sorts_by_a_click(head, page, reports):
    page.show(reports["with images"], 1280)
    heads = page.run("[...document.querySelectorAll('thead th')].map(head => head.textContent)")
    number = heads.index(head) + 1
    button = f"thead th:nth-child({number}) button"
    key = str if head == "image" else lambda text: -1.0 if text == "–" else float(text)
    before = [column(page, i + 1) for i in range(len(heads))]
    for order in ("ascending", "descending"):
        page.click(button)
        shown = column(page, number)
        assert shown == sorted(shown, key=key, reverse=order == "descending")
        assert page.run("[...document.querySelectorAll('[aria-sort]')].map(h => h.ariaSort)") == [
            order
        ]
    after = [column(page, i + 1) for i in range(len(heads))]
    assert sorted(zip(*after, strict=True)) == sorted(zip(*before, strict=True))
    assert len(set(shown)) > 1
    assert page.complaints() == []


@pytest.mark.parametrize("kind", ["matched", "missed", "false", "split", "merged"])
def test_the_legend_hides_and_shows_a_kind(kind, page, reports):
    page.show(reports["with images"], 1280)
    shown = (
        f"[...document.querySelectorAll('.layers .{kind}')].map(g => getComputedStyle(g).display)"
    )
    assert "none" not in page.run(shown)
    page.click(f"label:has(#show-{kind})")
    assert set(page.run(shown)) == {"none"}
    others = "[...document.querySelectorAll('.layers g')].filter(g => getComputedStyle(g).display"
    assert page.run(f"{others} == 'none').length") == 4
    page.click(f"label:has(#show-{kind})")
    assert "none" not in page.run(shown)


def test_lines_differ_by_more_than_colour(page, reports):
    page.show(reports["with images"], 1280)
    kinds = ("matched", "missed", "false", "split", "merged")
    style = "(e => { const s = getComputedStyle(e); return s.strokeDasharray + s.strokeWidth; })"
    lines = [
        page.run(f"{style}(document.querySelector('.legend .{kind} .line'))") for kind in kinds
    ]
    assert len(set(lines)) == len(kinds)
    letters = page.run("[...document.querySelectorAll('.legend text')].map(t => t.textContent)")
    assert letters == ["", "Mi", "Fa", "Sp", "Me"]


def test_every_picture_and_plot_has_a_text(page, reports):
    page.show(reports["with images"], 1280)
    assert all(len(alt) > 40 for alt in page.run("[...document.images].map(image => image.alt)"))
    unnamed = "svg:not([aria-hidden]):not([role=img][aria-label])"
    assert page.run(f"document.querySelectorAll('{unnamed}').length") == 0


def test_it_is_all_there_without_script(page, reports):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.show(reports["with images"], 390)
        assert page.complaints() == []
        assert page.run("document.querySelectorAll('thead button').length") == 0
        assert len(column(page, 1)) == 4
        assert page.run("document.images.length") == 4
        assert page.run(OVERFLOW) == 0
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)


def test_the_helper_sees_a_complaint_and_a_request(page, tmp_path):
    """The checks above could not fail if what they listen to were deaf."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='none.png'><div style='width: 500px'>wide</div><script>throw 1</script>"
    )
    page.show(bad, 390)
    assert len(page.complaints()) >= 2
    assert any(url.endswith("none.png") for url in page.requests())
    assert page.run(OVERFLOW) > 100
