"""One access answered naively, bit by bit, from the manuals, in all modes.

It uses nothing of the walker's; `translate` and `translate_many` are held against it.
"""

from tests.tables import LONG, MODES
from tests.walker.naive import (
    Page,
    address,
    cannot_be_loaded,
    is_page,
    is_reserved,
    mode_of,
    root,
)

READ, WRITE, EXECUTE = range(3)


def linear(context, va, kind, cpl, ac):
    """Return the linear address that is walked, or None for #GP(0)."""
    if mode_of(context) not in LONG:
        return va
    bits = [va >> at & 1 for at in range(64)]
    la57 = context.cr4 >> 12 & 1
    lass = context.cr4 >> 27 & 1
    if lass and bits[63] != _half(context, kind, cpl, ac, bits[63]):
        return None
    if kind != EXECUTE:
        if context.efer >> 20 & 1:  # UAI
            top, last = 56, 63
        elif bits[63]:
            top, last = (56 if la57 else 47) if context.cr4 >> 28 & 1 else 62, 62  # LAM_SUP
        else:
            top = 56 if context.cr3 >> 61 & 1 else 47 if context.cr3 >> 62 & 1 else 62
            last = 62
        for at in range(top + 1, last + 1):
            bits[at] = bits[top]
    if len(set(bits[56 if la57 else 47 :])) > 1:
        return None
    return sum(bit << at for at, bit in enumerate(bits))


def _half(context, kind, cpl, ac, otherwise):
    """Return the bit 63 that LASS asks for, or `otherwise` where it asks for none."""
    if cpl == 3:
        return 0
    smap = context.cr4 >> 21 & 1 and not ac
    return 1 if kind == EXECUTE or smap else otherwise


def answer(tables, va, kind, cpl, ac):
    """Return (what, numbers…, words) of an access; words that may change, for a fault."""
    context = tables.context
    mode = mode_of(context)
    found = linear(context, va, kind, cpl, ac)
    if found is None or cannot_be_loaded(tables):
        return ("general protection",)
    nxe = context.efer >> 11 & 1 and mode != "32-bit"
    reported = nxe or (context.cr4 >> 20 & 1 and context.vendor == "intel")
    code = 2 * (kind == WRITE) + 4 * (cpl == 3) + 16 * bool(kind == EXECUTE and reported)
    table, used, entries = root(context), [], []
    for level in MODES[mode].shifts:
        where = table + MODES[mode].entry_size * MODES[mode].index(found, level)
        entry = tables.entries.get(where, 0) if where & -4096 in tables.frames else 0
        if not entry & 1:
            return ("fault", code, found, _may_change(tables, used))
        if is_reserved(context, level, entry):
            return ("fault", code | 9, found, _may_change(tables, used))
        if mode != "PAE" or level != 3:
            used.append((where, 32))
            entries.append(entry)
        if is_page(context, level, entry):
            break
        table = address(context, entry)
    why = _refusal(context, entries, kind, cpl, ac)
    if why is not None:
        return ("fault", code | 1 | why, found, _may_change(tables, used))
    if kind == WRITE:
        used.append((where, 64))
    size = 1 << MODES[mode].shifts[level]
    pa = Page(0, size, level, entry, mask=context.encryption_mask).pa | found % size
    return ("ok", pa, size, tuple(sorted(_changed(tables, used))))


def _refusal(context, words, kind, cpl, ac):
    """Return None where the rights do, else what they add to the error code."""
    user = all(word >> 2 & 1 for word in words)
    writable = all(word >> 1 & 1 for word in words)
    wp, smep, smap, pke = (
        context.cr0 >> 16 & 1,
        context.cr4 >> 20 & 1,
        context.cr4 >> 21 & 1,
        context.cr4 >> 22 & (mode_of(context) in LONG),
    )
    if kind == EXECUTE:
        good = not any(word >> 63 for word in words)
        good &= user if cpl == 3 else not (user and smep)
        return None if good else 0
    if pke and user:
        key = context.pkru >> 2 * (words[-1] >> 59 & 15)
        if key & 1 or (kind == WRITE and key & 2 and (cpl == 3 or wp)):
            return 32
    if context.cr4 >> 24 & (mode_of(context) in LONG) and not user:
        key = context.pkrs >> 2 * (words[-1] >> 59 & 15)
        if key & 1 or (kind == WRITE and key & 2 and wp):
            return 32
    if cpl == 3:
        good = user and (kind == READ or writable)
    else:
        good = (kind == READ or writable or not wp) and not (user and smap and not ac)
    return None if good else 0


def _may_change(tables, used):
    """The words that a fault may change: by each of the bits alone, and by all together."""
    alone = [_changed(tables, [each]) for each in used]
    return tuple(sorted(set().union(*alone, _changed(tables, used))))


def _changed(tables, used):
    """The words, with their new values, that setting bits in entries changes."""
    after = {}
    for where, bits in used:
        word = where & -8
        after[word] = after.get(word, tables.words[word]) | bits << where % 8 * 8
    return {(at, word) for at, word in after.items() if word != tables.words[at]}
