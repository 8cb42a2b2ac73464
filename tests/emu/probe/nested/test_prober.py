"""What is seen of accesses under nested paging, by the manuals and by tables made by hand."""

import pytest

from crosswalk.emu.probe.nested import NestedProber
from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import Segments, SparseWords
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedPageFault
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.probe.nested.two_stages import GUEST, PAGE, SHIFT, TwoStages, guest_entry
from tests.tables import EXECUTE, OPEN, PS, READ, RW, US, WRITE, XD, A, D, P

FINAL, TABLE = int(NestedError.FINAL), int(NestedError.TABLE)
EVERY = [(kind, cpl) for kind in (READ, WRITE, EXECUTE) for cpl in (0, 3)]
CODE_AT = 0x0F5 << 39


def seen(two, va, kind=READ, cpl=3, *, ac=False):
    return NestedProber(two.memory, two.context).probe(Access(va, kind, cpl, ac))


@pytest.mark.parametrize(("kind", "cpl"), EVERY)
def test_an_access_reaches_the_systems_address_through_both(kind, cpl):
    assert Translation((5 + SHIFT) * PAGE + 0x123) == seen(TwoStages(), 0x5123, kind, cpl)


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_tables_of_either_dimension_can_be_reached(kind):
    two = TwoStages()
    table = GUEST[1] * PAGE | 8
    assert Translation(table + SHIFT * PAGE) == seen(two, table, kind)
    two.host(1, 5, 13 * PAGE | OPEN | A | D)
    assert Translation(13 * PAGE + 0x28) == seen(two, 0x5028, kind)


def test_bits_that_the_walk_sets_in_a_word_it_stores_to_are_reported_too():
    two = TwoStages()
    two.guest(1, GUEST[1], GUEST[1] * PAGE | OPEN)
    va = GUEST[1] * PAGE | 8 * GUEST[1] + 6
    entry = (guest_entry(1, GUEST[1]), GUEST[1] * PAGE | OPEN | A | D)
    assert Translation(va + SHIFT * PAGE, entries=(entry,)) == seen(two, va, WRITE)


@pytest.mark.parametrize(("kind", "leaf"), [(READ, A), (WRITE, A | D), (EXECUTE, A)])
def test_a_and_d_of_the_guest_are_reported_by_the_systems_address(kind, leaf):
    two = TwoStages()
    for level in (4, 3, 2):
        two.guest(level, 0, GUEST[level - 1] * PAGE | OPEN)
    two.guest(1, 5, 5 * PAGE | OPEN)
    entries = {guest_entry(level, 0): GUEST[level - 1] * PAGE | OPEN | A for level in (4, 3, 2)}
    entries[guest_entry(1, 5)] = 5 * PAGE | OPEN | leaf
    assert tuple(sorted(entries.items())) == seen(two, 0x5123, kind).entries


@pytest.mark.parametrize(
    ("kind", "cpl", "entry", "code"),
    [
        (READ, 0, 0, 0x0),
        (WRITE, 3, 0, 0x6),
        (EXECUTE, 3, 0, 0x14),
        (WRITE, 3, P | US, 0x7),
        (READ, 3, P | RW, 0x5),
        (EXECUTE, 0, OPEN | XD, 0x11),
        (READ, 3, OPEN | 1 << 45, 0xD),
    ],
)
def test_a_fault_of_the_guests_own(kind, cpl, entry, code):
    two = TwoStages()
    two.guest(1, 5, 5 * PAGE | entry)
    assert PageFault(code, 0x5123) == seen(two, 0x5123, kind, cpl)


@pytest.mark.parametrize(("kind", "cpl"), EVERY)
def test_an_address_that_is_not_canonical(kind, cpl):
    assert GeneralProtection() == seen(TwoStages(), 1 << 47, kind, cpl)


@pytest.mark.parametrize(
    ("kind", "entry", "code"),
    [
        (READ, 0, 0x4),
        (WRITE, 0, 0x6),
        (EXECUTE, 0, 0x14),
        (WRITE, P | US, 0x7),
        (READ, P | RW, 0x5),
        (EXECUTE, OPEN | XD, 0x15),
        (READ, OPEN | 1 << 45, 0xD),
    ],
)
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_page_that_the_nested_tables_refuse(kind, cpl, entry, code):
    two = TwoStages()
    two.host(1, 5, 25 * PAGE | entry)
    assert NestedPageFault(code | FINAL, 0x5123) == seen(two, 0x5123, kind, cpl)


@pytest.mark.parametrize(("kind", "cpl"), EVERY)
@pytest.mark.parametrize("level", [4, 3, 2, 1])
@pytest.mark.parametrize(
    ("entry", "code"), [(0, 0x6), (P | US, 0x7), (P | RW, 0x7), (OPEN | 1 << 45, 0xF)]
)
def test_a_table_that_the_nested_tables_refuse_is_written_to_whatever_the_access(
    kind, cpl, level, entry, code
):
    two = TwoStages()
    frame = GUEST[level]
    two.host(1, frame, (frame + SHIFT) * PAGE | entry)
    index = 5 if level == 1 else 0
    fault = NestedPageFault(code | TABLE, frame * PAGE + 8 * index)
    assert fault == seen(two, 0x5123, kind, cpl)


