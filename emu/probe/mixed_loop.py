"""The guest code that makes accesses of all kinds, in many address spaces, in one run.

Where many accesses are alike, the loops of `crosswalk.emu.probe.loops` take less time. Here each
record says itself how its access is made: under which control registers, at which CPL, by which
code.

    page of code, seen at CPL 0; and at CPL 3 once for each protection key
    000  HEAD        first record of an address space: SWITCH; INVLPG; on to ENTER of the record
    080  ENTER       the access at CPL 0, a routine a type; the access itself is at +10
    180  TO_USER     IRET to CPL 3, with the frame in the record
    1C0  SEEN        compare the slot that a read or write reached; R11 += …
    200  LANDED      compare where a fetch landed; R11 += …
    240  OTHERWISE   MARK to the out: something else was reached
    280  COMPARE     the words of the walk with the record
    340  CHANGED     words that changed: to the out, and put back
    440  NEXT        next record, or DONE
    480  DONE        hlt
    4C0  SWITCH      load CR3, CR0, CR4, PKRU, EFER from the record; R11 += what they then hold
    5C0  MADE        where a call gate leads from CPL 3 once an access is made
    600  FAULTED     where another one leads when it faulted
    640  WATCHED     MARK to the out, where the host has looked at the walk
    800  USER        the access at CPL 3, a routine a type; then the two ways back

Registers: R15 the record, R14 its out, R12 the end of the records, R13 MARK, R10 where the host's
hook of exceptions has the guest go on. R11 sums up what was found as expected: words of markers,
and the control registers, read back behind each switch. Code at CPL 3 reads no data but two far
pointers, on its own page, of a key that PKRU lets it read.
"""

from crosswalk.emu.probe.routines import code_page
from crosswalk.walker.access import AccessType

__all__ = [
    "COMPARE",
    "CONTROL_WORDS",
    "DONE",
    "ENTER",
    "FAULTED",
    "FAULTED_GATE",
    "HEAD",
    "LANDED",
    "MADE",
    "MADE_GATE",
    "MADE_HERE",
    "MIXED_CODE",
    "NEXT",
    "OUT_WORDS",
    "RECORD_WORDS",
    "SEEN",
    "TO_USER",
    "USER",
    "USER_FAULTED",
    "USER_LANDED",
    "WATCHED",
    "Column",
]

_STEPS = 5


class Column:
    """The words of a record."""

    VA, STORE, LOW, HIGH = range(4)
    """As in `crosswalk.emu.probe.loops`."""
    WORDS = 4
    """The linear addresses of the words of the walk, 5."""
    VALUES = WORDS + _STEPS
    """What they are before the access, 5."""
    ENTER = VALUES + _STEPS
    """The code that makes the access, or goes to CPL 3."""
    THEN = ENTER + 1
    """Where code goes on when it is made: SEEN, LANDED or WATCHED."""
    AFTER = THEN + 1
    """Where code goes on when it faulted: COMPARE, or NEXT where the host looks at the walk."""
    FIX = AFTER + 1
    """Where the hook of exceptions leads, at the CPL of the access."""
    LANDS = FIX + 1
    """Where a fetched marker jumps back to."""
    FRAME = LANDS + 1
    """RIP, CS, RFLAGS, RSP and SS, as IRET takes them; at CPL 0 RFLAGS alone counts."""
    SWITCH = FRAME + 5
    """Not 0 where the control registers are to be loaded: CR3, CR0, CR4, PKRU, EFER behind it."""
    CONTROL = SWITCH + 1


CONTROL_WORDS = 5
RECORD_WORDS = 32
OUT_WORDS = 1 + _STEPS
"""As in `crosswalk.emu.probe.loops`."""

HEAD = 0x000
_GO = 0x020
ENTER = {AccessType.READ: 0x080, AccessType.WRITE: 0x0C0, AccessType.EXECUTE: 0x140}
MADE_HERE = {kind: at + 0x10 for kind, at in ENTER.items()}
"""The RIP of a fault at CPL 0, in the page."""
TO_USER, SEEN, LANDED, _OTHERWISE, COMPARE = 0x180, 0x1C0, 0x200, 0x240, 0x280
_CHANGED, NEXT, DONE, _SWITCH = 0x340, 0x440, 0x480, 0x4C0
MADE, FAULTED, WATCHED = 0x5C0, 0x600, 0x640
USER = {AccessType.READ: 0x800, AccessType.WRITE: 0x840, AccessType.EXECUTE: 0x880}
"""The RIP of a fault at CPL 3, in the page."""
USER_LANDED, USER_FAULTED = 0x8C0, 0x900
_MADE_POINTER, _FAULTED_POINTER = 0x940, 0x950
MADE_GATE, FAULTED_GATE = 0x28, 0x38
"""Selectors of the call gates; each takes two descriptors."""

_CR4_PKE, _EFER = 1 << 22, 0xC000_0080


def _at(column: int) -> str:
    return f"[r15 + {8 * column}]"


_FLAGS = f"lea rsp, {_at(Column.FRAME + 2)}; popfq"
_SLOT = "mov rdx, [rcx]; mov rsi, [rcx + 8]"


def _far_call(at: int, pointer: int) -> str:
    """Return CALL FAR through a pointer in the page, REX.W FF /3, which no assembler spells alike.

    It has 7 bytes, and its offset counts from their end.
    """
    code = b"\x48\xff\x1d" + (pointer - at - 7).to_bytes(4, "little")
    return _bytes(code)


