"""The pathologies that generated layouts are to show, recognised by other means than made."""

import numpy as np

from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.entry import ADDRESS_FIELD, Entry
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.translate import walk

TOP = 1 << 40
P, PS, XD = (np.uint64(bit) for bit in (Entry.P, Entry.PS, Entry.XD))
ADDRESS = np.uint64(ADDRESS_FIELD)


class Made:
    """A layout, and what is found in it."""

    def __init__(self, layout):
        self.layout, self.context = layout, layout.context
        self.memory = layout.memory()
        self.outcomes = translate_many(self.memory, layout.context, layout.accesses)
        self.ok = self.outcomes.kind == Kind.OK
        self.tables = self._tables()

    def _tables(self):
        """The frames that a walk may come to, by level."""
        row = {int(frame): at for at, frame in enumerate(self.layout.frames)}
        found = {self.context.levels: {self.context.root}}
        for level in range(self.context.levels, 1, -1):
            below = set()
            for frame in found[level] & row.keys():
                words = self.layout.words[row[frame]]
                below |= set((words[self.leads_on(level, words)] & ADDRESS).tolist())
            found[level - 1] = below
        return found

    def leads_on(self, level, words):
        leaf = (words & PS) != 0 if level in (2, 3) else np.zeros(len(words), np.bool_)
        return ((words & P) != 0) & ~leaf if level > 1 else np.zeros(len(words), np.bool_)

    def words_of(self, frame):
        at = np.flatnonzero(self.layout.frames == np.uint64(frame))
        return self.layout.words[at[0]] if len(at) else np.zeros(512, np.uint64)

    def entries(self, level):
        """(frame, its words) of each table of a level that is there."""
        return [(frame, self.words_of(frame)) for frame in sorted(self.tables[level])]

    def backed(self, pas):
        return self.memory.backed(pas & ~np.uint64(0xFFF))


def mixed_sizes(each):
    return {1 << 12, 1 << 21, 1 << 30} <= set(each.outcomes.page_size[each.ok].tolist())


def aliases(each):
    page = each.layout.accesses.va[each.ok] >> np.uint64(12)
    frame = each.outcomes.pa[each.ok] >> np.uint64(12)
    pairs = np.unique(np.stack([frame, page]), axis=1)
    return bool((np.diff(pairs[0]) == 0).any())


def shared_with_other_rights(each):
    rights = {}
    for level in range(each.context.levels, 1, -1):
        for _, words in each.entries(level):
            for word in words[each.leads_on(level, words)].tolist():
                key = (level, word & ADDRESS_FIELD)
                rights.setdefault(key, set()).add((word & 6, word >> 63))
    return any(len(each_) > 1 for each_ in rights.values())


def recursive(level):
    def found(each):
        if level > each.context.levels:
            return False
        return any(
            (words[each.leads_on(level, words)] & ADDRESS == np.uint64(frame)).any()
            for frame, words in each.entries(level)
        )

    return found


def maps_its_own_table(each):
    return any(
        (words[(words & P) != 0] & ADDRESS == np.uint64(frame)).any()
        for frame, words in each.entries(1)
    )


def on_tables(each):
    return each.ok & np.isin(each.outcomes.pa & ~np.uint64(0xFFF), each.layout.frames)


def tables_as_data(each):
    return bool(on_tables(each).any())


def writable_tables_of_its_own_walk(each):
    rows = on_tables(each) & (each.layout.accesses.type == AccessType.WRITE)
    for row in np.flatnonzero(rows).tolist():
        steps = walk(each.memory, each.context, int(each.layout.accesses.va[row])).steps
        frame = int(each.outcomes.pa[row]) & ~0xFFF
        if frame in {step.pa & ~0xFFF for step in steps}:
            return True
    return False


def coded(bit):
    return lambda each: bool(((each.outcomes.error_code & bit) != 0).any())


def reserved_at(level):
    def found(each):
        rows = np.flatnonzero((each.outcomes.error_code & ErrorCode.RSVD) != 0)
        return any(
            walk(each.memory, each.context, int(each.layout.accesses.va[row])).steps[-1].level
            == level
            for row in rows[:: max(1, len(rows) // 64)].tolist()
        )

    return found


def junk(each):
    words = each.layout.words
    return bool((((words & P) == 0) & ((words & ~np.uint64(1)) != 0)).any())


def leaves_outside(each):
    return bool((~each.backed(each.outcomes.pa[each.ok])).any())


def tables_outside(each):
    return any(
        len(frames) and not each.memory.backed(np.array(sorted(frames), np.uint64)).all()
        for frames in each.tables.values()
    )


def pages_at_the_top(each):
    return bool((each.outcomes.pa[each.ok] >= np.uint64(TOP - 0x2000)).any())


def tables_at_the_top(each):
    return bool((each.layout.frames >= np.uint64(TOP - (16 << 20))).any())


def end_of_half(levels, which):
    bits = 3 + 9 * levels + 8
    page = {
        "first": 0,
        "last of the lower": (1 << bits) - 0x1000,
        "first of the upper": (1 << 64) - (1 << bits),
        "last": (1 << 64) - 0x1000,
    }[which]

    def found(each):
        return each.context.levels == levels and bool(
            ((each.layout.accesses.va & ~np.uint64(0xFFF)) == np.uint64(page)).any()
        )

    return found


def not_canonical(each):
    return bool((each.outcomes.kind == Kind.GENERAL_PROTECTION).any())


def dense(each):
    used = (each.layout.words != 0).astype(np.int8)
    padded = np.pad(used, ((0, 0), (1, 1)))
    starts, ends = (np.argwhere(np.diff(padded, axis=1) == step) for step in (1, -1))
    return bool((ends[:, 1] - starts[:, 1] >= 64).any())


def lonely(each):
    return bool(((each.layout.words != 0).sum(axis=1) == 1).any())


PATHOLOGIES = {
    "pages of all sizes in one": mixed_sizes,
    "aliases": aliases,
    "subtrees reached with different rights": shared_with_other_rights,
    **{f"a recursive slot at level {level}": recursive(level) for level in (2, 3, 4, 5)},
    "a page table that maps itself": maps_its_own_table,
    "tables that are data pages": tables_as_data,
    "tables that map themselves writable": writable_tables_of_its_own_walk,
    "reserved bits": coded(ErrorCode.RSVD),
    **{f"a reserved bit at level {level}": reserved_at(level) for level in range(1, 6)},
    "protection keys that deny": coded(ErrorCode.PK),
    "junk that is not present": junk,
    "leaves outside RAM": leaves_outside,
    "tables outside RAM": tables_outside,
    "pages at the top of physical memory": pages_at_the_top,
    "tables at the top of physical memory": tables_at_the_top,
    **{
        f"the {which} page, {levels} levels": end_of_half(levels, which)
        for levels in (4, 5)
        for which in ("first", "last of the lower", "first of the upper", "last")
    },
    "addresses that are not canonical": not_canonical,
    "dense runs": dense,
    "lonely entries": lonely,
}
