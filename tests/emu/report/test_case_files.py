"""The files of tests/cases are read as what they were written from."""

import json
from pathlib import Path

import pytest

from crosswalk.emu.report.composites import dump_composite, parse_composite
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import dump_case, parse_case
from crosswalk.walker.formats.documents import format_of
from crosswalk.walker.tlb import dump_sequence, parse_sequence

CASES = Path(__file__).parents[2] / "cases"
FILES = sorted(CASES.rglob("*.json"))
AGAIN = {
    "crosswalk-case/1": lambda data: dump_case(parse_case(data, "it")),
    "crosswalk-composite/1": lambda data: dump_composite(parse_composite(data, "it")),
    "crosswalk-sequence/1": lambda data: dump_sequence(parse_sequence(data, "it")),
}


SPARE = {"pkru": "0x0", "maxphyaddr": 40, "page1gb": True, "vendor": "intel"}
"""What is written of a file made by hand that leaves registers out."""

OUTCOMES = {"predicted", "observed", "halted", "allowed"}


def without_outcomes(document):
    """A composite or a sequence without what came of it, which isn't read but found out anew."""
    members = {name: value for name, value in document.items() if name not in OUTCOMES}
    if "steps" in document:
        members["steps"] = [without_outcomes(step) for step in document["steps"]]
    return members


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CASES)))
def test_a_file_is_written_again_byte_for_byte(path):
    data = path.read_bytes()
    before, again = json.loads(data), AGAIN[format_of(data)](data)
    after = json.loads(again)
    if before["format"] != "crosswalk-case/1":
        before = without_outcomes(before)
    elif "maxphyaddr" not in before["cpu"]:
        before["cpu"] = SPARE | before["cpu"]
    assert before == after
    if json.loads(data) == after and path.parent.name != "shared":
        assert data == again


def test_there_are_files_of_each_format():
    assert set(AGAIN) == {format_of(path.read_bytes()) for path in FILES}


@pytest.mark.parametrize("name", AGAIN)
def test_what_is_no_utf_8_is_refused_in_one_line_by_each_reader(name):
    data = next(path.read_bytes() for path in FILES if format_of(path.read_bytes()) == name)
    assert 1 == data.count(b'"cpu"')
    with pytest.raises(BadInput, match=r"^it: not JSON: 'utf-8' codec can't decode") as caught:
        AGAIN[name](data.replace(b'"cpu"', b'"note": "\xff", "cpu"'))
    assert "\n" not in str(caught.value)
