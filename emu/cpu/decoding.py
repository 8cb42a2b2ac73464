"""The instruction that a CPU is at, decoded."""

import functools

import capstone
from capstone import x86_const as instructions

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.events import NotEmulated

__all__ = ["decoder", "instruction_at", "length_of_store", "register_number"]

_LONGEST = 15
_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}


def decoder(bits: int) -> capstone.Cs:
    """Return a decoder of code of this size, with operands."""
    found = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])
    found.detail = True
    return found


def instruction_at(cpu: Cpu) -> capstone.CsInsn:
    """Return the instruction at RIP of a CPU whose state is loaded; its address counts from 0.

    Raises `NotEmulated` where the CPU can't read it, or it isn't known.
    """
    return _decoded(cpu.code_ahead(_LONGEST), cpu.bits)


def length_of_store(cpu: Cpu, size: int) -> int:
    """Return the length of the instruction at RIP if all that it does is to store `size` bytes.

    0 for others, and where the CPU, whose state is loaded, can't read it, or it isn't known.
    """
    try:
        found = instruction_at(cpu)
    except NotEmulated:
        return 0
    if found.id != instructions.X86_INS_MOV:
        return 0
    to = found.operands[0]
    stored = to.type == instructions.X86_OP_MEM and int(to.size) == size
    return int(found.size) if stored else 0


@functools.lru_cache(maxsize=256)
def _decoded(code: bytes, bits: int) -> capstone.CsInsn:
    found = next(decoder(bits).disasm(code, 0, 1), None)
    if found is None:
        shown = code.hex(" ") or "that it can't read"
        raise NotEmulated(f"an instruction that the host has to do, {shown}")
    return found


def register_number(name: str) -> int | None:
    """Return the number of a general register by its name in any size but 8 bits; None for others.

    The number is that in `GENERAL`.
    """
    bare = name.removesuffix("d").removesuffix("w") if name[1:2].isdigit() else name[-2:]
    wide = bare if bare[1:2].isdigit() else f"r{bare}"
    return GENERAL.index(wide) if wide in GENERAL else None
