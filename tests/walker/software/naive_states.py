"""Software states written naively: one entry at a time, from the systems' sources.

`crosswalk.walker.software` is compared with this. It uses nothing of the walker's.
"""

from tests.tables import MODES
from tests.walker import naive

PAGE = 4096


def bits(entry, low, end):
    """Bits `end` - 1 to `low` of an entry."""
    return entry >> low & (1 << end - low) - 1


def absent(tables):
    """(va, level, entry) of the entries with P clear that aren't zero, by address."""
    if naive.cannot_be_loaded(tables):
        return []
    top = max(MODES[naive.mode_of(tables.context)].shifts)
    found = _below(tables, naive.root(tables.context), top, 0)
    return sorted(found, key=lambda each: (each[0], -each[1]))


def _below(tables, table, level, va):
    context = tables.context
    mode = MODES[naive.mode_of(context)]
    for at in tables.in_use(table, level):
        entry = tables.entries[table + mode.entry_size * at]
        here = va | at << mode.shifts[level]
        if level == max(mode.shifts) and mode.va_bits > 32 and here >> mode.va_bits - 1:
            here |= (1 << 64) - (1 << mode.va_bits)
        if not entry & 1:
            yield here, level, entry
        elif not naive.is_page(context, level, entry) and not naive.is_reserved(
            context, level, entry
        ):
            yield from _below(tables, naive.address(context, entry), level - 1, here)


def linux(va, level, entry):
    """(kind, pa or (type, offset) or None) of an entry, as Linux' macros have it."""
    if entry & ~(1 << 5 | 1 << 6) == 0:
        return "none", None
    size = 1 << 12 + 9 * (level - 1)
    frame = (~entry & (1 << 52) - 1) // size * size
    if va >> 63:
        return "invalid", frame
    if level > 3:
        return "unknown", None
    protnone, pse = entry >> 8 & 1, entry >> 7 & 1
    if protnone or pse:
        kinds = {(1, 0): "unknown", (1, 1): "prot-none", (0, 1): "splitting"}
        kind = kinds[protnone, pse]
        if level == 1:
            kind = "prot-none" if protnone else "unknown"
        return kind, None if kind == "unknown" else frame
    kind = entry >> 59
    # SWP_OFFSET_SHIFT: up by the bits of the type, then down to bit 0.
    offset = (~entry << 5 & (1 << 64) - 1) >> 14
    return ("swap" if kind < 22 else "special"), (kind, offset)


def windows(va, level, entry):
    """(kind, numbers) of an entry, as the bit fields of MMPTE have it."""
    del va, level
    protection, prototype, transition = bits(entry, 5, 10), bits(entry, 10, 11), bits(entry, 11, 12)
    if prototype:
        address = bits(entry, 16, 64)
        if address == 0xFFFF_FFFF_0000:
            return "prototype-vad", (protection,)
        return "prototype", (address | 0xFFFF << 48 if address >> 47 else address, protection)
    if transition:
        return "transition", (bits(entry, 12, 52) * PAGE, protection)
    if bits(entry, 32, 64):
        return "pagefile", (bits(entry, 12, 16), bits(entry, 32, 64) * PAGE, protection)
    if protection:
        return "demand-zero", (protection,)
    return "unknown", ()
