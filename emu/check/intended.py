"""The third witness: the mappings that the guest is built to make, against the walk."""

from collections.abc import Iterable, Iterator

from crosswalk.guest.intended import Faulting, Intended
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.mappings import mappings
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import ErrorCode, PageFault
from crosswalk.walker.translate import translate

__all__ = ["mismatches"]

Page = tuple[int, int, int, str, str]


def mismatches(
    memory: PhysicalMemory,
    context: PagingContext,
    intended: Iterable[Intended],
    faulting: Iterable[Faulting],
) -> list[str]:
    """Return a line for each mapping that differs from the intended one, in address order.

    Reported are intended pages that are missing or mapped otherwise, pages that aren't intended,
    and ranges that should fault and don't, or not with RSVD where a reserved bit is the cause.
    """
    wanted = {page[0]: (page, each.name) for each in intended for page in _pages(each)}
    found = {
        page.va: (page.va, page.pa, page.size, page.rights.supervisor, page.rights.user)
        for page in mappings(memory, context)
    }
    lines = []
    for va in sorted(wanted.keys() | found.keys()):
        page, name = wanted.get(va, (None, "nothing"))
        if page != found.get(va):
            lines.append(
                f"{va:#x}: {_text(page)} is intended ({name}), {_text(found.get(va))} is mapped"
            )
    for each in faulting:
        access = Access(each.va, AccessType.READ, 0)
        outcome = translate(memory, context, access)
        reserved = isinstance(outcome, PageFault) and bool(outcome.error_code & ErrorCode.RSVD)
        if not isinstance(outcome, PageFault) or reserved != each.reserved:
            lines.append(
                f"{each.va:#x}: a fault is intended ({each.name}), {outcome} is the answer"
            )
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
