"""Collective rights by their definition: the union over mappings that are listed one by one."""

from itertools import pairwise

from crosswalk.walker import Rights


def united(pages):
    """Return (start, size, rights) of what these mappings map, neighbours folded if alike."""
    found = []
    for start, end, rights in _stretches(pages):
        if found and found[-1][1] == start and found[-1][2] == rights:
            found[-1] = (found[-1][0], end, rights)
        else:
            found.append((start, end, rights))
    return [(start, end - start, rights) for start, end, rights in found]


def _stretches(pages):
    """The (start, end, rights) of each stretch that the same pages map, neighbours not folded."""
    edges = sorted({edge for it in pages for edge in (it.pa, it.pa + it.size)})
    for start, end in pairwise(edges):
        rights = [it.rights for it in pages if it.pa <= start and end <= it.pa + it.size]
        if rights:
            yield start, end, Rights(sum(bit for bit in Rights if any(bit & r for r in rights)))
