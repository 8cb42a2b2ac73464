"""The code that makes accesses in a guest, and where it lies in its pages.

    RBX    the address under test        RDI    the sign of its page
    AL     what a write stores           R8     CR3 under test

A read that succeeds is followed by one of the page's sign, into RSI: it tells where the first one
went. `ud2` ends each: #UD is an exit, as every exception is. A fetch runs what is under test
itself, from the first instruction of the guest; by the jump here only where no guest can start, at
an address that isn't canonical.

Under VMX the guest starts under tables of the machine's own. Its code's pages are global, so that
the TLB keeps them, and nothing else, across MOV to CR3; code of CPL 3 has that done by SYSCALL.
Under SVM it starts under the tables under test, which lead to the code by a slot of their own.
"""

from crosswalk.emu.judges.nested.workspace import CODE_VA
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import FRAME

__all__ = ["SYSCALL_AT", "access_at", "code_pages", "done_at", "start_at"]

_STRIDE = 32
_SYSCALL_PLACE = 3

_MOV_CR3_R8, _SYSCALL, _SYSRETQ = (bytes.fromhex(code) for code in ("410f22d8", "0f05", "480f07"))
_SWITCHES = {0: _MOV_CR3_R8, 3: _SYSCALL}
_ACCESSES = {
    AccessType.READ: bytes.fromhex("8a03 488b37"),  # mov al, [rbx]; mov rsi, [rdi]
    AccessType.WRITE: bytes.fromhex("8803"),  # mov [rbx], al
    AccessType.EXECUTE: bytes.fromhex("ffe3"),  # jmp rbx
}
_UD2 = bytes.fromhex("0f0b")

SYSCALL_AT = CODE_VA + _SYSCALL_PLACE * _STRIDE
"""What LSTAR has to be."""


def code_pages() -> tuple[bytes, bytes]:
    """Return the code for CPL 0 and for CPL 3, a page each."""
    pages = []
    for switch in _SWITCHES.values():
        page = bytearray(_UD2 * (FRAME // 2))
        for kind, access in _ACCESSES.items():
            code = switch + access + _UD2
            page[kind * _STRIDE : kind * _STRIDE + len(code)] = code
        pages.append(page)
    at, code = _SYSCALL_PLACE * _STRIDE, _MOV_CR3_R8 + _SYSRETQ
    pages[0][at : at + len(code)] = code
    return bytes(pages[0]), bytes(pages[1])


def start_at(access: Access) -> int:
    """Return where the code begins that changes CR3 and makes this access."""
    return CODE_VA + (FRAME if access.cpl else 0) + access.type * _STRIDE


def access_at(access: Access) -> int:
    """Return where the instruction is that makes this access, a fetch by the jump."""
    return start_at(access) + len(_SWITCHES[access.cpl])


def done_at(access: Access) -> int:
    """Return where the `ud2` is that ends this access, a read or a write."""
    return access_at(access) + len(_ACCESSES[access.type])
