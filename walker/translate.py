"""One translation, as an Intel 64 processor makes it: the readable statement of the rules.

`walker.bulk` states the same rules over arrays; property tests hold the two together.
"""

from dataclasses import dataclass
from enum import StrEnum

from walker.access import Access, AccessType
from walker.context import PagingContext
from walker.entry import (
    LEVELS,
    Entry,
    index_of,
    is_leaf,
    leaf_address,
    protection_key,
    reserved_bits,
)
from walker.memory import PhysicalMemory
from walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, Translation
from walker.rights import ALL_GRANTS, Grant, Rights, grant_of, rights_table

__all__ = ["Step", "StepKind", "Walk", "cause", "denied", "translate", "walk"]


class StepKind(StrEnum):
    """What an entry turned out to be; the last three end the walk without a page."""

    TABLE = "table"
    LEAF = "leaf"
    NOT_PRESENT = "not present"
    RESERVED = "reserved bit set"
    OUTSIDE = "outside RAM"


@dataclass(frozen=True, slots=True)
class Step:
    """One entry looked at: `entry` is the word at `pa`, in a table of `level` (1 is the PT)."""

    level: int
    pa: int
    entry: int
    kind: StepKind


@dataclass(frozen=True, slots=True)
class Walk:
    """The entries that a linear address selects, from the root down to where the walk ends.

    No steps for an address that isn't canonical.
    """

    va: int
    steps: tuple[Step, ...]

    @property
    def leaf(self) -> Step | None:
        """The entry that maps the page, or None where the walk ends without one."""
        return self.steps[-1] if self.steps and self.steps[-1].kind is StepKind.LEAF else None

    @property
    def grant(self) -> int:
        """The `Grant` bits that all entries so far let through."""
        grant = ALL_GRANTS
        for step in self.steps:
            grant &= grant_of(step.entry)
        return grant


def walk(memory: PhysicalMemory, context: PagingContext, va: int) -> Walk:
    """Return the entries that `va` selects (Intel SDM vol. 3A 4.5.4).

    A table outside RAM ends the walk: what a bus without memory answers isn't defined, and an
    entry of zeros, not present, is what emulators and KVM make of it.
    """
    steps: list[Step] = []
    table = context.root
    if context.canonical(va):
        for level in range(context.levels, 0, -1):
            step = _step(memory, context, level, table + 8 * index_of(va, level))
            steps.append(step)
            if step.kind is not StepKind.TABLE:
                break
            table = step.entry & context.address_mask
    return Walk(va, tuple(steps))


def translate(memory: PhysicalMemory, context: PagingContext, access: Access) -> Outcome:
    """Return what an Intel 64 processor would answer (Intel SDM vol. 3A 4.5..4.8).

    The caches are taken to be empty. The first entry, from the root, that is not present or
    sets a reserved bit decides; rights are looked at when all levels are known.
    """
    if not context.canonical(access.va):
        return GeneralProtection()
    path = walk(memory, context, access.va)
    last = path.steps[-1]
    if last.kind is StepKind.LEAF:
        missing = denied(context, access, path.grant, protection_key(last.entry))
        if missing is None:
            size = LEVELS[last.level].span
            pa = leaf_address(context, last.level, last.entry) | access.va & (size - 1)
            rights = Rights(int(rights_table(context)[path.grant]))
            dirty = Entry.D if access.type is AccessType.WRITE else Entry(0)
            return Translation(pa, size, rights, _marked(path.steps, dirty))
        code = ErrorCode.P | missing
    elif last.kind is StepKind.RESERVED:
        code = ErrorCode.P | ErrorCode.RSVD
    else:
        code = ErrorCode(0)
    code |= cause(context, access)
    return PageFault(int(code), access.va, _marked(path.steps[:-1], None))


def _step(memory: PhysicalMemory, context: PagingContext, level: int, pa: int) -> Step:
    entry = memory.word(pa)
    if entry is None:
        return Step(level, pa, 0, StepKind.OUTSIDE)
    if not entry & Entry.P:
        return Step(level, pa, entry, StepKind.NOT_PRESENT)
    leaf = is_leaf(context, level, entry)
    if entry & reserved_bits(context, level, leaf=leaf):
        return Step(level, pa, entry, StepKind.RESERVED)
    return Step(level, pa, entry, StepKind.LEAF if leaf else StepKind.TABLE)


def denied(context: PagingContext, access: Access, grant: int, key: int) -> ErrorCode | None:
    """Return None if the rights allow the access, else the error-code bits that say more.

    Intel SDM vol. 3A 4.6.1 for the modes, 4.6.2 for protection keys.
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
    if context.pke and user_page:
        denies = context.pkru >> 2 * key
        denies_access = bool(denies & 1)
        denies_write = bool(denies & 2) and (not supervisor or context.wp)
        if denies_access or (writing and denies_write):
            return ErrorCode.PK
    return None if allowed else ErrorCode(0)


def cause(context: PagingContext, access: Access) -> ErrorCode:
    """Return the error-code bits that describe the access itself (Intel SDM vol. 3A 4.7)."""
    code = ErrorCode(0)
    if access.type is AccessType.WRITE:
        code |= ErrorCode.WR
    if access.cpl == 3:
        code |= ErrorCode.US
    if access.type is AccessType.EXECUTE and (context.nxe or context.smep):
        code |= ErrorCode.ID
    return code


def _marked(steps: tuple[Step, ...], on_leaf: Entry | None) -> tuple[tuple[int, int], ...]:
    """Return the words that setting A in all steps, and `on_leaf` in the last, changes.

    A recursive table can be used twice in one walk, by the same entry: its bits add up.
    """
    before = {step.pa: step.entry for step in steps}
    after = {pa: entry | Entry.A for pa, entry in before.items()}
    if on_leaf is not None:
        after[steps[-1].pa] |= on_leaf
    return tuple((pa, int(after[pa])) for pa in sorted(after) if after[pa] != before[pa])
