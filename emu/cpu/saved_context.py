"""Where a saved context has what Unicorn's API can't change, found by experiment.

Delivering an exception means to change CPL, CS and SS without what a load of CS would check, and
to make the CPU forget that it has raised an exception: Unicorn would take the next one for a
double fault. All of it lies in a saved context's bytes. Where, depends on the build: known
values and exceptions with known answers tell.
"""

import functools
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import open_engine
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.registers import register_offsets
from crosswalk.walker.errors import CrosswalkError

__all__ = ["SEGMENT_SIZE", "Places", "find_places"]

SEGMENT_SIZE = 24
"""Bytes of a segment in a saved context: selector, padding, base (8), limit, flags."""

_ROOT, _GDT, _CODE, _STACK, _USER, _UNMAPPED = 0x1000, 0x5000, 0x6000, 0x8000, 0x9000, 0xA000
_SUPERVISOR_PAGE = _CODE
_TO_USER = "6a1b 6800800000 6a02 6a13 6800900000 48cf"  # push SS RSP RFLAGS CS RIP; iretq
_LOAD, _STORE, _JUMP, _INT = "8a03", "8803", "ffe3", "cd80"  # via RBX; INT 0x80
_WRPKRU = "0f01ef"
_KEYS = (0x1234_5678, 0x0BAD_C0DC)
_PAGE_FAULT = 14
# The user's code, the address in RBX, and the error code that follows.
_FAULTS = (
    (_LOAD, _UNMAPPED, 0x04),
    (_STORE, _UNMAPPED, 0x06),
    (_STORE, _SUPERVISOR_PAGE, 0x07),
    (_JUMP, _UNMAPPED, 0x14),
    (_LOAD, _SUPERVISOR_PAGE, 0x05),
)
_FS_BASE, _GS_BASE, _TR_BASE = 0x1E55_0000_0001, 0x1E55_0000_0002, 0x1E55_0000_0003


@dataclass(frozen=True, slots=True)
class Places:
    """Offsets in bytes into a saved context.

    `general` are 16 8-byte registers in the order of their encoding; `segments` are ES, CS, SS,
    DS, FS, GS, LDT, TR, GDT and IDT, each of `SEGMENT_SIZE` bytes; `mode` is a 4-byte word with
    the CPL in its low two bits; `error_code`, `software` (1 after INT n and INT3) and `vector`
    (the last exception, -1 if none), of 4 bytes each, describe the exception raised. `pkru` has
    4 bytes.
    """

    size: int
    general: int
    rip: int
    cr2: int
    mode: int
    segments: int
    error_code: int
    software: int
    vector: int
    pkru: int


@functools.cache
def find_places() -> Places:
    """Return where this build of Unicorn has what; `CrosswalkError` if it can't be found."""
    segments = _segments()
    faults = [_provoke(code, va, _PAGE_FAULT) for code, va, _ in _FAULTS]
    codes = [code for *_, code in _FAULTS]
    interrupt = _provoke(_INT, 0, 0x80)
    clean = bytes(open_engine().context_save())
    error_code = _only(
        "error code",
        (at for at in _words(clean) if [_at(each, at) for each in faults] == codes),
    )
    vector = _only(
        "last exception",
        (
            at
            for at in _words(clean)
            if {_at(each, at) for each in faults} == {_PAGE_FAULT} and _at(clean, at) == 0xFFFF_FFFF
        ),
    )
    software, mode = error_code + 4, segments - 8
    if [_at(each, software) for each in (*faults, interrupt)] != [0] * len(faults) + [1]:
        raise CrosswalkError("a saved context of this Unicorn doesn't tell INT from a fault")
    if _at(clean, mode) & 3 != 0 or any(_at(each, mode) & 3 != 3 for each in faults):
        raise CrosswalkError("a saved context of this Unicorn doesn't show the CPL")
    registers = register_offsets()
    return Places(
        size=len(clean),
        general=registers["rax"],
        rip=registers["rip"],
        cr2=registers["cr2"],
        mode=mode,
        segments=segments,
        error_code=error_code,
        software=software,
        vector=vector,
        pkru=_pkru(),
    )


