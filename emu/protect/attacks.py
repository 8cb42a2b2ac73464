"""The attack table: what the guest does to itself, and what is to stop it.

The expectations are stated by hand, from the policy and AMD APM vol. 2, "Nested
versus Guest Page Faults, Fault Ordering".
"""

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_START
from crosswalk.emu.protect.actions import (
    DIRECT,
    RETURN_42,
    RETURN_42_TO_KERNEL,
    addresses,
    remap,
    store,
)
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import (
    ABSENT_WRITE,
    CR0,
    CR4,
    DATA,
    EFER,
    FETCH,
    HOLE,
    JUNK,
    LANDMARK,
    NXE,
    PG,
    SMAP,
    SMEP,
    TEXT,
    WP,
    WRITE,
    Attack,
    do,
)
from crosswalk.emu.protect.forging import FORGED
from crosswalk.emu.protect.hypercalls import REQUESTS
from crosswalk.emu.protect.hypervisor import Answer
from crosswalk.emu.protect.limits import LIMITS
from crosswalk.emu.protect.results import (
    GuestFault,
    Intercepted,
    NestedFault,
    Refused,
)
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit

__all__ = ["ATTACKS"]

P, RW, US, NX, G, PS = Bit.P, Bit.RW, Bit.US, Bit.NX, Bit.G, Bit.PS
KERNEL = places.KERNEL

_SPARE_TABLE = FORGED - PAGE
_EFER_MSR = 0xC000_0080


_TSS_IST1 = KERNEL + places.DESCRIPTORS + 0x80 + 36
_GATE = KERNEL + places.DESCRIPTORS + 0x100 + 16 * 0x20


def _gate(handler: int) -> tuple[int, int]:
    """Return a gate for interrupts, on the first stack of the TSS's own."""
    low = handler & 0xFFFF | 0x10 << 16 | 1 << 32 | 0x8E << 40 | (handler >> 16 & 0xFFFF) << 48
    return low, handler >> 32


_GUEST = (
    Attack("store to text as it is mapped", store(KERNEL + TEXT, JUNK), GuestFault(3)),
    Attack("store to rodata as it is mapped", store(KERNEL + places.RODATA, JUNK), GuestFault(3)),
    Attack("run user text as supervisor", do(Operation.EXECUTE, places.USER), GuestFault(0x11)),
    Attack("read user data as supervisor", do(Operation.LOAD, places.USER_DATA), GuestFault(1)),
    Attack(
        "store to kernel data as user",
        do(Operation.STORE_USER, KERNEL + places.DATA),
        GuestFault(7),
    ),
)

_WRITES = (
    Attack(
        "text written in place, its entry made writable",
        remap(KERNEL + TEXT, TEXT | P | RW | G) + store(KERNEL + TEXT, JUNK),
        NestedFault(TEXT, WRITE),
    ),
    Attack(
        "text written through the direct map, made writable",
        remap(DIRECT + TEXT, TEXT | P | RW | NX | G) + store(DIRECT + TEXT, JUNK),
        NestedFault(TEXT, WRITE),
    ),
    Attack(
        "text written through a new alias",
        remap(HOLE, TEXT | P | RW | NX) + store(HOLE + 8, JUNK),
        NestedFault(TEXT + 8, WRITE),
    ),
    Attack(
        "text written by user code through an alias of its own",
        (
            *remap(places.USER + 2 * PAGE, TEXT | P | RW | US | NX),
            *do(Operation.STORE_USER, places.USER + 2 * PAGE),
        ),
        NestedFault(TEXT, WRITE),
    ),
    Attack(
        "rodata remapped writable",
        remap(KERNEL + places.RODATA, places.RODATA | P | RW | NX)
        + store(KERNEL + places.RODATA, JUNK),
        NestedFault(places.RODATA, WRITE),
    ),
    Attack(
        "large text made writable",
        remap(KERNEL + places.LARGE_TEXT, places.LARGE_TEXT | P | RW | PS, 2)
        + store(KERNEL + places.LARGE_TEXT, JUNK),
        NestedFault(places.LARGE_TEXT, WRITE),
    ),
    Attack(
        "large page split over text, one small page of it writable",
        (
            *store(DIRECT + _SPARE_TABLE + 8 * 5, places.LARGE_TEXT + 5 * PAGE | P | RW),
            *remap(KERNEL + places.LARGE_TEXT, _SPARE_TABLE | P | RW, 2),
            *store(KERNEL + places.LARGE_TEXT + 5 * PAGE, JUNK),
        ),
        NestedFault(places.LARGE_TEXT + 5 * PAGE, WRITE),
    ),
    Attack(
        "an exception's frame pushed on text, by a stack of the TSS's",
        (
            *remap(HOLE, TEXT | P | RW | NX),
            *store(_TSS_IST1, HOLE + 0x800),
            *store(_GATE, *_gate(KERNEL + places.AGENT + LANDMARK)),
            *do(Operation.INTERRUPT),
        ),
        NestedFault(TEXT + 0x7F8, WRITE),
    ),
    Attack(
        "the host's memory mapped and written",
        remap(HOLE, HOST_START | P | RW | NX) + store(HOLE, JUNK),
        NestedFault(HOST_START, ABSENT_WRITE),
    ),
)

