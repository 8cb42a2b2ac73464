import numpy as np
import pytest

from crosswalk.emu.probe.page_marker import SLOT, decode, signature, signatures
from crosswalk.emu.probe.workspace import Ground
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from tests.tables import ROOT, PageTables, context

SLOTS = (0, 0x10, 0x8FF0, 0xFF_FFFF_FFF0, (1 << 44) - SLOT)


def stored_at(words, at, value):
    content = bytearray(b"".join(word.to_bytes(8, "little") for word in words))
    content[at] = value
    return int.from_bytes(content[:8], "little"), int.from_bytes(content[8:], "little")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_signature_is_an_instruction_that_names_its_own_place(slot):
    content = b"".join(word.to_bytes(8, "little") for word in signature(slot))
    assert b"\x48\xb8" + slot.to_bytes(8, "little") + b"\xff\xe5" == content[:12]


@pytest.mark.parametrize("at", range(SLOT))
@pytest.mark.parametrize("slot", SLOTS)
def test_what_is_read_through_any_byte_of_a_slot_names_that_byte(slot, at):
    va = 0x7000_0000 | slot & 0xFF0 | at
    assert slot | at == decode(*signature(slot), va=va)


@pytest.mark.parametrize("at", range(SLOT))
@pytest.mark.parametrize("slot", SLOTS)
def test_a_byte_that_was_inverted_hides_nothing_and_has_to_be_seen(slot, at):
    va = 0x7000_0000 | slot & 0xFF0 | at
    before = b"".join(word.to_bytes(8, "little") for word in signature(slot))[at]
    words = stored_at(signature(slot), at, before ^ 0xFF)
    assert slot | at == decode(*words, va=va, stored=before ^ 0xFF)
    assert None is decode(*words, va=va, stored=before)


@pytest.mark.parametrize("at", range(SLOT))
def test_one_changed_byte_is_no_signature(at):
    words = signature(0x1234_5670)
    before = b"".join(word.to_bytes(8, "little") for word in words)[at]
    assert None is decode(*stored_at(words, at, before ^ 0x41), va=0x670)


@pytest.mark.parametrize("words", [(0, 0), (2**64 - 1, 2**64 - 1), (0x8067, 0x9067)])
def test_what_is_no_signature_names_nothing(words):
    assert None is decode(*words, va=0x8000)
    assert None is decode(*words, va=0x8000, stored=0xA5)


def test_what_is_held_and_no_table_is_signed_where_accesses_may_reach_it():
    builder = PageTables().map(0x40_0000, 0x8000).map(0x40_1000, 0x9000_0000).map(0x40_2000, ROOT)
    ground = Ground(builder.memory, context())
    va = np.array([0x40_0008, 0x40_1000, 0x40_2000, 0x80_0000], np.uint64)
    sites = ground.sites(Accesses.of(Access(each, AccessType.READ) for each in va.tolist()))
    assert [True, False, True, False] == sites.held.tolist()
    assert [True, False, False, False] == sites.signed.tolist()
    assert signature(0x8000) == (ground.space.view[0x1000], ground.space.view[0x1001])
    assert ground.is_signed(0x8000)
    assert not any(map(ground.is_signed, (0x8010, 0x8008, ROOT, 0x9000_0000)))


def test_many_signatures_are_those_of_each():
    low, high = signatures(np.array(SLOTS, np.uint64))
    assert [signature(slot) for slot in SLOTS] == list(
        zip(low.tolist(), high.tolist(), strict=True)
    )
