"""A walker of x86-64 page tables: does this access go through, and where to?"""

P, RW, US, PS, XD = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000


def translate(memory, context, access):
    """Return the physical address that an access reaches, or None where it faults."""
    if not context.canonical(access.va):
        return None
    table, rights = context.root, RW | US
    executable = True
    for level in range(context.levels, 0, -1):
        shift = 3 + 9 * level
        entry = memory.word(table + (access.va >> shift & 511) * 8)
        if entry is None or not entry & P or entry & reserved(context, level, entry):
            return None
        rights &= entry
        executable &= not entry & XD
        if level == 1 or (level < 4 and entry & PS):
            break
        table = entry & context.address_mask
    if not allowed(context, access, rights, executable, key=entry >> 59 & 15):
        return None
    inside = (1 << shift) - 1
    return entry & context.address_mask & ~inside | access.va & inside


def reserved(context, level, entry):
    """Return the bits that have to be 0 in a present entry."""
    bits = FRAME & ~context.address_mask | (0 if context.nxe else XD)
    if level > 3:
        return bits | PS
    return bits | ((1 << 3 + 9 * level) - (1 << 13) if level > 1 and entry & PS else 0)


def allowed(context, access, rights, executable, key):
    """Return whether the rights that all levels leave allow an access."""
    user_page, supervisor = bool(rights & US), access.cpl == 0
    if not supervisor and not user_page:
        return False
    if access.type.name == "EXECUTE":
        return executable and not (supervisor and user_page and context.smep)
    if supervisor and user_page and context.smap and not access.ac:
        return False
    denied = context.pkru >> 2 * key & 3 if context.pke and user_page else 0
    if access.type.name == "READ":
        return not denied & 1
    bound = not supervisor or context.wp
    return not denied & 1 and not (bound and denied & 2) and bool(rights & RW or not bound)


translate.claims = "translation,rights"
