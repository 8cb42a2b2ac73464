"""The policy as anybody would write it: one frame after the other, sets of words, no arrays."""

from functools import cache
from itertools import chain, combinations

from crosswalk.walker import Rights, mappings

__all__ = ["PAGE", "USES", "by_frame", "expressible", "least", "rights_of", "wanted"]

PAGE = 4096
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


def expressible(kind):
    """All sets of words that a kind of second-level table can grant."""
    for some in chain.from_iterable(combinations(USES, count) for count in range(5)):
        uses = frozenset(some)
        apart = len(uses & {"supervisor execute", "user execute"}) == 1
        if apart and kind != "ept-mbec":
            continue
        if "read" not in uses and (uses if kind == "npt" else "write" in uses):
            continue
        yield uses


@cache
def least(kind, uses):
    """The least that a kind can grant to allow all of these."""
    return min((each for each in expressible(kind) if uses <= each), key=len)
