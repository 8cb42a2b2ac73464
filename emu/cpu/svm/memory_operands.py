"""What memory the instruction that a CPU is at reaches, by linear addresses."""

from collections.abc import Iterator

import capstone
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.svm.nested_walk import Access
from crosswalk.emu.cpu.svm.watched_code import decoder

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
_NARROW = {
    name: number
    for number, names in enumerate(
        (
            ("eax", "ax", "al"),
            ("ecx", "cx", "cl"),
            ("edx", "dx", "dl"),
            ("ebx", "bx", "bl"),
            ("esp", "sp"),
            ("ebp", "bp"),
            ("esi", "si"),
            ("edi", "di"),
        )
    )
    for name in names
}


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


def _address(cpu: Cpu, found: capstone.CsInsn, memory: operands, bits: int) -> int:
    total = int(memory.disp)
    for number, scale in ((memory.base, 1), (memory.index, memory.scale)):
        if number:
            total += scale * _register(cpu, found, found.reg_name(number))
    total &= (1 << 8 * int(found.addr_size)) - 1
    segment = found.reg_name(memory.segment) if memory.segment else _default(found, memory)
    if bits == 64 and segment not in {"fs", "gs"}:
        return total
    return total + cpu.segment(segment).base


def _default(found: capstone.CsInsn, memory: operands) -> str:
    base = found.reg_name(memory.base) if memory.base else ""
    return "ss" if base in {"rsp", "esp", "sp", "rbp", "ebp", "bp"} else "ds"


def _register(cpu: Cpu, found: capstone.CsInsn, name: str) -> int:
    if name in {"rip", "eip"}:
        return cpu.rip + int(found.size)
    if name in {"riz", "eiz"}:
        return 0
    if name in GENERAL:
        return cpu.general(GENERAL.index(name))
    if name in _NARROW:
        value = cpu.general(_NARROW[name])
        return value & (0xFFFF_FFFF if name[0] == "e" else 0xFFFF)
    if name[:1] == "r" and name[-1:] == "d":  # r8d
        return cpu.general(int(name[1:-1])) & 0xFFFF_FFFF
    raise KeyError(name)
