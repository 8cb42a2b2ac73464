"""Where Unicorn keeps a fault's error code and vector: found by experiment, never assumed.

Neither is a register of Unicorn's; both lie in the bytes of a saved context. Where, depends on
the build: each process provokes faults that differ and looks where their answers turn up.
"""

import functools
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from unicorn import UC_ERR_EXCEPTION
from unicorn import x86_const as x86

from crosswalk.emu.cpu.registers import register_offsets
from crosswalk.emu.probe.control import CR4_PKE
from crosswalk.emu.probe.engine import Engine, Saved
from crosswalk.emu.probe.space import Space
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME

__all__ = ["CalibrationError", "Layout", "context_layout"]

PAGE_FAULT = 14
GENERAL_PROTECTION = 13

_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rip", "cr2")
_ROOT, _CODE, _UNMAPPED, _READ_ONLY, _RESERVED = 0x1000, 0x5000, 0x6000, 0x7000, 0x8000
_NOT_CANONICAL = 1 << 47
_LOAD, _STORE, _JUMP = b"\x8a\x03\xf4", b"\x88\x03\xf4", b"\xff\xe3\xf4"  # via RBX, then HLT
_WRPKRU = b"\x0f\x01\xef\xf4"  # …then HLT
_KEYS = (0x1234_5678, 0x0BAD_C0DE)
_ROOTS = (0x1E55_AB00_1018, 0x2B1D_CA00_3FFF)
# The code run, the address in RBX, the vector and the error code that an Intel CPU answers.
_FAULTS = (
    (_LOAD, _UNMAPPED, PAGE_FAULT, 0x00),
    (_STORE, _UNMAPPED, PAGE_FAULT, 0x02),
    (_STORE, _READ_ONLY, PAGE_FAULT, 0x03),
    (_LOAD, _RESERVED, PAGE_FAULT, 0x09),
    (_JUMP, _UNMAPPED, PAGE_FAULT, 0x10),
    (_LOAD, _NOT_CANONICAL, GENERAL_PROTECTION, 0x00),
)


class CalibrationError(CrosswalkError):
    """This build of Unicorn doesn't keep its state where, or as, it can be found."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes into a saved context: 8-byte registers, 4-byte error code, vector and PKRU.

    The vector is that of the exception last raised; -1 in a CPU that raised none.
    """

    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rbp: int
    rip: int
    cr2: int
    cr3: int
    error_code: int
    vector: int
    pkru: int


@functools.cache
def context_layout() -> Layout:
    """Return the layout of this process's Unicorn; `CalibrationError` if it can't be found."""
    engine = Engine()
    space = Space([(0, 16 * FRAME)])
    _build_tables(space)
    space.map_into(engine.uc, own=(0, 16 * FRAME), fetch=True)
    engine.control(cr0=0x8001_0033, cr3=_ROOT, cr4=0x20, efer=0xD00)
    clean, found = Saved(engine), Saved(engine)

    codes: set[int] | None = None
    vectors = set(_places(bytes(clean.bytes), struct.pack("<i", -1)))
    for code, va, vector, error_code in _FAULTS:
        space.bytes[_CODE : _CODE + len(code)] = code
        engine.uc.ctl_flush_tb()
        engine.restore(clean)
        engine.uc.reg_write(x86.UC_X86_REG_RBX, va)
        if engine.run(_CODE, _CODE + FRAME - 1) != UC_ERR_EXCEPTION:
            raise CalibrationError(f"no exception where vector {vector} was due")
        engine.save(found)
        content = bytes(found.bytes)
        if vector == PAGE_FAULT:
            here = set(_places(content, struct.pack("<I", error_code)))
            codes = here if codes is None else codes & here
        vectors &= set(_places(content, struct.pack("<i", vector)))
    offsets = register_offsets()
    return Layout(
        **{name: offsets[name] for name in _REGISTERS},
        cr3=_only("CR3", _places_of_cr3(engine, found)),
        error_code=_only("error code", codes or ()),
        vector=_only("vector", vectors),
        pkru=_only("PKRU", _places_of_pkru(engine, space, found)),
    )


def _places_of_cr3(engine: Engine, found: Saved) -> set[int]:
    places: set[int] | None = None
    for value in _ROOTS:
        engine.uc.reg_write(x86.UC_X86_REG_CR3, value)
        engine.save(found)
        here = {at for at in _places(bytes(found.bytes), struct.pack("<Q", value)) if at % 8 == 0}
        places = here if places is None else places & here
    engine.uc.reg_write(x86.UC_X86_REG_CR3, _ROOT)
    return places or set()


def _places_of_pkru(engine: Engine, space: Space, found: Saved) -> set[int]:
    space.bytes[_CODE : _CODE + len(_WRPKRU)] = _WRPKRU
    engine.uc.ctl_flush_tb()
    engine.control(cr0=0x8001_0033, cr3=_ROOT, cr4=0x20 | CR4_PKE, efer=0xD00)
    places: set[int] | None = None
    for value in _KEYS:
        for register, content in (("RAX", value), ("RCX", 0), ("RDX", 0)):
            engine.uc.reg_write(getattr(x86, f"UC_X86_REG_{register}"), content)
        if engine.run(_CODE, _CODE + len(_WRPKRU) - 1):
            raise CalibrationError("WRPKRU does not run")
        # RAX holds the same value until it is overwritten.
        engine.uc.reg_write(x86.UC_X86_REG_RAX, 0)
        engine.save(found)
        here = set(_places(bytes(found.bytes), struct.pack("<I", value)))
        places = here if places is None else places & here
    return places or set()


def _build_tables(space: Space) -> None:
    tables = space.words.reshape(-1, 512)
    for level in range(3):
        tables[1 + level, 0] = _ROOT + FRAME * (level + 1) | 0x67
    tables[4, _CODE // FRAME] = _CODE | 0x67
    tables[4, _READ_ONLY // FRAME] = _READ_ONLY | 0x65
    tables[4, _RESERVED // FRAME] = np.uint64(1 << 51 | _RESERVED | 0x67)


def _places(content: bytes, pattern: bytes) -> list[int]:
    return [
        at
        for at in range(0, len(content) - len(pattern) + 1, 4)
        if content[at : at + len(pattern)] == pattern
    ]


def _only(name: str, places: Iterable[int]) -> int:
    found = sorted(places)
    if len(found) != 1:
        raise CalibrationError(f"{name} found at {len(found)} places of a saved context, not at 1")
    return found[0]
