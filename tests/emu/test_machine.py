import numpy as np
import pytest
import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MAXPHYADDR, attach, open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.errors import BadInput

LOAD = bytes.fromhex("488b03")  # mov rax, [rbx]


def test_ram_is_the_same_memory_by_bytes_by_words_and_by_address():
    ram = Ram(0x10000, 0x2000)
    ram.write(0x10008, b"\x11\x22")
    assert 0x2211 == ram.words[1]
    assert 0x11 == ram.bytes[8]
    assert b"\x11\x22" == ram.read(0x10008, 2)
    assert 0 == ram.pointer % 4096
    ram.words[2] = 0x99
    assert b"\x99" == ram.read(0x10010, 1)


def test_ram_begins_as_zeros():
    assert 0 == np.count_nonzero(Ram(0, 0x4000).words)


@pytest.mark.parametrize(
    ("start", "size"), [(0, 0), (0, 100), (5, 4096), (-4096, 4096), (0, -4096)]
)
def test_ram_that_is_not_whole_pages_is_refused(start, size):
    with pytest.raises(BadInput, match="not made of whole pages"):
        Ram(start, size)


@pytest.mark.parametrize(
    ("pa", "size"), [(0x0, 1), (0xFFF, 2), (0x2000, 1), (0x1FFF, 2), (0x1000, -1)]
)
def test_bytes_outside_ram_are_refused(pa, size):
    ram = Ram(0x1000, 0x1000)
    with pytest.raises(BadInput, match="not all RAM"):
        ram.read(pa, size)


def test_writes_outside_ram_are_refused():
    with pytest.raises(BadInput, match="not all RAM"):
        Ram(0x1000, 0x1000).write(0x1FFF, b"ab")


def test_engines_share_ram_without_a_copy():
    ram = Ram(0x1000, 0x1000)
    first, second = open_engine(ram), open_engine(ram, bits=16)
    first.mem_write(0x1100, b"from a guest")
    assert b"from a guest" == ram.read(0x1100, 12)
    ram.write(0x1200, b"from the host")
    assert b"from the host" == bytes(second.mem_read(0x1200, 13))


def test_rams_that_overlap_are_refused():
    with pytest.raises(BadInput, match="no room for RAM of 0x2000 bytes at 0x0"):
        open_engine(Ram(0x1000, 0x1000), Ram(0, 0x2000))


def test_ram_can_be_attached_without_a_permission():
    ram = Ram(0x1000, 0x1000)
    engine = open_engine()
    attach(engine, ram, unicorn.UC_PROT_READ)
    with pytest.raises(unicorn.UcError):
        engine.emu_start(0x1000, 0x1001)


@pytest.mark.parametrize(("bit", "reserved"), [(MAXPHYADDR - 1, False), (MAXPHYADDR, True)])
def test_the_engine_has_as_many_address_bits_as_is_said(bit, reserved):
    ram = Ram(0, 0x8000)
    ram.words[0x1000 // 8] = 0x2003
    ram.words[0x2000 // 8] = 0x3003
    ram.words[0x3000 // 8] = 0x4003
    ram.words[0x4000 // 8 + 5] = 0x5003
    ram.words[0x4000 // 8 + 6] = 0x3 | 1 << bit
    ram.write(0x5000, LOAD)
    engine = open_engine(ram)
    engine.reg_write(x86.UC_X86_REG_CR4, 0x20)
    engine.msr_write(0xC0000080, 0xD00)
    engine.reg_write(x86.UC_X86_REG_CR0, 0x80010011)
    engine.reg_write(x86.UC_X86_REG_CR3, 0x1000)
    engine.reg_write(x86.UC_X86_REG_RBX, 0x6000)
    with pytest.raises(unicorn.UcError) as caught:
        engine.emu_start(0x5000, 0x5003)
    expected = unicorn.UC_ERR_EXCEPTION if reserved else unicorn.UC_ERR_READ_UNMAPPED
    assert expected == caught.value.errno
