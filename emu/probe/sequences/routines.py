"""The guest code that takes a sequence's steps, one routine a kind of step.

A step is a record of four words: its routine, an address, a value, flags. Registers: R15 the
record, R14 the log, R13 the lists of words and slots to look at, R12 the code, R11 the top of the
stack, R10 the code as user mode sees it.

    START ─► routine of the record ─► NEXT ─► … ─► "end" ─► DONE
             of an access: the access ─► MADE ─► FIX ─► words, slots: log what differs ─► NEXT
                               │ fault, by way of the host ──┘
             at CPL 3: IRETQ ─► the access ─► USER_DONE: HLT, whose #GP the host takes to MADE

After each access the guest compares every word and slot with what it was, logs what differs, and
puts slots back.
"""

from enum import IntEnum

from crosswalk.emu.probe.routines import code_page
from crosswalk.walker.access import AccessType

__all__ = [
    "ACCESS",
    "CODE",
    "DONE",
    "FIX",
    "IRETQ",
    "LOG_BYTES",
    "MADE",
    "RECORD_BYTES",
    "ROUTINE",
    "SKIP",
    "START",
    "START_OF",
    "USER_ACCESS",
    "USER_DONE",
    "Event",
]

RECORD_BYTES = 32
LOG_BYTES = 16


class Event(IntEnum):
    """What a line of the log tells: its upper half is this, its lower half a step or an index."""

    DONE = 0x4B4F_0001
    """The access was made; the value is what it read, or where what it fetched says it is."""
    WORD = 0x4B4F_0002
    """The word with this index has this value now."""
    SLOT = 0x4B4F_0003
    """The slot with this index was found with this content, and was put back."""
    LOOKED = 0x4B4F_0004
    """All words and slots were looked at after this access."""


_READ, _WRITE, _FETCH = AccessType.READ, AccessType.WRITE, AccessType.EXECUTE

START, _NEXT = 0x000, 0x010
ROUTINE = {
    "store": 0x040,
    "invlpg": 0x080,
    "cr0": 0x0A0,
    "cr3": 0x0C0,
    "cr4": 0x0E0,
    "invpcid": 0x100,
    "wrpkru": 0x120,
    "end": 0x140,
}
"""Where the routines of steps begin that are no accesses."""
START_OF = {
    (0, _READ): 0x180,
    (0, _WRITE): 0x1C0,
    (0, _FETCH): 0x200,
    (3, _READ): 0x240,
    (3, _WRITE): 0x2C0,
    (3, _FETCH): 0x340,
}
"""Where the routine of an access begins, by CPL and type."""
ACCESS = {_READ: 0x1A0, _WRITE: 0x1E0}
"""Where CPL 0 makes the access itself; a fetch faults at its own address."""
_LANDED, MADE, FIX = 0x3C0, 0x3E0, 0x420
_WORDS, _WORD_NEXT, _SLOTS, _SLOT_NEXT, _LOOKED = 0x440, 0x480, 0x4A0, 0x4F0, 0x510
DONE, IRETQ = 0x560, 0x570
USER_ACCESS = {_READ: 0x580, _WRITE: 0x5A0, _FETCH: 0x5C0}
_USER_LANDED = 0x5E0
USER_DONE = 0x600
"""Where user mode ends: with HLT, whose #GP the host takes for a call."""
SKIP = 0x620
"""Where user mode is entered for a look at its state."""

_OPERANDS = "mov rbx, [r15 + 8]; mov rax, [r15 + 16]; xor edx, edx"
_FLAGS = "push qword ptr [r15 + 24]; popfq"
_GO = f"jmp {_NEXT:#x}"


def _log(event: Event, index: str, value: str) -> str:
    return (
        f"mov edi, {int(event):#x}; shl rdi, 32; mov ebx, {index}; or rdi, rbx; mov [r14], rdi; "
        f"mov [r14 + 8], {value}; add r14, {LOG_BYTES}"
    )


def _user(kind: AccessType) -> str:
    # What IRETQ takes: SS, RSP, RFLAGS, CS, RIP.
    return (
        f"{_OPERANDS}; lea rbp, [r10 + {_USER_LANDED:#x}]; lea rcx, [r10 + {USER_ACCESS[kind]:#x}];"
        " push 0x1b; push 0; push qword ptr [r15 + 24]; push 0x23; push rcx; iretq"
    )