def test_which_of_the_two_was_refused_is_left_open_where_the_address_does_not_tell():
    two = TwoStages()
    two.host(1, 5, 0)
    assert NestedPageFault(0x4, 0x5008) == seen(two, 0x5008)


def test_without_the_hosts_nxe_bit_63_is_reserved():
    two = TwoStages(host_nxe=False)
    two.host(1, 5, 25 * PAGE | OPEN | XD)
    assert NestedPageFault(0xD | FINAL, 0x5123) == seen(two, 0x5123)


@pytest.mark.parametrize(
    ("registers", "kind", "ac", "expected"),
    [
        ({"cr0": 0x8000_0033}, WRITE, False, None),
        ({"cr0": 0x8001_0033}, WRITE, False, 0x3),
        ({"cr4": 0x10_0020}, EXECUTE, False, 0x11),
        ({"cr4": 0x20_0020}, READ, False, 0x1),
        ({"cr4": 0x20_0020}, READ, True, None),
        ({"efer": 0x500}, EXECUTE, False, None),
    ],
)
def test_the_guests_registers_count(registers, kind, ac, expected):
    two = TwoStages(**registers)
    two.guest(1, 5, 5 * PAGE | P | US | A | D)
    outcome = seen(two, 0x5123, kind, 0, ac=ac)
    if expected is None:
        assert Translation((5 + SHIFT) * PAGE + 0x123) == outcome
    else:
        assert PageFault(expected, 0x5123) == outcome


@pytest.mark.parametrize("va", [CODE_AT, CODE_AT | PAGE, CODE_AT + (1 << 39)])
@pytest.mark.parametrize(("kind", "cpl"), EVERY)
def test_the_probes_own_code_is_in_nobodys_way(va, kind, cpl):
    outcome = seen(TwoStages(), va, kind, cpl)
    assert isinstance(outcome, PageFault)
    assert (va, 0) == (outcome.cr2, outcome.error_code & 1)


def test_large_pages_of_both():
    two = TwoStages()
    two.guest(2, 1, OPEN | PS | A | D)
    assert Translation((5 + SHIFT) * PAGE + 0x123) == seen(two, 0x20_5123)
    two.host(2, 0, OPEN | PS | A | D)
    assert isinstance(seen(two, 0x20_5123), PageFault)


def test_an_address_without_memory_is_an_address():
    two = TwoStages()
    two.host(1, 5, 0x7F00_0000 | OPEN | A | D)
    for kind in (READ, WRITE, EXECUTE):
        assert Translation(0x7F00_0123) == seen(two, 0x5123, kind)


def test_what_is_done_leaves_no_trace_and_every_access_is_the_first():
    two = TwoStages()
    two.guest(1, 5, 5 * PAGE | OPEN)
    two.host(1, 6, 0)
    prober = NestedProber(two.memory, two.context)
    accesses = [Access(va, kind, cpl) for va in (0x5123, 0x6123, 0x9001) for kind, cpl in EVERY]
    once = [prober.probe(access) for access in accesses]
    assert once == [prober.probe(access) for access in reversed(accesses)][::-1]
    assert two.words.tobytes() == two.memory.read(0, two.words.nbytes)


def test_other_tables_can_be_entered():
    one, other = TwoStages(), TwoStages(host_nxe=False)
    other.host(1, 5, 30 * PAGE | OPEN | A | D)
    prober = NestedProber(one.memory, one.context)
    prober.enter(other.memory, other.context)
    assert Translation(30 * PAGE + 0x123) == prober.probe(Access(0x5123, READ, 3))
    prober.enter(one.memory, one.context)
    assert Translation((5 + SHIFT) * PAGE + 0x123) == prober.probe(Access(0x5123, READ, 3))
    far = Segments([(1 << 20, one.words.tobytes())])
    prober.enter(far, one.context)
    assert isinstance(prober.probe(Access(0x5123, READ, 3)), NestedPageFault)


@pytest.mark.parametrize(
    ("registers", "message"), [({"cr4": 0x1020}, "5-level"), ({"cr4": 0x40_0020}, "keys")]
)
def test_what_the_emulated_cpu_does_not_have_is_refused(registers, message):
    two = TwoStages()
    context = NestedContext(PagingContext(cr3=0x1000, **registers), two.context.host)
    with pytest.raises(BadInput, match=message):
        NestedProber(two.memory, context)


def test_more_memory_than_is_copied_is_refused():
    memory = SparseWords([(0, (1 << 32) + PAGE)], {})
    with pytest.raises(BadInput, match="copy all of memory"):
        NestedProber(memory, TwoStages().context)


def test_without_memory_there_is_nothing_at_all():
    prober = NestedProber(Segments([]), TwoStages().context)
    assert isinstance(prober.probe(Access(0x5123, READ, 3)), NestedPageFault)
