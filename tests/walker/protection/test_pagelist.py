import struct
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker import BadInput, LimitExceeded
from crosswalk.walker.protection import Permission, pagelist
from crosswalk.walker.protection.pagelist import (
    ENTRIES,
    MalformedRequest,
    PageEntry,
    decode,
    encode,
)
from tests.walker.protection.page_lists import LIST, PAGE, RAM, Reads, memory_with, raw_page

R, W, X = Permission
MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def test_numbers_are_those_of_the_heki_patches():
    assert [("READ", 1), ("WRITE", 2), ("EXECUTE", 4)] == [
        (each.name, each.value) for each in Permission
    ]


def entry(page, pages=1, permission=R):
    return PageEntry(page * PAGE, (page + pages) * PAGE, permission)


def refusal(memory, pa=LIST, **options):
    with pytest.raises(MalformedRequest) as caught:
        decode(memory, pa, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@st.composite
def entry_lists(draw):
    """Up to three pages of entries in any order, none over another."""
    count = draw(st.sampled_from((1, 2, ENTRIES, ENTRIES + 1, 2 * ENTRIES, 2 * ENTRIES + 5)))
    lengths = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    ways = (R, R | W, R | X)
    at, found = 0, []
    for number, length in enumerate(lengths):
        gap = number % 3 == 0
        found.append(replace(entry(at + gap, length, ways[number % 3]), immutable=number % 5 == 0))
        at += gap + length
    return draw(st.permutations(found))


@MANY
@given(entries=entry_lists())
def test_what_was_encoded_is_decoded(entries):
    pages = encode(entries, LIST)
    assert len(pages) == -(-len(entries) // 169) * PAGE
    assert entries == decode(memory_with({LIST: pages}), LIST)


def test_the_bytes_are_those_of_the_series():
    pages = encode([entry(2, 3, R | W), replace(entry(9, 1, R | X), immutable=True)], LIST)
    words = [0, 0, 2, 0x2000, 0x5000, 3, 0x9000, 0xA000, 13]
    assert struct.pack("<9Q", *words).ljust(PAGE, b"\0") == pages


def test_a_second_page_is_where_the_first_says():
    pages = encode([entry(at) for at in range(170)], LIST)
    assert (0, LIST + PAGE, 169) == struct.unpack_from("<QQQ", pages)
    assert (0, 0, 1, 169 * PAGE, 170 * PAGE, 1) == struct.unpack_from("<6Q", pages, PAGE)


def test_pages_need_not_follow_each_other_and_order_does_not_matter():
    pages = {
        LIST: raw_page((0x5000, 0x6000, 1), next_pa=0x3000),
        0x3000: raw_page((0x1000, 0x3000, 3), (0x8000, 0x9000, 5)),
    }
    found = decode(memory_with(pages), LIST)
    assert [entry(5), entry(1, 2, R | W), entry(8, 1, R | X)] == found


def test_a_list_may_begin_at_address_0():
    assert [entry(5)] == decode(memory_with({0: raw_page((0x5000, 0x6000, 1))}), 0)


@pytest.mark.parametrize("pa", [1, LIST + 8, -8])
def test_a_list_is_not_written_to_where_no_page_is(pa):
    with pytest.raises(BadInput, match="not a multiple"):
        encode([entry(1)], pa)


def test_an_empty_list_can_not_be_said():
    with pytest.raises(BadInput, match="no entries"):
        encode([], LIST)


def test_a_list_too_long_to_be_read_is_not_written():
    many = [entry(at) for at in range(ENTRIES * 2 + 1)]
    with pytest.raises(LimitExceeded, match="at most 2"):
        encode(many, LIST, limit=2)
    assert "more than 2 pages" in refusal(memory_with({LIST: encode(many, LIST)}), limit=2)
    assert many == decode(memory_with({LIST: encode(many, LIST)}), LIST, limit=3)


GOOD = (0x5000, 0x6000, 1)
BAD_PAGES = {
    "_misaligned": (LIST + 8, {LIST: raw_page(GOOD), LIST + 8: raw_page(GOOD)}, "not the address"),
    "_outside": (RAM, {}, "not in RAM"),
    "_again": (LIST, {LIST: raw_page(GOOD, next_pa=LIST)}, "a cycle: it was page 0"),
    "_too_long": (
        LIST,
        {LIST: raw_page(GOOD, next_pa=0x3000), 0x3000: raw_page((0x7000, 0x8000, 1))},
        "more",
    ),
}
BAD_ENTRIES = {
    "pa is not the address of a page": (0x5008, 0x6000, 1),
    "epa is not the address of a page": (0x5000, 0x6800, 1),
    "epa is not above pa": (0x5000, 0x5000, 1),
    "not all in RAM": (RAM - PAGE, RAM + PAGE, 1),
    "unknown permissions": (0x5000, 0x6000, 17),
    "no permission to read": (0x5000, 0x6000, 2),
    "permission both to write and to execute": (0x5000, 0x6000, 7),
}


def test_there_is_a_case_for_each_check():
    names = [name for name, _ in (*pagelist._ENTRY_CHECKS, pagelist._NOT_BOTH)]
    assert list(BAD_ENTRIES) == names
    assert list(BAD_PAGES) == [check.__name__ for check in pagelist._PAGE_CHECKS]


@pytest.mark.parametrize("why", BAD_ENTRIES)
@pytest.mark.parametrize(("page", "number"), [(0, 0), (0, 2), (1, 1)])
def test_a_wrong_entry_is_refused_by_its_place(why, page, number):
    rows = [[(0x10_0000 + (2 * p + n) * 0x8000, 0x10_1000 + (2 * p + n) * 0x8000, 1)
             for n in range(3)] for p in range(2)]  # fmt: skip
    rows[page][number] = BAD_ENTRIES[why]
    pages = {LIST: raw_page(*rows[0], next_pa=0x3000), 0x3000: raw_page(*rows[1])}
    found = refusal(memory_with(pages))
    assert found.startswith(f"page {page} of the list, entry {number} ({rows[page][number][0]:#x} ")
    assert found.endswith(f": {why}")


@pytest.mark.parametrize("why", BAD_ENTRIES)
def test_without_its_check_a_wrong_entry_gets_through(why, monkeypatch):
    memory = memory_with({LIST: raw_page(BAD_ENTRIES[why])})
    assert why in refusal(memory)
    if why == pagelist._NOT_BOTH[0]:
        assert 1 == len(decode(memory, LIST, write_execute=True))
        return
    left = tuple(each for each in pagelist._ENTRY_CHECKS if each[0] != why)
    monkeypatch.setattr(pagelist, "_ENTRY_CHECKS", left)
    assert 1 == len(decode(memory, LIST))


@pytest.mark.parametrize(
    ("why", "otherwise"),
    [
        ("_misaligned", 1),
        ("_outside", "no memory at"),
        ("_again", "more than 1 pages"),
        ("_too_long", 2),
    ],
)
def test_without_its_check_a_wrong_page_gets_further(why, otherwise, monkeypatch):
    pa, pages, message = BAD_PAGES[why]
    memory = memory_with(pages)
    at = 0x3000 if why == "_too_long" else pa
    assert f", at {at:#x}: {message}" in refusal(memory, pa, limit=1)
    left = tuple(each for each in pagelist._PAGE_CHECKS if each.__name__ != why)
    monkeypatch.setattr(pagelist, "_PAGE_CHECKS", left)
    if isinstance(otherwise, int):
        assert otherwise == len(decode(memory, pa, limit=1))
        return
    with pytest.raises(BadInput, match=otherwise):
        decode(memory, pa, limit=1)


@pytest.mark.parametrize("count", [0, 170, 2**64 - 1])
def test_a_page_has_1_to_169_entries(count):
    page = bytearray(raw_page(GOOD))
    page[16:24] = count.to_bytes(8, "little")
    assert f"{count:,} entries, not 1 to 169" in refusal(memory_with({LIST: bytes(page)}))


@pytest.mark.parametrize(
    "other", [(0x5000, 0x6000, 1), (0x4000, 0x6000, 1), (0x5000, 0x9000, 3), (0x1000, 0x9000, 1)]
)
def test_entries_that_overlap_are_refused_across_pages(other, monkeypatch):
    pages = {
        LIST: raw_page((0x5000, 0x6000, 1), next_pa=0x3000),
        0x3000: raw_page((0xA000, 0xB000, 1), other),
    }
    memory = memory_with(pages)
    found = refusal(memory)
    assert found.startswith("page 1 of the list, entry 1 (")
    assert found.endswith(": overlaps page 0 of the list, entry 0")
    monkeypatch.setattr(pagelist, "_check_overlap", lambda _pages: None)
    assert 3 == len(decode(memory, LIST))


def test_an_overlap_with_one_far_before_is_found():
    rows = ((0x1000, 0x9000, 1), (0x20_0000, 0x20_1000, 1), (0x8000, 0xA000, 1))
    assert "entry 2 (0x8000 to 0xa000): overlaps page 0 of the list, entry 0" in refusal(
        memory_with({LIST: raw_page(*rows)})
    )


def test_ranges_that_touch_do_not_overlap():
    rows = ((0x6000, 0x7000, 1), (0x5000, 0x6000, 3))
    assert 2 == len(decode(memory_with({LIST: raw_page(*rows)}), LIST))


@pytest.mark.parametrize(
    ("pa", "epa"),
    [
        (RAM, RAM + PAGE),
        (0x4000_0000 - PAGE, 0x4000_1000),
        (RAM - PAGE, 0x4000_1000),
        (2**64 - PAGE, 2**64 - 1),
        (0, 2**64 - PAGE),
    ],
    ids=hex,
)
def test_a_range_out_of_ram_or_across_a_hole_in_it_is_refused(pa, epa):
    memory = memory_with({LIST: raw_page((pa, epa, 1))}, ram=((0, RAM), (0x4000_0000, PAGE)))
    assert "entry 0" in refusal(memory)


def test_a_range_in_the_second_stretch_of_ram_is_taken():
    ram = ((0, RAM), (0x4000_0000, PAGE))
    memory = memory_with({LIST: raw_page((0x4000_0000, 0x4000_1000, 1))}, ram=ram)
    assert [PageEntry(0x4000_0000, 0x4000_1000, R)] == decode(memory, LIST)


def test_a_page_that_ram_holds_in_part_is_refused():
    memory = memory_with({LIST: raw_page(GOOD)}, ram=((0, LIST + 2048),))
    assert "not in RAM" in refusal(memory)


def test_a_longer_cycle_is_found_and_every_page_read_once():
    pages = {
        LIST + at * PAGE: raw_page(
            (0x1000 + at * PAGE, 0x2000 + at * PAGE, 1), next_pa=LIST + (at + 1) % 7 * PAGE
        )
        for at in range(7)
    }
    memory = Reads(memory_with(pages))
    assert "page 7 of the list, at 0x100000: a cycle: it was page 0" in refusal(memory)
    assert 7 == memory.count


def test_the_longest_list_costs_a_read_a_page():
    pages = {
        at * PAGE: raw_page((RAM - PAGE * (1 + at), RAM - PAGE * at, 1), next_pa=(at + 1) * PAGE)
        for at in range(1, 1100)
    }
    memory = Reads(memory_with(pages))
    assert "more than 1,000 pages" in refusal(memory, PAGE, limit=1000)
    assert 1000 == memory.count
