import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import (
    Case,
    Cpu,
    Probe,
    dump_case,
    load_case,
    parse_case,
)
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

EXAMPLE = b"""{
  "format": "crosswalk-case/1",
  "seed": 7,
  "note": "write through a read-only PDE\\n\xc3\xa9",
  "walker": "tools/other",
  "cpu": {"cr0": "0x80010033", "cr3": "0x1000", "cr4": "0x20", "efer": "0xd00", \
"pkru": "0x0", "maxphyaddr": 40, "page1gb": true, "vendor": "intel"},
  "ram": [["0x0", "0x4000000"], ["0x8000000", "0x1000"]],
  "entries": {
    "0x1000": "0x2067",
    "0x2000": "0x8000000000003067"
  },
  "probes": [
    {"va": "0x400000", "access": "read", "cpl": 0, "ac": false,
     "predicted": {"outcome": "ok", "pa": "0x5000", "entries": {"0x3010": "0x4067"}},
     "observed": {"outcome": "page_fault", "error_code": "0x1", "cr2": "0x400000"}},
    {"va": "0x8000000000000000", "access": "execute", "cpl": 3, "ac": true,
     "observed": {"outcome": "general_protection"}},
    {"va": "0x0", "access": "write", "cpl": 3, "ac": false}
  ]
}
"""

RAM_END = 1 << 20
U64 = st.integers(0, (1 << 64) - 1)
WORDS = st.dictionaries(st.integers(0, RAM_END // 8 - 1).map(lambda at: at * 8), U64, max_size=4)
ENTRIES = WORDS.map(lambda words: tuple(sorted(words.items())))
OUTCOMES = st.one_of(
    st.builds(Translation, pa=st.integers(0, (1 << 52) - 1), entries=ENTRIES),
    st.builds(PageFault, error_code=st.integers(0, (1 << 32) - 1), cr2=U64, entries=ENTRIES),
    st.builds(GeneralProtection, entries=ENTRIES),
)
PROBES = st.builds(
    Probe,
    va=U64,
    access=st.sampled_from(["read", "write", "execute"]),
    cpl=st.sampled_from([0, 3]),
    ac=st.booleans(),
    predicted=st.none() | OUTCOMES,
    observed=st.none() | OUTCOMES,
)
CPUS = st.builds(
    Cpu,
    cr3=U64,
    cr0=U64,
    cr4=U64,
    efer=U64,
    pkru=st.integers(0, (1 << 32) - 1),
    maxphyaddr=st.integers(32, 52),
    page1gb=st.booleans(),
    vendor=st.sampled_from(Vendor),
)
TEXTS = st.none() | st.text()
CASES = st.builds(
    Case,
    cpu=CPUS,
    ram=st.sampled_from([((0, RAM_END),), ((0x8000, RAM_END - 0x8000), (0, 0x8000))]),
    entries=WORDS,
    probes=st.lists(PROBES, max_size=3).map(tuple),
    seed=st.none() | U64,
    note=TEXTS,
    walker=TEXTS,
)


def test_the_written_form_is_this():
    case = parse_case(EXAMPLE, "case.json")
    assert EXAMPLE == dump_case(case)


def test_the_example_means_this():
    case = parse_case(EXAMPLE, "case.json")
    assert (
        7,
        "write through a read-only PDE\né",
        "tools/other",
    ) == (case.seed, case.note, case.walker)
    assert case.cpu == Cpu(cr3=0x1000)
    assert ((0, 0x4000000), (0x8000000, 0x1000)) == case.ram
    assert {0x1000: 0x2067, 0x2000: 0x8000000000003067} == case.entries
    assert case.probes[0] == Probe(
        va=0x400000,
        access="read",
        predicted=Translation(0x5000, entries=((0x3010, 0x4067),)),
        observed=PageFault(1, 0x400000),
    )
    assert case.probes[2] == Probe(va=0, access="write", cpl=3)


@given(CASES)
def test_a_case_survives_being_written_and_read(case):
    data = dump_case(case)
    assert case == parse_case(data, "case.json")
    assert data == dump_case(parse_case(data, "case.json"))


@given(CASES)
def test_the_written_form_is_json_that_ends_in_a_newline(case):
    data = dump_case(case)
    assert data.endswith(b"}\n")
    assert "crosswalk-case/1" == json.loads(data)["format"]


@given(WORDS, st.randoms())
def test_equal_cases_are_written_as_equal_bytes(words, random):
    shuffled = list(words.items())
    random.shuffle(shuffled)

    def written(entries):
        return dump_case(Case(cpu=Cpu(cr3=0), ram=((0, RAM_END),), entries=entries))

    assert written(words) == written(dict(shuffled))


def test_entries_are_written_one_a_line_by_address():
    case = Case(cpu=Cpu(cr3=0), ram=((0, RAM_END),), entries={0x10000: 1, 0xFF8: 2})
    lines = dump_case(case).decode().splitlines()
    at = lines.index('  "entries": {')
    assert ['    "0xff8": "0x2",', '    "0x10000": "0x1"', "  },"] == lines[at + 1 : at + 4]


def test_a_case_with_nothing_in_it_is_read_back():
    empty = Case(cpu=Cpu(cr3=0), ram=())
    assert empty == parse_case(dump_case(empty), "case.json")


def test_hex_is_read_in_either_case_and_with_leading_zeros():
    data = EXAMPLE.replace(b'"0x8000000000003067"', b'"0x800000000000306A"')
    data = data.replace(b'"0x1000": "0x2067"', b'"0x0000000000001000": "0x02067"')
    assert {0x1000: 0x2067, 0x2000: 0x800000000000306A} == parse_case(data, "").entries


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b'"0x2000": "0x8', b'"0x01000": "0x8', "$.entries"),
        (b'{"0x3010":', b'{"0x03010": "0x1", "0x3010":', "$.probes[0].predicted.entries"),
    ],
    ids=["entries", "outcome"],
)
def test_an_address_in_two_spellings_is_an_error(old, new, place):
    with pytest.raises(BadInput) as caught:
        parse_case(EXAMPLE.replace(old, new), "case.json")
    assert str(caught.value).startswith(f'case.json: {place}["0x')
    assert str(caught.value).endswith("the same address in two spellings")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            b'"vendor": "intel"',
            b'"vendor": "via"',
            "case.json: $.cpu.vendor: Invalid enum value 'via' (must be intel or amd)",
        ),
        (
            b'"0x8000000", "0x1000"',
            b'"0x3fff000", "0x1000"',
            "case.json: $.ram[1]: overlaps $.ram[0]",
        ),
    ],
    ids=["form", "meaning"],
)
def test_an_error_begins_with_the_name_once(old, new, expected):
    with pytest.raises(BadInput) as caught:
        parse_case(EXAMPLE.replace(old, new), "case.json")
    assert expected == str(caught.value)


def test_a_file_is_read_and_named_in_its_errors(tmp_path):
    path = tmp_path / "case.json"
    path.write_bytes(EXAMPLE)
    assert parse_case(EXAMPLE, "") == load_case(path)
    path.write_bytes(EXAMPLE[:-3])
    with pytest.raises(BadInput) as caught:
        load_case(path)
    assert f"{path}: not JSON: Input data was truncated" == str(caught.value)


def test_a_hundred_thousand_entries_are_read():
    words = {at * 8: at + 1 for at in range(100_000)}
    case = replace(parse_case(EXAMPLE, ""), entries=words)
    assert 0x1001 == parse_case(dump_case(case), "").memory().word(0x8000)
