"""The walk written naively: one entry after the other, no arrays, no shortcuts, in all modes.

What `crosswalk.walker.leaves`, `crosswalk.walker.mappings` and `crosswalk.walker.frames` say is
compared with this. It uses nothing of the walker's. Tables are `tests.random_tables.RandomTables`.
"""

from typing import NamedTuple

from tests.tables import MODES

ADDRESS = 0x000F_FFFF_FFFF_F000
MIB4 = 1 << 22


class Page(NamedTuple):
    va: int
    size: int
    level: int
    entry: int
    writable: bool = True
    user: bool = True
    executable: bool = True
    mask: int = 0

    @property
    def grant(self):
        """What all entries let through, as an index of the table of rights."""
        return self.writable | self.user << 1 | self.executable << 2

    @property
    def _field(self):
        return (0xFFDF_E000 if self.size == MIB4 else ADDRESS & -self.size) & ~self.mask

    @property
    def pa(self):
        if self.size == MIB4:
            high = sum((self.entry >> bit & 1) << bit + 19 for bit in range(13, 21))
            return self.entry & 0xFFC0_0000 | high
        return self.entry & self._field

    @property
    def flags(self):
        return self.entry & ~self._field


def mode_of(context):
    if not context.cr4 >> 5 & 1:
        return "32-bit"
    if not context.efer >> 10 & 1:
        return "PAE"
    return 5 if context.cr4 >> 12 & 1 else 4


def any_bit(entry, first, end):
    return any(entry >> bit & 1 for bit in range(first, end))


def address(context, word):
    """The address of a table, in an entry or in CR3: no bit of the encryption mask is in it."""
    return word & ADDRESS & ~context.encryption_mask


def root(context):
    field = {"32-bit": 0xFFFF_F000, "PAE": 0xFFFF_FFE0}.get(mode_of(context), ADDRESS)
    return context.cr3 & field & ~context.encryption_mask


def is_page(context, level, entry):
    mode = mode_of(context)
    if mode == "32-bit":
        large = 2 if context.cr4 >> 4 & 1 else 1
    elif mode == "PAE":
        large = 2
    else:
        large = 3 if context.page1gb else 2
    return level == 1 or (level <= large and entry >> 7 & 1 == 1)


def is_reserved(context, level, entry):
    mode, width = mode_of(context), context.maxphyaddr
    page = is_page(context, level, entry)
    entry &= ~context.encryption_mask
    if mode == "32-bit":
        return level == 2 and page and any_bit(entry, min(width, 40) - 19, 22)
    if mode == "PAE" and level == 3:
        return any_bit(entry, width, 64) or any_bit(entry, 1, 3) or any_bit(entry, 5, 9)
    return (
        any_bit(entry, width, 63 if mode == "PAE" else 52)
        or (entry >> 63 == 1 and not context.efer >> 11 & 1)
        or (level >= 3 and entry >> 7 & 1 == 1 and not page)
        or (level >= 4 and entry >> 8 & 1 == 1 and context.vendor == "amd")
        or (level >= 2 and page and any_bit(entry, 13, 3 + 9 * level))
    )


def cannot_be_loaded(tables):
    """Whether a PDPTE keeps the address space from being loaded: AMD loads none."""
    context = tables.context
    if mode_of(context) != "PAE" or context.vendor == "amd":
        return False
    entries = _entries(tables, 3, root(context))
    return any(entry & 1 and is_reserved(context, 3, entry) for _, entry in entries)


def pages(tables):
    """Return all pages, in address order."""
    if cannot_be_loaded(tables):
        return []
    top, context = max(MODES[mode_of(tables.context)].shifts), tables.context
    return sorted(_visit(tables, root(context), top, 0, (True, True, True)))


def _visit(tables, table, level, va, rights):
    context = tables.context
    shift = MODES[mode_of(context)].shifts[level]
    for at, entry in _entries(tables, level, table):
        if not entry & 1 or is_reserved(context, level, entry):
            continue
        found = va + (at << shift)
        both = rights
        if level != 3 or mode_of(context) != "PAE":
            here = (entry >> 1 & 1 == 1, entry >> 2 & 1 == 1, entry >> 63 == 0)
            both = tuple(a and b for a, b in zip(rights, here, strict=True))
        if is_page(context, level, entry):
            va_, mask = canonical(context, found), context.encryption_mask
            yield Page(va_, 1 << shift, level, entry, *both, mask)
        else:
            yield from _visit(tables, address(context, entry), level - 1, found, both)


def canonical(context, va):
    width = {4: 48, 5: 57}.get(mode_of(context))
    return va + (2**64 - 2**width) if width and va >> width - 1 else va


def malformed(tables):
    """Return (va, level, entry) of what is not zero and maps nothing, each table once a level."""
    none = cannot_be_loaded(tables)
    return sorted(
        (va, level, entry)
        for level, _, va, entry in _distinct_entries(tables)
        if none or not entry & 1 or is_reserved(tables.context, level, entry)
    )


def unfollowed(tables):
    """Return (va, level, address, entry, outside) of what can't be followed, each once a level."""
    context, found = tables.context, []
    for level, pa, va, entry in _distinct_entries(tables):
        down = not is_page(context, level, entry)
        reserved = is_reserved(context, level, entry)
        outside = down and not reserved and address(context, entry) not in tables.frames
        if entry & 1 and (reserved or outside):
            found.append((va, level, pa, entry, outside))
    return sorted(found, key=lambda each: (each[0], -each[1]))


def present(tables):
    """Return the entries that are present, with their levels, each table once a level."""
    return [(level, entry) for level, _, _, entry in _distinct_entries(tables) if entry & 1]


def distinct_pages(tables):
    """Return where the pages are that entries map, with each entry looked at once a level."""
    context = tables.context
    shifts = MODES[mode_of(context)].shifts
    return [
        Page(0, 1 << shifts[level], level, entry, mask=context.encryption_mask).pa
        for level, entry in present(tables)
        if is_page(context, level, entry) and not is_reserved(context, level, entry)
    ]


def table_frames(tables):
    """Return the frames in RAM that hold tables, ascending."""
    return sorted({table & -4096 for _, table, _ in distinct(tables)} & {*tables.frames})


def distinct(tables):
    """Yield (level, table, lowest va) of all tables, each once a level.

    The root alone where its entries can't be loaded.
    """
    context = tables.context
    here = {root(context): 0}
    for level, shift in MODES[mode_of(context)].shifts.items():
        below = {}
        for table, va in sorted(here.items(), key=lambda item: item[1]):
            yield level, table, va
            for at, entry in _entries(tables, level, table):
                bad = not entry & 1 or is_reserved(context, level, entry)
                if not bad and not is_page(context, level, entry):
                    below.setdefault(address(context, entry), va + (at << shift))
        if cannot_be_loaded(tables):
            break
        here = below


def _distinct_entries(tables):
    """Yield (level, address, lowest va, entry) of all entries that aren't zero, once a level."""
    mode = MODES[mode_of(tables.context)]
    for level, table, va in distinct(tables):
        for at, entry in _entries(tables, level, table):
            lowest = canonical(tables.context, va + (at << mode.shifts[level]))
            yield level, table + mode.entry_size * at, lowest, entry


def _entries(tables, level, table):
    """Yield the indices and values of the entries of a table that are not zero."""
    size = MODES[mode_of(tables.context)].entry_size
    for at in tables.in_use(table, level):
        yield at, tables.entries[table + size * at]
