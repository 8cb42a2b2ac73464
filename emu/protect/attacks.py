"""The attack table of the built-in guest: what it does to itself, and the expected results.

The expectations are stated by hand, from the policy and AMD APM vol. 2, "Nested versus Guest Page
Faults, Fault Ordering".
"""

from collections.abc import Iterator

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_START
from crosswalk.emu.protect.actions import (
    DIRECT,
    LIST,
    RETURN_42,
    RETURN_42_TO_KERNEL,
    Action,
    Actions,
    do,
    remap,
    report,
    report_addresses,
    request,
    store,
)
from crosswalk.emu.protect.agent import FORGED, LANDMARK, MARK, Operation
from crosswalk.emu.protect.attack import (
    Attack,
    Crash,
    Granted,
    GuestFault,
    Intercepted,
    NestedFault,
    NotStopped,
    Refused,
)
from crosswalk.emu.protect.hypervisor import MAX_LIST, Answer, Hypercall
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit
from crosswalk.walker.architecture import CR0, CR4, EFER, MSR
from crosswalk.walker.protection.pagelist import ENTRIES

__all__ = [
    "ATTACKS",
    "CR4_VALUE",
    "FORGED_TABLES",
    "HOLE",
    "JUNK",
    "KERNEL",
    "LARGE_HOLE",
    "OPEN_TEXT",
    "TABLE_IN_DATA",
    "TEXT",
    "USER_JIT",
    "USER_JIT_FRAME",
    "USER_RUN_BY_KERNEL",
    "AgentAttack",
]

AgentAttack = Attack[Actions]
"""The last action decides; every one before it has to succeed."""

TEXT = places.TEXT + 3 * PAGE
"""A frame of the kernel's text without code."""
DATA = 0x2_0000
"""A frame that the direct map alone has writable."""
HOLE = places.KERNEL + places.TEXT + 4 * PAGE
"""A page of the kernel's address space that is not mapped."""

WRITE, ABSENT_WRITE, FETCH = 0x7, 0x6, 0x15
"""Error codes of nested page faults: P, W and U; W and U; P, U and I/D."""
CR0_VALUE, CR4_VALUE, EFER_VALUE = 0x8001_0033, 0x30_00A0, 0xD00
"""The guest's control registers."""
JUNK = 0x6B6E_756A

P, RW, US, NX, G, PS = Bit.P, Bit.RW, Bit.US, Bit.NX, Bit.G, Bit.PS
KERNEL = places.KERNEL

_SPARE_TABLE = FORGED - PAGE
_TSS_IST1 = KERNEL + places.DESCRIPTORS + 0x80 + 36
_GATE = KERNEL + places.DESCRIPTORS + 0x100 + 16 * 0x20


def _hypercall(number: int, argument: int = 0) -> Actions:
    return do(Operation.HYPERCALL, number, argument)


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
    Attack(
        "CR0.WP cleared",
        do(Operation.SET_CR0, CR0_VALUE & ~CR0.WP),
        Intercepted(ExitCode.CR0_WRITE),
    ),
    Attack(
        "paging off", do(Operation.SET_CR0, CR0_VALUE & ~CR0.PG), Intercepted(ExitCode.CR0_WRITE)
    ),
    Attack(
        "CR4.SMEP cleared",
        do(Operation.SET_CR4, CR4_VALUE & ~CR4.SMEP),
        Intercepted(ExitCode.CR4_WRITE),
    ),
    Attack(
        "CR4.SMAP cleared",
        do(Operation.SET_CR4, CR4_VALUE & ~CR4.SMAP),
        Intercepted(ExitCode.CR4_WRITE),
    ),
    Attack(
        "EFER.NXE cleared",
        do(Operation.SET_MSR, MSR.EFER, EFER_VALUE & ~EFER.NXE),
        Intercepted(ExitCode.MSR),
    ),
    Attack(
        "CR0.WP cleared where it isn't pinned, store to text",
        do(Operation.SET_CR0, CR0_VALUE & ~CR0.WP) + store(KERNEL + TEXT, JUNK),
        NestedFault(TEXT, WRITE),
        pinned=False,
    ),
    Attack(
        "CR0.WP cleared where it isn't pinned, store to rodata",
        do(Operation.SET_CR0, CR0_VALUE & ~CR0.WP) + store(KERNEL + places.RODATA, JUNK),
        NestedFault(places.RODATA, WRITE),
        pinned=False,
    ),
)

