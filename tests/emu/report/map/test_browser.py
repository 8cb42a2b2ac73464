"""The map's page in a real browser."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Error

from crosswalk.emu.report.map import __file__ as package
from crosswalk.emu.report.map.page import map_html
from tests.emu.report.map.pages import (
    DATA,
    DATA_PA,
    SHARED_PA,
    STACK,
    TEXT,
    TEXT_PA,
    html,
    page,
    tables,
    view,
)
from tests.tables import KIB4, OPEN, P, PageTables, context

HALF = 1 << 35


def frame(va):
    """An address as the page counts it: in frames, without the hole between the halves."""
    return (va & (1 << 48) - 1) // KIB4


@pytest.fixture
def shown(show):
    return show(html())


def test_the_page_says_what_it_shows(shown):
    assert "A map" == shown.text("h1")
    assert "1,038 mappings in 5 ranges" in shown.text(".pane h2")
    assert "supervisor r-x, user ---" in shown.text("#legend")
    assert "W^X: one range." in shown.text("#findings")


def test_hovering_shows_addresses_frames_rights_flags_and_the_name(shown):
    shown.page.mouse.move(*shown.place(frame(TEXT + 2 * KIB4)))
    tip = shown.text("#tip")
    for text in (
        "name: text: start",
        f"linear addresses: {TEXT:#x}–{TEXT + 8 * KIB4 - 1:#x}, 32 KiB",
        f"frames: {TEXT_PA:#x}–{TEXT_PA + 8 * KIB4 - 1:#x}",
        f"page: {TEXT + 2 * KIB4:#x} → {TEXT_PA + 2 * KIB4:#x}",
        "rights: supervisor r-x, user ---",
        "size of pages: pages of 4 KiB",
        "holds: 8 mappings",
    ):
        assert text.replace("text: start", "text") in tip
    shown.page.mouse.move(5, 5)
    assert not shown.page.is_visible("#tip")


def test_an_address_is_found_and_chosen(shown):
    shown.search(f"{DATA + 0x3123:#x}")
    assert frame(DATA + 0x3000) == shown.cursor
    assert f"{DATA + 0x3000:#x} → {DATA_PA + 0x3000:#x}" in shown.chosen
    assert "2 MiB" in shown.level


def test_what_is_found_inside_a_page_has_its_own_name(shown):
    for text in ("do_work", f"{TEXT + 0x2010:#x}"):
        shown.search(text)
        assert f"{TEXT + 0x2010:#x}" in shown.chosen
        assert "text: do_work\n" in shown.chosen
    shown.search(f"{TEXT + 0x2018:#x}")
    assert "text: do_work+0x8\n" in shown.chosen
    # The page's own name is that of its first byte.
    shown.search(f"{TEXT + 0x2000:#x}")
    assert "do_work" not in shown.chosen


@pytest.mark.parametrize("text", ["8000000000000000", "ffff7fffffffffff", "0x8000_0000_0000"])
def test_what_is_no_canonical_address_is_not_found(shown, text):
    shown.search(text)
    assert "linear addresses" not in shown.text("#hits")


def test_a_frame_is_found_with_all_that_maps_it(shown):
    shown.search(f"pa:{SHARED_PA:#x}")
    assert f"3 × frame {SHARED_PA:#x}" in shown.chosen
    # The third is in the window, in the middle of a large page.
    for va in (0x40_0000, 0x40_1000, STACK + SHARED_PA):
        assert f"{va:#x}" in shown.text("#aliases")


@pytest.mark.parametrize(
    ("text", "va"), [("do_work", TEXT + 0x2000), ("do_*", TEXT + 0x2000), ("WINDOW", STACK)]
)
def test_a_name_is_found(shown, text, va):
    shown.search(text)
    assert frame(va) == shown.cursor


def test_what_is_not_there_is_not_found(shown):
    before = shown.cursor
    shown.search("nothing_like_it")
    assert "nothing: neither an address here, nor a name" in shown.text("#hits")
    assert before == shown.cursor


def test_aliases_are_marked_and_a_click_goes_there(shown):
    shown.page.mouse.click(*shown.place(frame(0x40_0000)))
    assert f"3 × frame {SHARED_PA:#x}" in shown.chosen
    marks = shown.page.evaluate("crosswalk.page.shown.map((strip) => strip.marks)")
    assert [[0x400, 0x401], [0x401, 0x402]] == marks[0][:2]
    assert [[SHARED_PA // KIB4, SHARED_PA // KIB4 + 1]] == marks[1]
    shown.page.mouse.click(*shown.place(frame(TEXT + KIB4)))
    frames = [TEXT_PA // KIB4, TEXT_PA // KIB4 + 8]
    assert frames == shown.page.evaluate("crosswalk.page.shown[1].chosen")
    shown.page.mouse.click(*shown.place(frame(0x40_0000)))
    shown.page.click(f"#aliases >> text={STACK + SHARED_PA:#x}")
    assert frame(STACK + SHARED_PA) == shown.cursor


def test_choosing_in_memory_marks_what_maps_it(shown):
    shown.page.mouse.click(*shown.place(DATA_PA // KIB4, pane=1))
    assert f"{DATA:#x}" in shown.text("#aliases")
    first = frame(DATA)
    assert [first, first + 1024] in shown.page.evaluate("crosswalk.page.shown[0].marks")


def test_wheel_keys_and_buttons_zoom_and_the_levels_lead_down_to_a_page(shown):
    zoom = "crosswalk.page.shown[0].layout.zoom"
    assert (0, "whole") == (shown.page.evaluate(zoom), shown.level)
    x, y = shown.place(frame(TEXT))
    shown.page.mouse.move(x, y)
    shown.page.mouse.wheel(0, -100)
    shown.page.wait_for_function(f"() => {zoom} > 0")
    wheeled = shown.page.evaluate(zoom)
    shown.press("+")
    keyed = shown.page.evaluate(zoom)
    shown.page.click("#in")
    clicked = shown.page.evaluate(zoom)
    assert 0 < wheeled < keyed < clicked
    shown.press("-")
    shown.page.click("#out")
    assert wheeled == pytest.approx(shown.page.evaluate(zoom))
    shown.press("0")
    assert 0 == shown.page.evaluate(zoom)
    shown.search(f"{TEXT:#x}")
    shown.press("Escape")  # Out of the search, into the pane.
    spans = []
    for key in ("1", "2", "3", "4"):
        shown.press(key)
        spans.append(shown.page.evaluate("crosswalk.page.shown[0].layout.scale"))
    assert spans == sorted(spans)
    assert spans[0] < spans[-1]
    assert f"page {TEXT:#x}" in shown.text("#trail")


def test_arrows_go_from_range_to_range_and_enter_chooses(shown):
    shown.page.focus(".pane canvas")
    shown.press("Home", "ArrowRight")
    assert 0x401 == shown.cursor
    shown.press("ArrowRight")
    assert frame(TEXT) == shown.cursor
    shown.press("Enter")
    assert "text: start" in shown.chosen
    assert "text: start" in shown.page.get_attribute(".pane canvas", "aria-label")
    shown.press("ArrowLeft", "Escape")
    assert 0x401 == shown.cursor
    assert "Nothing yet" in shown.chosen


def test_the_keys_of_the_map_work_as_soon_as_the_page_is_there(shown):
    assert "BODY" == shown.page.evaluate("document.activeElement.tagName")
    shown.press("ArrowRight", "ArrowRight", "Enter")
    assert frame(TEXT) == shown.cursor
    assert "text: start" in shown.chosen
    assert "CANVAS" == shown.page.evaluate("document.activeElement.tagName")


def test_enter_on_an_idle_page_chooses_and_on_a_tool_is_the_tools(shown):
    shown.press("Enter")
    assert f"3 × frame {SHARED_PA:#x}" in shown.chosen
    shown.press("Escape")
    shown.page.focus("#theme")
    shown.press("Enter")
    assert "theme: light" == shown.text("#theme")
    assert "Nothing yet" in shown.chosen
    shown.press("End")
    assert frame(STACK) == shown.cursor


def test_the_first_link_leads_to_the_map(shown):
    shown.press("Tab")
    assert "skip" == shown.page.evaluate("document.activeElement.className")
    shown.press("Enter")
    assert "CANVAS" == shown.page.evaluate("document.activeElement.tagName")
    shown.press("ArrowRight")
    assert 0x401 == shown.cursor


def test_findings_are_gone_through_by_keys_and_by_clicks(shown):
    shown.press("n")
    assert 0x400 == shown.cursor
    shown.press("n")
    assert frame(DATA) == shown.cursor
    shown.press("p")
    assert 0x400 == shown.cursor
    shown.page.click("#findings >> text=the data")
    assert frame(DATA) == shown.cursor


def test_the_keys_are_explained_and_search_has_one(shown):
    shown.press("?")
    assert shown.page.is_visible("#help")
    shown.press("Escape")
    assert not shown.page.is_visible("#help")
    shown.press("/")
    assert "query" == shown.page.evaluate("document.activeElement.id")


def test_colours_are_those_of_rights_or_sizes(shown):
    text, data = shown.pixel(frame(TEXT)), shown.pixel(frame(DATA))
    assert text != data
    shown.press("c")
    assert shown.pixel(frame(TEXT)) == shown.pixel(frame(DATA)) != shown.pixel(frame(STACK))
    assert "pages of 2 MiB" in shown.text("#legend")


def test_the_legend_explains_all_that_is_drawn(show):
    made = tables()
    for at in range(64):
        made.map(0x7000_0000 + at * KIB4, (at * 37 % 64) * KIB4, OPEN)
    shown = show(html(made, most=40))
    legend = shown.text("#legend")
    # Of physical memory what only several mappings of a frame together allow.
    assert "supervisor rwx, user rwx" in legend
    for text in (
        "Physical memory, collective rights",
        "regions or sections",
        "several ranges folded",
        "a finding",
        "what is chosen",
        "the chosen frame",
    ):
        assert text in legend
    shown = show(html(PageTables().map(0x40_0000, 0x5000, OPEN), findings=[]))
    for text in ("Physical memory", "regions", "folded", "finding"):
        assert text not in shown.text("#legend")


def test_dark_and_light_are_the_systems_or_chosen(show):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (show(html(), color_scheme=scheme) for scheme in ("light", "dark"))
    white, black = light.page.evaluate(paper), dark.page.evaluate(paper)
    assert white != black
    light.press("t", "t")
    assert black == light.page.evaluate(paper)
    assert "theme: dark" == light.text("#theme")
    empty = HALF // 2
    assert light.pixel(empty) == dark.pixel(empty)


CONTRAST = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => {
      const value = Number(part) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const {palette} = crosswalk.page;
  const paper = palette.get("paper");
  const texts = ["text", "quiet", "link", "finding"];
  const found = texts.map((name) => [name, ratio(palette.get(name), paper)]);
  for (const style of Object.keys(crosswalk.FILLS)) {
    const ink = palette.ink(style) === "#000" ? "rgb(0, 0, 0)" : "rgb(255, 255, 255)";
    found.push([style, ratio(ink, palette.fill(style))]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(show, scheme):
    ratios = dict(show(html(), color_scheme=scheme).page.evaluate(CONTRAST))
    assert {} == {name: ratio for name, ratio in ratios.items() if ratio < 4.5}


def test_what_is_printed_is_light(show):
    shown = show(html(), color_scheme="dark")
    before = shown.page.evaluate("crosswalk.page.palette.get('paper')")
    shown.page.emulate_media(media="print")
    shown.page.wait_for_function(
        "() => crosswalk.page.palette.get('paper') === 'rgb(255, 255, 255)'"
    )
    assert not shown.page.is_visible("#tools")
    shown.page.emulate_media(media="screen")
    shown.page.wait_for_function(f"() => crosswalk.page.palette.get('paper') === '{before}'")


def test_dragging_scrolls_and_chooses_nothing(shown):
    shown.search(f"{DATA + 512 * KIB4:#x}")
    shown.press("Escape")
    x, y = shown.place(frame(DATA + 512 * KIB4))
    top = shown.page.evaluate("crosswalk.page.shown[0].top")
    shown.page.mouse.move(x, y)
    shown.page.mouse.down()
    shown.page.mouse.move(x, y - 40)
    shown.page.mouse.up()
    assert top + 40 == pytest.approx(shown.page.evaluate("crosswalk.page.shown[0].top"))
    assert "Nothing yet" in shown.chosen


def test_a_narrow_window_has_no_overflow(shown):
    shown.page.set_viewport_size({"width": 400, "height": 700})
    shown.page.wait_for_function("() => crosswalk.page.shown[0].shown < 400")
    wide = "document.documentElement.scrollWidth"
    assert shown.page.evaluate(wide) <= 400


def test_true_to_scale_is_a_switch(shown):
    at = "crosswalk.page.shown[0].layout.position({}) / crosswalk.page.shown[0].layout.total"
    middle = at.format(HALF)
    assert shown.page.evaluate(middle) != pytest.approx(0.5)
    shown.press("s")
    assert shown.page.evaluate(middle) == pytest.approx(0.5)
    assert "true to scale" in shown.text(".pane h2")


def test_what_is_folded_says_so_and_which_command_lists_it(show):
    made = PageTables()
    for at in range(64):
        made.map(0x40_0000 + at * KIB4, (at * 37 % 64) * KIB4, OPEN)
    shown = show(html(made, most=8))
    assert "64 mappings in 1 range, 1 of them folded" in shown.text(".pane h2")
    shown.page.mouse.click(*shown.place(0x408))
    assert "64 mappings, folded" in shown.chosen
    assert "crosswalk walk F --start 0x400000 --end 0x440000 lists it" in shown.chosen
    shown.search("pa:0x3000")
    assert "64 mappings in folded parts may be among them" in shown.chosen
    assert "crosswalk frames F --of 0x3000" in shown.chosen


def test_words_of_a_command_are_replaced_at_its_end(show):
    made = PageTables()
    for at in range(64):
        made.map(0x40_0000 + at * KIB4, (at * 37 % 64) * KIB4, OPEN)
    folded = page(made, most=8)
    folded.views[0].command = "crosswalk walk PA/START --start START --end END"
    shown = show(map_html(replace(folded, of_command="crosswalk frames PA/START --of PA")))
    shown.page.mouse.click(*shown.place(0x408))
    assert "crosswalk walk PA/START --start 0x400000 --end 0x440000 lists it" in shown.chosen
    shown.search("pa:0x3000")
    assert "crosswalk frames PA/START --of 0x3000" in shown.chosen


def test_every_address_space_can_be_chosen(show):
    made = page()
    other = PageTables(root=0x20_0000).map(0x123_4000, SHARED_PA, P)
    spaces = [
        view(tables().memory, context(4, root=0x1000), beside=2, title="first"),
        view(other.memory, context(4, root=0x20_0000), beside=2, title="second"),
    ]
    both = [*spaces, made.views[1]]
    shown = show(map_html(type(made)("Two", "", "", both, made.names)))
    shown.press("r")
    assert "second" in shown.text(".pane h2")
    shown.search(f"pa:{SHARED_PA:#x}")
    assert "4 × frame" in shown.chosen
    shown.page.click("#aliases >> text=0x401000")
    assert ("first", 0x401) == (shown.text(".pane h2")[:5], shown.cursor)


@pytest.mark.parametrize("mode", ["32-bit", "PAE", 5])
def test_other_paging_modes_are_shown(show, mode):
    made = PageTables(mode).map(0xC000_0000, 0x5000, OPEN)
    shown = show(html(made, findings=[]))
    shown.search("0xc0000000")
    assert "0xc0000000–0xc0000fff, 4 KiB" in shown.chosen


def test_nothing_mapped_is_shown_as_that(show):
    shown = show(html(PageTables(), findings=[]))
    assert "0 mappings in 0 ranges" in shown.text(".pane h2")
    shown.page.focus(".pane canvas")
    shown.press("n", "+", "s", "c", "1", "ArrowRight", "ArrowDown", "Enter")
    assert "unmapped" in shown.chosen


def test_foreign_names_are_text(show):
    name = '<img src=x onerror="document.title=1"></script><script>document.title=2</script>'
    shown = show(html(called=[name], title=name))
    assert name == shown.text("h1")
    shown.search("<img")
    assert name in shown.text("#hits")
    assert name == shown.page.title()


SCRIPTS = sorted(Path(package).parent.glob("*.js"))
PARSES = "(text) => { new (Object.getPrototypeOf(async () => {}).constructor)(text); }"


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_every_script_parses_by_itself(browser, path):
    opened = browser.new_page()
    opened.evaluate(PARSES, path.read_text(encoding="utf-8"))
    with pytest.raises(Error, match="SyntaxError"):
        opened.evaluate(PARSES, f"{path.read_text(encoding='utf-8')} }}")
    opened.close()


def test_a_mistake_in_the_page_is_noticed(browser, show, tmp_path):
    """The twin of what `show` asserts at the end: an error and a request are seen."""
    broken = html().replace(b"document.documentElement.dataset.ready", b"nowhere();\n$&", 1)
    path = tmp_path / "broken.html"
    path.write_bytes(broken.replace(b'<p id="about">', b'<img src="other.png"><p id="about">'))
    context_ = browser.new_context()
    opened = context_.new_page()
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(path.as_uri())
    # The policy keeps out what isn't the page's own: the changed script, and the picture.
    opened.wait_for_function("() => performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    context_.close()
    assert any("script" in text and "Content Security Policy" in text for text in said)
    assert any("other.png" in text for text in said)