def _pkru() -> int:
    places: set[int] | None = None
    for value in _KEYS:
        ram = _world(_WRPKRU)  # The engine doesn't keep it alive.
        engine = open_engine(ram)
        _long_mode(engine, cr4=0x40_0020)
        for register, content in (("RAX", value), ("RCX", 0), ("RDX", 0)):
            engine.reg_write(getattr(x86, f"UC_X86_REG_{register}"), content)
        engine.emu_start(_CODE, _CODE + len(bytes.fromhex(_WRPKRU)))
        engine.reg_write(x86.UC_X86_REG_RAX, 0)  # It holds the same value.
        saved = bytes(engine.context_save())
        here = {at for at in _words(saved) if _at(saved, at) == value}
        places = here if places is None else places & here
    return _only("PKRU", places or ())


def _segments() -> int:
    engine = open_engine()
    engine.reg_write(x86.UC_X86_REG_FS_BASE, _FS_BASE)
    engine.reg_write(x86.UC_X86_REG_GS_BASE, _GS_BASE)
    engine.reg_write(x86.UC_X86_REG_TR, (0x28, _TR_BASE, 0x67, 0x8B00))
    saved = bytes(engine.context_save())
    found = [
        saved.index(struct.pack("<Q", base)) - 8 - number * SEGMENT_SIZE
        for number, base in ((4, _FS_BASE), (5, _GS_BASE), (7, _TR_BASE))
        if saved.count(struct.pack("<Q", base)) == 1
    ]
    if len(found) != 3:
        raise CrosswalkError("a saved context of this Unicorn doesn't show the segments")
    return _only("segments", set(found))


def _provoke(code: str, va: int, vector: int) -> bytes:
    """Return the saved context after `code` raised exception `vector` at CPL 3, RBX being `va`."""
    ram = _world(_TO_USER)
    ram.write(_USER, bytes.fromhex(code))
    engine = open_engine(ram)
    _long_mode(engine, cr4=0x20)
    engine.reg_write(x86.UC_X86_REG_GDTR, (0, _GDT, 0x1F, 0))
    engine.reg_write(x86.UC_X86_REG_RSP, _STACK)
    engine.reg_write(x86.UC_X86_REG_RBX, va)
    raised: list[tuple[int, bytes]] = []

    def note(uc: unicorn.Uc, number: int, _data: object) -> None:
        raised.append((number, bytes(uc.context_save())))
        uc.emu_stop()

    engine.hook_add(unicorn.UC_HOOK_INTR, note)
    engine.emu_start(_CODE, 0, count=16)
    if [number for number, _ in raised] != [vector]:
        raise CrosswalkError(f"no exception where vector {vector} was due: {raised}")
    return raised[0][1]


def _world(code: str) -> Ram:
    """Return RAM with tables, descriptors for both privilege levels, and the supervisor's code."""
    ram = Ram(0, 0x10000)
    for level in range(3):
        ram.words[(_ROOT + 0x1000 * level) // 8] = _ROOT + 0x1000 * (level + 1) | 7
    table = (_ROOT + 0x3000) // 8
    for page, flags in ((_GDT, 3), (_CODE, 3), (_STACK - 0x1000, 7), (_USER, 7)):
        ram.words[table + page // 0x1000] = page | flags
    for number, descriptor in enumerate(
        (0x00AF_9B00_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF), 1
    ):
        ram.words[_GDT // 8 + number] = descriptor
    ram.write(_CODE, bytes.fromhex(code))
    return ram


def _long_mode(engine: unicorn.Uc, *, cr4: int) -> None:
    engine.reg_write(x86.UC_X86_REG_CR4, cr4)
    engine.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD00))
    engine.reg_write(x86.UC_X86_REG_CR0, 0x8001_0033)
    engine.reg_write(x86.UC_X86_REG_CR3, _ROOT)


def _words(saved: bytes) -> range:
    return range(0, len(saved) - 3, 4)


def _at(saved: bytes, at: int) -> int:
    return int.from_bytes(saved[at : at + 4], "little")


def _only(name: str, places: Iterable[int]) -> int:
    found = sorted(places)
    if len(found) != 1:
        raise CrosswalkError(f"{name} found at {len(found)} places of a saved context, not at 1")
    return found[0]
