from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import SparseWords, collective_rights
from crosswalk.walker import type_conflicts as module
from crosswalk.walker.memory_types import MemoryTypes, Pat, pat_indices
from crosswalk.walker.mtrrs import MemoryType, Mtrrs, VariableRange
from crosswalk.walker.rights import GRANT_BITS
from crosswalk.walker.type_conflicts import (
    MOST_NAMED,
    mapped_types,
    type_conflicts,
    typed_frames,
)
from tests.random_tables import address_spaces, extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    PAT_LARGE,
    PCD,
    PS,
    PWT,
    ROOT,
    USED,
    CountingMemory,
    PageTables,
    context,
)
from tests.walker import naive, naive_types

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
LINUX_PAT = 0x0407_0506_0007_0106
LINUX = MemoryTypes(Pat(LINUX_PAT))
UC, WC, WT, WB = (MemoryType[name] for name in ("UC", "WC", "WT", "WB"))
MTRRS = Mtrrs(
    default=WB,
    variable=(
        VariableRange(0x2000, KIB4, UC),
        VariableRange(0x20_0000, 1 << 20, WC),
        VariableRange(GIB1, GIB1, UC),
    ),
)
PLAIN = ("wb", [(0x2000, KIB4, "uc"), (0x20_0000, 1 << 20, "wc"), (GIB1, GIB1, "uc")], [])
ALIKE = {"uc-": "uc", "cd": "uc", "wc+": "wc"}


def found_in(tables, types=LINUX, **options):
    found = type_conflicts(tables.memory, context(), types, aliases=options.get("aliases", 4))
    return [(it.pa, it.size, [kind.text for kind in it.types]) for it in found]


def test_a_frame_that_is_mapped_cached_and_uncached_is_a_conflict():
    tables = PageTables().map(0x7000, 0x5000).map(0x8000, 0x5000, USED | PCD | PWT)
    tables.map(0x9000, 0x6000)
    found = type_conflicts(tables.memory, context(), LINUX, aliases=4)
    assert [(0x5000, KIB4, (UC, WB))] == [(it.pa, it.size, it.types) for it in found]
    named = {kind: [page.va for page in pages] for kind, pages in found[0].mappings}
    assert {UC: [0x8000], WB: [0x7000]} == named


@pytest.mark.parametrize(
    ("one", "other", "types"),
    [
        (0, PWT, ["wc", "wb"]),
        (PCD, PCD | PWT, []),  # UC- and UC.
        (0, PS, []),  # Two fields of one type.
        (0, PS | PWT, ["wp", "wb"]),
        (0, PS | PCD | PWT, ["wt", "wb"]),
    ],
)
def test_types_decide_and_not_the_bits(one, other, types):
    tables = PageTables().map(0x7000, 0x5000, USED | one).map(0x8000, 0x5000, USED | other)
    assert ([(0x5000, KIB4, types)] if types else []) == found_in(tables)


def test_a_part_of_a_large_page_is_a_conflict_alone():
    tables = PageTables().map(0, MIB2, USED | PS | PAT_LARGE | PWT, level=2)
    tables.map(GIB1, MIB2 + 0x3000)
    assert [(MIB2 + 0x3000, KIB4, ["wp", "wb"])] == found_in(tables)


def test_mtrrs_settle_a_conflict_and_make_one():
    tables = PageTables().map(0x7000, 0x2000).map(0x8000, 0x2000, USED | PCD | PWT)
    tables.map(0x9000, 0x20_0000, USED | PCD).map(0xA000, 0x20_0000, USED | PCD | PWT)
    assert [(0x2000, KIB4, ["uc", "wb"])] == found_in(tables)
    assert [(0x20_0000, KIB4, ["uc", "wc"])] == found_in(tables, replace(LINUX, mtrrs=MTRRS))


