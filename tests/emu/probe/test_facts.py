"""What the probe knows of Unicorn and works around: another version may differ, and shows here."""

import pytest
from unicorn import (
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_OK,
    UC_ERR_READ_UNMAPPED,
    UC_HOOK_MEM_READ,
)
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import Engine, SavedState
from crosswalk.emu.cpu.state_layout import state_layout
from crosswalk.emu.probe.space import Space
from crosswalk.walker.memory import FRAME

CODE, DATA, HOLE, AWAY, TABLELESS = 0x5000, 0x6000, 0x7000, 0x8000, 0x20_0000
LOAD, STORE = b"\x8a\x03\xf4", b"\x88\x03\xf4"  # mov al, [rbx] or back; hlt
LEAF = 0x4000


class World:
    """An engine with a small table: code, a page, a hole, a page and a table without RAM."""

    def __init__(self, *, fetch=True):
        self.engine, self.space = Engine(), Space([(0, 16 * FRAME)])
        words = self.space.words
        for table in (0x1000, 0x2000, 0x3000):
            words[table // 8] = table + FRAME | 0x67
        words[0x3008 // 8] = 0x8000_0067
        for va in (CODE, DATA):
            words[(LEAF + 8 * (va >> 12)) // 8] = va | 0x67
        words[(LEAF + 8 * (AWAY >> 12)) // 8] = 0x8000_0067
        self.space.map_into(self.engine.uc, own=(0, 0), fetch=fetch)
        self.engine.control(cr0=0x8001_0033, cr3=0x1000, cr4=0x20, efer=0xD00)
        self.clean, self.after = SavedState(self.engine.uc), SavedState(self.engine.uc)
        self.layout = state_layout()

    def run(self, code, va):
        self.space.bytes[CODE : CODE + len(code)] = code
        self.engine.uc.ctl_flush_tb()
        self.engine.uc.reg_write(x86.UC_X86_REG_RBX, va)
        error = self.engine.run(CODE, CODE + 2)
        self.engine.save(self.after)
        return error

    @property
    def vector(self):
        return self.after.longs[self.layout.vector]

    @property
    def error_code(self):
        return self.after.longs[self.layout.error_code]


@pytest.fixture
def world():
    return World()


def test_a_first_fault_is_reported_with_vector_and_error_code(world):
    assert (UC_ERR_EXCEPTION, 14, 0) == (world.run(LOAD, HOLE), world.vector, world.error_code)
    world.engine.restore(world.clean)
    assert (UC_ERR_EXCEPTION, 14, 2) == (world.run(STORE, HOLE), world.vector, world.error_code)


def test_without_a_restored_state_the_second_fault_lies_and_the_third_is_silent(world):
    world.run(LOAD, HOLE)
    assert (UC_ERR_EXCEPTION, 8) == (world.run(LOAD, HOLE), world.vector)
    assert UC_ERR_OK == world.run(LOAD, HOLE)


def test_a_restored_state_makes_every_fault_the_first(world):
    for _ in range(100):
        world.engine.restore(world.clean)
        assert (UC_ERR_EXCEPTION, 14) == (world.run(LOAD, HOLE), world.vector)


def test_the_tlb_outlives_a_host_write_and_a_restored_state_but_no_flush(world):
    leaf = (LEAF + 8 * (DATA >> 12)) // 8
    assert UC_ERR_OK == world.run(LOAD, DATA)
    world.space.words[leaf] = 0
    world.engine.restore(world.clean)
    assert UC_ERR_OK == world.run(LOAD, DATA)
    world.engine.restore(world.clean)
    world.engine.flush_tlb()
    assert UC_ERR_EXCEPTION == world.run(LOAD, DATA)


def test_through_a_filled_tlb_no_bits_are_set(world):
    leaf = (LEAF + 8 * (DATA >> 12)) // 8
    for flush, expected in ((False, 0x47), (True, 0x67)):
        world.run(LOAD, DATA)
        world.space.words[leaf] = DATA | 0x47
        if flush:
            world.engine.flush_tlb()
        world.run(LOAD, DATA)
        assert DATA | expected == int(world.space.words[leaf])


def test_a_page_without_ram_and_a_table_without_ram_fail_in_different_ways(world):
    assert UC_ERR_READ_UNMAPPED == world.run(LOAD, AWAY)
    assert (UC_ERR_EXCEPTION, 14, 0) == (
        world.run(LOAD, TABLELESS),
        world.vector,
        world.error_code,
    )


def test_hooks_see_physical_addresses(world):
    world.space.words[(LEAF + 8 * (DATA >> 12)) // 8] = 0x9000 | 0x67
    seen = []
    world.engine.uc.hook_add(
        UC_HOOK_MEM_READ, lambda _uc, _event, at, _size, _value, _data: seen.append(at)
    )
    world.run(LOAD, DATA + 0x123)
    assert [0x9123] == seen


def test_a_fetch_from_ram_that_may_not_be_executed_stops_behind_the_translation():
    world = World(fetch=False)
    leaf = (LEAF + 8 * (CODE >> 12)) // 8
    world.space.words[leaf] = CODE | 0x47
    assert UC_ERR_FETCH_PROT == world.run(LOAD, DATA)
    assert CODE | 0x67 == int(world.space.words[leaf])


def test_cs_written_through_the_api_leaves_the_privilege_as_it_was(world):
    world.space.words[(LEAF + 8 * (DATA >> 12)) // 8] = DATA | 0x63
    world.engine.uc.reg_write(x86.UC_X86_REG_CS, 0x23)
    assert UC_ERR_OK == world.run(LOAD, DATA)


@pytest.mark.parametrize(("bit", "reserved"), [(39, False), (40, True), (51, True)])
def test_the_engine_has_40_physical_address_bits(world, bit, reserved):
    world.space.words[(LEAF + 8 * (DATA >> 12)) // 8] = 1 << bit | 0x67
    error = world.run(LOAD, DATA)
    assert (UC_ERR_EXCEPTION if reserved else UC_ERR_READ_UNMAPPED) == error
    if reserved:
        assert 9 == world.error_code
