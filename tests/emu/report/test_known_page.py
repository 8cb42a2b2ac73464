from pathlib import Path

import pytest

from crosswalk.emu.check import DEPARTURES
from crosswalk.emu.cpu.unchecked_registers import MACHINE_DEPARTURES
from crosswalk.emu.report.known_page import known_page

PAGE = Path(__file__).parents[3] / "docs" / "emulator-divergences.md"


def test_the_page_about_known_divergences_is_what_the_table_says():
    assert known_page() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("left_out", range(len(DEPARTURES)))
def test_the_page_changes_with_the_table(left_out, monkeypatch):
    rest = (*DEPARTURES[:left_out], *DEPARTURES[left_out + 1 :])
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    assert known_page() != PAGE.read_text(encoding="utf-8")


def test_the_page_changes_with_the_table_of_registers(monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.report.known_page.MACHINE_DEPARTURES", MACHINE_DEPARTURES[1:]
    )

    assert known_page() != PAGE.read_text(encoding="utf-8")
