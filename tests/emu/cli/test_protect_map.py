"""`protect --map`: what is granted before and after, as a page."""

import json
import re

import pytest

from tests.emu.cli.conftest import small
from tests.emu.cli.running import refused
from tests.tables import RW, US, P


@pytest.fixture
def drawn(run, case, tmp_path):
    """The document of the page of some tables."""

    def drawn(tables, *options):
        path = tmp_path / "page.html"
        ran = run("protect", case(tables), "--map", path, *options)
        assert 0 == ran.status
        assert f"{path}: " in ran.err
        text = path.read_text(encoding="utf-8")
        return json.loads(re.search('id="document">(.*?)</script>', text, re.DOTALL)[1])

    return drawn


def shades(view):
    return [each["name"] for each in view["colours"][0]["classes"]]


def test_memory_is_drawn_as_it_was_granted_and_as_it_is(drawn):
    after, before = drawn(small().map(0x40_0000, 0x8000, P))["views"]
    assert ("After: what NPT grants by the policy", 1) == (after["title"], after["beside"])
    assert "Before: what NPT grants of itself" == before["title"]
    assert (["rwx"], 1) == (shades(before), before["rows"])
    assert ["rw-", "r-x", "rwx"] == shades(after)
    assert {"not RAM"} == {after["empty"], before["empty"]}


def test_what_may_be_written_and_executed_is_found_and_nothing_else(drawn):
    document = drawn(small())
    assert ["0xa000-0xafff, 4 KiB: writing and executing"] == [
        each["text"] for each in document["findings"]
    ]
    assert [{"view": 0, "frame": 10}] == document["findings"][0]["places"]
    tables = small()
    tables.entries[tables.entry_pa(0x80_0000)] = 0
    document = drawn(tables)
    assert [] == document["findings"]
    assert "W^X: no frame is both writable and executable." == document["verdicts"][1]


def test_execution_by_either_privilege_is_drawn_in_lanes_where_tables_tell_them_apart(drawn):
    tables = small().map(0x80_1000, 0xB000, P | RW | US)
    after, _ = drawn(tables, "--tables", "ept-mbec")["views"]
    assert "r-x for the supervisor's code, r-- for user mode's" in shades(after)
    lanes = [each["lanes"] for each in after["colours"][0]["classes"]]
    assert ["rx", "r"] in lanes
    assert after["colours"][0]["note"].startswith("Of two lanes")


def test_without_source_there_is_nothing_to_draw(run, tmp_path):
    assert "--map needs SOURCE" in refused(run("protect", "--map", tmp_path / "page.html"))
