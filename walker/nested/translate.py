"""One translation in two dimensions: the guest's walk, each step of it through the host's tables.

`crosswalk.walker.translate` decides what the guest's entries allow; this module translates
guest-physical addresses, and decides what the host's entries leave of the access. There is one
walk. How entries are read and what they allow is the format's: `Npt` here, `Ept` in
`crosswalk.walker.nested.violations`.

Source: AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3C, "EPT Translation Mechanism",
"Prioritization of EPT Misconfigurations and EPT Violations".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import EptContext, NestedContext
from crosswalk.walker.nested.outcome import (
    EptViolation,
    NestedError,
    NestedOutcome,
    NestedPageFault,
)
from crosswalk.walker.nested.violations import Ept
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
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
    "Npt",
    "nested_fault_code",
    "nested_outcomes",
    "open_bits",
    "translate_nested",
    "walk_nested",
]

_NEEDED = {
    AccessType.READ: Grant.USER,
    AccessType.WRITE: Grant.USER | Grant.WRITE,
    AccessType.EXECUTE: Grant.USER | Grant.EXECUTE,
}
_NEEDED_WITH_GMET = {
    AccessType.READ: Grant(0),
    AccessType.WRITE: Grant.WRITE,
    AccessType.EXECUTE: Grant.EXECUTE,
}
_WITHHELD = {
    Grant.WRITE: WRITES,
    Grant.EXECUTE: EXECUTES,
}


@dataclass(frozen=True, slots=True)
class GpaWalk:
    """The host's walk of one guest-physical address.

    `path` has the host's entries; none where `gpa` is wider than the tables translate, of which
    neither manual says anything: it counts as not present. `pa` is the system-physical address. It
    is None where the host's entries refuse what the processor does there to read a guest entry;
    for the address of the page itself, where nothing is mapped, or under AMD's nested paging where
    a user may not read. `step` is the guest entry at `pa`; None for the address of the page itself,
    and where `pa` is None.
    """

    gpa: int
    path: Walk
    pa: int | None = None
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class NestedWalk:
    """The entries of both dimensions that a linear address selects.

    `tables` has the host's walk of each guest entry's address, the root's first; none for a linear
    address that isn't canonical. `page` is the host's walk of the byte's own address; None where
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
    """Return the entries that `va` selects, each guest entry reached through the host's tables.

    `memory` is system-physical. A table outside RAM ends the walk, in either dimension, as in
    `crosswalk.walker.translate.walk`.
    """
    guest, host = context.guest, _host_of(context)
    lookups: list[GpaWalk] = []
    if not guest.canonical(va):
        return NestedWalk(va, (), None)
    table = guest.root
    for number in range(guest.levels, 0, -1):
        level = level_of(guest, number)
        gpa = table + level.entry_size * level.index(va)
        path = host.descend(memory, gpa)
        if host.table_fault(path, va) is not None:
            lookups.append(GpaWalk(gpa, path))
            break
        pa = host.address(path.steps[-1], gpa)
        step = step_at(memory, guest, level, pa)
        lookups.append(GpaWalk(gpa, path, pa, step))
        if step.kind is StepKind.LEAF:
            at = page_address(guest, step, va)
            path = host.descend(memory, at)
            page = GpaWalk(at, path, host.address(path.steps[-1], at) if host.maps(path) else None)
            return NestedWalk(va, tuple(lookups), page)
        if step.kind is not StepKind.TABLE:
            break
        table = step.entry & guest.address_mask
    return NestedWalk(va, tuple(lookups), None)


def translate_nested(
    memory: PhysicalMemory, context: NestedContext, access: Access
) -> NestedOutcome:
    """Return the outcome of an access under nested paging or EPT.

    Source: AMD APM vol. 2, "Nested Table Walk" and "Nested versus Guest Page Faults, Fault
    Ordering"; Intel SDM vol. 3C, "Prioritization of EPT Misconfigurations and EPT Violations".

    The TLB and the paging-structure caches are empty. The order of faults: the host's walk of a
    guest entry's address, then that entry; all guest entries, then the host's walk of the page.

    The host's entries: A is set in each that was used, D in the leaf of a write, under EPT with
    EPTP bit 6 alone. A guest entry is reached by a write, whether it changes or not; under EPT
    without that bit by a read, and by a write where A or D has to be set in it. For a fault,
    `entries` has the bits that may be set: those of all entries used, and where the host's walk of
    the page faults, also those that a successful guest walk sets.

    The page size is the smaller of the guest's and the host's; the rights are those that both
    grant.

    Where a manual leaves more than one outcome to the processor, this is the first of
    `nested_outcomes`.
    """
    return nested_outcomes(memory, context, access)[0]


