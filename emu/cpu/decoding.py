"""The instruction that a CPU is at, decoded."""

import functools

import capstone

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.events import NotEmulated

__all__ = ["decoder", "instruction_at", "register_number"]

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
