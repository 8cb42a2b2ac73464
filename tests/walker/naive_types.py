"""Memory types written naively: rules in the manuals' order, byte by byte, without tables.

`crosswalk.walker.memory_types`, `crosswalk.walker.mtrrs` and `crosswalk.walker.type_conflicts` are
compared with this. It uses nothing of the walker's; types are their names.
"""

KIB4 = 1 << 12
NUMBERS = {0: "uc", 1: "wc", 4: "wt", 5: "wp", 6: "wb", 7: "uc-"}


def own_type(pat, page):
    """The type that a naive page's entry selects in a value of IA32_PAT."""
    pat_bit = 7 if page.level == 1 else 12
    at = sum((page.entry >> bit & 1) << place for place, bit in enumerate((3, 4, pat_bit)))
    return NUMBERS[pat.to_bytes(8, "little")[at]]


def mtrr_type(mtrrs, pa):
    """The type of a byte by MTRRs: (default, [(base, size, type)], [(start, size, type)])."""
    default, variable, fixed = mtrrs
    for start, size, kind in fixed:
        if start <= pa < start + size:
            return kind
    # As the processor matches: the bits of the mask decide.
    matching = [kind for base, size, kind in variable if pa & -size == base & -size]
    if not matching:
        return default
    if "uc" in matching:
        return "uc"
    if len(set(matching)) == 1:
        return matching[0]
    return "wt" if sorted(set(matching)) == ["wb", "wt"] else "undefined"


def on_intel(own, mtrr):
    if own == "wc":
        return "wc"
    if mtrr == "uc" or own == "uc":
        return "uc"
    if own == "uc-":
        return "wc" if mtrr in ("wc", "wp") else "uc"
    if own == "wb":
        return mtrr
    return "uc" if mtrr == "wc" else own


def on_amd(own, mtrr):
    if own == "wc":
        return "wc" if mtrr in ("uc", "wc") else "wc+"
    if mtrr == "uc":
        return "uc"
    if own == "wb":
        return mtrr
    if mtrr == "wc":
        return "wc" if own == "uc-" else "cd"
    if own in ("wt", "wp"):
        return own if mtrr in (own, "wb") else "cd"
    return "cd"


def type_of_byte(context, own, mtrrs, pa):
    """The effective type of a byte that is mapped with this type of the page's own."""
    amd = context.vendor == "amd"
    if context.cr0 >> 30 & 1:
        return "cd" if amd else "uc"
    if mtrrs is None:
        return own
    mtrr = mtrr_type(mtrrs, pa)
    if mtrr == "undefined":
        return mtrr
    return on_amd(own, mtrr) if amd else on_intel(own, mtrr)


def type_of_page(context, pat, mtrrs, page):
    """The effective type of a naive page: what its bytes have, or mixed."""
    own = own_type(pat, page)
    edges = {page.pa}
    if mtrrs is not None:
        for start, size, _ in (*mtrrs[1], *mtrrs[2]):
            edges |= {at for at in (start, start + size) if page.pa < at < page.pa + page.size}
    found = {type_of_byte(context, own, mtrrs, at) for at in edges}
    if "undefined" in found:
        return "undefined"
    return found.pop() if len(found) == 1 else "mixed"
