from pathlib import Path

from emu.check import KNOWN
from emu.check.known_sequences import KNOWN_SEQUENCES
from emu.machine.departures import MACHINE_DEPARTURES
from emu.report.known_page import known_page

PAGE = Path(__file__).parents[3] / "docs" / "emulator-divergences.md"


def test_the_page_about_known_divergences_is_what_the_registry_says():
    assert known_page() == PAGE.read_text(encoding="utf-8")


def test_the_page_changes_with_the_registry(monkeypatch):
    monkeypatch.setattr("emu.report.known_page.KNOWN", KNOWN[1:])

    assert known_page() != PAGE.read_text(encoding="utf-8")


def test_the_page_changes_with_the_registry_of_sequences(monkeypatch):
    monkeypatch.setattr("emu.report.known_page.KNOWN_SEQUENCES", KNOWN_SEQUENCES[1:])

    assert known_page() != PAGE.read_text(encoding="utf-8")


def test_the_page_changes_with_the_table_of_registers(monkeypatch):
    monkeypatch.setattr("emu.report.known_page.MACHINE_DEPARTURES", MACHINE_DEPARTURES[1:])

    assert known_page() != PAGE.read_text(encoding="utf-8")
