"""What the scheme doesn't stop, and why; and what the emulator can't take."""

from crosswalk.emu.protect.actions import (
    DIRECT,
    RETURN_42,
    remap,
    report,
    store,
)
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import (
    CR4,
    DATA,
    HOLE,
    JUNK,
    LANDMARK,
    MARK,
    SMAP,
    TEXT,
    Attack,
    do,
)
from crosswalk.emu.protect.forging import FORGED
from crosswalk.emu.protect.hypervisor import Hypercall
from crosswalk.emu.protect.results import (
    Crash,
    NotStopped,
)
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit

__all__ = ["LIMITS"]

P, RW, NX = Bit.P, Bit.RW, Bit.NX
KERNEL = places.KERNEL

_LARGE_HOLE = KERNEL + 0x1000_0000
_JIT = places.EXECUTABLE + 2 * PAGE
_USER_JIT = places.USER + 16 * PAGE


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
        "user code run as supervisor, through a supervisor alias",
        (
            *do(Operation.STORE_USER, _USER_JIT),
            *remap(HOLE, _JIT | P | RW),
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
        do(Operation.SET_CR4, CR4 & ~SMAP) + do(Operation.LOAD, places.USER_DATA + 8),
        NotStopped(int.from_bytes(b"in user ", "little")),
        "nested tables don't know who reads: pinning is what stops it",
        unpinned=True,
    ),
)

_ASKED = (
    Attack(
        "has text opened for patching, and patches it",
        (
            *do(Operation.HYPERCALL, Hypercall.OPEN_TEXT, TEXT),
            *remap(HOLE, TEXT | P | RW | NX),
            *report((HOLE, 1)),
            *store(HOLE, RETURN_42),
            *remap(HOLE, 0),
            *report((HOLE, 1)),
            *do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT),
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
        kept=False,
    ),
)

_CRASHES = (
    Attack(
        "data used as a page table",
        (
            *store(DIRECT + DATA, places.DATA | P | RW),
            *remap(_LARGE_HOLE, DATA | P | RW, 2),
            *do(Operation.LOAD, _LARGE_HOLE),
        ),
        Crash(),
        "a fault of the emulator's: hardware refuses no table in memory that isn't executable",
    ),
)


LIMITS: tuple[Attack, ...] = (*_WITHOUT_ASKING, *_ASKED, *_CRASHES)
"""In the order in which it is told."""
