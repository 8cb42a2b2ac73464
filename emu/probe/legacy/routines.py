"""The guest code that makes the accesses in 32-bit code, one routine a type.

As `crosswalk.emu.probe.routines`, with half the registers: EBX the address, ECX its 16-byte slot,
AL the byte to store, EBP where a fetched signature jumps back to. A routine that completes leaves
MARK in EDI, what the slot shows in EDX, ESI, EAX and ECX, and ends at DONE.
"""

from crosswalk.guest.assembler import assemble
from crosswalk.walker.access import AccessType

__all__ = ["CODE", "DONE", "ENTER_USER", "LANDED", "LOAD", "LOADED", "MARK", "SKIP", "START"]

MARK = 0x4B4F_5F58
_READ, _WRITE, _FETCH = 0x000, 0x040, 0x080
LANDED = 0x0C0
DONE = 0x100
ENTER_USER = 0x140
SKIP = 0x1C0
"""Where user mode is entered: to stop right behind IRET would leave a stale exception."""
LOAD, LOADED = 0x200, 0x203
"""Where ECX is loaded into CR3, and what would come next."""

START = {AccessType.READ: _READ, AccessType.WRITE: _WRITE, AccessType.EXECUTE: _FETCH}

_SHOW_SLOT = (
    f"mov edi, {MARK:#x}; mov edx, [ecx]; mov esi, [ecx + 4]; mov eax, [ecx + 8]; "
    f"mov ecx, [ecx + 12]; jmp {DONE:#x}"
)
_ROUTINES = {
    _READ: f"mov al, [ebx]; {_SHOW_SLOT}",
    _WRITE: f"mov [ebx], al; {_SHOW_SLOT}",
    _FETCH: "jmp ebx",
    LANDED: f"mov edi, {MARK:#x}; jmp {DONE:#x}",
    DONE: "hlt",
    # ECX selects a stack of 32 bits, which Unicorn begins without; EDX the data of a user.
    ENTER_USER: "mov ss, ecx; mov ds, edx; mov es, edx; iretd",
    SKIP: f"jmp {DONE:#x}",
    LOAD: "mov cr3, ecx; hlt",
}


def _page() -> bytes:
    page = bytearray()
    for start, source in sorted(_ROUTINES.items()):
        page += b"\xf4" * (start - len(page))
        page += assemble("probe", source, bits=32, address=start, symbols={})
    return bytes(page)


CODE = _page()
"""The routines, each at its offset, with HLT between them."""
