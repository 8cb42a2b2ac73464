"""The parts of the map's page, without a browser."""

import json
import re
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256

import numpy as np
import pytest

from crosswalk.emu.report.map import page as page_module
from crosswalk.emu.report.map.columns import Columns
from crosswalk.emu.report.map.page import map_html
from crosswalk.emu.report.map.views import type_colouring
from crosswalk.walker.condensed import condensed
from crosswalk.walker.memory_types import MemoryTypes
from crosswalk.walker.mtrrs import MemoryType
from tests.emu.report.map.pages import TEXT, element, html, names, page
from tests.tables import OPEN, PCD, PWT, RW, PageTables, context


def column(data, place):
    planes = data[place["at"] : place["at"] + place["width"] * place["count"]]
    parts = np.frombuffer(planes, np.uint8).reshape(place["width"], place["count"])
    values = [sum(int(byte) << 8 * at for at, byte in enumerate(row)) for row in parts.T]
    if not place["signed"]:
        return values
    return [-(value + 1) // 2 if value % 2 else value // 2 for value in values]


def unpacked(text):
    return zlib.decompress(b64decode(text), -15)


def test_columns_are_packed_as_planes_of_bytes():
    columns = Columns()
    numbers = np.array([0, 1, 255, 256, (1 << 53) - 1], np.uint64)
    before = np.array([5, 0, 256, 1, 0], np.uint64)
    places = [columns.add(numbers), columns.add_steps(numbers[:4], before[:4])]
    text = columns.add_text("größer")
    places.append(columns.add(np.zeros(0, np.uint64)))
    data = unpacked(columns.text())
    assert numbers.tolist() == column(data, places[0])
    assert [-5, 1, -1, 255] == column(data, places[1])
    assert "größer" == data[text["at"] : text["at"] + text["count"]].decode()
    assert [] == column(data, places[2])


def test_a_number_that_no_page_can_hold_is_refused():
    with pytest.raises(ValueError, match="0x20000000000000"):
        Columns().add(np.array([1 << 53], np.uint64))


def test_the_same_content_is_the_same_page():
    assert html() == html()
    assert html() != html(title="Another")


def test_the_page_holds_what_is_mapped():
    data = html()
    document = json.loads(element(data, "document"))
    packed = unpacked(element(data, "columns"))
    space = document["views"][0]
    assert [8, 1024] == column(packed, space["columns"]["size"])[2:4]
    assert ["whole", "page"] == [space["whole"], space["levels"][-1][0]]
    texts = document["names"][1]["texts"]
    assert b"start\ndo_work" == packed[texts["at"] : texts["at"] + texts["count"]]


def test_the_policy_lets_nothing_in_and_fits_the_pages_own_parts():
    text = html().decode()
    policy = re.search(r'Security-Policy" content="([^"]*)"', text)[1].replace("&#x27;", "'")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert {"default-src", "script-src", "style-src"} == parts.keys()
    assert "'none'" == parts["default-src"]
    for source, tag in (("script-src", 'script type="module"'), ("style-src", "style")):
        content = re.search(rf"<{tag}>(.*?)</{tag.split()[0]}>", text, re.DOTALL)[1]
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" == parts[source]


def test_the_page_names_no_other_place():
    assert not re.findall(r"(?:https?:)?//[a-z]+\.", html().decode())


@pytest.mark.parametrize("name", ["</script><b>", "<!--", "@STYLE@", "a\\u003cb", "\u2028"])
def test_foreign_text_can_end_nothing(name):
    data = html(title=name, called=[name])
    assert name == json.loads(element(data, "document"))["title"]
    assert 1 == data.count(b"<style>")
    assert data.count(b"</script>") == html().count(b"</script>")


def test_symbols_that_lie_in_nothing_mapped_are_left_out():
    made = page(PageTables().map(TEXT, 0x5000, OPEN), findings=[])
    assert b"do_work" not in unpacked(element(map_html(made), "columns"))
    assert "do_work" in {span.name for span in names().symbols}


def test_symbols_that_are_too_many_are_counted(monkeypatch):
    monkeypatch.setattr(page_module, "_SYMBOLS", 1)
    notes = json.loads(element(html(), "document"))["notes"]
    assert ["Symbols: the first 1 by address, without 1 more."] == notes


def test_rows_are_coloured_by_memory_type():
    tables = PageTables().map(0, 0x5000, RW | OPEN).map(0x2000, 0x9000, OPEN | PCD | PWT)
    rows, _ = condensed(tables.memory, context(), 100)
    colouring = type_colouring(MemoryTypes(), rows)
    named = [colouring.shades[code].name for code in colouring.of.tolist()]
    assert [MemoryType.WB.text, MemoryType.UC.text] == named
    assert "MTRRs are not known" in colouring.note
