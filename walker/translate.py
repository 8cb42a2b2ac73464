"""One translation, by the manual of the context's vendor: the readable statement of the rules.

`crosswalk.walker.bulk` states the same rules over arrays; property tests hold the two together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import (
    Entry,
    Level,
    is_leaf,
    leaf_address,
    level_of,
    protection_key,
    reserved_bits,
)
from crosswalk.walker.linear import linear_address
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.rights import ALL_GRANTS, Grant, Rights, grant_of, rights_table
from crosswalk.walker.tables import invalid_pdpte

__all__ = [
    "Step",
    "StepKind",
    "Walk",
    "cause",
    "changed",
    "denied",
    "descend",
    "judge",
    "page_address",
    "step_at",
    "translate",
    "walk",
    "walk_access",
]


class StepKind(StrEnum):
    """What an entry turned out to be; all but the first two end the walk without a page.

    MISCONFIGURED is EPT's: see `crosswalk.walker.nested.ept.Misconfigured`.
    """

    TABLE = "table"
    LEAF = "leaf"
    NOT_PRESENT = "not present"
    RESERVED = "reserved bit set"
    MISCONFIGURED = "misconfigured"
    OUTSIDE = "outside RAM"


@dataclass(frozen=True, slots=True)
class Step:
    """One entry looked at: `entry` is what lies at `pa`, in a table of `level` (1 is the PT).

    `neighbour` is the other half of the 8-byte word that holds an entry of four bytes, else 0.
    `restricts` says whether it has rights and an A bit; a PDPTE of PAE paging hasn't.
    """

    level: int
    pa: int
    entry: int
    kind: StepKind
    neighbour: int = 0
    restricts: bool = True

    @property
    def word(self) -> tuple[int, int]:
        """The address of the 8-byte word that holds the entry, and the word."""
        if self.pa % 8:
            return self.pa - 4, self.entry << 32 | self.neighbour
        return self.pa, self.neighbour << 32 | self.entry


@dataclass(frozen=True, slots=True)
class Walk:
    """The entries that a linear address selects, from the root down to where the walk ends.

    No steps for an address that isn't canonical; one, the invalid PDPTE, in a PAE address space
    that can't be entered.
    """

    va: int
    steps: tuple[Step, ...]

    @property
    def leaf(self) -> Step | None:
        """The entry that maps the page, or None where the walk ends without one."""
        return self.steps[-1] if self.steps and self.steps[-1].kind is StepKind.LEAF else None

    @property
    def words(self) -> tuple[tuple[int, int], ...]:
        """The 8-byte words of memory that hold the entries: (address, word), root first."""
        return tuple(dict(step.word for step in self.steps).items())

    @property
    def grant(self) -> int:
        """The `Grant` bits that all entries so far let through."""
        grant = ALL_GRANTS
        for step in self.steps:
            if step.restricts:
                grant &= grant_of(step.entry)
        return grant


def walk(memory: PhysicalMemory, context: PagingContext, va: int) -> Walk:
    """Return the entries that `va` selects.

    Source: Intel SDM vol. 3A, "32-Bit Paging", "Linear-Address Translation with PAE Paging",
    "Linear-Address Translation with 4-Level Paging and 5-Level Paging".

    A table outside RAM ends the walk: what a bus without memory answers isn't defined, and an
    entry of zeros, not present, is what emulators and KVM make of it. `BadInput` for an address
    of more than 32 bits outside IA-32e mode.
    """
    context.require_linear(va)
    bad = invalid_pdpte(memory, context)
    if bad is not None:
        return Walk(va, (step_at(memory, context, level_of(context, context.levels), bad),))
    return descend(memory, context, va) if context.canonical(va) else Walk(va, ())


def walk_access(memory: PhysicalMemory, context: PagingContext, access: Access) -> Walk:
    """Return the entries that an access selects, by the linear address that it goes to.

    No steps where none is read: see `crosswalk.walker.linear.linear_address`. `BadInput` as `walk`.
    """
    context.require_linear(access.va)
    va = linear_address(context, access)
    return Walk(access.va, ()) if va is None else walk(memory, context, va)


def descend(memory: PhysicalMemory, context: PagingContext, address: int) -> Walk:
    """Return the entries that the index bits of `address` select, whatever lies above them."""
    steps: list[Step] = []
    table = context.root
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        step = step_at(memory, context, level, table + level.entry_size * level.index(address))
        steps.append(step)
        if step.kind is not StepKind.TABLE:
            break
        table = step.entry & context.address_mask
    return Walk(address, tuple(steps))


def translate(memory: PhysicalMemory, context: PagingContext, access: Access) -> Outcome:
    """Return what a processor of the context's vendor would answer.

    The caches are taken to be empty, and Intel's PDPTE registers of PAE paging to be loaded from
    memory as it is; where loading them fails, every access is answered by the #GP(0) of the MOV
    to CR3 before it. The first entry, from the root, that is not present or sets a reserved bit
    decides; rights are looked at when all levels are known. `BadInput` as `walk`.

    Source: Intel SDM vol. 3A, "Paging"; AMD APM vol. 2, "Page Translation and Protection".
    """
    return judge(context, access, walk_access(memory, context, access))


def judge(context: PagingContext, access: Access, path: Walk) -> Outcome:
    """Return the outcome of the access, given the entries that its address selects.

    `path` is that of the linear address, which CR2 gets. A fault for want of rights may have set
    A in the leaf, too, as the processor chooses (Intel SDM vol. 3A, "Interrupt 14—Page-Fault
    Exception (#PF)"; AMD APM vol. 2, "Notes on Accessed and Dirty Bits").
    """
    if not path.steps:
        return GeneralProtection()
    last = path.steps[-1]
    if last.kind is StepKind.RESERVED and not last.restricts and context.loads_pdptes:
        return GeneralProtection()
    used = path.steps[:-1]
    if last.kind is StepKind.LEAF:
        missing = denied(context, access, path.grant, protection_key(last.entry))
        if missing is None:
            size = level_of(context, last.level).span
            pa = page_address(context, last, path.va)
            rights = Rights(int(rights_table(context)[path.grant]))
            dirty = (Entry.D,) if access.type is AccessType.WRITE else ()
            return Translation(pa, size, rights, _marked(path.steps, *dirty))
        code, used = ErrorCode.P | missing, path.steps
    elif last.kind is StepKind.RESERVED:
        code = ErrorCode.P | ErrorCode.RSVD
    else:
        code = ErrorCode(0)
    code |= cause(context, access)
    return PageFault(int(code), path.va, _choices(used))


def page_address(context: PagingContext, leaf: Step, address: int) -> int:
    """Return where `address` lies in the page that a leaf maps, as a physical address."""
    within = level_of(context, leaf.level).span - 1
    return leaf_address(context, leaf.level, leaf.entry) | address & within


def step_at(memory: PhysicalMemory, context: PagingContext, level: Level, pa: int) -> Step:
    """Return the entry at `pa`, in a table of this level, with its kind."""
    number = level.number
    word = memory.word(pa & -8)
    if word is None:
        return Step(number, pa, 0, StepKind.OUTSIDE)
    entry, neighbour = word, 0
    if level.entry_size == 4:
        halves = word & 0xFFFF_FFFF, word >> 32
        entry, neighbour = halves if pa % 8 == 0 else halves[::-1]
    leaf = is_leaf(context, number, entry)
    if not entry & Entry.P:
        kind = StepKind.NOT_PRESENT
    elif entry & reserved_bits(context, number, leaf=leaf):
        kind = StepKind.RESERVED
    else:
        kind = StepKind.LEAF if leaf else StepKind.TABLE
    return Step(number, pa, entry, kind, neighbour, level.restricts)


def denied(context: PagingContext, access: Access, grant: int, key: int) -> ErrorCode | None:
    """Return None if the rights allow the access, else the error-code bits that name the cause.

    Intel SDM vol. 3A, "Determination of Access Rights"; "Protection Keys".
    """
    supervisor = access.cpl < 3
    user_page = bool(grant & Grant.USER)
    ac = context.rflags_ac if access.ac is None else access.ac
    if access.type is AccessType.EXECUTE:
        allowed = bool(grant & Grant.EXECUTE)
        allowed &= not (context.smep and user_page) if supervisor else user_page
        return None if allowed else ErrorCode(0)

    writing = access.type is AccessType.WRITE
    writable = bool(grant & Grant.WRITE) or (supervisor and not context.wp)
    allowed = writable or not writing
    allowed &= not (context.smap and user_page and not ac) if supervisor else user_page
    # Which register says what a key allows goes by the page, not by who accesses it.
    if context.pke if user_page else context.pks:
        denies = (context.pkru if user_page else context.pkrs) >> 2 * key
        denies_access = bool(denies & 1)
        denies_write = bool(denies & 2) and (context.wp or (user_page and not supervisor))
        if denies_access or (writing and denies_write):
            return ErrorCode.PK
    return None if allowed else ErrorCode(0)


def cause(context: PagingContext, access: Access) -> ErrorCode:
    """Return the error-code bits that describe the access itself.

    Source: Intel SDM vol. 3A, "Page-Fault Exceptions"; AMD APM vol. 2, "Page-Fault Error Code".
    """
    code = ErrorCode(0)
    if access.type is AccessType.WRITE:
        code |= ErrorCode.WR
    if access.cpl == 3:
        code |= ErrorCode.US
    if access.type is AccessType.EXECUTE and context.reports_fetches:
        code |= ErrorCode.ID
    return code


def _marked(steps: tuple[Step, ...], *on_leaf: Entry) -> tuple[tuple[int, int], ...]:
    """Return the words that setting A in all steps, and `on_leaf` in the last, changes."""
    return changed([*((step, Entry.A) for step in steps), *((steps[-1], bit) for bit in on_leaf)])


def _choices(steps: tuple[Step, ...]) -> tuple[tuple[int, int], ...]:
    """Return the words that setting A in some of these steps changes, as each choice leaves them.

    Where two entries of 32-bit paging lie in one word, it may get the A of either or of both.
    """
    single = {word for step in steps for word in _marked((step,))}
    return tuple(sorted(single | set(_marked(steps))))


def changed(marks: Iterable[tuple[Step, int]]) -> tuple[tuple[int, int], ...]:
    """Return the words that setting these bits in these entries changes, by address.

    A recursive table can be used twice in one walk, by the same entry or by two of one word:
    their bits add up.
    """
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for step, bits in marks:
        pa, word = step.word
        before.setdefault(pa, word)
        after.setdefault(pa, word)
        if step.restricts:
            after[pa] |= bits << step.pa % 8 * 8
    return tuple((pa, int(after[pa])) for pa in sorted(after) if after[pa] != before[pa])
