"""The JSON Schemas are those of today's types, and say what the readers say."""

import functools
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from crosswalk.emu.fuzz.campaign.state import Found, State, encode_state
from crosswalk.emu.matrix.summary import Group, Summary
from crosswalk.emu.report.protection import protection_record
from crosswalk.emu.targets.jsonl import MESSAGES
from crosswalk.walker.formats import dump_case, parse_case
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.protection.policy import TableKind
from scripts.upkeep.schemas import FOLDER, FORMATS, schemas

CASES = Path(__file__).parents[1] / "cases"
FILES = sorted(CASES.rglob("*.json"))
HINT = "scripts/json-schemas writes them anew"
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CASES)))


@functools.cache
def validator(name):
    schema = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def fits(name, document):
    """Whether a document is one of a format, by its schema."""
    return validator(name).is_valid(document)


def name_of(document):
    return document["format"].replace("/", "-")


def test_the_files_are_what_the_types_make():
    assert {f"{name}.json" for name in FORMATS} == {path.name for path in FOLDER.iterdir()}
    for name, text in schemas().items():
        assert text == (FOLDER / f"{name}.json").read_text(encoding="utf-8"), HINT


@EACH
def test_a_case_file_is_one_by_its_schema(path):
    document = json.loads(path.read_bytes())
    assert fits(name_of(document), document)


@EACH
def test_a_case_file_with_an_unknown_key_or_a_number_is_none(path):
    document = json.loads(path.read_bytes())
    name, inner = name_of(document), document.get("case", document)
    assert not fits(name, {**document, "more": 1})
    assert fits(name, document)
    for place, key, wrong in (
        (inner["cpu"], "cr3", 4096),
        (inner["cpu"], "cr3", "4096"),
        (inner["entries"], "0x1000", 1),
        (inner["entries"], "1000", "0x1"),
        (inner["ram"], 0, ["0x0"]),
    ):
        before = place.get(key) if isinstance(place, dict) else place[key]
        place[key] = wrong
        assert not fits(name, document)
        if before is None:
            del place[key]
        else:
            place[key] = before


def test_the_state_of_a_campaign_is_one_by_its_schema():
    state = State(
        {"seed": 1, "walker": None}, layouts=3, known={"maxphyaddr-40": 2}, growth=[(1, 2)],
        findings={"a-b": Found("it", "walker", 1, 2)},
    )  # fmt: skip
    document = json.loads(encode_state(state))
    assert fits("crosswalk-fuzz-1", document)
    assert not fits("crosswalk-fuzz-1", document | {"lost": -1})
    assert not fits("crosswalk-fuzz-1", document | {"format": "crosswalk-fuzz/2"})


def test_the_state_of_the_matrix_is_one_by_its_schema():
    summary = Summary("section=rights", outcomes={"rights": [1, 2, 3]})
    summary.groups["a"] = Group("it", 1, "{}")
    document = json.loads(summary.dump())
    assert fits("crosswalk-matrix-1", document)
    assert not fits("crosswalk-matrix-1", document | {"outcomes": {"rights": [1]}})


def test_a_protection_list_is_one_by_its_schema():
    case = parse_case((CASES / "shared" / "four-level.json").read_bytes(), "it")
    memory = case.memory()
    frames = collective_rights(memory, case.context())
    record = protection_record(frames, memory.ranges, TableKind.EPT)
    document = json.loads(msgspec.json.encode(record))
    assert document["ranges"]
    assert fits("crosswalk-protection-1", document)
    assert not fits("crosswalk-protection-1", document | {"ram": [["0x0", 4096]]})


def test_the_lines_of_the_protocol_are_told_apart():
    lines = [
        {"protocol": "crosswalk-walker/1", "claims": ["translation"]},
        {"cpu": {"cr3": "0x1000"}, "ram": [["0x0", "0x1000"]], "entries": {}},
        {"va": "0x0", "access": "read", "cpl": 0, "ac": False},
        {"first": "0x0", "last": "0xfff"},
        {"outcome": "unknown"},
        {"mappings": [{"va": "0x0", "pa": "0x0", "size": 4096}]},
    ]
    assert len(MESSAGES) == len(lines)
    for kind, line in zip(MESSAGES, lines, strict=True):
        assert fits("crosswalk-walker-1", line)
        assert not fits("crosswalk-walker-1", line | {"more": 1})
        assert isinstance(msgspec.convert(line, kind), kind)


def test_what_is_written_is_what_the_schema_has():
    case = parse_case((CASES / "shared" / "four-level.json").read_bytes(), "it")
    assert fits("crosswalk-case-1", json.loads(dump_case(case)))
