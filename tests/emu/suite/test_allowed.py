"""What is allowed is stated for every CPU, as both walks have it, in files that say the same."""

import json
from dataclasses import replace

import pytest

from crosswalk.emu.check.compare import by_the_manuals, same_rows
from crosswalk.emu.suite.allowed import CPUS, WIDTHS, CpuBox, allowed_of
from crosswalk.emu.suite.document import dump_suite_case, parse_suite_case
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case
from tests.emu.accesses import read, write
from tests.emu.case_files import KNOWN_CASES
from tests.tables import OPEN, PageTables, context

VA, HIGH, GONE = 0x40_0000, 0x60_0000, 0x80_0000_0000
ACCESSES = [read(VA), write(VA), read(HIGH), read(GONE), read(1 << 50)]


def memory():
    """A page, one with address bit 45, and a PML4E that leads out of RAM."""
    tables = PageTables().map(VA, 0x8000, OPEN).map(HIGH, 1 << 45, OPEN)
    tables.entries[tables.root + 8] = 1 << 30 | OPEN
    return tables.memory


@pytest.fixture(scope="module")
def allowed():
    return allowed_of(memory(), context(), ACCESSES, translate_many)


def class_of(allowed, vendor, page1gb, width):
    """The class that a CPU is in, by number; one alone has it."""
    (number,) = (
        number
        for number, boxes in enumerate(allowed.classes)
        for box in boxes
        if box.first <= width <= box.last and vendor in box.vendors and page1gb in box.page1gb
    )
    return number


def test_each_cpu_is_in_one_class_and_its_outcomes_are_in_the_sets(allowed):
    accesses = Accesses.of(ACCESSES)
    for vendor, page1gb, width in CPUS:
        number = class_of(allowed, vendor, page1gb, width)
        cpu = replace(context(), vendor=vendor, page1gb=page1gb, maxphyaddr=width)
        expected = by_the_manuals(memory(), cpu, accesses)
        for row, chosen in enumerate(allowed.by_class):
            if chosen[number] >= 0:
                found = allowed.sets[row].take([chosen[number]])
                assert same_rows(expected.take([row]), found).all()


def test_an_address_bit_is_reserved_on_the_cpus_that_have_fewer(allowed):
    numbers = [class_of(allowed, Vendor.INTEL, True, width) for width in WIDTHS]
    kinds = [int(allowed.sets[2].kind[allowed.by_class[2][number]]) for number in numbers]
    assert [Kind.PAGE_FAULT if width <= 45 else Kind.OK for width in WIDTHS] == kinds


def test_nothing_is_defined_where_the_walk_leaves_memory(allowed):
    assert {-1} == set(allowed.by_class[3])
    assert 0 == len(allowed.sets[3])
    assert all(-1 not in chosen for row, chosen in enumerate(allowed.by_class) if row != 3)


def test_classes_are_as_few_boxes_as_say_it(allowed):
    vendors, pages = (Vendor.INTEL, Vendor.AMD), (True, False)
    assert ((CpuBox(32, 45, vendors, pages),), (CpuBox(46, 52, vendors, pages),)) == allowed.classes


def test_a_cpu_that_has_fewer_bits_than_cr3_is_in_no_class():
    tables = PageTables(root=1 << 38, ram=((1 << 38, 1 << 20),)).map(VA, 0x8000)
    cpu = context(root=1 << 38)
    found = allowed_of(tables.memory, cpu, [read(VA)], translate_many)
    assert 39 == min(box.first for boxes in found.classes for box in boxes)


def test_vendors_part_where_the_manuals_do():
    case = load_case(KNOWN_CASES / "amd-pml4e-bit-8.json")
    found = allowed_of(case.memory(), case.context(), [case.probes[0].asked], translate_many)
    assert [(Vendor.INTEL,), (Vendor.AMD,)] == [boxes[0].vendors for boxes in found.classes]


@pytest.fixture(scope="module")
def document():
    case = load_case(KNOWN_CASES / "maxphyaddr-40.json")
    accesses = [probe.asked for probe in case.probes]
    found = allowed_of(case.memory(), case.context(), accesses, translate_many)
    return dump_suite_case(case, found)


def test_a_document_is_read_as_it_was_written(document):
    assert document == dump_suite_case(*parse_suite_case(document, "it"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda it: it["allowed"].clear(), r"\$.allowed: 0 for 1 probes"),
        (lambda it: it["allowed"][0]["by_cpu"].pop(), r"\$.allowed\[0\].by_cpu: not one for each"),
        (lambda it: it["allowed"][0]["by_cpu"].__setitem__(0, 7), "there is no such set"),
        (lambda it: it["allowed"][0]["by_cpu"].__setitem__(0, -2), "by_cpu"),
        (
            lambda it: it["allowed"][0]["sets"][0]["must_change"].append(["0x0", "0x1"]),
            "words that no access changes so",
        ),
        (lambda it: it.pop("cpus"), "cpus"),
    ],
)
def test_what_is_no_such_document_is_refused_in_one_line(document, change, error):
    wrong = json.loads(document)
    change(wrong)
    with pytest.raises(BadInput, match=error) as caught:
        parse_suite_case(json.dumps(wrong).encode(), "it")
    assert "\n" not in str(caught.value)
