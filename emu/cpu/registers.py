"""64-bit registers of an engine that was opened for 16-bit code.

There the API reads the upper half of a register as 0, or all of it, for ever. But a saved context
holds the processor's state as Unicorn keeps it, so a register can be read there once it is known
where: known values, written by the API beforehand, tell.
"""

import struct
from functools import cache

import unicorn
from unicorn import x86_const

from crosswalk.emu.cpu.engine import open_engine
from crosswalk.walker.errors import CrosswalkError

__all__ = ["read_registers", "register_offsets"]

# The general registers lie in the order of their encoding, and the instruction pointer follows.
NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    "rip",
)
GENERAL = struct.Struct(f"<{len(NAMES)}Q")
CR2 = struct.Struct("<Q")

KNOWN = {
    x86_const.UC_X86_REG_EAX: 0x1E55_AA00,
    x86_const.UC_X86_REG_ECX: 0x1E55_AA01,
    x86_const.UC_X86_REG_EDX: 0x1E55_AA02,
    x86_const.UC_X86_REG_EBX: 0x1E55_AA03,
    x86_const.UC_X86_REG_ESP: 0x1E55_AA04,
    x86_const.UC_X86_REG_EBP: 0x1E55_AA05,
    x86_const.UC_X86_REG_ESI: 0x1E55_AA06,
    x86_const.UC_X86_REG_EDI: 0x1E55_AA07,
    x86_const.UC_X86_REG_EIP: 0x1E55_AA08,
    x86_const.UC_X86_REG_CR2: 0x1E55_AA09,
}


def register_offsets() -> dict[str, int]:
    """Return where a saved context's bytes have each register, by lower-case name.

    The general registers, RIP and CR2: 8 bytes each, at multiples of 8.

    Raises `CrosswalkError` if this build of Unicorn keeps them some other way.
    """
    general, cr2 = _offsets()
    return {name: general + 8 * number for number, name in enumerate(NAMES)} | {"cr2": cr2}


def read_registers(engine: unicorn.Uc) -> dict[str, int]:
    """Return the general registers, RIP and CR2, by lower-case name and in full width.

    Raises `CrosswalkError` if this build of Unicorn keeps them some other way.
    """
    saved = bytes(engine.context_save())
    general, cr2 = _offsets()
    values = dict(zip(NAMES, GENERAL.unpack_from(saved, general), strict=True))
    (values["cr2"],) = CR2.unpack_from(saved, cr2)
    return values


@cache
def _offsets() -> tuple[int, int]:
    """Return where the general registers and where CR2 begin in a saved context's bytes."""
    engine = open_engine(bits=16)
    for register, value in KNOWN.items():
        engine.reg_write(register, value)
    *low, rip, cr2 = KNOWN.values()
    saved = bytes(engine.context_save())
    general = GENERAL.pack(*low, *[0] * 8, rip)
    control = CR2.pack(cr2)
    if saved.count(general) != 1 or saved.count(control) != 1:
        raise CrosswalkError("a saved context of this Unicorn doesn't show the registers")
    return saved.index(general), saved.index(control)
