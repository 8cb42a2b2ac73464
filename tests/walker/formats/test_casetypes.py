import pytest

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import casetypes
from crosswalk.walker.formats.casetypes import (
    MAX_RAM_RANGES,
    MAX_TABLES,
    Case,
    Cpu,
    OutcomeRecord,
    Probe,
)

RAM = ((0x0, 0x10000),)
OK = {"outcome": "ok", "pa": 0x5000}
FAULT = {"outcome": "page_fault", "error_code": 1, "cr2": 0x400000}
PROTECTION = {"outcome": "general_protection"}


def case(cpu=None, ram=RAM, **values):
    return Case(cpu=cpu or Cpu(cr3=0x1000), ram=ram, **values)


def reason(**values):
    with pytest.raises(BadInput) as caught:
        case(**values)
    return str(caught.value)


def with_outcome(**record):
    return (Probe(va=0, access="read", observed=OutcomeRecord(**record)),)


@pytest.mark.parametrize(
    ("ram", "expected"),
    [
        (((-0x1000, 0x2000),), "$.ram[0]: -0x1000 does not fit in 64 bits"),
        (((0x800, 0x1000),), "$.ram[0]: start 0x800 is not a multiple of 0x1000"),
        (((0x0, 0x1800),), "$.ram[0]: size 0x1800 is not a multiple of 0x1000"),
        (((0x0, 0x1000), (0x1000, 0)), "$.ram[1]: size is 0"),
        (((0x0, -0x1000),), "$.ram[0]: -0x1000 does not fit in 64 bits"),
        ((((1 << 52) - 0x1000, 0x2000),), "$.ram[0]: ends at 0x10000000001000, beyond 52 bits"),
        (((0x1000, 0x1000), (0x0, 0x2000)), "$.ram[0]: overlaps $.ram[1]"),
        (((0x0, 0x1000), (0x0, 0x1000)), "$.ram[1]: overlaps $.ram[0]"),
    ],
)
def test_ram_that_is_not_disjoint_frames_within_52_bits_is_an_error(ram, expected):
    assert expected == reason(ram=ram)


def test_adjacent_ranges_in_any_order_up_to_the_last_address_are_ram():
    top = (1 << 52) - 0x1000
    found = case(ram=((0x1000, 0x1000), (top, 0x1000), (0x0, 0x1000))).memory()
    assert list(found.ranges) == [(0, 0x2000), (top, 0x1000)]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({0x1004: 1}, '$.entries["0x1004"]: the address is not a multiple of 8'),
        ({-8: 1}, '$.entries["-0x8"]: the address is not a multiple of 8'),
        ({0x10000: 1}, '$.entries["0x10000"]: the address is outside $.ram'),
        ({0x1000: 1 << 64}, '$.entries["0x1000"]: 0x10000000000000000 does not fit in 64 bits'),
        ({0x1000: -1}, '$.entries["0x1000"]: -0x1 does not fit in 64 bits'),
    ],
)
def test_an_entry_is_a_word_in_ram(entries, expected):
    assert expected == reason(entries=entries)
    in_outcome = reason(probes=with_outcome(**OK, entries=entries))
    assert expected.replace("$.entries", "$.probes[0].observed.entries", 1) == in_outcome


def test_an_entry_between_two_ranges_is_outside_ram():
    ram = ((0x0, 0x1000), (0x2000, 0x1000))
    assert case(ram=ram, entries={0xFF8: 1, 0x2000: 1}).memory().word(0xFF8) == 1
    assert "outside $.ram" in reason(ram=ram, entries={0x1000: 1})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cpu": Cpu(cr3=1 << 64)}, "$.cpu.cr3: 0x10000000000000000 does not fit in 64 bits"),
        ({"cpu": Cpu(cr3=0, pkru=1 << 32)}, "$.cpu.pkru: 0x100000000 does not fit in 32 bits"),
        ({"seed": 1 << 64}, "$.seed: 0x10000000000000000 does not fit in 64 bits"),
        ({"note": "\ud800"}, "$.note: not valid Unicode text"),
        ({"walker": "\ud800"}, "$.walker: not valid Unicode text"),
        ({"format": "crosswalk-case/2"}, "$.format: 'crosswalk-case/2' is not 'crosswalk-case/1'"),
        (
            {"probes": (Probe(va=1 << 64, access="read"),)},
            "$.probes[0].va: 0x10000000000000000 does not fit in 64 bits",
        ),
        (
            {"probes": (Probe(va=0, access="read"), Probe(va=0, access="read", cpl=1))},
            "$.probes[1].cpl: 1 is neither 0 nor 3",
        ),
    ],
)
def test_a_value_that_a_case_file_cannot_hold_is_an_error(values, expected):
    assert expected == reason(**values)