_PARTS = {
    START: "jmp [r15]",
    _NEXT: f"add r15, {RECORD_BYTES}; jmp [r15]",
    ROUTINE["store"]: (
        # The store, and what the word is expected to be from now on.
        f"{_OPERANDS}; mov rcx, [r15 + 24]; mov [rbx], rax; mov [rcx], rax; {_GO}"
    ),
    ROUTINE["invlpg"]: f"mov rbx, [r15 + 8]; invlpg [rbx]; {_GO}",
    ROUTINE["cr0"]: f"mov rax, [r15 + 16]; mov cr0, rax; {_GO}",
    ROUTINE["cr3"]: f"mov rax, [r15 + 16]; mov cr3, rax; {_GO}",
    ROUTINE["cr4"]: f"mov rax, [r15 + 16]; mov cr4, rax; {_GO}",
    # The descriptor, PCID and address, lies in the record.
    ROUTINE["invpcid"]: f"mov rax, [r15 + 24]; invpcid rax, [r15 + 8]; {_GO}",
    ROUTINE["wrpkru"]: f"mov rax, [r15 + 16]; xor ecx, ecx; xor edx, edx; wrpkru; {_GO}",
    ROUTINE["end"]: f"jmp {DONE:#x}",
    START_OF[0, _READ]: f"{_OPERANDS}; {_FLAGS}; jmp {ACCESS[_READ]:#x}",
    ACCESS[_READ]: f"mov rdx, [rbx]; jmp {MADE:#x}",
    START_OF[0, _WRITE]: f"{_OPERANDS}; {_FLAGS}; jmp {ACCESS[_WRITE]:#x}",
    ACCESS[_WRITE]: f"mov [rbx], al; jmp {MADE:#x}",
    START_OF[0, _FETCH]: f"{_OPERANDS}; {_FLAGS}; lea rbp, [r12 + {_LANDED:#x}]; jmp rbx",
    **{START_OF[3, kind]: _user(kind) for kind in AccessType},
    _LANDED: f"mov rdx, rax; jmp {MADE:#x}",
    MADE: f"{_log(Event.DONE, 'r15d', 'rdx')}; jmp {FIX:#x}",
    FIX: "mov rsp, r11; push 2; popfq; mov r8, r13",
    # A list of words: where it is seen, what it was; 0 ends it, and the list of slots follows.
    _WORDS: (
        f"mov rcx, [r8]; test rcx, rcx; je {_SLOTS:#x}; mov rdx, [rcx]; cmp rdx, [r8 + 8]; "
        f"je {_WORD_NEXT:#x}; mov [r8 + 8], rdx; {_log(Event.WORD, 'r8d', 'rdx')}"
    ),
    _WORD_NEXT: f"add r8, 16; jmp {_WORDS:#x}",
    _SLOTS: (
        f"add r8, 16; mov rcx, [r8]; test rcx, rcx; je {_LOOKED:#x}; mov rdx, [rcx]; "
        f"mov rbx, [r8 + 8]; cmp rdx, rbx; je {_SLOT_NEXT:#x}; mov [rcx], rbx; "
        f"{_log(Event.SLOT, 'r8d', 'rdx')}"
    ),
    _SLOT_NEXT: f"jmp {_SLOTS:#x}",
    _LOOKED: f"{_log(Event.LOOKED, 'r15d', 'r14')}; {_GO}",
    DONE: "hlt",
    IRETQ: "iretq",
    USER_ACCESS[_READ]: f"mov rdx, [rbx]; jmp {USER_DONE:#x}",
    USER_ACCESS[_WRITE]: f"mov [rbx], al; jmp {USER_DONE:#x}",
    USER_ACCESS[_FETCH]: "jmp rbx",
    _USER_LANDED: f"mov rdx, rax; jmp {USER_DONE:#x}",
    USER_DONE: "hlt",
    SKIP: f"jmp {USER_DONE:#x}",
}


CODE = code_page("sequence", _PARTS)
"""The routines, each at its offset in a page, with NOPs between them."""
