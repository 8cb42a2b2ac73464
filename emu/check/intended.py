"""The third witness: what the guest was meant to map, against what the walker reads."""

from collections.abc import Iterable, Iterator

from crosswalk.guest.views import Faulting, Intended
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.mappings import mappings
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import ErrorCode, PageFault
from crosswalk.walker.translate import translate

__all__ = ["broken_intentions"]

Page = tuple[int, int, int, str, str]


def broken_intentions(
    memory: PhysicalMemory,
    context: PagingContext,
    intended: Iterable[Intended],
    faulting: Iterable[Faulting],
) -> list[str]:
    """Return a line for each difference between intention and walk, in address order.

    Both ways: pages that were meant and aren't there, or otherwise; pages that nobody meant.
    Ranges meant to fault have to, with RSVD in the error code where a reserved bit is the cause.
    """
    meant = {page[0]: (page, each.name) for each in intended for page in _pages(each)}
    found = {
        page.va: (page.va, page.pa, page.size, page.rights.supervisor, page.rights.user)
        for page in mappings(memory, context)
    }
    lines = []
    for va in sorted(meant.keys() | found.keys()):
        page, name = meant.get(va, (None, "nothing"))
        if page != found.get(va):
            lines.append(
                f"{va:#x}: {_text(page)} was meant ({name}), {_text(found.get(va))} is there"
            )
    for each in faulting:
        access = Access(each.va, AccessType.READ, 0)
        outcome = translate(memory, context, access)
        reserved = isinstance(outcome, PageFault) and bool(outcome.error_code & ErrorCode.RSVD)
        if not isinstance(outcome, PageFault) or reserved != each.reserved:
            lines.append(f"{each.va:#x}: a fault was meant ({each.name}), {outcome} is the answer")
    return lines


def _pages(each: Intended) -> Iterator[Page]:
    for number in range(each.count):
        offset = number * each.size
        yield each.va + offset, each.pa + offset, each.size, each.supervisor, each.user


def _text(page: Page | None) -> str:
    if page is None:
        return "no page"
    _, pa, size, supervisor, user = page
    return f"{size:#x} bytes of {pa:#x} {supervisor} {user}"