@pytest.mark.parametrize("record", [OK, FAULT, PROTECTION], ids=lambda value: value["outcome"])
def test_every_outcome_may_have_entries(record):
    probes = with_outcome(**record, entries={0x1000: 1})
    assert case(probes=probes).probes[0].observed.entries == {0x1000: 1}


@pytest.mark.parametrize(
    ("record", "missing"),
    [(OK, "pa"), (FAULT, "error_code"), (FAULT, "cr2")],
    ids=["pa", "error_code", "cr2"],
)
def test_an_outcome_needs_its_fields(record, missing):
    rest = {name: value for name, value in record.items() if name != missing}
    expected = f"$.probes[0].observed: {record['outcome']} needs {missing}"
    assert expected == reason(probes=with_outcome(**rest))


@pytest.mark.parametrize(
    ("record", "extra"),
    [
        (OK, "error_code"),
        (OK, "cr2"),
        (FAULT, "pa"),
        (PROTECTION, "pa"),
        (PROTECTION, "error_code"),
        (PROTECTION, "cr2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["outcome"],
)
def test_an_outcome_has_no_other_fields(record, extra):
    expected = f"$.probes[0].observed.{extra}: {record['outcome']} has no {extra}"
    assert expected == reason(probes=with_outcome(**record, **{extra: 0}))


@pytest.mark.parametrize(
    ("record", "name", "value", "bits"),
    [(OK, "pa", 1 << 52, 52), (FAULT, "error_code", 1 << 32, 32), (FAULT, "cr2", 1 << 64, 64)],
    ids=["pa", "error_code", "cr2"],
)
def test_an_outcome_s_fields_have_their_widths(record, name, value, bits):
    expected = f"$.probes[0].observed.{name}: {value:#x} does not fit in {bits} bits"
    assert expected == reason(probes=with_outcome(**(record | {name: value})))
    assert case(probes=with_outcome(**(record | {name: value - 1}))).probes


def test_the_registers_left_out_are_those_of_a_context():
    assert PagingContext(cr3=0x1000) == case().context()


def test_a_context_goes_through_a_case_unchanged():
    context = PagingContext(
        cr3=0x7000,
        cr0=0x80050033,
        cr4=0x3000A0,
        efer=0xD01,
        pkru=4,
        maxphyaddr=52,
        page1gb=False,
        vendor=Vendor.AMD,
    )
    assert context == case(cpu=Cpu.from_context(context)).context()


def test_registers_without_paging_make_a_case_but_no_context():
    off = case(cpu=Cpu(cr3=0, cr0=0x33))
    with pytest.raises(BadInput, match=r"^paging is off: CR0 = 0x33 lacks PG or PE$"):
        off.context()


def test_memory_holds_the_entries_and_zeros():
    memory = case(entries={0x1000: 0x2067, 0x1FF8: (1 << 64) - 1}).memory()
    assert [memory.word(pa) for pa in (0x1000, 0x1008, 0x1FF8, 0x2000, 0x10000)] == [
        0x2067,
        0,
        (1 << 64) - 1,
        0,
        None,
    ]


def test_too_many_ranges_or_tables_are_refused():
    ranges = tuple((at * 0x2000, 0x1000) for at in range(MAX_RAM_RANGES + 1))
    assert len(case(ram=ranges[1:]).memory().ranges) == MAX_RAM_RANGES
    with pytest.raises(LimitExceeded, match=r"^\$\.ram: 1025 ranges; at most 1024 are read$"):
        case(ram=ranges)
    scattered = {at * 0x1000: 1 for at in range(MAX_TABLES + 1)}
    many = case(ram=((0, 1 << 40),), entries=scattered)
    with pytest.raises(LimitExceeded, match=r"^\$\.entries: in 65537 frames; at most 65536 are"):
        many.memory()


def test_as_many_tables_as_allowed_are_read(monkeypatch):
    monkeypatch.setattr(casetypes, "MAX_TABLES", 2)
    scattered = {0x0: 1, 0x1000: 2, 0x1008: 3}
    assert case(entries=scattered).memory().word(0x1008) == 3
    with pytest.raises(LimitExceeded):
        case(entries=scattered | {0x2000: 4}).memory()
