"""A list of mappings as an answer: an address is mapped where one of them says so."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from emu.peers.claims import Failure, PeerFailure
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext

__all__ = ["MAX_MAPPINGS", "Lister", "answers_by_range"]

MAX_MAPPINGS = 1 << 20
"""The most mappings that a walker may list for one question."""

Lister = Callable[[int, int], Iterable[Sequence[int]]]
"""Lists the (va, pa, size, …) of the mappings that touch [va, va_end)."""

_PAGE = 4096
_TOP = 1 << 64


def answers_by_range(context: PagingContext, accesses: Accesses, lister: Lister) -> Outcomes:
    """Return what a walker's lists say of each access: mapped, or not.

    Only the pages asked for are listed, one at a time: an address space that leads back to
    itself has more mappings than anybody can list. A page that isn't canonical isn't asked for.
    """
    out = Outcomes.empty(len(accesses))
    out.kind[:] = Kind.PAGE_FAULT
    pages, which = np.unique(accesses.va >> np.uint64(12), return_inverse=True)
    base = np.zeros(len(pages), np.uint64)
    mapped = np.zeros(len(pages), np.bool_)
    count = 0
    for row, page in enumerate(pages.tolist()):
        va = page << 12
        if not context.canonical(va):
            continue
        for mapping in lister(va, min(va + _PAGE, _TOP - 1)):
            count += 1
            if count > MAX_MAPPINGS:
                raise PeerFailure(Failure.FLOOD, f"more than {MAX_MAPPINGS:,} mappings")
            start, pa, size = _checked(mapping)
            if start <= va < start + size:
                mapped[row], base[row] = True, np.uint64((pa + va - start) % _TOP)
    found = mapped[which]
    out.kind[found] = Kind.OK
    out.pa[found] = base[which][found] + (accesses.va & np.uint64(_PAGE - 1))[found]
    return out


def _checked(mapping: Sequence[int]) -> tuple[int, int, int]:
    try:
        va, pa, size = (int(value) for value in mapping[:3])
    except (TypeError, ValueError) as error:
        raise PeerFailure(Failure.NONSENSE, f"{mapping!r} is no (va, pa, size)") from error
    if not (0 <= va < _TOP and 0 <= pa < _TOP and 0 < size < _TOP):
        raise PeerFailure(Failure.NONSENSE, f"{mapping!r} is no (va, pa, size) of 64 bits")
    return va, pa, size