def test_up_to_so_many_mappings_of_each_type_are_named():
    tables = PageTables().map(0x7000, 0x5000, USED | PWT)
    for at in range(5):
        tables.map(0x10_0000 + at * KIB4, 0x5000)
    (found,) = type_conflicts(tables.memory, context(), LINUX, aliases=2)
    assert [(WC, [0x7000]), (WB, [0x10_0000, 0x10_1000])] == [
        (kind, [page.va for page in pages]) for kind, pages in found.mappings
    ]


def test_of_very_many_ranges_the_first_have_their_mappings_named():
    tables = PageTables()
    for at in range(MOST_NAMED + 2):
        tables.map(at << 12, at << 13).map(GIB1 + (at << 12), at << 13, USED | PWT)
    found = type_conflicts(tables.memory, context(), LINUX, aliases=1)
    assert MOST_NAMED + 2 == len(found)
    assert [True] * MOST_NAMED + [False] * 2 == [bool(each.mappings) for each in found]


def naive_conflicts(tables, types, mtrrs):
    """The types that differ, by each byte at which a page or an MTRR begins or ends."""
    found = {}
    for edge in edges_of(naive.pages(tables), mtrrs):
        kinds = types_at(tables, types, mtrrs, edge)
        found[edge] = sorted(kinds) if len({ALIKE.get(it, it) for it in kinds}) > 1 else []
    return found


def edges_of(pages, mtrrs):
    edges = {edge for page in pages for edge in (page.pa, page.pa + page.size)}
    return edges | {edge for start, size, _ in mtrrs[1] for edge in (start, start + size)}


def types_at(tables, types, mtrrs, pa):
    """The types that all pages of a byte have."""
    return {
        naive_types.type_of_byte(tables.context, own(types, page), mtrrs, pa)
        for page in naive.pages(tables)
        if page.pa <= pa < page.pa + page.size
    }


def own(types, page):
    return naive_types.own_type(types.pat.value, page)


def is_named_rightly(context, types, each):
    """Whether the mappings of a conflict reach it, with the types that they are named for."""
    return all(
        page.pa < each.pa + each.size
        and each.pa < page.pa + page.size
        and naive_types.type_of_byte(
            context, own(types, naive.Page(0, page.size, page.level, page.flags)), PLAIN, each.pa
        )
        == kind.text
        for kind, named in each.mappings
        for page in named
    )


def is_as_the_twin_has_it(tables, pat):
    """Whether the ranges in conflict are those of the naive twin, with mappings of each type."""
    types = MemoryTypes.of(tables.context, Pat(int.from_bytes(pat, "little")), MTRRS)
    found = type_conflicts(tables.memory, tables.context, types, aliases=2)
    for edge, kinds in naive_conflicts(tables, types, PLAIN).items():
        there = [it for it in found if it.pa <= edge < it.pa + it.size]
        if kinds != sorted(kind.text for it in there for kind in it.types):
            return False
    return all(
        is_named_rightly(tables.context, types, each)
        and set(each.types) == {kind for kind, named in each.mappings if named}
        for each in found
    )


PATS = st.lists(st.sampled_from((0, 1, 4, 5, 6, 7)), min_size=8, max_size=8).map(bytes)


@QUICK
@given(extended_tables(), PATS)
def test_conflicts_are_those_of_the_naive_twin(tables, pat):
    assert is_as_the_twin_has_it(tables, pat)


@QUICK
@given(extended_tables(), PATS)
def test_typed_frames_have_the_types_and_rights_of_all_pages(tables, pat):
    types = MemoryTypes.of(tables.context, Pat(int.from_bytes(pat, "little")), MTRRS)
    rights = collective_rights(tables.memory, tables.context)
    mapped = mapped_types(tables.memory, tables.context, types.pat)
    found = typed_frames(rights, mapped, types)
    for edge in edges_of(naive.pages(tables), PLAIN):
        at = np.array([edge], np.uint64)
        row = np.searchsorted(found.frames.start, at, "right")[0] - 1
        inside = row >= 0 and edge < found.frames.start[row] + found.frames.size[row]
        mask = found.types[row] if inside else 0
        assert types_at(tables, types, PLAIN, edge) == {
            kind.text for kind in MemoryType if mask >> kind & 1
        }
        assert rights.rights_at(at) == (found.frames.rights[row] if inside else 0)
    ends = found.frames.start + found.frames.size
    touching = ends[:-1] == found.frames.start[1:]
    alike = (found.types[:-1] == found.types[1:]) & (
        found.frames.rights[:-1] == found.frames.rights[1:]
    )
    assert not (touching & alike).any()


