"""Pages of charts: what stands in them, by the document that they hold."""

import base64
import json
import re

import msgspec
import numpy as np
import pytest

from crosswalk.emu.report.finding import EntryJson, FindingsJson, ReportJson
from crosswalk.emu.report.map.charts import (
    ChartPage,
    CountsChart,
    GridChart,
    WalkChart,
    chart_html,
    walk_charts,
)
from tests.emu.report.map.findings import entry, finding


def document(*charts, **more):
    """The document in the page of some charts."""
    page = ChartPage("Title <b>", "about", "crosswalk", charts, **more)
    text = chart_html(page).decode()
    assert text == chart_html(page).decode()
    assert "<title>Title &lt;b&gt;</title>" in text
    assert "default-src &#x27;none&#x27;" in text
    # Nothing is named that could be loaded, but the name of SVG's elements.
    assert {"http://www.w3.org/2000/svg"} == set(re.findall(r"https?://[^\"']*", text))
    return json.loads(re.search('id="document">(.*?)</script>', text, re.DOTALL)[1])


def test_a_walk_has_its_entries_with_the_one_that_is_wrong():
    (chart,) = document(WalkChart("g", finding()))["charts"]
    assert ("walk", "g") == (chart["kind"], chart["group"])
    assert "R/W above the leaf" in chart["title"]
    first, second = chart["steps"]
    assert (511, 512, "table", ["US", "A"]) == tuple(
        first[k] for k in ("index", "of", "kind", "flags")
    )
    assert ("R/W clear", None) == (first["blame"], second["blame"])
    assert ("reserved bit set", []) == (second["kind"], second["flags"])
    assert ["access", "write of 0x0 at CPL 0"] in chart["facts"]


@pytest.mark.parametrize(
    ("context", "name", "of"),
    [
        ("32-bit paging, CR3", "PDE[1023]", 1024),
        ("PAE paging, CR3", "PDPTE[3]", 4),
        ("PAE paging, CR3", "PDE[3]", 512),
        (None, "PTE[3]", 512),
    ],
)
def test_tables_are_as_long_as_the_paging_mode_has_them(context, name, of):
    walk = [entry(name, f"{name} at 0x1 = 0x2005  leaf  US")]
    made = msgspec.structs.replace(finding(), walk=walk, context=context)
    (chart,) = document(WalkChart("g", made))["charts"]
    assert of == chart["steps"][0]["of"]


def test_a_word_that_is_in_no_table_has_no_place():
    beside = [EntryJson(name="word", pa="0x8", entry="0x1", text="word at 0x8 = 0x1", va="0x0")]
    (chart,) = document(WalkChart("g", finding(beside=beside)))["charts"]
    assert (None, "", "0x0") == tuple(chart["beside"][0][key] for key in ("index", "kind", "va"))


def test_each_finding_of_a_report_is_a_chart():
    search = FindingsJson(walker="w", findings=[finding(), finding(count=3)])
    report = ReportJson(made_by="m", editions="e", searches=[search, search])
    charts = [*walk_charts(report)]
    assert 4 == len(charts)
    assert {"Findings about w"} == {each.group for each in charts}


def test_cells_are_packed_in_the_order_of_the_axes():
    possible, seen = (np.array(bits, np.bool_) for bits in ([1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1]))
    axes = [("a", ["x", "y"]), ("b", ["1", "2", "3"])]
    (chart,) = document(GridChart("t", axes, possible, seen))["charts"]
    # What can't be was not reached either.
    assert [0b111011, 0b100010] == [base64.b64decode(chart[key])[0] for key in ("possible", "seen")]
    assert [{"name": "a", "values": ["x", "y"]}, {"name": "b", "values": ["1", "2", "3"]}] == (
        chart["axes"]
    )


def test_counts_have_rows_and_the_columns_that_should_be_nothing():
    chart = CountsChart(
        "t", "section", ["n", "wrong"], [("one", [1, 0]), ("two", [2, 5])], ["wrong"]
    )
    (made,) = document(chart)["charts"]
    assert [{"name": "one", "counts": [1, 0]}, {"name": "two", "counts": [2, 5]}] == made["rows"]
    assert ["wrong"] == made["serious"]


def test_text_of_others_ends_no_script():
    text = "</script><script>alert(1)</script>"
    found = document(CountsChart(text, text, [text], [(text, [1])]), notes=[text])
    assert text == found["charts"][0]["title"] == found["notes"][0]
