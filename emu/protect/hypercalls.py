"""Hypercalls that ask for too much, or are malformed, each in one way."""

from collections.abc import Iterator

from crosswalk.emu.protect.actions import DIRECT, Move, Step, listed, remap, report, store
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import DATA, HOLE, TEXT, Attack, do
from crosswalk.emu.protect.hypervisor import MAX_LIST, Answer, Hypercall
from crosswalk.emu.protect.requests import LIST
from crosswalk.emu.protect.results import Granted, Refused
from crosswalk.guest import places
from crosswalk.guest.layout import PAGE, Bit
from crosswalk.walker.protection.pagelist import ENTRIES

__all__ = ["REQUESTS"]

P, RW, NX = Bit.P, Bit.RW, Bit.NX
_JIT, _USER_JIT = places.EXECUTABLE + 2 * PAGE, places.USER + 16 * PAGE
# MOV EAX, 0x101; MOV EBX, TEXT; VMMCALL; INT 0x20
_OPEN_TEXT = (0x3000_BB00_0001_01B8, 0x20_CDD9_010F_0010)

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


def _malformed(pa: int) -> Iterator[tuple[str, tuple[Move, ...], Answer, str]]:
    """Yield names, steps, answers and reasons due; lists are written at physical address `pa`."""
    for name, entry, told in _ENTRIES:
        yield name, listed(entry, pa=pa), Answer.INVALID, told
    yield "ranges that overlap", listed(_ONE, _ONE, pa=pa), Answer.INVALID, "overlaps"
    ask = _call(Hypercall.PROTECT_MEMORY, pa)
    va = places.KERNEL + pa
    for name, head, told in (
        ("an empty page", (0, 0, 0), "0 entries"),
        ("more entries than a page holds", (0, 0, ENTRIES + 1), f"{ENTRIES + 1} entries"),
        ("the most entries that a word can say", (0, 0, (1 << 64) - 1), "615 entries"),
        ("a cycle", (0, pa, 1), "a cycle"),
        ("a next page beyond RAM", (0, _END, 1), "not in RAM"),
        ("a next page that isn't aligned", (0, pa + 8, 1), "not the address of a page"),
    ):
        yield name, store(va, *head, *_ONE) + ask, Answer.INVALID, told
    chain = (*_chain(pa, MAX_LIST + 1), *ask)
    yield "too long a chain", chain, Answer.INVALID, f"more than {MAX_LIST} pages"
    for name, call, at, told in (
        ("a list beyond RAM", Hypercall.PROTECT_MEMORY, _END, "not in RAM"),
        ("a list not aligned", Hypercall.PROTECT_MEMORY, pa + 8, "not the address of a page"),
        ("a list nowhere", Hypercall.PROTECT_MEMORY, (1 << 64) - PAGE, "not in RAM"),
        ("a report beyond RAM", Hypercall.UPDATE, _END, "no memory"),
        ("text beyond RAM opened", Hypercall.OPEN_TEXT, _END, "no frame"),
        ("text not aligned opened", Hypercall.OPEN_TEXT, places.TEXT + 8, "no frame"),
    ):
        yield name, _call(call, at), Answer.INVALID, told
    told_host = _call(Hypercall.UPDATE, pa)
    yield "a report of no changes", store(va, 0) + told_host, Answer.INVALID, "0 changed entries"
    too_many = store(va, PAGE // 8) + told_host
    yield "a report of too many changes", too_many, Answer.INVALID, "512 changed entries"
    yield "an unknown hypercall", _call(0x666, 0), Answer.UNKNOWN, "no such hypercall"


def _call(number: int, argument: int) -> tuple[Move, ...]:
    return (Step(Operation.HYPERCALL, number, argument),)


def _chain(pa: int, pages: int) -> Iterator[Move]:
    for number in range(pages):
        here = pa + number * PAGE
        following = here + PAGE if number < pages - 1 else 0
        entry = (places.WRITABLE + number * PAGE, places.WRITABLE + (number + 1) * PAGE, 3)
        yield from store(places.KERNEL + here, 0, following, 1, *entry)


REQUESTS: tuple[Attack, ...] = (
    Attack(
        "asks for less than its mappings need, in two frames",
        listed((DATA, DATA + 2 * PAGE, 1)),
        Granted(2),
    ),
    Attack(
        "asks for text to be writable",
        listed((TEXT, TEXT + PAGE, 7)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "asks for data to be executable",
        listed((DATA, DATA + PAGE, 7)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "asks for a writable page of text among many that are in order",
        listed((DATA, DATA + PAGE, 3), (TEXT, TEXT + PAGE, 3)),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "opens rodata for patching",
        do(Operation.HYPERCALL, Hypercall.OPEN_TEXT, places.RODATA),
        Refused(Answer.NOT_PERMITTED),
    ),
    Attack(
        "user code opens text for patching",
        (
            *do(Operation.STORE_USER, _USER_JIT),
            *remap(HOLE, _JIT | P | RW),
            *store(HOLE, *_OPEN_TEXT),
            *do(Operation.EXECUTE_USER, _USER_JIT),
        ),
        Refused(Answer.NOT_PERMITTED),
        told="user code",
    ),
    Attack(
        "closes what isn't open",
        do(Operation.HYPERCALL, Hypercall.CLOSE_TEXT),
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
        Attack(f"malformed: {name}", steps, Refused(answer), told=told)
        for name, steps, answer, told in _malformed(LIST)
    ),
)
"""In the order in which they are told."""
