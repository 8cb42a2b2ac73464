"""The policy as anybody would write it: one frame after the other, sets of words, no arrays."""

from collections import defaultdict
from functools import cache
from itertools import chain, combinations

from crosswalk.walker import Rights, mappings

PAGE = 4096
WRITE, EXECUTE = 2 | 16, 4 | 32
"""The bits of `Rights`, of supervisor and user."""
USES = ("read", "write", "supervisor execute", "user execute")
NEEDS = {
    "read": Rights.SUPERVISOR_READ | Rights.USER_READ,
    "write": Rights.SUPERVISOR_WRITE | Rights.USER_WRITE,
    "supervisor execute": Rights.SUPERVISOR_EXECUTE,
    "user execute": Rights.USER_EXECUTE,
}


def frames_of(ram):
    for start, size in ram:
        yield from range(-(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE, PAGE)


def by_frame(memory, context):
    """The mappings of each frame of RAM, none of some."""
    found = {frame: [] for frame in frames_of(memory.ranges)}
    for page in mappings(memory, context):
        if page.size < PAGE * len(found):
            frames = range(page.pa, page.pa + page.size, PAGE)
        else:
            frames = [frame for frame in found if page.pa <= frame < page.pa + page.size]
        for frame in frames:
            if frame in found:
                found[frame].append(page)
    return found


def rights_of(pages):
    """The union, as a number: 0 for no mapping."""
    union = 0
    for page in pages:
        union |= page.rights.value
    return union


def wanted(pages):
    """What the policy allows for a frame with these mappings, as a set of words."""
    return _uses(rights_of(pages)) if pages else frozenset(("read", "write"))


@cache
def _uses(rights):
    return frozenset(use for use in USES if rights & NEEDS[use])


def expressible(kind, *, execute_only=True):
    """All sets of words that a kind of second-level table can grant."""
    for some in chain.from_iterable(combinations(USES, count) for count in range(5)):
        uses = frozenset(some)
        apart = len(uses & {"supervisor execute", "user execute"}) == 1
        if apart and kind != "ept-mbec":
            continue
        readless = uses if kind == "npt" or not execute_only else uses & {"write"}
        if "read" not in uses and readless:
            continue
        yield uses


@cache
def least(kind, uses, *, execute_only=True):
    """The least that a kind can grant to allow all of these."""
    every = expressible(kind, execute_only=execute_only)
    return min((each for each in every if uses <= each), key=len)


def offset_of(page):
    return (page.va - page.pa) % 2**64


def regions_by_frame(memory, context, count):
    """The linear regions that map most RAM, as `region_numbers` has them."""
    found = defaultdict(lambda: dict.fromkeys(("ram", "alone", "writes", "executes", "both"), 0))
    for pages in by_frame(memory, context).values():
        now = rights_of(pages)
        for offset in {offset_of(page) for page in pages}:
            region = found[offset]
            others = [page for page in pages if offset_of(page) != offset]
            then = rights_of(others)
            writes = bool(others) and bool(now & WRITE) and not then & WRITE
            executes = bool(others) and bool(now & EXECUTE) and not then & EXECUTE
            region["ram"] += PAGE
            region["alone"] += 0 if others else PAGE
            region["writes"] += PAGE * writes
            region["executes"] += PAGE * executes
            region["both"] += PAGE * bool((writes or executes) and now & WRITE and now & EXECUTE)
    pages_of = defaultdict(list)
    for page in mappings(memory, context):
        pages_of[offset_of(page)].append(page)
    for offset, region in found.items():
        mine = pages_of[offset]
        end = max(page.va + page.size for page in mine)
        region |= {"mappings": len(mine), "va": min(page.va for page in mine), "end": end}
    order = sorted(found, key=lambda offset: (-found[offset]["ram"], offset))
    return [{"offset": offset, **found[offset]} for offset in order[:count]]


def region_numbers(region):
    """The numbers of a linear region, by name."""
    names = ("offset", "ram", "alone", "writes", "executes", "both", "mappings", "va", "end")
    return {name: getattr(region, name) for name in names}
