from dataclasses import replace

import pytest

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import case as case_module
from crosswalk.walker.formats.case import (
    MAX_RAM_RANGES,
    MAX_TABLES,
    Case,
    Cpu,
    Probe,
)
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

RAM = ((0x0, 0x10000),)
OK = Translation(0x5000)
FAULT = PageFault(1, 0x40_0000)


def case(cpu=None, ram=RAM, **values):
    return Case(cpu=cpu or Cpu(cr3=0x1000), ram=ram, **values)


def reason(**values):
    with pytest.raises(BadInput) as caught:
        case(**values)
    return str(caught.value)


def with_outcome(outcome):
    return (Probe(va=0, access="read", observed=outcome),)


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
    in_outcome = reason(probes=with_outcome(replace(OK, entries=tuple(entries.items()))))
    assert expected.replace("$.entries", "$.probes[0].observed.entries", 1) == in_outcome


def test_an_entry_between_two_ranges_is_outside_ram():
    ram = ((0x0, 0x1000), (0x2000, 0x1000))
    assert 1 == case(ram=ram, entries={0xFF8: 1, 0x2000: 1}).memory().word(0xFF8)
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


@pytest.mark.parametrize("outcome", [OK, FAULT, GeneralProtection()], ids=type)
def test_every_outcome_may_have_entries(outcome):
    probes = with_outcome(replace(outcome, entries=((0x1000, 1),)))
    assert ((0x1000, 1),) == case(probes=probes).probes[0].observed.entries


@pytest.mark.parametrize(
    ("outcome", "name", "value", "bits"),
    [(OK, "pa", 1 << 52, 52), (FAULT, "error_code", 1 << 32, 32), (FAULT, "cr2", 1 << 64, 64)],
    ids=["pa", "error_code", "cr2"],
)
def test_an_outcome_s_fields_have_their_widths(outcome, name, value, bits):
    expected = f"$.probes[0].observed.{name}: {value:#x} does not fit in {bits} bits"
    assert expected == reason(probes=with_outcome(replace(outcome, **{name: value})))
    assert case(probes=with_outcome(replace(outcome, **{name: value - 1}))).probes


def test_a_probe_keeps_of_an_outcome_what_can_be_observed():
    access = Access(0x1000, AccessType.WRITE, 3)
    probe = Probe.of(access, Translation(0x5000, 4096, None, ((0x1000, 1),)))
    assert (
        Probe(
            va=0x1000, access="write", cpl=3, predicted=Translation(0x5000, entries=((0x1000, 1),))
        )
        == probe
    )
    assert Access(0x1000, AccessType.WRITE, 3, ac=False) == probe.asked


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
    assert [
        0x2067,
        0,
        (1 << 64) - 1,
        0,
        None,
    ] == [memory.word(pa) for pa in (0x1000, 0x1008, 0x1FF8, 0x2000, 0x10000)]


def test_too_many_ranges_or_tables_are_refused():
    ranges = tuple((at * 0x2000, 0x1000) for at in range(MAX_RAM_RANGES + 1))
    assert MAX_RAM_RANGES == len(case(ram=ranges[1:]).memory().ranges)
    with pytest.raises(LimitExceeded, match=r"^\$\.ram: 1025 ranges; at most 1024 are read$"):
        case(ram=ranges)
    scattered = {at * 0x1000: 1 for at in range(MAX_TABLES + 1)}
    many = case(ram=((0, 1 << 40),), entries=scattered)
    with pytest.raises(LimitExceeded, match=r"^\$\.entries: in 65537 frames; at most 65536 are"):
        many.memory()


def test_as_many_tables_as_allowed_are_read(monkeypatch):
    monkeypatch.setattr(case_module, "MAX_TABLES", 2)
    scattered = {0x0: 1, 0x1000: 2, 0x1008: 3}
    assert 3 == case(entries=scattered).memory().word(0x1008)
    with pytest.raises(LimitExceeded):
        case(entries=scattered | {0x2000: 4}).memory()
