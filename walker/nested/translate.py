"""One translation under nested paging: the walk in two dimensions.

The guest's entries are judged as `crosswalk.walker.translate` judges them; what is stated here is
how guest-physical addresses are reached, and what then is left of the access.

Source: AMD APM vol. 2, "Nested Paging".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.outcome import NestedError, NestedOutcome, NestedPageFault
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.rights import Grant, Rights, rights_table
from crosswalk.walker.translate import (
    Step,
    StepKind,
    Walk,
    changed,
    descend,
    judge,
    page_address,
    step_at,
)

__all__ = [
    "NestedWalk",
    "Passage",
    "left_open",
    "refused",
    "translate_nested",
    "walk_nested",
]

_NEEDED = {
    AccessType.READ: Grant.USER,
    AccessType.WRITE: Grant.USER | Grant.WRITE,
    AccessType.EXECUTE: Grant.USER | Grant.EXECUTE,
}
_WITHHELD = {
    Grant.WRITE: Rights.SUPERVISOR_WRITE | Rights.USER_WRITE,
    Grant.EXECUTE: Rights.SUPERVISOR_EXECUTE | Rights.USER_EXECUTE,
}


@dataclass(frozen=True, slots=True)
class Passage:
    """A guest-physical address on its way through the nested tables.

    `path` has the nested entries, none where `gpa` is wider than the tables translate: the APM is
    silent about that, and here it counts as not present. `pa` is the system-physical address; None
    where there is none that a user may read, or for the address of a guest's entry, write. `step`
    is that entry, at its system-physical address; None for the address of the page itself, and
    where `pa` is.
    """

    gpa: int
    path: Walk
    pa: int | None = None
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class NestedWalk:
    """The entries of both dimensions that a linear address selects.

    `tables` has a passage for each guest entry, the root's first; none for an address that
    isn't canonical. `page` is that of the byte addressed; None where the guest's walk ends
    without a page.
    """

    va: int
    tables: tuple[Passage, ...]
    page: Passage | None

    @property
    def guest(self) -> Walk:
        """The guest's own entries, at their system-physical addresses."""
        return Walk(self.va, tuple(each.step for each in self.tables if each.step is not None))

    @property
    def words(self) -> tuple[tuple[int, int], ...]:
        """The words of memory that hold the entries of both dimensions: (address, word)."""
        passages = (*self.tables, self.page) if self.page is not None else self.tables
        paths = [*(each.path for each in passages), self.guest]
        return tuple(dict(word for path in paths for word in path.words).items())


def walk_nested(memory: PhysicalMemory, context: NestedContext, va: int) -> NestedWalk:
    """Return the entries that `va` selects, each guest entry reached through nested tables.

    `memory` is system-physical. A table outside RAM ends the walk, in either dimension, as in
    `crosswalk.walker.translate.walk`.
    """
    guest = context.guest
    passages: list[Passage] = []
    if not guest.canonical(va):
        return NestedWalk(va, (), None)
    table = guest.root
    for number in range(guest.levels, 0, -1):
        level = level_of(guest, number)
        gpa = table + level.entry_size * level.index(va)
        passage = _passage(memory, context.host, gpa, AccessType.WRITE)
        if passage.pa is None:
            passages.append(passage)
            break
        step = step_at(memory, guest, level, passage.pa)
        passages.append(replace(passage, step=step))
        if step.kind is StepKind.LEAF:
            at = page_address(guest, step, va)
            page = _passage(memory, context.host, at, AccessType.READ)
            return NestedWalk(va, tuple(passages), page)
        if step.kind is not StepKind.TABLE:
            break
        table = step.entry & guest.address_mask
    return NestedWalk(va, tuple(passages), None)


