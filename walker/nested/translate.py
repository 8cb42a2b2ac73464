"""One translation under nested paging: the walk in two dimensions.

`crosswalk.walker.translate` decides what the guest's entries allow; this module translates
guest-physical addresses, and decides what the nested entries leave of the access.

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
from crosswalk.walker.rights import EXECUTES, WRITES, Grant, Rights, rights_table
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
    "GpaWalk",
    "NestedWalk",
    "nested_fault_code",
    "open_bits",
    "translate_nested",
    "walk_nested",
]

_NEEDED = {
    AccessType.READ: Grant.USER,
    AccessType.WRITE: Grant.USER | Grant.WRITE,
    AccessType.EXECUTE: Grant.USER | Grant.EXECUTE,
}
_WITHHELD = {
    Grant.WRITE: WRITES,
    Grant.EXECUTE: EXECUTES,
}


@dataclass(frozen=True, slots=True)
class GpaWalk:
    """The nested walk of one guest-physical address.

    `path` has the nested entries; none where `gpa` is wider than the tables translate, which the
    APM doesn't mention: it counts as not present. `pa` is the system-physical address; None where
    the nested entries refuse the user read, or for the address of a guest entry the user write,
    that the processor makes there. `step` is the guest entry at `pa`; None for the address of the
    page itself, and where `pa` is None.
    """

    gpa: int
    path: Walk
    pa: int | None = None
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class NestedWalk:
    """The entries of both dimensions that a linear address selects.

    `tables` has the nested walk of each guest entry's address, the root's first; none for a linear
    address that isn't canonical. `page` is the nested walk of the byte's own address; None where
    the guest's walk ends without a page.
    """

    va: int
    tables: tuple[GpaWalk, ...]
    page: GpaWalk | None

    @property
    def guest(self) -> Walk:
        """The guest's own entries, at their system-physical addresses."""
        return Walk(self.va, tuple(each.step for each in self.tables if each.step is not None))

    @property
    def words(self) -> tuple[tuple[int, int], ...]:
        """The words of memory that hold the entries of both dimensions: (address, word)."""
        lookups = (*self.tables, self.page) if self.page is not None else self.tables
        paths = [*(each.path for each in lookups), self.guest]
        return tuple(dict(word for path in paths for word in path.words).items())


def walk_nested(memory: PhysicalMemory, context: NestedContext, va: int) -> NestedWalk:
    """Return the entries that `va` selects, each guest entry reached through nested tables.

    `memory` is system-physical. A table outside RAM ends the walk, in either dimension, as in
    `crosswalk.walker.translate.walk`.
    """
    guest = context.guest
    lookups: list[GpaWalk] = []
    if not guest.canonical(va):
        return NestedWalk(va, (), None)
    table = guest.root
    for number in range(guest.levels, 0, -1):
        level = level_of(guest, number)
        gpa = table + level.entry_size * level.index(va)
        lookup = _walk_gpa(memory, context.host, gpa, AccessType.WRITE)
        if lookup.pa is None:
            lookups.append(lookup)
            break
        step = step_at(memory, guest, level, lookup.pa)
        lookups.append(replace(lookup, step=step))
        if step.kind is StepKind.LEAF:
            at = page_address(guest, step, va)
            page = _walk_gpa(memory, context.host, at, AccessType.READ)
            return NestedWalk(va, tuple(lookups), page)
        if step.kind is not StepKind.TABLE:
            break
        table = step.entry & guest.address_mask
    return NestedWalk(va, tuple(lookups), None)


def translate_nested(
    memory: PhysicalMemory, context: NestedContext, access: Access
) -> NestedOutcome:
    """Return the outcome of an access on an AMD64 processor under nested paging.

    Source: AMD APM vol. 2, "Nested Table Walk" and "Nested versus Guest Page Faults, Fault
    Ordering".

    The TLB and the paging-structure caches are empty. The order of faults: the nested walk of a
    guest entry's address, then that entry; all guest entries, then the nested walk of the page.

    Nested entries: A is set in each that was used, D in the leaf of a write. A guest entry is
    reached by a write, whether it changes or not. For a fault, `entries` has the bits that may be
    set: those of all entries used, and where the nested walk of the page faults, also those that
    a successful guest walk sets.

    The page size is the smaller of the guest's and the host's; the rights are those that both
    grant.
    """
    path = walk_nested(memory, context, access.va)
    updates = list(_table_updates(path))
    if path.tables and path.tables[-1].step is None:
        last = path.tables[-1]
        code = nested_fault_code(context.host, last.path, AccessType.WRITE)
        used = [(step, Entry.A) for step in path.guest.steps]
        return NestedPageFault(code | NestedError.TABLE, last.gpa, changed(updates + used))

    outcome = judge(context.guest, access, path.guest)
    if isinstance(outcome, PageFault):
        used = [(step, Entry.A) for step in _used(path.guest)]
        return replace(outcome, entries=changed(updates + used))
    if not isinstance(outcome, Translation) or path.page is None:
        return outcome
    dirty = Entry.D if access.type is AccessType.WRITE else Entry(0)
    updates += [(step, Entry.A) for step in path.guest.steps]
    updates.append((path.guest.steps[-1], dirty))

    nested = path.page.path
    code = nested_fault_code(context.host, nested, access.type)
    if code:
        updates += [(step, Entry.A) for step in _used(nested)]
        return NestedPageFault(
            code | NestedError.FINAL,
            path.page.gpa,
            changed(updates),
            open_bits(context.host, access.type),
        )
    updates += [(step, Entry.A) for step in nested.steps]
    updates.append((nested.steps[-1], dirty))
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
    return Translation(pa, size, rights, changed(updates))


def _walk_gpa(memory: PhysicalMemory, host: PagingContext, gpa: int, kind: AccessType) -> GpaWalk:
    if gpa >> 12 + 9 * host.levels:
        return GpaWalk(gpa, Walk(gpa, ()))
    path = descend(memory, host, gpa)
    if nested_fault_code(host, path, kind):
        return GpaWalk(gpa, path)
    return GpaWalk(gpa, path, page_address(host, path.steps[-1], gpa))


def _table_updates(path: NestedWalk) -> Iterator[tuple[Step, Entry]]:
    """Yield the A and D bits set in the nested entries that translate guest entries' addresses."""
    for lookup in path.tables:
        for step in _used(lookup.path):
            yield step, Entry.A
        if lookup.pa is not None:
            yield lookup.path.steps[-1], Entry.D


def _used(path: Walk) -> tuple[Step, ...]:
    """Return the entries in which a walk may set A, a leaf that denies the access included.

    Setting it there is the processor's choice (AMD APM vol. 2, "Notes on Accessed and Dirty Bits").
    """
    return path.steps if path.leaf is not None else path.steps[:-1]


def nested_fault_code(host: PagingContext, path: Walk, kind: AccessType) -> int:
    """Return EXITINFO1 without the stage for a user access; 0 where nested entries allow it.

    ID is set for a code read where EFER.NXE is set, as in the error code of #PF. Where NXE is clear
    ID is one of `open_bits`: AMD APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering",
    sets it for a code read and names no condition; "Page-Fault Error Code" requires NXE for #PF;
    emulators differ.
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


def open_bits(host: PagingContext, kind: AccessType) -> int:
    """Return the bits of EXITINFO1 that the manual leaves open; see `nested_fault_code`."""
    return int(NestedError.ID) if kind is AccessType.EXECUTE and not host.nxe else 0
