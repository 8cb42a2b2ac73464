import numpy as np
import pytest
from capstone import CS_ARCH_X86, CS_MODE_32, Cs
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.probe.legacy.page_marker import byte_of, decode, signature, signatures

SLOTS = st.integers(0, (1 << 40) - 1).map(lambda pa: pa & ~15)
PA = 0xFF_1234_5670


def content(slot):
    low, high = signature(slot)
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def test_executed_it_returns_its_frame():
    disassembler = Cs(CS_ARCH_X86, CS_MODE_32)
    first, second = list(disassembler.disasm(content(PA), 0, count=2))
    assert ("mov", f"eax, {PA >> 12:#x}") == (first.mnemonic, first.op_str)
    assert ("jmp", "ebp") == (second.mnemonic, second.op_str)


@given(slot=SLOTS, at=st.integers(0, 15), stored=st.integers(0, 255))
def test_a_store_of_any_byte_leaves_the_address(slot, at, stored):
    whole = content(slot)
    changed = whole[:at] + bytes([stored]) + whole[at + 1 :]
    low, high = (int.from_bytes(changed[part : part + 8], "little") for part in (0, 8))
    assert slot | at == decode(low, high, va=0xABC000 | at, stored=stored)
    assert slot | at == decode(*signature(slot), va=at)


@pytest.mark.parametrize("bit", range(128))
def test_any_other_bit_that_differs_makes_it_none(bit):
    whole = int.from_bytes(content(PA), "little") ^ 1 << bit
    low, high = whole & (1 << 64) - 1, whole >> 64
    assert None is decode(low, high, va=5)
    stored = content(PA)[0] ^ 0xFF
    assert None is decode(*signature(PA), va=0, stored=stored)


@given(slots=st.lists(SLOTS, min_size=1))
def test_many_are_those_of_each_on_its_own(slots):
    low, high = signatures(np.array(slots, np.uint64))
    assert [signature(slot) for slot in slots] == list(
        zip(low.tolist(), high.tolist(), strict=True)
    )
    for at in range(16):
        found = byte_of(np.array(slots, np.uint64) | np.uint64(at)).tolist()
        assert [content(slot)[at] for slot in slots] == found