_EXECUTIONS = (
    Attack(
        "code put into data, NX cleared, run",
        (
            *store(DIRECT + DATA, RETURN_42),
            *remap(DIRECT + DATA, DATA | P | RW),
            *do(Operation.EXECUTE, DIRECT + DATA),
        ),
        NestedFault(DATA, FETCH),
    ),
    Attack(
        "code put into data, run through a new alias",
        (
            *store(DIRECT + DATA, RETURN_42),
            *remap(HOLE, DATA | P),
            *do(Operation.EXECUTE, HOLE),
        ),
        NestedFault(DATA, FETCH),
    ),
    Attack(
        "user data made executable, run by user code",
        (
            *store(DIRECT + places.USER_DATA_FRAME, RETURN_42_TO_KERNEL),
            *remap(places.USER_DATA, places.USER_DATA_FRAME | P | RW | US),
            *do(Operation.EXECUTE_USER, places.USER_DATA),
        ),
        NestedFault(places.USER_DATA_FRAME, FETCH),
    ),
)

_REGISTERS = (
    Attack("CR0.WP cleared", do(Operation.SET_CR0, CR0 & ~WP), Intercepted(ExitCode.CR0_WRITE)),
    Attack("paging off", do(Operation.SET_CR0, CR0 & ~PG), Intercepted(ExitCode.CR0_WRITE)),
    Attack("CR4.SMEP cleared", do(Operation.SET_CR4, CR4 & ~SMEP), Intercepted(ExitCode.CR4_WRITE)),
    Attack("CR4.SMAP cleared", do(Operation.SET_CR4, CR4 & ~SMAP), Intercepted(ExitCode.CR4_WRITE)),
    Attack(
        "EFER.NXE cleared",
        do(Operation.SET_MSR, _EFER_MSR, EFER & ~NXE),
        Intercepted(ExitCode.MSR),
    ),
    Attack(
        "CR0.WP cleared where it isn't pinned, store to text",
        do(Operation.SET_CR0, CR0 & ~WP) + store(KERNEL + TEXT, JUNK),
        NestedFault(TEXT, WRITE),
        unpinned=True,
    ),
    Attack(
        "CR0.WP cleared where it isn't pinned, store to rodata",
        do(Operation.SET_CR0, CR0 & ~WP) + store(KERNEL + places.RODATA, JUNK),
        NestedFault(places.RODATA, WRITE),
        unpinned=True,
    ),
)

_FORGED = do(Operation.SET_CR3, FORGED)
_FORGERIES = (
    Attack(
        "CR3 to tables that allow all, store to text",
        _FORGED + store(TEXT, JUNK),
        NestedFault(TEXT, WRITE),
    ),
    Attack(
        "CR3 to tables that allow all, store to rodata",
        _FORGED + store(places.RODATA, JUNK),
        NestedFault(places.RODATA, WRITE),
    ),
    Attack(
        "CR3 to tables that allow all, data run",
        _FORGED + store(DATA, RETURN_42) + do(Operation.EXECUTE, DATA),
        NestedFault(DATA, FETCH),
    ),
    Attack(
        "CR3 to tables that allow all, a change reported",
        _FORGED + addresses(FORGED),
        Refused(Answer.NOT_PERMITTED),
    ),
)

_INSTRUCTIONS = tuple(
    Attack(f"{operation.name} on the host's state", do(operation, HOST_START), Intercepted(code))
    for operation, code in (
        (Operation.VMRUN, ExitCode.VMRUN),
        (Operation.VMLOAD, ExitCode.VMLOAD),
        (Operation.VMSAVE, ExitCode.VMSAVE),
        (Operation.STGI, ExitCode.STGI),
        (Operation.CLGI, ExitCode.CLGI),
        (Operation.SKINIT, ExitCode.SKINIT),
        (Operation.INVLPGA, ExitCode.INVLPGA),
    )
)

ATTACKS: tuple[Attack, ...] = (
    *_GUEST,
    *_WRITES,
    *_EXECUTIONS,
    *_REGISTERS,
    *_FORGERIES,
    *_INSTRUCTIONS,
    *REQUESTS,
    *LIMITS,
)
"""All of the table, in the order in which it is told."""
