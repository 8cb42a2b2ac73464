"""A page-table walker with a bug: it looks at R/W of the last entry alone.

crosswalk fuzz --walker python:docs/examples/broken_walker.py:translate
"""

P, RW, US, PS, G, XD = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 8, 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000


def translate(memory, context, access):
    """Return the physical address that an access reaches, or None where it faults."""
    va = linear(context, access)
    if va is None or not context.canonical(va):
        return None
    table = context.root
    user = writable = executable = True
    for level in range(context.levels, 0, -1):
        shift = 3 + 9 * level
        entry = memory.word(table + (va >> shift & 511) * 8)
        if entry is None or not entry & P or reserved(context, level, entry):
            return None
        user &= bool(entry & US)
        writable = bool(entry & RW)  # The bug: the entries above may withhold it too.
        executable &= not entry & XD
        if level == 1 or (level in (2, 3) and entry & PS):
            break
        table = entry & context.address_mask
    if not allowed(context, access, entry >> 59 & 15, user, writable, executable):
        return None
    inside = (1 << shift) - 1
    return entry & context.address_mask & ~inside | va & inside


translate.claims = "translation,rights"


def linear(context, access):
    """Return the linear address that an access goes to, or None if LASS forbids it."""
    va, upper = access.va, access.va >> 63
    fetch = access.type.name == "EXECUTE"
    strict = fetch or (context.smap and not access.ac)
    if context.lass and (upper if access.cpl == 3 else strict and not upper):
        return None
    width = context.lam_supervisor if upper else context.lam_user
    if width and not fetch:
        sign = va >> width - 1 & 1
        va = va & (1 << width) - 1 | sign * ((1 << 63) - (1 << width)) | upper << 63
    if context.uai and not fetch:
        va = va & (1 << 57) - 1 | (va >> 56 & 1) * ((1 << 64) - (1 << 57))
    return va


def reserved(context, level, entry):
    """Return the bits of a present entry that have to be 0."""
    wrong = FRAME & ~context.address_mask & ~context.encryption_mask
    if not context.nxe:
        wrong |= XD
    if level > 3:
        wrong |= PS | (G if context.vendor == "amd" else 0)
    elif level > 1 and entry & PS:
        wrong |= (1 << 3 + 9 * level) - (1 << 13)
        wrong |= PS if level == 3 and not context.page1gb else 0
    return entry & wrong


def allowed(context, access, key, user, writable, executable):
    """Return whether the rights of a page allow an access."""
    kind = access.type.name
    if access.cpl == 3 and not user:
        return False
    if kind == "EXECUTE":
        return executable and not (access.cpl == 0 and user and context.smep)
    if access.cpl == 0 and user and context.smap and not access.ac:
        return False
    bound = access.cpl == 3 or context.wp
    if context.pke and user:
        denied = context.pkru >> key * 2
        if denied & 1 or (kind == "WRITE" and denied & 2 and bound):
            return False
    return kind == "READ" or writable or not bound
