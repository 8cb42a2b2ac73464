import numpy as np
import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, CS_MODE_64, Cs
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.probe.page_marker import SLOT, byte_of, decode, marker, markers
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from tests.tables import ROOT, PageTables, context

PA = 0xFF_1234_5670
ANY_SLOT = st.integers(0, (1 << 44) - 1).map(lambda pa: pa & ~15)
SLOTS = (0, 0x10, 0x8FF0, 0xFF_FFFF_FFF0, (1 << 44) - SLOT)


def content(slot):
    low, high = marker(slot)
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def stored_at(words, at, value):
    content = bytearray(b"".join(word.to_bytes(8, "little") for word in words))
    content[at] = value
    return int.from_bytes(content[:8], "little"), int.from_bytes(content[8:], "little")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_marker_is_an_instruction_that_names_its_own_place(slot):
    frame = (slot >> 12).to_bytes(4, "little")
    assert b"\xb8" + frame + b"\xff\xe5" == content(slot)[:7]


@pytest.mark.parametrize(("mode", "jump"), [(CS_MODE_32, "ebp"), (CS_MODE_64, "rbp")])
def test_executed_it_returns_its_frame_whatever_the_width_of_the_code(mode, jump):
    first, second = list(Cs(CS_ARCH_X86, mode).disasm(content(PA), 0, count=2))
    assert ("mov", f"eax, {PA >> 12:#x}") == (first.mnemonic, first.op_str)
    assert ("jmp", jump) == (second.mnemonic, second.op_str)


@pytest.mark.parametrize("at", range(SLOT))
@pytest.mark.parametrize("slot", SLOTS)
def test_what_is_read_through_any_byte_of_a_slot_names_that_byte(slot, at):
    va = 0x7000_0000 | slot & 0xFF0 | at
    assert slot | at == decode(*marker(slot), va=va)


@pytest.mark.parametrize("at", range(SLOT))
@pytest.mark.parametrize("slot", SLOTS)
def test_a_byte_that_was_inverted_hides_nothing_and_has_to_be_seen(slot, at):
    va = 0x7000_0000 | slot & 0xFF0 | at
    before = b"".join(word.to_bytes(8, "little") for word in marker(slot))[at]
    words = stored_at(marker(slot), at, before ^ 0xFF)
    assert slot | at == decode(*words, va=va, stored=before ^ 0xFF)
    assert None is decode(*words, va=va, stored=before)


@pytest.mark.parametrize("at", range(SLOT))
def test_one_changed_byte_is_no_marker(at):
    words = marker(0x1234_5670)
    before = b"".join(word.to_bytes(8, "little") for word in words)[at]
    assert None is decode(*stored_at(words, at, before ^ 0x41), va=0x670)


@pytest.mark.parametrize("words", [(0, 0), (2**64 - 1, 2**64 - 1), (0x8067, 0x9067)])
def test_what_is_no_marker_names_nothing(words):
    assert None is decode(*words, va=0x8000)
    assert None is decode(*words, va=0x8000, stored=0xA5)


def test_what_is_held_and_no_table_is_marked_where_accesses_may_reach_it():
    builder = PageTables().map(0x40_0000, 0x8000).map(0x40_1000, 0x9000_0000).map(0x40_2000, ROOT)
    workspace = Workspace(builder.memory, context())
    va = np.array([0x40_0008, 0x40_1000, 0x40_2000, 0x80_0000], np.uint64)
    targets = workspace.targets(Accesses.of(Access(each, AccessType.READ) for each in va.tolist()))
    assert [True, False, True, False] == targets.held.tolist()
    assert [True, False, False, False] == targets.marked.tolist()
    assert marker(0x8000) == (workspace.space.view[0x1000], workspace.space.view[0x1001])
    assert workspace.is_marked(0x8000)
    assert not any(map(workspace.is_marked, (0x8010, 0x8008, ROOT, 0x9000_0000)))


@given(slot=ANY_SLOT, at=st.integers(0, 15), stored=st.integers(0, 255))
def test_a_store_of_any_byte_leaves_the_address(slot, at, stored):
    whole = content(slot)
    changed = whole[:at] + bytes([stored]) + whole[at + 1 :]
    low, high = (int.from_bytes(changed[part : part + 8], "little") for part in (0, 8))
    assert slot | at == decode(low, high, va=0xABC000 | at, stored=stored)
    assert slot | at == decode(*marker(slot), va=at)


@pytest.mark.parametrize("bit", range(128))
def test_any_other_bit_that_differs_makes_it_none(bit):
    whole = int.from_bytes(content(PA), "little") ^ 1 << bit
    low, high = whole & (1 << 64) - 1, whole >> 64
    assert None is decode(low, high, va=5)
    stored = content(PA)[0] ^ 0xFF
    assert None is decode(*marker(PA), va=0, stored=stored)


@given(slots=st.lists(ANY_SLOT, min_size=1))
def test_many_are_those_of_each_on_its_own(slots):
    low, high = markers(np.array(slots, np.uint64))
    assert [marker(slot) for slot in slots] == list(zip(low.tolist(), high.tolist(), strict=True))
    for at in range(16):
        found = byte_of(np.array(slots, np.uint64) | np.uint64(at)).tolist()
        assert [content(slot)[at] for slot in slots] == found
