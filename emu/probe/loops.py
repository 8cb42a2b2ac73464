"""The guest code that makes many accesses in one run, one loop a type of access.

    page of code, one for four levels and one for five
    HEAD       000 read   200 write   400 execute   load the record
    ACCESS     +20                                  the access; compare what it reached; R11 += …
    FIX        +60                                  compare the words of the walk with the record
    NEXT       +120                                 next record, or LOOPS_DONE
    CHANGED    +150                                 words that changed: to the out, and put back
    OTHERWISE  +1F0                                 MARK to the out: something else was reached
    LOOPS_DONE 600                                  hlt
    WATCHED    680, 880                             reads and writes whose walk the host looks at

A loop goes through records. It compares what an access reached with what the record says is there,
and the words of the walk with what they were; only differences are written, because a store costs
thirty times a load in the emulator. A fault leads, by way of the host's hook, to the loop's FIX.

Registers: R15 the record, R14 its out, R12 the end of the records, R13 MARK, R10 where a fetched
marker jumps back to. R11 sums up what was found as expected: the proof that it was. A byte that was
stored where it should be is put back, so that no later access finds it.
"""

from crosswalk.emu.probe.routines import code_page
from crosswalk.walker.access import AccessType

__all__ = [
    "ACCESS",
    "FIX",
    "HEAD",
    "LOOPS",
    "LOOPS_DONE",
    "LOOP_LANDED",
    "OUT_BYTES",
    "OUT_WORDS",
    "RECORD_BYTES",
    "RECORD_WORDS",
    "WATCHED",
]

_STEPS = 5
# A record: address, the byte to store and above it the one that was there, the two words then
# found in the slot; the addresses of the words that the walk may touch, and their values before.
_VA, _STORE, _LOW, _HIGH, _WORD = 0, 8, 16, 24, 32
_VALUE = _WORD + 8 * _STEPS
RECORD_BYTES = _VALUE + 8 * _STEPS
RECORD_WORDS = RECORD_BYTES // 8
# An out, all zeros where nothing differs: MARK where something else was reached; the words of the
# walk that changed.
_OTHER, _AFTER = 0, 8
OUT_BYTES = _AFTER + 8 * _STEPS
OUT_WORDS = OUT_BYTES // 8

HEAD = {AccessType.READ: 0x000, AccessType.WRITE: 0x200, AccessType.EXECUTE: 0x400}
ACCESS = {kind: head + 0x20 for kind, head in HEAD.items()}
"""Where the access itself is made: the RIP of its faults."""
FIX = {kind: head + 0x60 for kind, head in HEAD.items()}
LOOP_LANDED = HEAD[AccessType.EXECUTE] + 0x30
LOOPS_DONE = 0x600
_NEXT, _CHANGED, _OTHERWISE = 0x120, 0x150, 0x1F0
WATCHED = 0x680
"""Distance from a loop for reads or writes to the one that leaves all but the access to the host.

ACCESS and FIX have the same distance. The accesses themselves are the only ones of one byte.
"""


_ADDRESS = f"mov rbx, [r15 + {_VA}]; mov rcx, rbx; and rcx, -16"
_FETCH = {
    AccessType.READ: _ADDRESS,
    AccessType.WRITE: f"{_ADDRESS}; mov rax, [r15 + {_STORE}]",
    AccessType.EXECUTE: _ADDRESS,
}


def _access(kind: AccessType, head: int) -> str:
    if kind is AccessType.EXECUTE:
        return "mov rbp, r10; jmp rbx"
    made = "mov al, [rbx]" if kind is AccessType.READ else "mov [rbx], al"
    undone = "; mov [rbx], ah" if kind is AccessType.WRITE else ""
    return (
        f"{made}; mov rdx, [rcx]; mov rsi, [rcx + 8]; mov rdi, rdx; xor rdi, [r15 + {_LOW}]; "
        f"xor rsi, [r15 + {_HIGH}]; or rdi, rsi; jne {head + _OTHERWISE:#x}; add r11, rdx{undone}"
    )


def _loop(kind: AccessType, levels: int) -> dict[int, str]:
    """Return the sources of a loop's parts by their offsets; a walk uses `levels` words."""
    head, fix = HEAD[kind], FIX[kind]
    compare = "; ".join(
        f"mov r8, [r15 + {_WORD + 8 * at}]; mov r9, [r8]; xor r9, [r15 + {_VALUE + 8 * at}]; "
        "or rdi, r9"
        for at in range(levels)
    )
    take_down = "; ".join(
        f"mov r8, [r15 + {_WORD + 8 * at}]; mov r9, [r8]; mov [r14 + {_AFTER + 8 * at}], r9; "
        f"mov r9, [r15 + {_VALUE + 8 * at}]; mov [r8], r9"
        for at in range(levels)
    )
    parts = {
        head: _FETCH[kind],
        ACCESS[kind]: _access(kind, head),
        head + _OTHERWISE: f"mov [r14 + {_OTHER}], r13; jmp {fix:#x}",
        fix: f"xor edi, edi; {compare}; jne {head + _CHANGED:#x}",
        head + _NEXT: (
            f"add r15, {RECORD_BYTES}; add r14, {OUT_BYTES}; cmp r15, r12; "
            f"jne {head:#x}; jmp {LOOPS_DONE:#x}"
        ),
        head + _CHANGED: f"{take_down}; jmp {head + _NEXT:#x}",
    }
    if kind is AccessType.EXECUTE:
        parts[LOOP_LANDED] = (
            f"cmp rax, [r15 + {_LOW}]; jne {head + _OTHERWISE:#x}; add r11, rax; jmp {fix:#x}"
        )
    return parts


def _watched(kind: AccessType, head: int) -> dict[int, str]:
    """Return the sources of a loop that makes the access and marks the record complete.

    The host undoes a store at the loop's next read, that of the slot.
    """
    made = "mov al, [rbx]" if kind is AccessType.READ else "mov [rbx], al"
    return {
        head: _FETCH[kind],
        head + ACCESS[kind] - HEAD[kind]: f"{made}; mov rdx, [rcx]; mov [r14 + {_OTHER}], r13",
        head + FIX[kind] - HEAD[kind]: (
            f"add r15, {RECORD_BYTES}; add r14, {OUT_BYTES}; cmp r15, r12; "
            f"jne {head:#x}; jmp {LOOPS_DONE:#x}"
        ),
    }


def _page(levels: int) -> bytes:
    parts = {LOOPS_DONE: "hlt"}
    for kind in (AccessType.READ, AccessType.WRITE):
        parts |= _watched(kind, HEAD[kind] + WATCHED)
    for kind in AccessType:
        parts |= _loop(kind, levels)
    return code_page("probe loop", parts)


LOOPS = {levels: _page(levels) for levels in (4, 5)}
"""The loops for each number of paging levels, each loop at its offset; NOPs between its parts."""