def _bytes(content: bytes) -> str:
    return ".byte " + ", ".join(str(each) for each in content)


def _pointer(gate: int) -> str:
    return _bytes(bytes(8) + (gate | 3).to_bytes(2, "little"))


def _parts() -> dict[int, str]:
    """Return the sources of the page's parts by their offsets."""
    compare = "; ".join(
        f"mov r8, {_at(Column.WORDS + step)}; mov r9, [r8]; xor r9, {_at(Column.VALUES + step)}; "
        "or rdi, r9"
        for step in range(_STEPS)
    )
    take_down = "; ".join(
        f"mov r8, {_at(Column.WORDS + step)}; mov r9, [r8]; mov [r14 + {8 + 8 * step}], r9; "
        f"mov r9, {_at(Column.VALUES + step)}; mov [r8], r9"
        for step in range(_STEPS)
    )
    cr3, cr0, cr4, pkru, efer = (_at(Column.CONTROL + step) for step in range(CONTROL_WORDS))
    then = f"jmp {_at(Column.THEN)}"
    undone = "jne {0:#x}; cmp rsi, {1}; jne {0:#x}; mov [rbx], ah"
    here, user = ENTER[AccessType.WRITE] + 0x38, USER[AccessType.WRITE] + 0x38
    return {
        HEAD: f"cmp qword ptr {_at(Column.SWITCH)}, 0; jne {_SWITCH:#x}",
        _GO: (
            f"mov rbx, {_at(Column.VA)}; mov rcx, rbx; and rcx, -16; mov r10, {_at(Column.FIX)}; "
            f"mov rbp, {_at(Column.LANDS)}; mov rax, {_at(Column.STORE)}; invlpg [rbx]; "
            f"jmp {_at(Column.ENTER)}"
        ),
        ENTER[AccessType.READ]: _FLAGS,
        MADE_HERE[AccessType.READ]: f"mov al, [rbx]; {_SLOT}; {then}",
        ENTER[AccessType.WRITE]: _FLAGS,
        MADE_HERE[AccessType.WRITE]: (
            f"mov [rbx], al; {_SLOT}; cmp rdx, {_at(Column.LOW)}; "
            + undone.format(here, _at(Column.HIGH))
        ),
        here: then,
        ENTER[AccessType.EXECUTE]: _FLAGS,
        MADE_HERE[AccessType.EXECUTE]: "jmp rbx",
        TO_USER: (
            f"mov r8, {_at(Column.LOW)}; mov r9, {_at(Column.HIGH)}; "
            f"lea rsp, {_at(Column.FRAME)}; iretq"
        ),
        SEEN: (
            f"mov rdi, rdx; xor rdi, {_at(Column.LOW)}; xor rsi, {_at(Column.HIGH)}; or rdi, rsi; "
            f"jne {_OTHERWISE:#x}; add r11, rdx; jmp {COMPARE:#x}"
        ),
        LANDED: (
            f"cmp rax, {_at(Column.LOW)}; jne {_OTHERWISE:#x}; add r11, rax; jmp {COMPARE:#x}"
        ),
        _OTHERWISE: f"mov [r14], r13; jmp {COMPARE:#x}",
        COMPARE: f"xor edi, edi; {compare}; jne {_CHANGED:#x}; jmp {NEXT:#x}",
        _CHANGED: f"{take_down}; jmp {NEXT:#x}",
        NEXT: (
            f"add r15, {8 * RECORD_WORDS}; add r14, {8 * OUT_WORDS}; cmp r15, r12; "
            f"jne {HEAD:#x}; jmp {DONE:#x}"
        ),
        DONE: "hlt",
        # WRPKRU needs CR4.PKE, whatever CR4 is to be.
        _SWITCH: (
            f"mov rax, {cr3}; mov cr3, rax; mov rax, {cr0}; mov cr0, rax; mov rdi, {cr4}; "
            f"mov rsi, rdi; or rsi, {_CR4_PKE:#x}; mov cr4, rsi; mov eax, {pkru}; xor ecx, ecx; "
            f"xor edx, edx; wrpkru; rdpkru; add r11, rax; mov cr4, rdi; mov ecx, {_EFER:#x}; "
            f"mov eax, {efer}; xor edx, edx; wrmsr; rdmsr; add r11, rax; mov rax, cr3; "
            f"add r11, rax; mov rax, cr0; add r11, rax; mov rax, cr4; add r11, rax; jmp {_GO:#x}"
        ),
        MADE: then,
        FAULTED: f"jmp {_at(Column.AFTER)}",
        WATCHED: f"mov [r14], r13; jmp {NEXT:#x}",
        USER[AccessType.READ]: f"mov al, [rbx]; {_SLOT}; jmp {USER_LANDED:#x}",
        USER[AccessType.WRITE]: (
            f"mov [rbx], al; {_SLOT}; cmp rdx, r8; " + undone.format(user, "r9")
        ),
        user: f"jmp {USER_LANDED:#x}",
        USER[AccessType.EXECUTE]: "jmp rbx",
        USER_LANDED: _far_call(USER_LANDED, _MADE_POINTER),
        USER_FAULTED: _far_call(USER_FAULTED, _FAULTED_POINTER),
        _MADE_POINTER: _pointer(MADE_GATE),
        _FAULTED_POINTER: _pointer(FAULTED_GATE),
    }


MIXED_CODE = code_page("mixed probe loop", _parts())
"""The page of code, each part at its offset; NOPs between its parts."""