def of_one_table(leaves, pat):
    """`type_keys` with a bug: a large page has the type that its bit 7 would choose."""
    small = np.ones_like(leaves.level)
    keys = leaves.pa | leaves.shift.astype(np.uint64) << np.uint64(GRANT_BITS)
    return keys | pat.types[pat_indices(small, leaves.entry)]


@pytest.mark.parametrize(
    ("target", "name", "bug"),
    [
        (module, "type_keys", of_one_table),
        (MemoryTypes, "bounds", np.zeros(0, np.uint64)),
        (module, "pat_indices", lambda level, entry: np.zeros(len(level), np.uint8)),
    ],
    ids=["PAT of large pages", "ranges of MTRRs", "every page has field 0"],
)
def test_a_planted_bug_is_found(monkeypatch, target, name, bug):
    monkeypatch.setattr(target, name, bug)
    drawn = st.tuples(extended_tables(), PATS)
    example = find(drawn, lambda each: not is_as_the_twin_has_it(*each), settings=SEARCH)
    assert not is_as_the_twin_has_it(*example)


@QUICK
@given(address_spaces(modes=(4,)), PATS)
def test_conflicts_of_several_roots_are_all_that_one_alone_has_and_more(drawn, pat):
    memory, contexts = drawn
    types = MemoryTypes(Pat(int.from_bytes(pat, "little")))
    together = type_conflicts(memory, contexts, types, aliases=0)
    for each in contexts:
        for one in type_conflicts(memory, each, types, aliases=0):
            parts = [
                it for it in together if it.pa < one.pa + one.size and one.pa < it.pa + it.size
            ]
            assert one.pa >= parts[0].pa
            assert sum(it.size for it in parts) >= one.size
            assert all(set(one.types) <= set(it.types) for it in parts)


def test_two_roots_conflict_where_each_alone_does_not():
    words = PageTables().map(0x7000, 0x5000).words
    words |= PageTables(root=0x10_0000).map(0x7000, 0x5000, USED | PWT).words
    memory = SparseWords([(0, 1 << 24)], words)
    contexts = [context(), context(root=0x10_0000)]
    alone = [type_conflicts(memory, each, LINUX, aliases=4) for each in contexts]
    assert [[], []] == alone
    (found,) = type_conflicts(memory, contexts, LINUX, aliases=4)
    assert [(WC, 0x10_0000), (WB, 0x1000)] == [
        (kind, pages[0].context.root) for kind, pages in found.mappings
    ]


def test_a_hostile_memory_costs_its_distinct_tables():
    # One page of 512 ** 4 addresses, 512 ** 3 of them write-combining.
    frames = [ROOT + at * KIB4 for at in range(4)]
    entries = [*(frame | USED for frame in frames[1:]), 0x5000 | USED]
    words = {
        frame + 8 * at: entry
        for frame, entry in zip(frames, entries, strict=True)
        for at in range(512)
    }
    words[frames[-1] + 8 * 511] |= PWT
    counting = CountingMemory(SparseWords([(ROOT, 4 * KIB4)], words))
    (found,) = type_conflicts(counting, context(), LINUX, aliases=2)
    assert (0x5000, KIB4, (WC, WB)) == (found.pa, found.size, found.types)
    assert [[0x1F_F000, 0x3F_F000], [0, 0x1000]] == [
        [page.va for page in pages] for _, pages in found.mappings
    ]
    assert counting.read_tables < 100