def translate_nested(
    memory: PhysicalMemory, context: NestedContext, access: Access
) -> NestedOutcome:
    """Return what an AMD64 processor would answer under nested paging.

    Source: AMD APM vol. 2, "Nested Table Walk" and "Nested versus Guest Page Faults, Fault
    Ordering".

    The caches are taken to be empty. A nested fault on the way to a guest entry comes before
    what that entry says, and what the guest's entries say before the nested walk of the page.

    Of nested entries, A is set in all that were used, D in the leaf for a write; reading a
    guest entry counts as one, whether the entry changes or not. For faults `entries`
    has what may be set, bit by bit: all that the walk came by, and where the page's own nested
    walk faults, what a guest's walk that succeeds sets.

    The page size is the smaller of guest's and host's; rights are those that both leave.
    """
    path = walk_nested(memory, context, access.va)
    marks = list(_marks(path))
    if path.tables and path.tables[-1].step is None:
        last = path.tables[-1]
        code = refused(context.host, last.path, AccessType.WRITE)
        used = [(step, Entry.A) for step in path.guest.steps]
        return NestedPageFault(code | NestedError.TABLE, last.gpa, changed(marks + used))

    said = judge(context.guest, access, path.guest)
    if isinstance(said, PageFault):
        used = [(step, Entry.A) for step in _used(path.guest)]
        return replace(said, entries=changed(marks + used))
    if not isinstance(said, Translation) or path.page is None:
        return said
    dirty = Entry.D if access.type is AccessType.WRITE else Entry(0)
    marks += [(step, Entry.A) for step in path.guest.steps]
    marks.append((path.guest.steps[-1], dirty))

    nested = path.page.path
    code = refused(context.host, nested, access.type)
    if code:
        marks += [(step, Entry.A) for step in _used(nested)]
        return NestedPageFault(
            code | NestedError.FINAL,
            path.page.gpa,
            changed(marks),
            left_open(context.host, access.type),
        )
    marks += [(step, Entry.A) for step in nested.steps]
    marks.append((nested.steps[-1], dirty))
    rights = Rights(int(rights_table(context.guest)[path.guest.grant]))
    for grant, withheld in _WITHHELD.items():
        if not nested.grant & grant:
            rights &= ~withheld
    leaf = nested.steps[-1]
    size = min(
        level_of(context.guest, path.guest.steps[-1].level).span,
        level_of(context.host, leaf.level).span,
    )
    pa = page_address(context.host, leaf, path.page.gpa)
    return Translation(pa, size, rights, changed(marks))


def _passage(memory: PhysicalMemory, host: PagingContext, gpa: int, kind: AccessType) -> Passage:
    if gpa >> 12 + 9 * host.levels:
        return Passage(gpa, Walk(gpa, ()))
    path = descend(memory, host, gpa)
    if refused(host, path, kind):
        return Passage(gpa, path)
    return Passage(gpa, path, page_address(host, path.steps[-1], gpa))


def _marks(path: NestedWalk) -> Iterator[tuple[Step, Entry]]:
    """Yield the bits set in nested entries on the way to the guest's."""
    for passage in path.tables:
        for step in _used(passage.path):
            yield step, Entry.A
        if passage.pa is not None:
            yield passage.path.steps[-1], Entry.D


def _used(path: Walk) -> tuple[Step, ...]:
    """Return the entries that a walk may set A in: a leaf that denies the access, too.

    Whether it does is the processor's choice (AMD APM vol. 2, "Notes on Accessed and Dirty Bits").
    """
    return path.steps if path.leaf is not None else path.steps[:-1]


def refused(host: PagingContext, path: Walk, kind: AccessType) -> int:
    """Return EXITINFO1, but for the stage, of a user access that nested entries refuse; else 0.

    A code read is told apart where EFER.NXE is set, as in the error code of #PF. Where it is clear
    the bit is `left_open`: AMD APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering", sets
    it for a code read and names no condition; "Page-Fault Error Code" has NXE for #PF; emulators
    differ.
    """
    needed = _NEEDED[kind]
    last = path.steps[-1] if path.steps else None
    code = NestedError.US
    if last is not None and last.kind is StepKind.LEAF:
        if path.grant & needed == needed:
            return 0
        code |= NestedError.P
    elif last is not None and last.kind is StepKind.RESERVED:
        code |= NestedError.P | NestedError.RSVD
    if kind is AccessType.WRITE:
        code |= NestedError.WR
    elif kind is AccessType.EXECUTE and host.nxe:
        code |= NestedError.ID
    return int(code)


def left_open(host: PagingContext, kind: AccessType) -> int:
    """Return the bits of EXITINFO1 that the manual leaves to the processor; see `refused`."""
    return int(NestedError.ID) if kind is AccessType.EXECUTE and not host.nxe else 0
