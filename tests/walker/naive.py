"""The walk as anybody would write it: one entry after the other, no arrays, no shortcuts.

What `crosswalk.walker.leaves`, `crosswalk.walker.mappings` and `crosswalk.walker.frames` say is
held against this. It uses nothing of the walker's.
"""

from typing import NamedTuple

ADDRESS = 0x000F_FFFF_FFFF_F000


class Page(NamedTuple):
    va: int
    size: int
    level: int
    entry: int
    writable: bool
    user: bool
    executable: bool
    mask: int = 0

    @property
    def pa(self):
        return self.entry & ADDRESS & -self.size & ~self.mask

    @property
    def flags(self):
        return self.entry & ~(ADDRESS & -self.size & ~self.mask)


def any_bit(entry, first, end):
    return any(entry >> bit & 1 for bit in range(first, end))


def address(context, word):
    """The address of a table, in an entry or in CR3: no bit of the encryption mask is in it."""
    return word & ADDRESS & ~context.encryption_mask


def is_page(context, level, entry):
    large = 2 if not context.page1gb else 3
    return level == 1 or (level <= large and entry >> 7 & 1 == 1)


def is_reserved(context, level, entry):
    page = is_page(context, level, entry)
    entry &= ~context.encryption_mask
    return (
        any_bit(entry, context.maxphyaddr, 52)
        or (entry >> 63 == 1 and not context.efer >> 11 & 1)
        or (level >= 3 and entry >> 7 & 1 == 1 and not page)
        or (level >= 4 and entry >> 8 & 1 == 1 and context.vendor == "amd")
        or (level >= 2 and page and any_bit(entry, 13, 3 + 9 * level))
    )


def pages(soup):
    """Return all pages of a soup, in address order."""
    levels = 5 if soup.context.cr4 >> 12 & 1 else 4
    root = address(soup.context, soup.context.cr3)
    return sorted(_visit(soup, root, levels, 0, (True, True, True)))


def _visit(soup, table, level, va, rights):
    for at, entry in _entries(soup, table):
        if not entry & 1 or is_reserved(soup.context, level, entry):
            continue
        found = va + (at << 3 + 9 * level)
        here = (entry >> 1 & 1 == 1, entry >> 2 & 1 == 1, entry >> 63 == 0)
        both = tuple(a and b for a, b in zip(rights, here, strict=True))
        if is_page(soup.context, level, entry):
            mask = soup.context.encryption_mask
            yield Page(_sign_extended(soup, found), 1 << 3 + 9 * level, level, entry, *both, mask)
        else:
            yield from _visit(soup, address(soup.context, entry), level - 1, found, both)


def _sign_extended(soup, va):
    width = 57 if soup.context.cr4 >> 12 & 1 else 48
    return va + (2**64 - 2**width) if va >> width - 1 else va


def blocked(soup):
    """Return (va, level, entry) of what is not zero and maps nothing, each table once a level."""
    return sorted(
        (_sign_extended(soup, va + (at << 3 + 9 * level)), level, entry)
        for level, table, va in _tables(soup)
        for at, entry in _entries(soup, table)
        if not entry & 1 or is_reserved(soup.context, level, entry)
    )


def unfollowed(soup):
    """Return (va, level, address, entry, outside) of what can't be followed, each once a level."""
    found = []
    for level, table, va in _tables(soup):
        for at, entry in _entries(soup, table):
            down = not is_page(soup.context, level, entry)
            reserved = is_reserved(soup.context, level, entry)
            outside = down and not reserved and address(soup.context, entry) not in soup.frames
            if entry & 1 and (reserved or outside):
                linear = _sign_extended(soup, va + (at << 3 + 9 * level))
                found.append((linear, level, table + 8 * at, entry, outside))
    return sorted(found, key=lambda each: (each[0], -each[1]))


def present(soup):
    """Return the entries that are present, with their levels, each table once a level."""
    return [
        (level, entry)
        for level, table, _ in _tables(soup)
        for _, entry in _entries(soup, table)
        if entry & 1
    ]


def distinct_pages(soup):
    """Return where the pages are that entries map, with each entry looked at once a level."""
    return [
        address(soup.context, entry) & -(1 << 3 + 9 * level)
        for level, entry in present(soup)
        if is_page(soup.context, level, entry) and not is_reserved(soup.context, level, entry)
    ]


def tables(soup):
    """Return the frames in RAM that hold tables, ascending."""
    return sorted({table for _, table, _ in _tables(soup) if table in soup.frames})


def _tables(soup):
    """Yield (level, table, lowest va) of all tables, each once a level."""
    level = 5 if soup.context.cr4 >> 12 & 1 else 4
    here = {address(soup.context, soup.context.cr3): 0}
    while level:
        below = {}
        for table, va in sorted(here.items(), key=lambda item: item[1]):
            yield level, table, va
            for at, entry in _entries(soup, table):
                bad = not entry & 1 or is_reserved(soup.context, level, entry)
                if not bad and not is_page(soup.context, level, entry):
                    below.setdefault(address(soup.context, entry), va + (at << 3 + 9 * level))
        here, level = below, level - 1


def _entries(soup, table):
    """Yield the places and values of the entries of a table that are not zero."""
    for at in soup.in_use.get(table, ()):
        if soup.words[table + 8 * at]:
            yield at, soup.words[table + 8 * at]
