"""What memory an instruction reaches, by its bytes and the registers."""

import pytest

from crosswalk.emu.cpu.svm.memory_operands import accesses
from crosswalk.emu.cpu.svm.nested_walk import Access
from tests.emu.cpu.machine import STACK, Bare

RIP = 0xA000
READ, WRITE, FETCH = Access.READ, Access.WRITE, Access.FETCH


@pytest.fixture(scope="module")
def cpu():
    bare = Bare()
    bare.start("hlt", rax=0x1000, rcx=0xFFFF_FFFF_0000_0010, r10=0x20)
    with bare.cpu.changed():
        bare.cpu.rip, bare.cpu.rsp = RIP, STACK
    return bare.cpu


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("488b440810", [(0xFFFF_FFFF_0000_1020, READ), (0xFFFF_FFFF_0000_1027, READ)]),
        ("67890408", [(0x1010, WRITE), (0x1013, WRITE)]),  # A 32-bit address wraps.
        ("428a0490", [(0x1080, READ), (0x1080, READ)]),
        ("67428a0490", [(0x1080, READ), (0x1080, READ)]),
        ("8b0506000000", [(RIP + 12, READ), (RIP + 15, READ)]),
        ("c4e269900c18", []),  # VPGATHERDD: by a vector.
    ],
)
def test_an_operand_is_reached_from_its_first_byte_to_its_last(cpu, code, expected):
    content = bytes.fromhex(code)
    last = RIP + len(content) - 1
    assert [(RIP, FETCH), (last, FETCH), *expected, (STACK, READ)] == list(accesses(cpu, content))


def test_a_push_writes_below_the_stack_pointer(cpu):
    assert [(STACK - 8, WRITE), (STACK - 1, WRITE)] == list(accesses(cpu, b"\x50"))[2:]
