import pytest

from crosswalk.emu.check import DEPARTURES
from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.cpu.unchecked_registers import MACHINE_DEPARTURES
from crosswalk.emu.report.known_page import Cell, cell_of, known_page

COLUMNS = {
    "One 1.0": {"known/maxphyaddr-40.json": {"known: maxphyaddr-40": 1}},
    "Two 2.0 (TCG)": {"known/maxphyaddr-40.json": {"right": 1}},
    "Three 3.0": {"known/maxphyaddr-40.json": {"known: reserved-fault-without-p": 1}},
}
PAGE = known_page(COLUMNS)


@pytest.mark.parametrize("left_out", range(len(DEPARTURES)))
def test_the_page_changes_with_the_table(left_out, monkeypatch):
    rest = (*DEPARTURES[:left_out], *DEPARTURES[left_out + 1 :])
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    assert known_page(COLUMNS) != PAGE


def test_the_page_changes_with_the_table_of_registers(monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.report.known_page.MACHINE_DEPARTURES", MACHINE_DEPARTURES[1:]
    )

    assert known_page(COLUMNS) != PAGE


def test_a_section_says_who_shows_the_departure_and_who_refutes_it():
    section = PAGE[PAGE.index("## maxphyaddr-40") :].split("\n## ")[0]
    expected = [
        "- Shown by: One 1.0",
        "- Refuted by: Two 2.0 (TCG)",
        "- Wrong by `reserved-fault-without-p` alone: Three 3.0",
    ]
    assert expected == section.splitlines()[-3:]


def test_there_is_a_column_for_each_judge():
    table = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert "| departure | One 1.0 | Two 2.0 (TCG) | Three 3.0 |" == table[0]
    row = "| `maxphyaddr-40` | shows | right | `reserved-fault-without-p` |"
    other = "| `fault-keeps-tlb` | not asked | not asked | not asked |"
    assert {row, other} < set(table)
    every = departures(Scope.ACCESS, Scope.COMPOSITE, Scope.SEQUENCE, who=None)
    assert 2 + len(every) == len(table)


@pytest.mark.parametrize(
    ("said", "cell"),
    [
        (None, (Cell.NOT_ASKED, "")),
        ({"known: amd-pml4e-bit-8": 2, "right": 1}, (Cell.SHOWS, "")),
        ({"known: reserved-fault-without-p+amd-pml4e-bit-8": 1}, (Cell.SHOWS, "")),
        ({"right": 2}, (Cell.RIGHT, "")),
        ({"right": 1, "not shown: no RAM": 1}, (Cell.DIVERGES, "")),
        ({"not shown: no RAM": 1, "not exportable: a mask": 1}, (Cell.NOT_SHOWN, "")),
        ({"diverged": 1}, (Cell.DIVERGES, "")),
        ({"ended: the machine hangs": 1}, (Cell.DIVERGES, "")),
        ({"known: maxphyaddr-40": 1}, (Cell.OTHERWISE, "maxphyaddr-40")),
    ],
)
def test_what_a_judge_said_comes_to_a_word(said, cell):
    entry = next(each for each in DEPARTURES if each.id == "amd-pml4e-bit-8")
    assert cell == cell_of(entry, said)
