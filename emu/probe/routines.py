"""The guest code that makes one access, a routine a type, in 64- and in 32-bit code.

All state is in registers, so that no page of the probe's own is read or written while the
rights under test are in force: RBX the address, RCX its 16-byte slot, AL the byte to store,
RBP where a fetched marker jumps back to. A routine that completes leaves MARK in RDI and the
slot's content in RDX and RSI (in 32-bit code EDX, ESI, EAX and ECX), and ends at DONE.

    page of code           64-bit                        32-bit
    000  READ              mov al, [rbx]; show slot      the same with EBX, ECX, EDI …
    040  WRITE             mov [rbx], al; show slot
    080  FETCH             jmp rbx ──► marker ──► jmp rbp
    0C0  LANDED            mark                          where RBP leads
    100  DONE              hlt                           where every run stops
    140  ENTER_USER        iretq                         stack, data segments; iretd
    1C0  SKIP              jmp DONE                      first instruction at CPL 3
    200… RMW, CROSS, IMPLICIT, REKEY: composites         LOAD_ROOT: mov cr3, ecx

The page is mapped twice, for supervisor and user code; both see the same offsets. A fault has to
show the RIP of the access itself: the start of READ or WRITE, the address that FETCH jumps to.
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
    "LOAD_ROOT",
    "MARK",
    "REKEY",
    "RMW",
    "SKIP",
    "START",
    "code_page",
]

MARK = 0x4B4F_5F58
_READ, _WRITE, _FETCH = 0x000, 0x040, 0x080
LANDED = 0x0C0
DONE = 0x100
ENTER_USER = 0x140
SKIP = 0x1C0
"""Where user mode is entered: to stop right behind IRET would leave a stale exception."""

START = {AccessType.READ: _READ, AccessType.WRITE: _WRITE, AccessType.EXECUTE: _FETCH}
RMW = {"xadd": 0x200, "cmpxchg": 0x240}
"""Locked read-modify-writes of a byte: one that changes it, one that finds another and doesn't."""
CROSS = {AccessType.READ: 0x280, AccessType.WRITE: 0x2C0, AccessType.EXECUTE: _FETCH}
"""Accesses of eight bytes in RAX."""
IMPLICIT = 0x300
"""Loads FS with the selector in AX."""
REKEY = 0x340
"""Writes EAX to PKRU and goes on at R8, with the slot and the byte from R10 and R9."""
LOAD_ROOT = 0x380, 0x383
"""Where ECX is loaded into CR3, and what would come next."""


def code_page(name: str, sources: dict[int, str], bits: int = 64, filler: bytes = b"\x90") -> bytes:
    """Return the routines assembled, each at its offset in a page, with `filler` between them."""
    page = bytearray()
    for start, source in sorted(sources.items()):
        if len(page) > start:
            raise AssertionError(f"the part before {start:#x} is too long")
        page += filler * (start - len(page))
        page += assemble(name, source, bits=bits, address=start, symbols={})
    return bytes(page)


_MARK, _STOP = f"mov edi, {MARK:#x}", f"jmp {DONE:#x}"
_END = f"{_MARK}; {_STOP}"
_SHOW_SLOT = f"{_MARK}; mov rdx, [rcx]; mov rsi, [rcx + 8]; {_STOP}"
_SHOW_SLOT_32 = (
    f"{_MARK}; mov edx, [ecx]; mov esi, [ecx + 4]; mov eax, [ecx + 8]; mov ecx, [ecx + 12]; {_STOP}"
)
_HLT = b"\xf4"
_COMMON = {LANDED: _END, DONE: "hlt", SKIP: _STOP}
_ROUTINES = {
    _READ: f"mov al, [rbx]; {_SHOW_SLOT}",
    _WRITE: f"mov [rbx], al; {_SHOW_SLOT}",
    _FETCH: "jmp rbx",
    ENTER_USER: "iretq",
    RMW["xadd"]: f"lock xadd [rbx], al; {_SHOW_SLOT}",
    RMW["cmpxchg"]: f"lock cmpxchg [rbx], dl; {_SHOW_SLOT}",
    CROSS[AccessType.READ]: f"mov rax, [rbx]; {_END}",
    CROSS[AccessType.WRITE]: f"mov [rbx], rax; {_END}",
    IMPLICIT: f"mov fs, eax; {_END}",
    REKEY: "wrpkru; mov rcx, r10; mov eax, r9d; jmp r8",
}
_ROUTINES_32 = {
    _READ: f"mov al, [ebx]; {_SHOW_SLOT_32}",
    _WRITE: f"mov [ebx], al; {_SHOW_SLOT_32}",
    _FETCH: "jmp ebx",
    # ECX selects a stack of 32 bits, which Unicorn begins without; EDX the data of a user.
    ENTER_USER: "mov ss, ecx; mov ds, edx; mov es, edx; iretd",
    LOAD_ROOT[0]: "mov cr3, ecx; hlt",
}

CODE = {
    64: code_page("probe", _COMMON | _ROUTINES, 64, _HLT),
    32: code_page("probe", _COMMON | _ROUTINES_32, 32, _HLT),
}
"""The routines by the width of their registers, each at its offset, with HLT between them."""
