"""The guest code that makes the accesses, one routine a type, for either privilege.

All state is in registers, so that no page of the probe's own is read or written while the
rights under test are in force: RBX the address, RCX its 16-byte slot, AL the byte to store,
RBP where a fetched signature jumps back to. A routine that completes leaves MARK in RDI and
ends at DONE.
"""

from guest.assembler import assemble
from walker.access import AccessType

__all__ = ["CODE", "DONE", "ENTER_USER", "LANDED", "MARK", "SKIP", "START"]

MARK = 0x4B4F_5F58
_READ, _WRITE, _FETCH = 0x000, 0x040, 0x080
LANDED = 0x0C0
DONE = 0x100
ENTER_USER = 0x140
SKIP = 0x1C0
"""Where user mode is entered: to stop right behind IRETQ would leave a stale exception."""

START = {AccessType.READ: _READ, AccessType.WRITE: _WRITE, AccessType.EXECUTE: _FETCH}

_SHOW_SLOT = f"mov edi, {MARK:#x}; mov rdx, [rcx]; mov rsi, [rcx + 8]; jmp {DONE:#x}"
_ROUTINES = {
    _READ: f"mov al, [rbx]; {_SHOW_SLOT}",
    _WRITE: f"mov [rbx], al; {_SHOW_SLOT}",
    _FETCH: "jmp rbx",
    LANDED: f"mov edi, {MARK:#x}; jmp {DONE:#x}",
    DONE: "hlt",
    ENTER_USER: "iretq",
    SKIP: f"jmp {DONE:#x}",
}


def _page() -> bytes:
    page = bytearray()
    for start, source in sorted(_ROUTINES.items()):
        page += b"\xf4" * (start - len(page))
        page += assemble("probe", source, bits=64, address=start, symbols={})
    return bytes(page)


CODE = _page()
"""The routines, each at its offset, with HLT between them."""
