"""Where the instruction that the CPU is at stores to: asked when it has faulted."""

import capstone
from capstone import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu

__all__ = ["LONGEST_INSTRUCTION", "store_addresses"]

LONGEST_INSTRUCTION = 15

_TOP = (1 << 64) - 1
_WITH_BASES = (x86.X86_REG_FS, x86.X86_REG_GS)
_DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DECODER.detail = True
# A push or a call stores below RSP, and no operand of it says so.
_PUSHES = (x86.X86_INS_PUSH, x86.X86_INS_CALL, x86.X86_INS_PUSHFQ)


def store_addresses(cpu: Cpu, code: bytes) -> tuple[int, int] | None:
    """Return the first and the last byte's address that the instruction stores to.

    `code` are the bytes at RIP. None where it stores nothing, or isn't understood; of a string
    instruction that is repeated, the store that is due.
    """
    for instruction in _DECODER.disasm(code, cpu.rip, 1):
        for operand in instruction.operands:
            if operand.type != x86.X86_OP_MEM or not operand.access & capstone.CS_AC_WRITE:
                continue
            memory = operand.mem
            address = memory.disp + _register(cpu, instruction, memory.base)
            address += memory.scale * _register(cpu, instruction, memory.index)
            if memory.segment in _WITH_BASES:
                address += cpu.segment(instruction.reg_name(memory.segment)).base
            return address & _TOP, address + operand.size - 1 & _TOP
        if instruction.id in _PUSHES:
            return cpu.rsp - 8 & _TOP, cpu.rsp - 1 & _TOP
    return None


def _register(cpu: Cpu, instruction: capstone.CsInsn, number: int) -> int:
    if number == x86.X86_REG_INVALID:
        return 0
    if number == x86.X86_REG_RIP:
        return int(instruction.address + instruction.size)
    name = instruction.reg_name(number)
    if name in GENERAL:
        return cpu.general(GENERAL.index(name))
    return cpu.general(GENERAL.index("r" + name[1:])) & 0xFFFF_FFFF  # EDI of RDI.