FORGED_TABLES = do(Operation.SET_CR3, FORGED)
_FORGERIES = (
    Attack(
        "CR3 to tables that allow all, store to text",
        FORGED_TABLES + store(TEXT, JUNK),
        NestedFault(TEXT, WRITE),
    ),
    Attack(
        "CR3 to tables that allow all, store to rodata",
        FORGED_TABLES + store(places.RODATA, JUNK),
        NestedFault(places.RODATA, WRITE),
    ),
    Attack(
        "CR3 to tables that allow all, data run",
        FORGED_TABLES + store(DATA, RETURN_42) + do(Operation.EXECUTE, DATA),
        NestedFault(DATA, FETCH),
    ),
    Attack(
        "CR3 to tables that allow all, a change reported",
        FORGED_TABLES + report_addresses(FORGED),
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

USER_JIT_FRAME, USER_JIT = places.EXECUTABLE + 2 * PAGE, places.USER + 16 * PAGE
# MOV EAX, 0x101; MOV EBX, TEXT; VMMCALL; INT 0x20
OPEN_TEXT = (0x3000_BB00_0001_01B8, 0x20_CDD9_010F_0010)

_ONE = (places.WRITABLE, places.WRITABLE + PAGE, 3)
_END = places.RAM_SIZE
_HERE = places.WRITABLE
_ENTRIES = (
    ("a range that doesn't begin at a page", (_HERE + 8, _HERE + PAGE, 3), "pa is not"),
    ("a range that doesn't end at a page", (_HERE, _HERE + PAGE - 1, 3), "epa is not"),
    ("an empty range", (_HERE, _HERE, 3), "not above"),
    ("a range that ends before it begins", (_HERE + PAGE, _HERE, 3), "not above"),
    ("a range beyond RAM", (_END, _END + PAGE, 3), "not all in RAM"),
    ("a range that leaves RAM", (_END - PAGE, _END + PAGE, 3), "not all in RAM"),
    ("a range up to the top", (_END - PAGE, (1 << 64) - PAGE, 3), "not all in RAM"),
    ("unknown permissions", (_HERE, _HERE + PAGE, 3 | 16), "unknown permissions"),
    ("no permission at all", (_HERE, _HERE + PAGE, 0), "no permission to read"),
    ("writing without reading", (_HERE, _HERE + PAGE, 2), "no permission to read"),
)


def _malformed(pa: int) -> Iterator[tuple[str, Actions, Answer, str]]:
    """Yield names, actions, answers and reasons expected; lists are written at `pa`, physical."""
    for name, entry, reason in _ENTRIES:
        yield name, request(entry, pa=pa), Answer.INVALID, reason
    yield "ranges that overlap", request(_ONE, _ONE, pa=pa), Answer.INVALID, "overlaps"
    ask = _hypercall(Hypercall.PROTECT_MEMORY, pa)
    va = places.KERNEL + pa
    for name, head, reason in (
        ("an empty page", (0, 0, 0), "0 entries"),
        ("more entries than a page holds", (0, 0, ENTRIES + 1), f"{ENTRIES + 1} entries"),
        ("the most entries that a word can say", (0, 0, (1 << 64) - 1), "615 entries"),
        ("a cycle", (0, pa, 1), "a cycle"),
        ("a next page beyond RAM", (0, _END, 1), "not in RAM"),
        ("a next page that isn't aligned", (0, pa + 8, 1), "not the address of a page"),
    ):
        yield name, store(va, *head, *_ONE) + ask, Answer.INVALID, reason
    chain = (*_chain(pa, MAX_LIST + 1), *ask)
    yield "too long a chain", chain, Answer.INVALID, f"more than {MAX_LIST} pages"
    for name, call, at, reason in (
        ("a list beyond RAM", Hypercall.PROTECT_MEMORY, _END, "not in RAM"),
        ("a list not aligned", Hypercall.PROTECT_MEMORY, pa + 8, "not the address of a page"),
        ("a list nowhere", Hypercall.PROTECT_MEMORY, (1 << 64) - PAGE, "not in RAM"),
        ("a report beyond RAM", Hypercall.UPDATE, _END, "no memory"),
        ("text beyond RAM opened", Hypercall.OPEN_TEXT, _END, "no frame"),
        ("text not aligned opened", Hypercall.OPEN_TEXT, places.TEXT + 8, "no frame"),
    ):
        yield name, _hypercall(call, at), Answer.INVALID, reason
    report_list = _hypercall(Hypercall.UPDATE, pa)
    yield "a report of no changes", store(va, 0) + report_list, Answer.INVALID, "0 changed entries"
    too_many = store(va, PAGE // 8) + report_list
    yield "a report of too many changes", too_many, Answer.INVALID, "512 changed entries"
    yield "an unknown hypercall", _hypercall(0x666, 0), Answer.UNKNOWN, "no such hypercall"


def _chain(pa: int, pages: int) -> Iterator[Action]:
    for number in range(pages):
        here = pa + number * PAGE
        following = here + PAGE if number < pages - 1 else 0
        entry = (places.WRITABLE + number * PAGE, places.WRITABLE + (number + 1) * PAGE, 3)
        yield from store(places.KERNEL + here, 0, following, 1, *entry)


_REQUESTS = (
    Attack(
        "asks for less than its mappings need, in two frames",
        request((DATA, DATA + 2 * PAGE, 1)),
        Granted(2),
    ),
    Attack(
        "asks for text to be writable",
        request((TEXT, TEXT + PAGE, 7)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "asks for data to be executable",
        request((DATA, DATA + PAGE, 7)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "asks for a writable page of text among many that are in order",
        request((DATA, DATA + PAGE, 3), (TEXT, TEXT + PAGE, 3)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "opens rodata for patching",
        _hypercall(Hypercall.OPEN_TEXT, places.RODATA),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "user code opens text for patching",
        (
            *do(Operation.STORE_USER, USER_JIT),
            *remap(HOLE, USER_JIT_FRAME | P | RW),
            *store(HOLE, *OPEN_TEXT),
            *do(Operation.EXECUTE_USER, USER_JIT),
        ),
        Refused(Answer.NOT_PERMITTED),
        reason="user code",
    ),
    Attack(
        "closes what isn't open",
        _hypercall(Hypercall.CLOSE_TEXT),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "reports a writable alias of text",
        (*remap(HOLE, TEXT | P | RW | NX), *report((HOLE, 1))),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "reports data made executable and left writable",
        (*remap(DIRECT + DATA, DATA | P | RW), *report((DIRECT + DATA, 1))),
        Refused(Answer.NOT_PERMITTED),
    ),
    *(
        Attack(f"malformed: {name}", actions, Refused(answer), reason=reason)
        for name, actions, answer, reason in _malformed(LIST)
    ),
)

LARGE_HOLE = KERNEL + 0x1000_0000

USER_RUN_BY_KERNEL = "user code run as supervisor, through a supervisor alias"


_WITHOUT_ASKING = (
    Attack(
        "a kernel address remapped to other data",
        remap(places.LAST_PAGE, DATA | P | RW | NX)
        + store(DIRECT + DATA, JUNK)
        + do(Operation.LOAD, places.LAST_PAGE),
        NotStopped(JUNK),
        "both frames are data: nested tables know frames, not which address shows them",
    ),
    Attack(
        "one page of text in the place of another",
        remap(KERNEL + places.TEXT, places.AGENT | P)
        + do(Operation.EXECUTE, KERNEL + places.TEXT + LANDMARK),
        NotStopped(MARK),
        "both frames may be executed; which of them a call reaches is up to the guest's tables",
    ),
    Attack(
        "a gate of the IDT overwritten",
        store(KERNEL + places.DESCRIPTORS + 0x100 + 14 * 16, JUNK),
        NotStopped(),
        "a data-only attack: the frame is data, and the guest may write its data",
    ),
    Attack(
        USER_RUN_BY_KERNEL,
        (
            *do(Operation.STORE_USER, USER_JIT),
            *remap(HOLE, USER_JIT_FRAME | P | RW),
            *store(HOLE, RETURN_42),
            *do(Operation.EXECUTE, HOLE),
        ),
        NotStopped(42),
        "nested tables have one right to execute for all privilege levels (EPT has MBEC)",
    ),
    Attack(
        "user memory read as supervisor, through a supervisor alias",
        remap(HOLE, places.USER_DATA_FRAME | P | NX) + do(Operation.LOAD, HOLE + 8),
        NotStopped(int.from_bytes(b"in user ", "little")),
        "reading isn't withheld from any frame",
    ),
    Attack(
        "CR3 to tables that allow all, rodata read",
        do(Operation.SET_CR3, FORGED) + do(Operation.LOAD, places.RODATA),
        NotStopped(int.from_bytes(b"Crosswal", "little")),
        "reading isn't withheld from any frame",
    ),
    Attack(
        "CR3 to tables that allow all, data written",
        do(Operation.SET_CR3, FORGED) + store(places.DATA, JUNK),
        NotStopped(),
        "the frame is data; CR3 isn't pinned",
    ),
    Attack(
        "SMAP cleared where it isn't pinned, user data read",
        do(Operation.SET_CR4, CR4_VALUE & ~CR4.SMAP) + do(Operation.LOAD, places.USER_DATA + 8),
        NotStopped(int.from_bytes(b"in user ", "little")),
        "nested tables don't know who reads: pinning is what stops it",
        pinned=False,
    ),
)

_ASKED = (
    Attack(
        "has text opened for patching, and patches it",
        (
            *_hypercall(Hypercall.OPEN_TEXT, TEXT),
            *remap(HOLE, TEXT | P | RW | NX),
            *report((HOLE, 1)),
            *store(HOLE, RETURN_42),
            *remap(HOLE, 0),
            *report((HOLE, 1)),
            *_hypercall(Hypercall.CLOSE_TEXT),
            *do(Operation.EXECUTE, KERNEL + TEXT),
        ),
        NotStopped(42),
        "the host can't tell who asks: it would have to check what is written",
    ),
    Attack(
        "loads code of its own as a module: written, made read-only, reported, run",
        (
            *store(DIRECT + DATA, RETURN_42),
            *remap(DIRECT + DATA, DATA | P),
            *report((DIRECT + DATA, 1)),
            *do(Operation.EXECUTE, DIRECT + DATA),
        ),
        NotStopped(42),
        "code may come later, and the host doesn't check whose it is",
        keeps_grants=False,
    ),
)

TABLE_IN_DATA = "data used as a page table"
_CRASHES = (
    Attack(
        TABLE_IN_DATA,
        (
            *store(DIRECT + DATA, places.DATA | P | RW),
            *remap(LARGE_HOLE, DATA | P | RW, 2),
            *do(Operation.LOAD, LARGE_HOLE),
        ),
        Crash(),
        "a fault of the emulator's: hardware refuses no table in memory that isn't executable",
    ),
)

ATTACKS: tuple[AgentAttack, ...] = (
    *_GUEST,
    *_WRITES,
    *_EXECUTIONS,
    *_REGISTERS,
    *_FORGERIES,
    *_INSTRUCTIONS,
    *_REQUESTS,
    *_WITHOUT_ASKING,
    *_ASKED,
    *_CRASHES,
)
"""The whole table, in the order in which it is reported."""
