"""The guest code that makes the accesses, one routine a type, for either privilege.

All state is in registers, so that no page of the probe's own is read or written while the
rights under test are in force: RBX the address, RCX its 16-byte slot, AL the byte to store,
RBP where a fetched signature jumps back to. A routine that completes leaves MARK in RDI and
ends at DONE.
"""

from crosswalk.guest.assembler import assemble
from crosswalk.walker.access import AccessType

__all__ = [
    "CODE",
    "CROSS",
    "DONE",
    "ENTER_USER",
    "IMPLICIT",
    "LANDED",
    "MARK",
    "REKEY",
    "RMW",
    "SKIP",
    "START",
]

MARK = 0x4B4F_5F58
_READ, _WRITE, _FETCH = 0x000, 0x040, 0x080
LANDED = 0x0C0
DONE = 0x100
ENTER_USER = 0x140
SKIP = 0x1C0
"""Where user mode is entered: to stop right behind IRETQ would leave a stale exception."""

START = {AccessType.READ: _READ, AccessType.WRITE: _WRITE, AccessType.EXECUTE: _FETCH}
RMW = {"xadd": 0x200, "cmpxchg": 0x240}
"""Locked read-modify-writes of a byte: one that changes it, one that finds another and doesn't."""
CROSS = {AccessType.READ: 0x280, AccessType.WRITE: 0x2C0, AccessType.EXECUTE: _FETCH}
"""Accesses of eight bytes in RAX."""
IMPLICIT = 0x300
"""Loads FS with the selector in AX."""
REKEY = 0x340
"""Writes EAX to PKRU and goes on at R8, with the slot and the byte from R10 and R9."""

_SHOW_SLOT = f"mov edi, {MARK:#x}; mov rdx, [rcx]; mov rsi, [rcx + 8]; jmp {DONE:#x}"
_ROUTINES = {
    _READ: f"mov al, [rbx]; {_SHOW_SLOT}",
    _WRITE: f"mov [rbx], al; {_SHOW_SLOT}",
    _FETCH: "jmp rbx",
    LANDED: f"mov edi, {MARK:#x}; jmp {DONE:#x}",
    DONE: "hlt",
    ENTER_USER: "iretq",
    SKIP: f"jmp {DONE:#x}",
    RMW["xadd"]: f"lock xadd [rbx], al; {_SHOW_SLOT}",
    RMW["cmpxchg"]: f"lock cmpxchg [rbx], dl; {_SHOW_SLOT}",
    CROSS[AccessType.READ]: f"mov rax, [rbx]; mov edi, {MARK:#x}; jmp {DONE:#x}",
    CROSS[AccessType.WRITE]: f"mov [rbx], rax; mov edi, {MARK:#x}; jmp {DONE:#x}",
    IMPLICIT: f"mov fs, eax; mov edi, {MARK:#x}; jmp {DONE:#x}",
    REKEY: "wrpkru; mov rcx, r10; mov eax, r9d; jmp r8",
}


def _page() -> bytes:
    page = bytearray()
    for start, source in sorted(_ROUTINES.items()):
        page += b"\xf4" * (start - len(page))
        page += assemble("probe", source, bits=64, address=start, symbols={})
    return bytes(page)


CODE = _page()
"""The routines, each at its offset, with HLT between them."""
