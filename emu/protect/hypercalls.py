"""Hypercalls that are malformed, each in one way."""

from collections.abc import Iterator

from emu.protect.agent import Operation
from emu.protect.hypervisor import MAX_LIST, Answer, Hypercall
from emu.protect.steps import Move, Step, listed, store
from guest import places
from guest.layout import PAGE
from walker.protection.pagelist import ENTRIES

__all__ = ["malformed"]

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


def malformed(pa: int) -> Iterator[tuple[str, tuple[Move, ...], Answer, str]]:
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
    report = _call(Hypercall.UPDATE, pa)
    yield "a report of no changes", store(va, 0) + report, Answer.INVALID, "0 changed entries"
    too_many = store(va, PAGE // 8) + report
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
