"""What is wrong with an adapter, as told by its wrong answers: for `crosswalk walker try`.

A mistake is named where it explains every wrong number of its kind, at least two of them, to the
last bit. An answer that is wrong in another way is the walker's own, and nothing is said of it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crosswalk.walker.architecture import PAGE_BYTES

__all__ = ["Number", "Seen", "named"]

_TOP_BIT = 63
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer about one address, beside what is right.

    `mapped` and `said_mapped`: whether there is a page, and whether the walker says so. `said` is
    the physical address that it names, None where it names none. `right` is the true one, `size`
    the page's in bytes, `entry` its last entry, `at` where that lies; 0 where there is no page.
    """

    va: int
    mapped: bool
    said_mapped: bool
    said: int | None
    right: int
    size: int
    entry: int
    at: int

    @property
    def offset(self) -> int:
        """The part of the address that lies within its page."""
        return self.va & (self.size - 1)


@dataclass(frozen=True, slots=True)
class Number:
    """A size or flags of a mapping that the walker lists, beside what is right."""

    kind: str
    said: int
    right: int
    va: int
    entry: int


Wrong = TypeVar("Wrong", Seen, Number)

_ADDRESSES: tuple[tuple[str, Callable[[Seen], int]], ...] = (
    ("the bytes of the physical address are in reverse order", lambda each: _swapped(each.right)),
    (
        "the frame's number is given instead of the physical address (4,096 times as much)",
        lambda each: each.right // PAGE_BYTES,
    ),
    (
        "the physical address of the page is given, without the offset of the address in it",
        lambda each: each.right - each.offset,
    ),
    (
        "of the offset in a large page only the lowest 12 bits are added",
        lambda each: each.right - each.offset + each.offset % PAGE_BYTES,
    ),
    (
        "the entry's bits above the address (XD, and bits that are ignored) are left in it",
        lambda each: (each.entry & -each.size) + each.offset,
    ),
    ("the entry is given instead of the address in it", lambda each: each.entry),
    (
        "the entry's low bits (its flags) are left in the address",
        lambda each: (each.entry & (1 << 52) - 1) + each.offset,
    ),
    (
        "the entry is given with the offset added, its flags left in it",
        lambda each: each.entry + each.offset,
    ),
    ("the physical address of the entry is given, not the one in it", lambda each: each.at),
    ("the linear address is given back", lambda each: each.va),
)

_NUMBERS: dict[str, tuple[tuple[str, Callable[[Number], int]], ...]] = {
    "size": (
        (
            "the size is one less: the offset of a page's last byte, not its length",
            lambda each: each.right - 1,
        ),
        ("the size is given in pages of 4 KiB, not in bytes", lambda each: each.right // 4096),
        ("the size is given in KiB, not in bytes", lambda each: each.right // 1024),
        ("the size is given as a power of two", lambda each: each.right.bit_length() - 1),
    ),
    "flags": (
        ("the flags are the whole entry, the address left in", lambda each: each.entry),
        (
            "the flags are the entry's lowest 12 bits: XD and the others above are missing",
            lambda each: each.right & 0xFFF,
        ),
    ),
}


def named(seen: Sequence[Seen], numbers: Sequence[Number] = ()) -> list[str]:
    """Return the mistakes that these answers give away, a line each."""
    found = [_of_outcomes(seen), _of_addresses(seen)]
    found += [
        _one([each for each in numbers if each.kind == kind], mistakes, lambda each: each.said)
        for kind, mistakes in _NUMBERS.items()
    ]
    return [text for text in found if text]


def _of_addresses(seen: Iterable[Seen]) -> str:
    named_pages = [each for each in seen if each.mapped and each.said is not None]
    wrong = [each for each in named_pages if each.said != each.right]
    return _one(wrong, _ADDRESSES, lambda each: each.said)


def _one(
    wrong: Sequence[Wrong],
    mistakes: Iterable[tuple[str, Callable[[Wrong], int]]],
    said: Callable[[Wrong], int | None],
) -> str:
    """Return the mistake that explains all that is wrong, several different numbers, if any."""
    if len({each.va for each in wrong}) < _LEAST:
        return ""
    explains = (text for text, made in mistakes if all(made(each) == said(each) for each in wrong))
    return next(explains, "")


def _of_outcomes(seen: Sequence[Seen]) -> str:
    """Return what whole groups of addresses, found or not found, give away."""
    pages = [each for each in seen if each.mapped]
    holes = [each for each in seen if not each.mapped]
    upper = [each for each in pages if each.va >> _TOP_BIT]
    lower = [each for each in pages if not each.va >> _TOP_BIT]
    lost = [each for each in pages if not each.said_mapped]
    invented = [each for each in holes if each.said_mapped]
    if len(pages) >= _LEAST and lost == pages:
        if len(invented) == len(holes) >= _LEAST:
            return "mapped and not mapped, or allowed and refused, are exchanged"
        return (
            "no address is found: look at the root (CR3 without its low 12 bits), at how words are "
            "read (8 bytes, the lowest first), and at what stands for a mapping in the answer"
        )
    if len(upper) >= _LEAST and lost == upper and len(lower) >= _LEAST:
        return (
            "no address of the upper half is found: addresses are 64 bits without a sign, and "
            "canonical (0xffff…)"
        )
    if len(invented) >= _LEAST and all(each.said == 0 for each in invented):
        return (
            "where nothing is mapped the answer is physical address 0, which is an address: "
            "there is an answer of its own for no mapping"
        )
    return ""


def _swapped(number: int) -> int:
    return int.from_bytes(number.to_bytes(8, "little"), "big")
