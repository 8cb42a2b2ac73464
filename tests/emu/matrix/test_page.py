"""docs/matrix.md says what there is."""

import re
import tomllib
from pathlib import Path

from crosswalk.emu.check.departures import DEPARTURES, Scope, departures
from crosswalk.emu.matrix.select import ACCESS_SECTIONS
from crosswalk.emu.matrix.text import section_record
from crosswalk.emu.probe.composites import FORMS

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGE = (ROOT / "docs/matrix.md").read_text("utf-8")
ROWS = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in PAGE.splitlines()]


def test_the_sections_are_those_of_the_program_with_their_sizes():
    records = [section_record(section, {}) for section in ACCESS_SECTIONS]
    expected = [
        (
            f"`{each['section']}`",
            f"{each['combinations']:,}",
            f"{each['paths']:,} × {each['control_states']:,} × {each['accesses']}",
            each["covers"],
        )
        for each in records
    ]
    assert expected == [row for row in ROWS if len(row) == 4 and row in expected]
    assert f"{sum(each['combinations'] for each in records):,} combinations" in PAGE


def test_every_section_that_is_named_exists():
    names = {section.name for section in ACCESS_SECTIONS}
    firsts = {name.split("-")[0] for name in names} - {"kvm"}
    named = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", PAGE))
    others = {entry.id for entry in DEPARTURES}  # Those of all judges.
    assert {name for name in named - others if name.split("-")[0] in firsts} <= names


def test_every_known_group_has_its_verdict():
    for entry in departures(Scope.ACCESS, Scope.COMPOSITE):
        assert f"| `{entry.id}` |" in PAGE


def test_every_form_is_told():
    for name in FORMS:
        if not name.startswith("twice:"):
            assert f"`{name}`" in PAGE


def test_the_mutants_that_survive_are_those_of_the_table():
    table = tomllib.loads((ROOT / "scripts/mutation/equivalent.toml").read_text("utf-8"))
    for row in table["mutant"]:
        where = f"`{row['module']}.{row['function']}`"
        cells = (where, f"`{row['was']}`", f"`{row['became']}`", row["reason"])
        cells = [each.replace("|", r"\|") for each in cells]  # As Markdown has it in a table.
        assert f"| {' | '.join(cells)} |" in PAGE
