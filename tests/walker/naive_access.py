"""One access in IA-32e mode as anybody would answer it, bit by bit, from the manuals.

It uses nothing of the walker's; `translate` and `translate_many` are held against it.
"""

from tests.walker.naive import ADDRESS, address, is_page, is_reserved

READ, WRITE, EXECUTE = range(3)


def linear(context, va, kind, cpl, ac):
    """Return the linear address that is walked, or None for #GP(0)."""
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
    found = linear(context, va, kind, cpl, ac)
    if found is None:
        return ("general protection",)
    told = context.efer >> 11 & 1 or (context.cr4 >> 20 & 1 and context.vendor == "intel")
    code = 2 * (kind == WRITE) + 4 * (cpl == 3) + 16 * bool(kind == EXECUTE and told)
    table, used = address(context, context.cr3), []
    for level in (5, 4, 3, 2, 1) if context.cr4 >> 12 & 1 else (4, 3, 2, 1):
        where = table + 8 * (found >> 3 + 9 * level & 511)
        entry = tables.words.get(where, 0) if where & -4096 in tables.frames else 0
        if not entry & 1:
            return ("fault", code, found, _changed(tables, used))
        if is_reserved(context, level, entry):
            return ("fault", code | 9, found, _changed(tables, used))
        used.append((where, 32))
        if is_page(context, level, entry):
            break
        table = address(context, entry)
    why = _refusal(context, [tables.words[at] for at, _ in used], kind, cpl, ac)
    if why is not None:
        return ("fault", code | 1 | why, found, _changed(tables, used))
    if kind == WRITE:
        used.append((where, 64))
    size = 1 << 3 + 9 * level
    pa = entry & ADDRESS & ~context.encryption_mask & -size | found % size
    return ("ok", pa, size, _changed(tables, used))


def _refusal(context, words, kind, cpl, ac):
    """Return None where the rights do, else what they add to the error code."""
    user = all(word >> 2 & 1 for word in words)
    writable = all(word >> 1 & 1 for word in words)
    wp, smep, smap, pke = (
        context.cr0 >> 16 & 1,
        context.cr4 >> 20 & 1,
        context.cr4 >> 21 & 1,
        context.cr4 >> 22 & 1,
    )
    if kind == EXECUTE:
        good = not any(word >> 63 for word in words)
        good &= user if cpl == 3 else not (user and smep)
        return None if good else 0
    if pke and user:
        key = context.pkru >> 2 * (words[-1] >> 59 & 15)
        if key & 1 or (kind == WRITE and key & 2 and (cpl == 3 or wp)):
            return 32
    if cpl == 3:
        good = user and (kind == READ or writable)
    else:
        good = (kind == READ or writable or not wp) and not (user and smap and not ac)
    return None if good else 0


def _changed(tables, used):
    after = {}
    for where, bits in used:
        after[where] = after.get(where, tables.words[where]) | bits
    return tuple(sorted((at, word) for at, word in after.items() if word != tables.words[at]))
