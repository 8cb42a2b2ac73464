"""Pages of charts, and of what `protect` grants, in a real browser."""

import numpy as np
import pytest

from crosswalk.emu.cli import main
from crosswalk.emu.report.map.charts import (
    ChartPage,
    CountsChart,
    GridChart,
    WalkChart,
    chart_html,
)
from crosswalk.walker.formats import Case, Cpu, dump_case
from tests.emu.report.map.findings import finding
from tests.tables import OPEN, RW, XD, P, PageTables, context

AXES = [("level", ["PTE", "PDE"]), ("bit", ["rw", "us", "xd"]), ("CPL", ["0", "3"])]
POSSIBLE = np.array([1] * 11 + [0], np.bool_)
SEEN = np.array([1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0], np.bool_)
COUNTS = CountsChart(
    "Sections", "section", ["n", "wrong"], [("one", [1000, 0]), ("two", [2, 5])], ["wrong"]
)


def page():
    charts = (
        WalkChart("Findings about w", finding(reproduce="crosswalk replay x.json")),
        GridChart("coverage: bits", AXES, POSSIBLE, SEEN),
        COUNTS,
    )
    return chart_html(ChartPage("A campaign", "1 finding", "crosswalk", charts, ["a note"]))


@pytest.fixture
def shown(show):
    return show(page())


def choose(shown, number):
    shown.page.select_option("#view", str(number))


def cells(shown):
    return [
        [cell.inner_text() for cell in row.query_selector_all("td")]
        for row in shown.page.query_selector_all("table.cells tbody tr")
    ]


def test_the_first_arrow_and_the_first_link_lead_into_the_chart(shown):
    inside = "document.activeElement.closest('#chart') !== null"
    shown.press("ArrowRight")
    assert shown.page.evaluate(inside)
    choose(shown, 1)
    shown.page.focus(".skip")
    shown.press("Enter")
    assert (True, "1") == (shown.page.evaluate(inside), shown.page.input_value("#view"))


def test_a_finding_is_a_walk_with_the_wrong_entry_marked(shown):
    assert ("A campaign", "1 finding") == (shown.text("h1"), shown.text("#about"))
    assert ["PML4E[511]", "PDPTE[1]"] == shown.page.eval_on_selector_all(
        ".steps .step b", "each => each.map((it) => it.textContent)"
    )
    assert "R/W clear" in shown.text(".step.blamed")
    assert 1 == len(shown.page.query_selector_all(".step.blamed"))
    assert "crosswalk replay x.json" == shown.text("#chart pre")
    assert "a note" in shown.text("#notes")
    # The mark is in the last 512th of the table.
    table, slot = (
        shown.page.query_selector(f".blamed .{each}").bounding_box() for each in ("table", "slot")
    )
    assert slot["y"] > table["y"] + 0.9 * table["height"]


def test_keys_lead_from_entry_to_entry_and_tell_what_they_are(shown):
    shown.page.focus(".step")
    assert "511 of 512 in its table" in shown.text("#chosen")
    shown.press("ArrowRight")
    assert "reserved bit set" in shown.text("#chosen")
    shown.press("Home")
    assert "R/W clear" in shown.text("#chosen")


def test_cells_are_counted_by_two_axes_and_those_missing_are_named(shown):
    choose(shown, 1)
    assert "6 of 11 cells reached, 54.5 %" not in shown.text("#chart h2")
    assert "5 of 11 cells reached, 45.5 %" in shown.text("#chart h2")
    assert [["2/2", "2/2"], ["0/2", "0/2"], ["1/2", "0/1"]] == cells(shown)
    assert "none" == shown.page.get_attribute("tbody tr:nth-child(2) td", "class")
    shown.page.focus("tbody tr:nth-child(3) td")
    assert "bit xd, level PTE" in shown.text("#chosen")
    assert "level PTE, bit xd, CPL 3" in shown.text("#chosen")
    shown.page.select_option(".pickers label:nth-child(1) select", "2")
    shown.page.select_option(".pickers label:nth-child(2) select", "2")
    assert [["3/6"], ["2/5"]] == cells(shown)
    shown.page.select_option(".pickers label:nth-child(1) select", "0")
    assert [["2/3", "1/3"], ["1/3", "1/2"]] == cells(shown)


def test_counts_are_added_up_and_what_should_be_nothing_is_marked(shown):
    choose(shown, 2)
    assert [["1,000", "0"], ["2", "5"], ["1,002", "5"]] == cells(shown)
    assert ["5", "5"] == shown.page.eval_on_selector_all(
        "td.serious", "each => each.map((it) => it.textContent)"
    )
    shown.page.focus("tbody tr:nth-child(2) td:nth-child(3)")
    assert "two" in shown.text("#chosen")


def test_keys_turn_the_pages_and_the_address_names_what_is_shown(shown):
    shown.press("n")
    assert "coverage: bits" in shown.text("#chart h2")
    assert shown.page.url.endswith("#2")
    assert "TD" == shown.page.evaluate("document.activeElement.tagName")
    shown.press("n", "n")
    assert shown.text("#chart h2").startswith("R/W above the leaf")
    shown.press("p")
    assert "Sections" == shown.text("#chart h2")
    shown.page.go_back()
    assert shown.text("#chart h2").startswith("R/W above the leaf")
    shown.press("?")
    assert shown.page.is_visible("#help")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_dark_or_light_as_the_system_has_it_and_as_is_asked(show, scheme):
    shown = show(page(), color_scheme=scheme)

    def paper():
        return shown.page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, light = "rgb(20, 23, 26)", "rgb(255, 255, 255)"
    assert (dark if scheme == "dark" else light) == paper()
    shown.press("t")
    assert light == paper()
    shown.press("t")
    assert dark == paper()


def test_a_page_without_charts_says_so(show):
    shown = show(chart_html(ChartPage("Nothing", "0 findings", "crosswalk", ())))
    assert "Nothing was found" in shown.text("#chart")
    shown.press("n", "t")


def test_what_protect_grants_is_drawn_before_and_after(show, tmp_path):
    tables = PageTables(ram=((0, 0x10000),)).map(0x40_0000, 0x8000, P | RW | XD)
    tables.map(0x40_1000, 0x9000, OPEN)
    case, path = tmp_path / "image.json", tmp_path / "page.html"
    cpu = Cpu.from_context(context())
    case.write_bytes(dump_case(Case(cpu=cpu, ram=tables.ram, entries=tables.words)))
    assert 0 == main(["protect", str(case), "--map", str(path)])
    shown = show(path.read_bytes())
    titles = [each.inner_text() for each in shown.page.query_selector_all(".pane h2")]
    assert titles[0].startswith("After: what NPT grants by the policy")
    assert titles[1].startswith("Before: what NPT grants of itself")
    assert shown.pixel(8) == shown.pixel(7) != shown.pixel(8, 1)
    shown.search("pa:0x9000")
    assert "granted\nrwx" in shown.chosen
