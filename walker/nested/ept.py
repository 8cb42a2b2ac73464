"""The format of EPT entries, as tables, and the walk of one guest-physical address.

Intel SDM vol. 3C, "EPT Translation Mechanism", "EPT Misconfigurations".
"""

from enum import IntFlag, StrEnum

from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Level
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import EptCapability, EptContext
from crosswalk.walker.protection.policy import Use
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = [
    "EPT_LEVELS",
    "EPT_MEMORY_TYPES",
    "EPT_TYPE_MASK",
    "EPT_TYPE_SHIFT",
    "XU_DISTANCE",
    "EptEntry",
    "Misconfigured",
    "descend_ept",
    "ept_leaf_address",
    "ept_maps_large",
    "ept_present_bits",
    "ept_reserved_bits",
    "ept_uses",
    "is_ept_leaf",
    "misconfigured",
]


class EptEntry(IntFlag):
    """Bits of an EPT entry.

    X is the right to execute; under mode-based execute control that through the supervisor's
    linear addresses, beside XU for the user's. IPAT: the guest's PAT has no say in the memory
    type. Without EPTP bit 6 A and D are ignored, without the control XU is. VERIFY_PAGING,
    PAGING_WRITE, SUPERVISOR_SHADOW_STACK, SUBPAGE_WRITE and SUPPRESS_VE belong to controls that
    are taken to be off, and are ignored here.
    """

    R = 1 << 0
    W = 1 << 1
    X = 1 << 2
    IPAT = 1 << 6
    PS = 1 << 7
    A = 1 << 8
    D = 1 << 9
    XU = 1 << 10
    VERIFY_PAGING = 1 << 57
    PAGING_WRITE = 1 << 58
    SUPERVISOR_SHADOW_STACK = 1 << 60
    SUBPAGE_WRITE = 1 << 61
    SUPPRESS_VE = 1 << 63


EPT_TYPE_SHIFT, EPT_TYPE_MASK = 3, 7 << 3
"""Where a leaf has its memory type."""
EPT_MEMORY_TYPES = {0: "uc", 1: "wc", 4: "wt", 5: "wp", 6: "wb"}
"""The memory types that a leaf may have, by number; 2, 3 and 7 are reserved."""

EPT_LEVELS = {
    number: Level(number, f"EPT {at.table}", f"EPT {at.entry}", at.shift, at.large)
    for number, at in LEVELS.items()
}
"""The levels of an EPT, by number: tables and entries are as large as those of 4-level paging."""

_PAGES = {2: EptCapability.PAGE_2M, 3: EptCapability.PAGE_1G}
_RIGHTS = EptEntry.R | EptEntry.W | EptEntry.X
XU_DISTANCE = 7
"""How much further up XU is than `Use.USER_EXECUTE`; R, W and X stand where `Use` has them."""


class Misconfigured(StrEnum):
    """What is wrong with an entry that is present, in the order in which it is looked for."""

    WRITE_ONLY = "writable and not readable"
    EXECUTE_ONLY = "executable and not readable, which the processor doesn't support"
    RESERVED = "reserved bit set"
    MEMORY_TYPE = "reserved memory type"


def ept_present_bits(context: EptContext) -> int:
    """Return the bits of which a present entry sets one: R, W and X, and XU under MBEC."""
    return int(_RIGHTS | EptEntry.XU if context.mbec else _RIGHTS)


def ept_maps_large(context: EptContext, level: int) -> bool:
    """Return whether bit 7 makes a leaf of an entry of this level."""
    return bool(context.capabilities & _PAGES.get(level, EptCapability(0)))


def is_ept_leaf(context: EptContext, level: int, entry: int) -> bool:
    """Return whether a present entry maps a page."""
    return level == 1 or (ept_maps_large(context, level) and bool(entry & EptEntry.PS))


def ept_reserved_bits(context: EptContext, level: int, *, leaf: bool) -> int:
    """Return the mask of bits that must be 0 in a present entry.

    Address bits from MAXPHYADDR up; those of a large page below its size, bit 12 too; in an
    entry that refers to a table, bits 7:3.
    """
    reserved = ADDRESS_FIELD & ~context.address_mask
    if leaf:
        return reserved | EPT_LEVELS[level].span - EPT_LEVELS[1].span
    return int(reserved | EPT_TYPE_MASK | EptEntry.IPAT | EptEntry.PS)


def misconfigured(context: EptContext, level: int, entry: int) -> Misconfigured | None:
    """Return what makes a present entry an EPT misconfiguration, or None.

    Source: Intel SDM vol. 3C, "EPT Misconfigurations".
    """
    if not entry & EptEntry.R:
        if entry & EptEntry.W:
            return Misconfigured.WRITE_ONLY
        if not context.capabilities & EptCapability.EXECUTE_ONLY:
            return Misconfigured.EXECUTE_ONLY
    leaf = is_ept_leaf(context, level, entry)
    if entry & ept_reserved_bits(context, level, leaf=leaf):
        return Misconfigured.RESERVED
    # An entry that refers to a table has 0 there, or a reserved bit.
    if (entry & EPT_TYPE_MASK) >> EPT_TYPE_SHIFT not in EPT_MEMORY_TYPES:
        return Misconfigured.MEMORY_TYPE
    return None


def ept_uses(context: EptContext, entry: int) -> Use:
    """Return what one present entry lets through, as `Use`.

    X is both rights to execute, but under mode-based execute control, where it is the supervisor's
    and XU the user's.
    """
    found = entry & _RIGHTS
    if context.mbec:
        return Use(found | (entry & EptEntry.XU) >> XU_DISTANCE)
    return Use(found | (Use.USER_EXECUTE if found & EptEntry.X else 0))


def ept_leaf_address(context: EptContext, level: int, entry: int) -> int:
    """Return the physical address of the page that a leaf of this level maps."""
    return entry & context.address_mask & -EPT_LEVELS[level].span


def descend_ept(memory: PhysicalMemory, context: EptContext, gpa: int) -> Walk:
    """Return the EPT entries that a guest-physical address selects, from the root down.

    None for an address wider than the tables translate, 48 bits with 4 levels. Processors answer it
    with an EPT violation; no entry says what it would let through. A table outside RAM ends the
    walk, as in `crosswalk.walker.translate.walk`. At each entry, not being present comes first,
    then a misconfiguration (Intel SDM vol. 3C, "Prioritization of EPT Misconfigurations and EPT
    Violations").
    """
    steps: list[Step] = []
    table = context.root
    if gpa >> context.gpa_bits:
        return Walk(gpa, ())
    for number in range(context.levels, 0, -1):
        level = EPT_LEVELS[number]
        step = _step_at(memory, context, number, table + level.entry_size * level.index(gpa))
        steps.append(step)
        if step.kind is not StepKind.TABLE:
            break
        table = step.entry & context.address_mask
    return Walk(gpa, tuple(steps))


def _step_at(memory: PhysicalMemory, context: EptContext, level: int, pa: int) -> Step:
    entry = memory.word(pa)
    if entry is None:
        return Step(level, pa, 0, StepKind.OUTSIDE)
    if not entry & ept_present_bits(context):
        kind = StepKind.NOT_PRESENT
    elif misconfigured(context, level, entry) is not None:
        kind = StepKind.MISCONFIGURED
    else:
        kind = StepKind.LEAF if is_ept_leaf(context, level, entry) else StepKind.TABLE
    return Step(level, pa, entry, kind)
