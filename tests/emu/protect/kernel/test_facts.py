"""Facts of a nested fault: where the instruction is, and whose code a fetch is of."""

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.protect.kernel.facts import GuestState, find_facts
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import grant
from crosswalk.walker.memory import Segments
from tests.tables import KIB4, OPEN, US, P, PageTables, context

RAM = 8 << 20
TEXT, RODATA, TARGET = 0x20_0000, 0x20_1000, 0x20_2000
USER, FIRST, SECOND = 0x40_0000, 0x30_0000, 0x30_1000
KERNEL = 0xFFFF_8000_0000_0000


@pytest.fixture
def facts():
    """Facts of an access, by where the instruction begins, of an image whose text is a page."""
    tables = PageTables(4, ram=((0, RAM),))
    tables.map(USER, FIRST, P | US, upper=OPEN).map(USER + KIB4, SECOND, P | US, upper=OPEN)
    for at, pa in enumerate((TEXT, RODATA, TARGET)):
        tables.map(KERNEL + at * KIB4, pa, P)
    ram = Ram(0, RAM)
    for pa, word in tables.words.items():
        ram.words[pa // 8] = word
    memory, paging = Segments([(0, ram.bytes)]), context(4, root=tables.root)
    rights = RightsFollower(memory, paging)
    own = rights.initial
    image = np.zeros(len(own), np.bool_)
    none = image.copy()
    image[TEXT // KIB4 : TARGET // KIB4 + 1] = True
    grants = grant(own, image, kept=none, tables=none)
    grants.text[RODATA // KIB4] = False

    def found(rip, frame, *, cpl=0, fetch=False):
        state = GuestState(general=(0,) * 16, rip=rip, cpl=cpl, rflags=2, context=paging)
        kind = {"write": not fetch, "fetch": fetch, "sealed": False}
        return find_facts(state, memory, grants, rights, frame // KIB4, **kind)

    return found


def test_an_instruction_is_in_text_only_where_text_is_sealed(facts):
    """Without NX read-only data can be executed, and is no text."""
    assert facts(KERNEL, TARGET).in_text
    assert not facts(KERNEL + KIB4, TARGET).in_text
    assert not facts(USER, TARGET).in_text
    assert not facts(KERNEL, TARGET, fetch=True).in_text


def test_a_fetch_is_of_the_frame_that_holds_some_of_the_instruction(facts):
    assert facts(USER, FIRST, cpl=3, fetch=True).user_code
    assert not facts(USER, SECOND, cpl=3, fetch=True).user_code
    # Its last bytes may be on the page behind.
    assert facts(USER + KIB4 - 2, SECOND, cpl=3, fetch=True).user_code
    assert not facts(USER + KIB4 - 15, SECOND, cpl=3, fetch=True).user_code
    assert not facts(KERNEL, TEXT, fetch=True).user_code
