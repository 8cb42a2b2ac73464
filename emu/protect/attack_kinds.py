"""The attack table by kind of nested table: what differs from AMD's nested paging, and more rows.

The expectations are stated by hand, from the policy and Intel SDM vol. 3C, "EPT Violations",
"Instructions That Cause VM Exits Unconditionally", "Instructions That Cause VM Exits
Conditionally".
"""

from collections.abc import Mapping
from dataclasses import replace

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_START
from crosswalk.emu.protect.actions import RETURN_42, Actions, Operate, do, remap, store
from crosswalk.emu.protect.agent import FOR_USER, MARK_FOR_USER, Operation
from crosswalk.emu.protect.attack import (
    Attack,
    Crash,
    Intercepted,
    NestedFault,
    NotStopped,
    Result,
    Violation,
    VmExited,
)
from crosswalk.emu.protect.attacks import (
    ATTACKS,
    CR4_VALUE,
    FORGED_TABLES,
    HOLE,
    JUNK,
    KERNEL,
    LARGE_HOLE,
    OPEN_TEXT,
    TABLE_IN_DATA,
    TEXT,
    USER_JIT,
    USER_JIT_FRAME,
    USER_RUN_BY_KERNEL,
    AgentAttack,
)
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import CR4
from crosswalk.walker.protection.policy import TableKind

__all__ = [
    "CR0_WRITTEN",
    "CR4_WRITTEN",
    "EFER_WRITTEN",
    "EXITS",
    "ONE_RIGHT",
    "attacks_for",
    "expected_under",
]

CR0_WRITTEN, CR4_WRITTEN, EFER_WRITTEN = "write of CR0", "write of CR4", "WRMSR to EFER"
"""What ends in a VM exit, besides instructions, which are called by their names."""

P, RW, US = Bit.P, Bit.RW, Bit.US
_ALIAS = places.USER + 2 * PAGE
ONE_RIGHT = "one right to execute for all privilege levels (EPT with MBEC has two)"
"""Why what MBEC alone stops isn't stopped by other tables."""

EXITS: Mapping[int, str] = {
    ExitCode.CR0_WRITE: CR0_WRITTEN,
    ExitCode.CR4_WRITE: CR4_WRITTEN,
    ExitCode.MSR: EFER_WRITTEN,
}
"""By the intercepts of SVM, what ends in a VM exit under VMX."""

# The instructions of VMX, with an address of the host's as their operand where they have one.
_INSTRUCTIONS = tuple(
    Attack(f"{operation.name} by the guest", do(operation, HOST_START), VmExited(operation.name))
    for operation in (
        Operation.VMXON,
        Operation.VMXOFF,
        Operation.VMLAUNCH,
        Operation.VMRESUME,
        Operation.VMCLEAR,
        Operation.VMPTRLD,
        Operation.VMPTRST,
        Operation.VMREAD,
        Operation.VMWRITE,
        Operation.INVEPT,
        Operation.INVVPID,
    )
)

# The same as OPEN_TEXT with VMCALL in the place of VMMCALL.
_OPEN_TEXT_BY_VMCALL = (OPEN_TEXT[0], OPEN_TEXT[1] ^ (0xD9 ^ 0xC1) << 32)
_BY_VMCALL = dict(zip(OPEN_TEXT, _OPEN_TEXT_BY_VMCALL, strict=True))

# Bochs 3.0 panics where a write with CR0.WP clear has to set D in an entry without R/W: these
# entries have D set, and are otherwise as they were.
_DIRTY = {
    "CR0.WP cleared where it isn't pinned, store to text": remap(
        KERNEL + TEXT, TEXT | P | Bit.G | Bit.A | Bit.D
    ),
    "CR0.WP cleared where it isn't pinned, store to rodata": remap(
        KERNEL + places.RODATA, places.RODATA | P | Bit.NX | Bit.G | Bit.A | Bit.D
    ),
}

_TABLE_IN_DATA = (
    *store(LARGE_HOLE, JUNK),
    *do(Operation.LOAD, KERNEL + places.DATA),
)


