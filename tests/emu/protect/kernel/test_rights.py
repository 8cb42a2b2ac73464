"""Rights of two roots, where a kernel keeps tables for user mode apart."""

from dataclasses import replace

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.protect.kernel.guestwalk import find_user_root
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import Segments
from crosswalk.walker.protection.pagelist import Permission
from tests.emu.protect.kernel.tiny_kernel import (
    DATA,
    IMAGE,
    NX,
    PAGE,
    RAM,
    ROOT1,
    TABLES,
    TEXT,
    USER_FRAME,
    tiny_kernel,
)

READ, WRITE, EXECUTE = Permission

# The two roots, and the tables of the latter: it has some text, by three tables of its own.
KERNEL, USER = 0x20_0000, 0x20_1000
LEAF = 0x20_4000 + 8 * (TEXT >> 12 & 511)
DIRECTORY = 0x20_3000 + 8 * (TEXT >> 21)
CONTEXT = PagingContext(cr0=0x8001_0011, cr3=KERNEL, cr4=0x20, efer=0xD00)


@pytest.fixture
def ram():
    found = Ram(0, RAM)
    for start, content, _ in tiny_kernel().segments:
        found.write(start, content)
    found.write(KERNEL, found.read(TABLES + ROOT1 * PAGE, PAGE))
    found.write(USER, found.read(KERNEL, PAGE // 2))
    words = found.words
    words[KERNEL // 8] |= NX
    words[(USER + 8 * 511) // 8] = 0x20_2000 | 3
    words[(0x20_2000 + 8 * (IMAGE >> 30 & 511)) // 8] = 0x20_3000 | 3
    words[DIRECTORY // 8] = 0x20_4000 | 3
    words[LEAF // 8] = TEXT | 1
    return found


def follower(ram):
    return RightsFollower(Segments([(0, ram.bytes)]), CONTEXT)


def test_both_roots_count(ram):
    ram.words[LEAF // 8] |= 2
    rights = follower(ram)
    assert rights.isolated
    assert rights.initial[TEXT // PAGE] & WRITE
    assert rights.initial[USER_FRAME // PAGE] & EXECUTE
    assert rights.tables()[[USER // PAGE, 0x204]].all()


def test_one_root_does_without(ram):
    ram.words[USER // 8 : (USER + PAGE) // 8] = 0
    rights = follower(ram)
    assert not rights.isolated
    assert not rights.initial[TEXT // PAGE] & WRITE
    # The kernel's own tables let nobody execute what is the user's.
    assert not rights.initial[USER_FRAME // PAGE] & EXECUTE


def test_a_change_of_the_users_tables_is_followed(ram):
    rights = follower(ram)
    ram.words[LEAF // 8] |= 2
    assert rights.update()[TEXT // PAGE] & WRITE
    assert rights.writable[TEXT // PAGE]
    assert (1, 0) == (rights.steps, rights.differing)


def test_a_change_missed_differs_from_those_computed_afresh(ram, monkeypatch):
    monkeypatch.setattr(RightsFollower, "_changed", lambda _: [])
    rights = follower(ram)
    ram.words[LEAF // 8] |= 2
    rights.update()
    assert (1, 1) == (rights.steps, rights.differing)


def test_a_root_forgotten_is_seen_by_a_fresh_computation(ram, monkeypatch):
    ram.words[LEAF // 8] |= 2
    fresh = follower(ram).fresh_writable(KERNEL)
    monkeypatch.setattr(RightsFollower, "_spaces", lambda _, root: [replace(CONTEXT, cr3=root)])
    assert fresh[TEXT // PAGE]
    assert not follower(ram).initial[TEXT // PAGE] & WRITE


def test_other_tables_count_by_both_their_roots(ram):
    other = 0x30_0000
    ram.write(other, ram.read(KERNEL, PAGE))
    ram.words[(other + PAGE + 8 * 511) // 8] = 0x31_0000 | 3
    ram.words[(0x31_0000 + 8 * 510) // 8] = 0x31_1000 | 3
    ram.words[0x31_1000 // 8] = TEXT & -(1 << 21) | 0x83
    rights = follower(ram)
    for root in (other, other + PAGE):
        rights.update(root)
        assert rights.writable[TEXT // PAGE]
        assert not rights.own[TEXT // PAGE] & WRITE
        assert rights.fresh_writable(root)[TEXT // PAGE]
    assert not rights.fresh_writable(KERNEL)[TEXT // PAGE]


def test_a_users_root_is_known_by_what_it_shares(ram):
    assert USER == find_user_root(Segments([(0, ram.bytes)]), CONTEXT)
    assert None is find_user_root(Segments([(0, ram.bytes)]), replace(CONTEXT, cr3=USER))
    # Nothing in the upper half; another table in the lower one; another place in the upper one.
    for at, value in (
        (USER + 8 * 511, 0),
        (USER, 0x20_2000 | 7),
        (KERNEL, 0),
        (LEAF, DATA | 1),
        (KERNEL + 8 * 511, 0),
        (DIRECTORY + 8 * 511, 0x83),
    ):
        was, ram.words[at // 8] = int(ram.words[at // 8]), value
        assert None is find_user_root(Segments([(0, ram.bytes)]), CONTEXT)
        ram.words[at // 8] = was
    assert USER == find_user_root(Segments([(0, ram.bytes)]), CONTEXT)


def test_the_first_of_two_roots_has_an_even_number(ram):
    for first, other in ((0x21_0000, 0x21_1000), (0x21_1000, None)):
        ram.write(first, ram.read(KERNEL, PAGE))
        ram.write(first + PAGE, ram.read(USER, PAGE))
        memory = Segments([(0, ram.bytes)])
        assert other == find_user_root(memory, replace(CONTEXT, cr3=first))


def test_a_root_at_the_end_of_memory_has_no_other(ram):
    ram.write(RAM - 2 * PAGE, ram.read(KERNEL, PAGE))
    assert None is find_user_root(
        Segments([(0, ram.bytes[:-PAGE])]), replace(CONTEXT, cr3=RAM - 2 * PAGE)
    )
