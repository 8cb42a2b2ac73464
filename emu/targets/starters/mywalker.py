"""A page-table walker in Python, for Crosswalk to test: 4-level and 5-level paging.

crosswalk walker try python:mywalker.py:translate
crosswalk fuzz --walker python:mywalker.py:translate

`translate` says where an access leads to, and `mappings` lists what is mapped: each is a walker
of its own. Put yours in their place, and delete what it doesn't answer.
"""

from collections.abc import Iterator

from crosswalk.walker import Access, AccessType, PagingContext, PhysicalMemory

P, RW, US, PS, G, XD = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 8, 1 << 63
MODES = "4level,5level"
FIELD = 0x000F_FFFF_FFFF_F000  # Bits 51:12 of an entry.


def translate(memory: PhysicalMemory, context: PagingContext, access: Access) -> int | None:
    """Return the physical address that an access reaches, None where it faults."""
    if declines(context):
        return NotImplemented
    va = access.va
    if not context.canonical(va):
        return None
    table, level = context.root, context.levels
    user = writable = executable = True
    while True:
        entry = memory.word(table + (va >> 3 + 9 * level & 511) * 8)
        if entry is None or not entry & P or entry & reserved(context, level, entry):
            return None
        user = user and bool(entry & US)
        writable = writable and bool(entry & RW)
        executable = executable and not entry & XD
        if level == 1 or entry & PS:
            break
        table, level = entry & context.address_mask, level - 1
    if not allowed(context, access, entry >> 59 & 15, user, writable, executable):
        return None
    inside = (1 << 3 + 9 * level) - 1
    return entry & context.address_mask & ~inside | va & inside


translate.claims = "translation,rights"


def mappings(
    memory: PhysicalMemory, context: PagingContext, va: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Return the (va, pa, size, flags) of each mapping that touches [va, end)."""
    if declines(context):
        return NotImplemented
    return below(memory, context, context.root, context.levels, 0, va, end)


mappings.claims = "leaves,flags"


def below(
    memory: PhysicalMemory,
    context: PagingContext,
    table: int,
    level: int,
    base: int,
    va: int,
    end: int,
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the mappings of a table, of which `base` is the first linear address."""
    size, root = 1 << 3 + 9 * level, level == context.levels
    touched = range(max(0, (va - base) // size), min(512, -(-(end - base) // size)))
    for index in range(512) if root else touched:
        first = base + index * size
        if root and index >= 256:
            first += (1 << 64) - 512 * size  # The upper half: canonical addresses.
        if first + size <= va or first >= end:
            continue
        entry = memory.word(table + index * 8)
        if entry is None or not entry & P or entry & reserved(context, level, entry):
            continue
        if level > 1 and not entry & PS:
            child = entry & context.address_mask
            yield from below(memory, context, child, level - 1, first, va, end)
        else:
            field = context.address_mask & -size
            yield first, entry & field, size, entry & ~field


def declines(context: PagingContext) -> bool:
    """Return whether this is no address space to answer about: LAM, LASS, UAI, PKS, encryption."""
    return bool(context.levels < 4 or context.address_features or context.pks)


def reserved(context: PagingContext, level: int, entry: int) -> int:
    """Return the bits that a present entry may not set."""
    bits = FIELD & ~context.address_mask & ~context.encryption_mask
    if not context.nxe:
        bits |= XD
    if level > 3:
        bits |= PS
        if context.vendor == "amd":
            bits |= G
    elif level > 1 and entry & PS:
        bits |= (1 << 3 + 9 * level) - (1 << 13)
        if level == 3 and not context.page1gb:
            bits |= PS
    return bits


def allowed(
    context: PagingContext, access: Access, key: int, user: bool, writable: bool, executable: bool
) -> bool:
    """Return whether the rights of a page allow an access."""
    by_user = access.cpl == 3
    if by_user and not user:
        return False
    if access.type is AccessType.EXECUTE:
        return executable and not (user and not by_user and context.smep)
    if user and not by_user and context.smap and not access.ac:
        return False
    protected = by_user or context.wp
    if user and context.pke:
        denied = context.pkru >> 2 * key
        if denied & 1 or (denied & 2 and access.type is AccessType.WRITE and protected):
            return False
    return access.type is AccessType.READ or writable or not protected