def _executions(kind: TableKind) -> tuple[AgentAttack, ...]:
    """Return the rows about who executes what, in which only MBEC makes a difference."""
    user_run = (
        *do(Operation.STORE_USER, USER_JIT),
        *remap(HOLE, USER_JIT_FRAME | P | RW),
        *store(HOLE, RETURN_42),
    )
    return (
        _apart(
            kind,
            USER_RUN_BY_KERNEL,
            (*user_run, *do(Operation.EXECUTE, HOLE)),
            42,
            USER_JIT_FRAME,
        ),
        _apart(
            kind,
            "CR3 to tables that allow all, user code run as supervisor",
            (
                *FORGED_TABLES,
                *store(USER_JIT_FRAME, RETURN_42),
                *do(Operation.EXECUTE, USER_JIT_FRAME),
            ),
            42,
            USER_JIT_FRAME,
        ),
        _apart(
            kind,
            "kernel code run by user code, through a user alias",
            (
                *remap(_ALIAS, places.AGENT | P | US),
                *do(Operation.EXECUTE_USER, _ALIAS + FOR_USER),
            ),
            MARK_FOR_USER,
            places.AGENT + FOR_USER,
        ),
        Attack(
            "SMEP cleared where it isn't pinned, user code run as supervisor at its own address",
            (
                *user_run,
                *do(Operation.SET_CR4, CR4_VALUE & ~CR4.SMEP),
                *do(Operation.EXECUTE, USER_JIT),
            ),
            NotStopped(42),
            "MBEC goes by the address, which is the user's: pinning SMEP is what stops it"
            if kind is TableKind.EPT_MBEC
            else f"{ONE_RIGHT}: pinning SMEP is what stops it",
            pinned=False,
        ),
    )


def _apart(kind: TableKind, name: str, program: Actions, value: int, gpa: int) -> AgentAttack:
    """Return a row that only MBEC stops, at an address; else the attack gives a value."""
    if kind is TableKind.EPT_MBEC:
        return Attack(name, program, Violation(gpa, AccessType.EXECUTE))
    return Attack(name, program, NotStopped(value), ONE_RIGHT)


def attacks_for(kind: TableKind) -> tuple[AgentAttack, ...]:
    """Return the whole table for a kind of nested table, in the order in which it is reported."""
    executions = _executions(kind)
    rows = [row for row in ATTACKS if row.name != USER_RUN_BY_KERNEL]
    if kind is TableKind.NPT:
        first = next(at for at, row in enumerate(rows) if isinstance(row.expected, NotStopped))
        return (*rows[:first], *executions, *rows[first:])
    svm = [row for row in rows if _is_svm(row)]
    first = rows.index(svm[0])
    others = [_under_ept(row) for row in rows if row not in svm]
    return (*others[:first], *_INSTRUCTIONS, *executions, *others[first:])


def expected_under(kind: TableKind, result: Result) -> Result:
    """Return what a result under AMD's nested paging is under this kind of nested table."""
    if kind is TableKind.NPT:
        return result
    if isinstance(result, NestedFault):
        return Violation(result.gpa, result.access, result.withheld)
    if isinstance(result, Intercepted):
        return VmExited(EXITS[result.code])
    return result


def _is_svm(row: AgentAttack) -> bool:
    return isinstance(row.expected, Intercepted) and row.expected.code not in EXITS


def _under_ept(row: AgentAttack) -> AgentAttack:
    if isinstance(row.expected, Crash):
        return Attack(
            TABLE_IN_DATA,
            (*row.program[:-1], *_TABLE_IN_DATA),
            NotStopped(JUNK),
            "tables are data, and a walk only reads and writes them",
        )
    program = _DIRTY.get(row.name, ()) + tuple(
        replace(action, second=_BY_VMCALL.get(action.second, action.second))
        if isinstance(action, Operate) and action.operation is Operation.STORE
        else action
        for action in row.program
    )
    return replace(row, program=program, expected=expected_under(TableKind.EPT, row.expected))
