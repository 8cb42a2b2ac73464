"""What memory the instruction that a CPU is at reaches, by linear addresses."""

from collections.abc import Iterator

import capstone
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.decoding import decoder, register_number
from crosswalk.emu.cpu.svm.nested_walk import Access

__all__ = ["accesses"]

_PUSHES = {
    operands.X86_INS_PUSH,
    operands.X86_INS_CALL,
    operands.X86_INS_PUSHF,
    operands.X86_INS_PUSHFD,
    operands.X86_INS_PUSHFQ,
    operands.X86_INS_ENTER,
}
_RSP, _WORD = GENERAL.index("rsp"), 8
_WRITTEN = 2  # CS_AC_WRITE


def accesses(cpu: Cpu, code: bytes) -> Iterator[tuple[int, Access]]:
    """Yield what the instruction at RIP, `code`, reaches: its own bytes, operands, the stack.

    The first and the last byte of each. The state of `cpu` is loaded.
    """
    bits = cpu.bits
    for offset in (0, len(code) - 1 if code else 0):
        yield cpu.linear(cpu.rip + offset), Access.FETCH
    found = next(decoder(bits).disasm(code, cpu.rip, 1), None)
    if found is None:
        return
    for operand in found.operands:
        if operand.type == operands.X86_OP_MEM:
            first = _address(cpu, found, operand.mem, bits)
            if first is None:
                continue
            access = Access.WRITE if operand.access & _WRITTEN else Access.READ
            for at in (first, first + operand.size - 1):
                yield _cut(at, bits), access
    top = cpu.general(_RSP) + (0 if bits == 64 else cpu.segment("ss").base)
    if found.id in _PUSHES:
        yield _cut(top - _WORD, bits), Access.WRITE
        yield _cut(top - 1, bits), Access.WRITE
    else:
        yield _cut(top, bits), Access.READ


def _cut(address: int, bits: int) -> int:
    return address & (1 << 64 if bits == 64 else 1 << 32) - 1


def _address(cpu: Cpu, found: capstone.CsInsn, memory: operands, bits: int) -> int | None:
    """Return the linear address of an operand; None for one by vectors, of which there are many."""
    total = int(memory.disp)
    for number, scale in ((memory.base, 1), (memory.index, memory.scale)):
        name = found.reg_name(number) if number else "riz"
        if name in {"rip", "eip"}:
            total += cpu.rip + int(found.size)
        elif name not in {"riz", "eiz"}:
            register = register_number(name)
            if register is None:
                return None
            total += scale * cpu.general(register)
    total &= (1 << 8 * int(found.addr_size)) - 1
    segment = found.reg_name(memory.segment) if memory.segment else _default(found, memory)
    if bits == 64 and segment not in {"fs", "gs"}:
        return total
    return total + cpu.segment(segment).base


def _default(found: capstone.CsInsn, memory: operands) -> str:
    base = found.reg_name(memory.base) if memory.base else ""
    return "ss" if base in {"rsp", "esp", "sp", "rbp", "ebp", "bp"} else "ds"
