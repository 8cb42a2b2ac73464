"""What the issue of a generator is: every pathology that it is to make, found by other means."""

from dataclasses import fields

import numpy as np
import pytest

from emu.fuzz.coverage import Seen, wanted
from emu.fuzz.generate import generate
from walker.access import AccessType
from walker.bulk import translate_many
from walker.columns import Kind
from walker.context import Vendor
from walker.entry import ADDRESS_FIELD, Entry
from walker.outcome import ErrorCode
from walker.translate import walk

COUNT = 48
"""Within so many layouts of a seed everything has to turn up."""

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


@pytest.fixture(scope="module")
def made():
    """The first layouts of a seed, the later ones guided by nothing seen, as in a campaign."""
    layouts = []
    for index in range(COUNT):
        goals = wanted(Seen().pack(), np.random.default_rng([7, index]), 80)
        layouts.append(Made(generate(7, index, goals, accesses=2048)))
    return layouts


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


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_every_pathology_turns_up(made, name):
    found = sum(PATHOLOGIES[name](each) for each in made)
    assert found >= 2, f"{found} of {COUNT} layouts"


CONTROLS = {
    "wp": lambda context: context.wp,
    "nxe": lambda context: context.nxe,
    "smep": lambda context: context.smep,
    "smap": lambda context: context.smap,
    "pke": lambda context: context.pke,
    "la57": lambda context: context.levels == 5,
    "pge": lambda context: bool(context.cr4 & 0x80),
    "flags in CR3": lambda context: bool(context.cr3 & 0x18),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_bit_has_both_values(made, name):
    assert {False, True} == {CONTROLS[name](each.context) for each in made}


def test_accesses_are_of_every_type_and_privilege_with_ac_and_without(made):
    kinds = {
        (int(kind), int(cpl), bool(ac))
        for each in made
        for kind, cpl, ac in zip(
            each.layout.accesses.type,
            each.layout.accesses.cpl,
            each.layout.accesses.ac,
            strict=True,
        )
    }
    assert kinds == {(kind, cpl, ac) for kind in range(3) for cpl in (0, 3) for ac in (False, True)}


def test_four_layouts_in_a_row_show_both_values_of_every_bit_at_four_levels_and_at_five():
    for first in range(0, 16, 4):
        contexts = [generate(3, index, accesses=64).context for index in range(first, first + 4)]
        for levels in (4, 5):
            chosen = [context for context in contexts if context.levels == levels]
            for name in ("wp", "nxe", "smep", "smap", "pke", "pge"):
                assert {False, True} == {CONTROLS[name](context) for context in chosen}, name


def test_cpus_with_other_features_turn_up_where_no_goal_asks_for_this_one():
    contexts = [generate(5, index, accesses=64).context for index in range(120)]
    assert {Vendor.AMD, Vendor.INTEL} == {context.vendor for context in contexts}
    assert {40} < {context.maxphyaddr for context in contexts}
    assert {False, True} == {context.page1gb for context in contexts}
    assert {False, True} == {context.pkru == 0 for context in contexts}


def parts(layout):
    return [
        layout.context,
        layout.ram,
        layout.frames.tobytes(),
        layout.words.tobytes(),
        *(getattr(layout.accesses, each.name).tobytes() for each in fields(layout.accesses)),
        *(getattr(layout.meant, each.name).tobytes() for each in fields(layout.meant)),
    ]


def test_equal_arguments_give_equal_layouts_and_others_give_others():
    goals = wanted(Seen().pack(), np.random.default_rng(1), 40)
    one = parts(generate(1, 2, goals, accesses=512))
    assert one == parts(generate(1, 2, goals, accesses=512))
    for other in (
        generate(1, 3, goals, accesses=512),
        generate(2, 2, goals, accesses=512),
        generate(1, 2, accesses=512),
    ):
        assert one[3] != parts(other)[3]


def test_no_access_is_made_twice_and_nearly_as_many_as_asked_for(made):
    for each in made:
        accesses = each.layout.accesses
        rows = {
            (int(va), int(kind), int(cpl), bool(ac))
            for va, kind, cpl, ac in zip(
                accesses.va, accesses.type, accesses.cpl, accesses.ac, strict=True
            )
        }
        assert len(rows) == len(accesses)
        assert 0.8 * 2048 < len(accesses) <= 2048