def nested_outcomes(
    memory: PhysicalMemory, context: NestedContext, access: Access
) -> tuple[NestedOutcome, ...]:
    """Return the outcomes that the manual allows, one of them but for one case.

    Under EPT without EPTP bit 6, A and D of guest entries that lie where EPT allows no writing
    can't be set: an EPT violation. Which of several such entries it names, whether that of the page
    comes before it, and whether a walk that faults sets A before, is left to the processor. First
    is the guest's fault, or else the violation at the entry nearest to the root.
    """
    host = _host_of(context)
    path = walk_nested(memory, context, access.va)
    if not path.tables:
        return (GeneralProtection(),)
    updates = list(_table_updates(host, path))
    if path.tables[-1].step is None:
        fault = host.table_fault(path.tables[-1].path, access.va)
        return _ended(host, path, path.guest.steps, updates, fault)
    outcome = judge(context.guest, access, path.guest)
    if path.page is None or isinstance(outcome, PageFault):
        return _ended(host, path, _used(path.guest), updates, outcome)

    writes = access.type is AccessType.WRITE
    steps, nested = path.guest.steps, path.page.path
    updates += _marks(host, path, steps, writes=writes)
    refused = tuple(_refused(host, path, steps, writes=writes))
    fault = host.page_fault(nested, access, path.guest.grant)
    if refused or fault is not None:
        updates += [(step, host.accessed) for step in _used(nested)]
        faults = refused if fault is None else (*refused, fault)
        return _distinct(faults, updates)
    leaf = nested.steps[-1]
    updates += [(step, host.accessed) for step in nested.steps]
    if writes:
        updates.append((leaf, host.dirty))
    rights = Rights(int(rights_table(context.guest)[path.guest.grant]))
    rights &= ~host.withheld(nested, path.guest.grant)
    size = min(level_of(context.guest, steps[-1].level).span, host.span(leaf))
    return (Translation(host.address(leaf, path.page.gpa), size, rights, changed(updates)),)


def _ended(
    host: "Npt | Ept",
    path: NestedWalk,
    used: tuple[Step, ...],
    updates: list[tuple[Step, int]],
    outcome: NestedOutcome | None,
) -> tuple[NestedOutcome, ...]:
    """Return what may come of a walk that ends on the way, having used these guest entries."""
    refused = tuple(_refused(host, path, used, writes=False))
    marks = [*updates, *_marks(host, path, used, writes=False)]
    return _distinct(refused if outcome is None else (outcome, *refused), marks)


def _distinct(
    outcomes: tuple[NestedOutcome, ...], marks: list[tuple[Step, int]]
) -> tuple[NestedOutcome, ...]:
    """Return outcomes, each once, as they are where these bits may be set."""
    entries = changed(marks)
    return tuple(replace(each, entries=entries) for each in dict.fromkeys(outcomes))


def _host_of(context: NestedContext) -> "Npt | Ept":
    if isinstance(context.host, EptContext):
        return Ept(context.host)
    return Npt(context.host, context.gmet)


def _table_updates(host: "Npt | Ept", path: NestedWalk) -> Iterator[tuple[Step, int]]:
    """Yield the A and D bits set in the host's entries that translate guest entries' addresses."""
    for lookup in path.tables:
        for step in _used(lookup.path):
            yield step, host.accessed
        if lookup.pa is not None:
            yield lookup.path.steps[-1], host.dirty


def _used(path: Walk) -> tuple[Step, ...]:
    """Return the entries in which a walk may set A, a leaf that denies the access included.

    Setting it there is the processor's choice (AMD APM vol. 2, "Notes on Accessed and Dirty Bits").
    """
    return path.steps if path.leaf is not None else path.steps[:-1]


def _wanted(
    path: NestedWalk, used: tuple[Step, ...], *, writes: bool
) -> Iterator[tuple[GpaWalk, Step, int]]:
    """Yield the guest entries in use, each with the bits that it is to have."""
    for lookup, step in zip(path.tables, used, strict=False):
        dirty = Entry.D if writes and step.kind is StepKind.LEAF else Entry(0)
        yield lookup, step, int(Entry.A | dirty)


