"""The host's looks at memory that the CPU can't reach change nothing that the guest could see."""

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.pc.results import Stop
from tests.emu.cpu.machine import READ_ONLY, UNMAPPED, Bare

CR2 = 0x1234


@pytest.fixture
def bare():
    bare = Bare()
    bare.engine.reg_write(x86.UC_X86_REG_CR2, CR2)
    bare.cpu.load()
    return bare


def cr2(bare):
    return bare.engine.reg_read(x86.UC_X86_REG_CR2)


LOOKS = {
    "read": lambda cpu: cpu.read(UNMAPPED, 8),
    "read over the end of a page": lambda cpu: cpu.read(UNMAPPED - 4, 8),
    "write": lambda cpu: cpu.write(UNMAPPED, bytes(8)),
    "write over the end of a page": lambda cpu: cpu.write(UNMAPPED - 4, bytes(8)),
    "write to a page that may be read": lambda cpu: cpu.write(READ_ONLY, bytes(8)),
    "push": lambda cpu: cpu.push(UNMAPPED, bytes(8), UNMAPPED),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_that_fails_leaves_cr2_alone(bare, look):
    refused = {"read": None, "writ": UNMAPPED, "push": False}[look[:4]]
    refused = READ_ONLY if look == "write to a page that may be read" else refused
    assert refused == LOOKS[look](bare.cpu)
    assert CR2 == cr2(bare)


def test_a_stop_right_behind_a_page_that_is_not_mapped_leaves_cr2_alone(bare):
    # There the machine looks whether the byte before RIP is a HLT's.
    bare.machine.on_console = bare.machine.stop
    ended = bare.start(f"mov dx, 0x3f8\nmov ebx, {READ_ONLY}\nout dx, al\njmp rbx")
    assert (Stop.ASKED, READ_ONLY, UNMAPPED) == (ended.stop, bare.cpu.rip, READ_ONLY - 0x1000)
    assert CR2 == cr2(bare)
