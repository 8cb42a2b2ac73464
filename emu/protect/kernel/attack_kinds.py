"""The attack table of a Linux kernel by kind of nested table: what differs under EPT, more rows.

The expectations are stated by hand, from the policy and Intel SDM vol. 3C, "EPT Violations",
"Instructions That Cause VM Exits Conditionally".
"""

from dataclasses import replace

from crosswalk.emu.protect.attack import (
    Attack,
    DeliveryRefused,
    Intercepted,
    NestedFault,
    NotStopped,
    Result,
    Violation,
    VmExited,
)
from crosswalk.emu.protect.attack_kinds import EXITS, ONE_RIGHT
from crosswalk.emu.protect.kernel.attacks import (
    EXECUTE_FREE,
    AttackFrames,
    Code,
    attack_table,
)
from crosswalk.emu.protect.kernel.guest_code import executable, forged_root
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.policy import TableKind

__all__ = ["KERNEL_RUN_BY_USER", "USER_RUN_BY_KERNEL", "attacks_for"]

USER_RUN_BY_KERNEL = "execute user code, supervisor alias"
KERNEL_RUN_BY_USER = "kernel code run by a process"

_EVENT_WORD = 8
"""Where the first word of an event's frame is, below a stack 16 bytes into a page."""

# Descriptors for user mode, at the selectors that Linux has: data 0x2b, code 0x33.
_USER_DATA, _USER_CODE = 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF
_KERNEL_CODE, _KERNEL_DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF


def _run_user_code(context: PagingContext) -> str:
    return f"""
    mov rbx, USER_FRAME_ENTRY
    mov rdi, USER_FRAME_DIRECT
    {executable(context)}
    mov rbx, RESULT_DIRECT
    mov rax, MARK
    call rdi
"""


# Tables with three pages in the lower half, for the user: text, the process's code and a stack. In
# user mode the kernel's own code copies a word there, and returns to the process's code: VMCALL.
def _run_kernel_code(context: PagingContext) -> str:
    return f"""
    {forged_root(context)}
    mov rbx, FREE0_DIRECT
    mov rax, FREE1 + 7
    mov [rbx], rax
    mov rbx, FREE1_DIRECT
    mov rax, FREE2 + 7
    mov [rbx], rax
    mov rbx, FREE2_DIRECT
    mov rax, FREE3 + 7
    mov [rbx], rax
    mov rbx, FREE3_DIRECT
    mov rax, COPIER_FRAME + 5
    mov [rbx], rax
    mov rax, USER_FRAME + 5
    mov [rbx + 8], rax
    mov rax, RESULT + 7
    mov [rbx + 16], rax
    mov rbx, RESULT_DIRECT
    mov rax, MARK
    mov [rbx + 0x100], rax
    mov rax, LEAVES + 0x1000
    mov [rbx + 0x800], rax
    mov rbx, FREE4_DIRECT
    mov rax, {_KERNEL_CODE:#x}
    mov [rbx + 0x10], rax
    mov rax, {_KERNEL_DATA:#x}
    mov [rbx + 0x18], rax
    mov rax, {_USER_DATA:#x}
    mov [rbx + 0x28], rax
    mov rax, {_USER_CODE:#x}
    mov [rbx + 0x30], rax
    mov word ptr [rbx + 0x800], 0x37
    mov [rbx + 0x802], rbx
    lgdt [rbx + 0x800]
    mov rax, FREE0
    mov cr3, rax
    push 0x2b
    mov eax, 0x2800
    sub eax, COPIER_POPS
    push rax
    push 2
    push 0x33
    mov rax, COPIER_OFFSET
    push rax
    mov esi, 0x2100
    mov edi, 0x2000
    mov ecx, COPIER_COUNT
    iretq
"""


# Bochs 3.0 panics where a write with CR0.WP clear has to set D in an entry without R/W: set before.
_DIRTY = """
    mov rbx, TEXT_ENTRY
    or qword ptr [rbx], 0x60
    mov rbx, TEXT_IMAGE_ENTRY
    or qword ptr [rbx], 0x60
"""
_WITHOUT_WP = {"clear WP", "text, direct map", "text, image"}


def attacks_for(frames: AttackFrames, kind: TableKind) -> tuple[Attack[Code], ...]:
    """Return the attacks on these frames under this kind of nested table."""
    table = attack_table(frames)
    if kind is TableKind.NPT:
        return table
    return (*(_under_ept(attack, frames) for attack in table), *_executions(frames, kind))


def _under_ept(attack: Attack[Code], frames: AttackFrames) -> Attack[Code]:
    """Return an attack with what is expected of it under EPT."""
    if attack.name == EXECUTE_FREE:
        stopped = Violation(frames.free[0], AccessType.EXECUTE)
        return replace(attack, expected=stopped, why="")
    program = attack.program
    if attack.name in _WITHOUT_WP:
        program = replace(program, source=_DIRTY + program.source)
    return replace(attack, program=program, expected=_expected(attack.expected, frames))


def _expected(result: Result, frames: AttackFrames) -> Result:
    match result:
        case NestedFault(gpa):
            return Violation(gpa, result.access)
        case Intercepted(code):
            return VmExited(EXITS[code])
        case DeliveryRefused():  # The CPU itself delivers exceptions.
            return Violation(frames.text + _EVENT_WORD, AccessType.WRITE)
    return result


def _executions(frames: AttackFrames, kind: TableKind) -> tuple[Attack[Code], ...]:
    """Return the rows about who executes what, in which only MBEC makes a difference."""
    copier = frames.copier_frame + frames.copier % FRAME
    rows = (
        (
            USER_RUN_BY_KERNEL,
            "a process's code made executable in the direct map, and run there by the kernel",
            _run_user_code(frames.context),
            frames.user_frame,
        ),
        (
            KERNEL_RUN_BY_USER,
            "the kernel's text mapped for user mode by forged tables, and run there",
            _run_kernel_code(frames.context),
            copier,
        ),
    )
    apart = kind is TableKind.EPT_MBEC
    return tuple(
        Attack(
            name,
            Code(does, source, frames.result),
            Violation(gpa, AccessType.EXECUTE) if apart else NotStopped(),
            "" if apart else ONE_RIGHT,
        )
        for name, does, source, gpa in rows
    )