def _marks(
    host: "Npt | Ept", path: NestedWalk, used: tuple[Step, ...], *, writes: bool
) -> list[tuple[Step, int]]:
    """Return the bits set in the guest's entries, where the host's let them be set."""
    return [
        (step, bits)
        for lookup, step, bits in _wanted(path, used, writes=writes)
        if host.update_fault(lookup.path, path.va) is None
    ]


def _refused(
    host: "Npt | Ept", path: NestedWalk, used: tuple[Step, ...], *, writes: bool
) -> Iterator[EptViolation]:
    """Yield the violations at guest entries in which a bit has to be set and can't be."""
    for lookup, step, bits in _wanted(path, used, writes=writes):
        if bits & ~step.entry:
            fault = host.update_fault(lookup.path, path.va)
            if fault is not None:
                yield fault


@dataclass(frozen=True, slots=True)
class Npt:
    """The host's side of a walk in two dimensions where it is AMD's nested tables.

    Source: AMD APM vol. 2, "Nested Table Walk".
    """

    context: PagingContext
    gmet: bool = False

    accessed, dirty = int(Entry.A), int(Entry.D)
    """The bits that are set in each entry used, and in the leaf of a write."""

    def descend(self, memory: PhysicalMemory, gpa: int) -> Walk:
        """Return the entries that a guest-physical address selects."""
        if gpa >> 12 + 9 * self.context.levels:
            return Walk(gpa, ())
        return descend(memory, self.context, gpa)

    def maps(self, path: Walk) -> bool:
        """Return whether a user may read at the end of this walk."""
        return not nested_fault_code(self.context, path, AccessType.READ, gmet=self.gmet)

    def span(self, leaf: Step) -> int:
        """Return the bytes that a leaf maps."""
        return level_of(self.context, leaf.level).span

    def address(self, leaf: Step, gpa: int) -> int:
        """Return the system-physical address of a guest-physical one in the page of a leaf."""
        return page_address(self.context, leaf, gpa)

    def table_fault(self, path: Walk, _va: int) -> NestedPageFault | None:
        """Return what reaching a guest entry at the end of this walk ends in, or None."""
        code = nested_fault_code(self.context, path, AccessType.WRITE, gmet=self.gmet)
        return self._fault(path, code | NestedError.TABLE, 0) if code else None

    def update_fault(self, _path: Walk, _va: int) -> None:
        """Return None: what may be reached may be written."""

    def page_fault(self, path: Walk, access: Access, _grant: int) -> NestedPageFault | None:
        """Return what an access to the page ends in, or None."""
        supervisor = access.cpl < 3
        code = nested_fault_code(
            self.context, path, access.type, gmet=self.gmet, supervisor=supervisor
        )
        undefined = open_bits(self.context, access.type)
        return self._fault(path, code | NestedError.FINAL, undefined, access.cpl) if code else None

    def withheld(self, path: Walk, _grant: int) -> Rights:
        """Return the rights that the entries of a page take from those that the guest grants."""
        rights = Rights(0)
        for needed, withheld in _WITHHELD.items():
            if not path.grant & needed:
                rights |= withheld
        if self.gmet and path.grant & Grant.USER:
            rights |= Rights.SUPERVISOR_EXECUTE
        return rights

    def _fault(self, path: Walk, code: int, undefined: int, cpl: int = 0) -> NestedPageFault:
        # Whether an access is a user's is said for GMET off alone, where all of them are.
        if self.gmet and cpl < 3:
            undefined |= NestedError.US
        return NestedPageFault(int(code), path.va, open=int(undefined))


def nested_fault_code(
    host: PagingContext,
    path: Walk,
    kind: AccessType,
    *,
    gmet: bool = False,
    supervisor: bool = False,
) -> int:
    """Return EXITINFO1 without the stage for a user access; 0 where nested entries allow it.

    ID is set for a code read where EFER.NXE is set, as in the error code of #PF. Where NXE is clear
    ID is one of `open_bits`: AMD APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering",
    sets it for a code read and names no condition; "Page-Fault Error Code" requires NXE for #PF;
    emulators differ.

    With `gmet` reads and writes don't ask for U, and a fetch is refused where U is set in all
    entries and the `supervisor` makes it.
    """
    needed = (_NEEDED_WITH_GMET if gmet else _NEEDED)[kind]
    trapped = gmet and supervisor and kind is AccessType.EXECUTE
    last = path.steps[-1] if path.steps else None
    code = NestedError.US
    if last is not None and last.kind is StepKind.LEAF:
        if path.grant & needed == needed and not (trapped and path.grant & Grant.USER):
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
