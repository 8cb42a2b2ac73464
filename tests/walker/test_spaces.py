from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Aliases,
    AliasQuery,
    Mapping,
    Rights,
    RootedMapping,
    SparseWords,
    aliases,
    collective_rights,
    count_mappings,
    frames,
    mappings,
    mappings_of,
    spaces,
    states,
    unfollowed,
    writable_and_executable,
)
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.roots import counting
from crosswalk.walker.roots.counting import count_by_root
from crosswalk.walker.spaces import access_key, groups_of, shared_slots, slot_ranges
from crosswalk.walker.states import distinct_states
from crosswalk.walker.unfollowed import Reason
from tests.random_tables import address_spaces, extended_tables
from tests.tables import (
    KIB4,
    PS,
    RW,
    US,
    XD,
    CountingMemory,
    P,
    PageTables,
    context,
    linear,
)
from tests.walker import naive, unions

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])


EVERY = address_spaces()


def alone(memory, contexts):
    """The mappings of each address space, once each, in the order given."""
    seen = set()
    for each in contexts:
        if identity(each) not in seen:
            seen.add(identity(each))
            yield each, list(mappings(memory, each))


def identity(paging):
    """What makes an address space: its root, and the registers that tables and rights depend on."""
    kept = {"cr3": paging.root, "pkru": 0, "pkrs": 0, "rflags_ac": paging.smap and paging.rflags_ac}
    control = paging.cr4 & (1 << 4 | 1 << 5 | 1 << 12 | 1 << 20 | 1 << 21)
    # PSE is asked in 32-bit paging alone, and NXE not there.
    return repr(replace(paging, **kept, cr4=control, efer=paging.efer & ~(1 << 20)))


def plain(page):
    """A mapping without the root that it is of."""
    return Mapping(page.va, page.pa, page.size, page.level, page.flags, page.rights)


def rooted(found):
    return [(each.context.root, each.context.mode, plain(each)) for each in found]


def as_in_a_loop(memory, contexts):
    """Whether all address spaces together give what a loop over them gives."""
    each = list(alone(memory, contexts))
    pages = [page for _, some in each for page in some]
    counts = {level: sum(page.level == level for page in pages) for level in (1, 2, 3)}
    lengths = {identity(it): len(some) for it, some in each}
    asked = AliasQuery(0, 1 << 52, Rights.USER_WRITE | Rights.SUPERVISOR_EXECUTE)
    chosen = [
        (it.root, it.mode, page) for it, some in each for page in some if page.rights & asked.rights
    ]
    return (
        unions.united(pages) == list(collective_rights(memory, contexts))
        and counts == count_mappings(memory, contexts)
        and [lengths[identity(it)] for it in contexts] == count_by_root(memory, contexts)
        and chosen == rooted(Aliases(memory, contexts, [asked]).find(0))
    )


@QUICK
@given(found=EVERY)
def test_all_together_are_as_a_loop_over_them_in_all_modes(found):
    assert as_in_a_loop(*found)


@QUICK
@given(found=EVERY, block=st.integers(1, 3))
def test_the_seams_between_blocks_of_tables_and_of_roots_dont_show(found, block):
    with pytest.MonkeyPatch.context() as patch:
        for module in (states, aliases):
            patch.setattr(module, "BLOCK", block)
        patch.setattr(counting, "_BLOCK", block)
        patch.setattr(spaces, "_ROOTS", block)
        patch.setattr(spaces, "_COMPARED", 7)
        assert as_in_a_loop(*found)
        assert once_for_all(*found)


def the_first_root_for_all(original):
    return lambda context, roots: original(context, np.full_like(roots, roots[0]))


def ways_of_one_root(original):
    return lambda keys, ways: (original(keys, ways)[0], np.ones_like(original(keys, ways)[1]))


def the_first_group_alone(original):
    return lambda contexts: original(contexts)[:1]


def the_rights_of_the_first(original):
    """Groups that have the registers of the first, as far as the mode allows that."""

    def planted(contexts):
        groups = original(contexts)
        first = groups[0].context if groups else None
        return [
            replace(each, contexts=tuple(replace(it, cr0=first.cr0) for it in each.contexts))
            for each in groups
        ]

    return planted


@pytest.mark.parametrize(
    ("modules", "rule", "plant"),
    [
        ((states,), "root_tables", the_first_root_for_all),
        ((states,), "_distinct", ways_of_one_root),
        ((frames, aliases), "groups_of", the_first_group_alone),
        ((frames,), "groups_of", the_rights_of_the_first),
    ],
    ids=["the first root for all", "ways of one root", "the first group alone", "its registers"],
)
def test_a_rule_that_all_together_break_is_found(modules, rule, plant, monkeypatch):
    for module in modules:
        monkeypatch.setattr(module, rule, plant(getattr(module, rule)))

    def wrong(spaces):
        try:
            return not as_in_a_loop(*spaces)
        except (IndexError, KeyError):  # A root that has no state, or no count.
            return True

    found = find(EVERY, wrong, settings=SEARCH)
    monkeypatch.undo()
    assert as_in_a_loop(*found)


def once_for_all(memory, contexts):
    """Whether mappings named once for several roots are those of each root, put together."""
    expected = [(it.root, it.mode, page) for it, some in alone(memory, contexts) for page in some]
    named = list(Aliases(memory, contexts, [AliasQuery(0, 1 << 52)]).find_once(0))
    return (
        sum(page.roots for page in named) == len(expected)
        and all(page.roots for page in named)
        and {plain(page) for page in named} == {page for _, _, page in expected}
        and set(rooted(named)) <= set(expected)
    )


@QUICK
@given(found=EVERY)
def test_named_once_for_several_roots_no_mapping_is_missing_or_made_up(found):
    assert once_for_all(*found)


def kernel_half(count, *, mode=4, own=True):
    """Roots that share the tables of slot 256 on; each has a page of its own in the lower half."""
    tables = PageTables(mode, ram=((0, 1 << 26),))
    levels = 4 if mode == 4 else 5
    top = [511] + [0] * (levels - 2)
    for at in range(64):
        tables.map(linear(*top, at), 0x10_0000 + at * KIB4, P | RW | XD)
    tables.map(linear(*top, 100), 0x50_0000, P)
    first = tables.entry_pa(linear(*top, 0), levels)
    roots = [tables.root]
    for number in range(1, count):
        tables.root = 0x200_0000 + number * 0x1_0000
        tables._free = tables.root + KIB4
        tables.entries[tables.root + first % KIB4] = tables.entries[first]
        if own:
            tables.map(number * KIB4, 0x60_0000 + number * KIB4)
        roots.append(tables.root)
    return tables, [context(mode, root=root) for root in roots]


@pytest.mark.parametrize("mode", [4, 5])
def test_tables_that_roots_share_are_read_once(mode):
    tables, contexts = kernel_half(100, mode=mode)
    counted = CountingMemory(tables.memory)
    # A root each, a chain of own tables for all but the first, and the kernel's chain.
    distinct = 100 + 99 * (mode - 1) + mode - 1

    assert {1: 99 + 100 * 65, 2: 0, 3: 0} == count_mappings(counted, contexts)
    assert distinct == counted.read_tables
    collective_rights(counted, contexts)
    assert 2 * distinct == counted.read_tables
    assert [65] + [66] * 99 == count_by_root(counted, contexts)


def test_a_mapping_is_named_by_its_root():
    tables, contexts = kernel_half(3)
    found = list(mappings_of(tables.memory, contexts, 0x60_1000, 2 * KIB4))
    assert [(contexts[1], KIB4), (contexts[2], 2 * KIB4)] == [(it.context, it.va) for it in found]
    assert [1, 1] == [it.roots for it in found]

    listed = list(mappings(tables.memory, contexts))
    assert [each for each in contexts for _ in mappings(tables.memory, each)] == [
        it.context for it in listed
    ]


def test_what_roots_share_is_named_once_with_their_number():
    tables, contexts = kernel_half(3)
    everything = Aliases(tables.memory, contexts, [AliasQuery(0x50_0000, 1)])
    assert [(it, 1) for it in contexts] == [(it.context, it.roots) for it in everything.find(0)]

    (page,) = everything.find_once(0)
    assert (contexts[0], 3, 0x50_0000) == (page.context, page.roots, page.pa)


@pytest.mark.parametrize("count", [2, 3])
def test_what_a_root_has_alone_is_named_beside_what_it_shares(count):
    tables, contexts = kernel_half(count)
    named = list(Aliases(tables.memory, contexts, [AliasQuery(0, 1 << 40)]).find_once(0))
    own = [(contexts[at], 1, at * KIB4) for at in range(1, count)]
    assert {(contexts[0], count)} == {(it.context, it.roots) for it in named[:65]}
    assert own == [(it.context, it.roots, it.va) for it in named[65:]]


def test_pages_that_root_tables_map_themselves_are_named_by_the_root_that_has_them():
    roots = [0x1000, 0x2000, 0x3000]
    tables = PageTables("32-bit")
    for number, root in enumerate(roots):
        tables.root = root
        tables.map(0, 0, P | PS, level=2)
        tables.map((number + 1) << 22, 0x40_0000, P | PS, level=2)
    contexts = [context("32-bit", root=root) for root in roots]
    finder = Aliases(tables.memory, contexts, [AliasQuery(0x40_0000, 1), AliasQuery(0, 1)])
    assert [(it, 1, (at + 1) << 22) for at, it in enumerate(contexts)] == [
        (it.context, it.roots, it.va) for it in finder.find_once(0)
    ]
    assert [(contexts[0], 3)] == [(it.context, it.roots) for it in finder.find_once(1)]


def test_an_entry_that_differs_in_a_alone_is_the_same_and_in_nx_another():
    tables, contexts = kernel_half(4)
    slot = 511 * 8
    tables.entries[contexts[1].root + slot] ^= 1 << 5
    tables.entries[contexts[3].root + slot] ^= XD
    found = Aliases(tables.memory, contexts, [AliasQuery(0x50_0000, 1)]).find_once(0)
    assert [(contexts[0], 3, "r-x"), (contexts[3], 1, "r--")] == [
        (it.context, it.roots, it.rights.supervisor) for it in found
    ]


def test_roots_of_different_registers_are_counted_apart_and_united():
    # The supervisor executes in the first address space what it writes in the other one.
    tables = PageTables().map(0, 0x5000, P | US | RW)
    smep, free = context(smep=True), context()
    found = collective_rights(tables.memory, [smep, free])

    assert [(0x5000, KIB4, Rights(63))] == list(found)
    assert [(0x5000, KIB4, "rw-")] == [
        (pa, size, rights.supervisor) for pa, size, rights in collective_rights(tables.memory, smep)
    ]
    assert {1: 2, 2: 0, 3: 0} == count_mappings(tables.memory, [smep, free])


def test_a_root_given_twice_counts_once():
    tables = PageTables().map(0, 0x5000)
    twice = [context(), context(root=0x1000 | 0x18)]
    assert {1: 1, 2: 0, 3: 0} == count_mappings(tables.memory, twice)
    assert [twice[0]] == [it.context for it in mappings(tables.memory, twice)]
    assert [1, 1] == count_by_root(tables.memory, twice)


def test_no_root_maps_nothing():
    memory = PageTables().memory
    assert 0 == len(collective_rights(memory, []))
    assert {1: 0, 2: 0, 3: 0} == count_mappings(memory, [])
    assert [] == count_by_root(memory, [])
    assert [] == list(mappings_of(memory, [], 0, 1 << 52))


def test_one_root_in_a_sequence_is_as_it_is_alone_but_named():
    tables = PageTables().map(0, 0x5000)
    (found,) = mappings(tables.memory, [context()])
    (alone,) = mappings(tables.memory, context())
    assert RootedMapping(0, 0x5000, KIB4, 1, alone.flags, alone.rights, context()) == found
    assert list(collective_rights(tables.memory, context())) == list(
        collective_rights(tables.memory, [context()])
    )


def test_a_pae_root_that_cant_be_entered_hides_no_other():
    tables = PageTables("PAE").map(0, 0x5000)
    bad = tables.root + 0x20
    tables.entries |= {bad: tables.entries[tables.root], bad + 8: P | RW}
    contexts = [context("PAE", root=bad), context("PAE")]
    assert {1: 1, 2: 0, 3: 0} == count_mappings(tables.memory, contexts)
    assert [0, 1] == count_by_root(tables.memory, contexts)
    assert [contexts[1]] == [
        it.context for it in Aliases(tables.memory, contexts, [AliasQuery(0, 1 << 40)]).find_once(0)
    ]


def test_a_page_directory_that_cant_be_entered_as_a_pae_root_is_followed_as_what_it_is():
    tables = PageTables("PAE", ram=((0, 1 << 20),)).map(0, 0x5000)
    directory = tables.entries[tables.root] & -KIB4
    # RW is reserved in a PDPTE.
    tables.entries[directory + 8] = 0x20_0000 | P | RW
    tables.entries[tables.entry_pa(KIB4)] = 1 << 50 | P
    contexts = [context("PAE"), context("PAE", root=directory)]
    found = unfollowed(tables.memory, contexts)
    assert (KIB4, 1, Reason.RESERVED) in [(it.va, it.level, it.reason) for it in found.first]


def test_states_are_of_contexts_that_differ_in_their_roots_alone():
    memory = PageTables().map(0, 0x5000).memory
    with pytest.raises(ValueError, match="roots"):
        next(distinct_states(memory, [context(), context(smep=True)]))
    assert 2 == len(groups_of([context(), context(smep=True), context(root=0x2000)]))


PSE, SMAP = 1 << 4, 1 << 21


@pytest.mark.parametrize(
    ("mode", "one", "other", "count"),
    [
        (4, (0, False), (PSE, False), 1),
        ("PAE", (0, False), (PSE, False), 1),
        ("32-bit", (0, False), (PSE, False), 2),
        (4, (0, False), (0, True), 1),
        (4, (0, False), (SMAP, True), 1),
        (4, (0, False), (SMAP, False), 2),
        (4, (SMAP, True), (SMAP, False), 2),
    ],
)
def test_address_spaces_are_told_apart_by_what_changes_their_rights(mode, one, other, count):
    paging = context(mode)
    cr4 = paging.cr4 & ~(PSE | SMAP)
    both = [replace(paging, cr4=cr4 | bits, rflags_ac=ac) for bits, ac in (one, other)]
    assert count == len(groups_of(both))


@pytest.mark.parametrize(("bits", "count"), [(0x18, 1), (1 << 61, 2), (1 << 62, 2)])
def test_accesses_are_told_apart_by_the_bits_of_cr3_that_mask_addresses(bits, count):
    both = [context(), replace(context(), cr3=context().cr3 | bits)]
    assert count == len(groups_of(both, access_key))
    assert [1] * count == [len(group.contexts) for group in groups_of(both, access_key)]


def test_who_writes_and_who_executes_is_found_across_address_spaces():
    tables = PageTables().map(0, 0x5000, P | RW | XD | US)
    other = PageTables(root=0x8_0000).map(KIB4, 0x5000, P | US)
    memory = SparseWords(tables.ram, tables.words | other.words)
    contexts = [context(), context(root=0x8_0000)]
    assert all(
        not writable_and_executable(memory, it, collective_rights(memory, it), aliases=4)
        for it in contexts
    )
    (found,) = writable_and_executable(
        memory, contexts, collective_rights(memory, contexts), aliases=4
    )
    assert [(0, contexts[0])] == [(it.va, it.context) for it in found.writers]
    assert [(KIB4, contexts[1])] == [(it.va, it.context) for it in found.executors]


@QUICK
@given(found=address_spaces((4, 5, "32-bit")))
def test_what_slots_share_is_what_an_inner_loop_finds(found):
    memory, contexts = found
    for group in groups_of(contexts):
        read = memory.tables(group.roots & ~np.uint64(KIB4 - 1))
        rows = (read if group.context.mode.long else read.view(np.uint32)).astype(np.uint64)
        rows = (rows & ~np.uint64(1 << 5)).tolist()
        for row, counts in enumerate(shared_slots(memory, group).tolist()):
            for slot, count in enumerate(counts):
                same = [at for at, other in enumerate(rows) if other[slot] == rows[row][slot]]
                assert (len(same) if same[0] == row else 0) == count


@pytest.mark.parametrize(
    ("mode", "slots", "expected"),
    [
        (4, {0, 1, 5}, [(0, 2 << 39), (5 << 39, 6 << 39)]),
        (4, {255, 256}, [(255 << 39, 1 << 47), ((1 << 64) - (1 << 47), (1 << 64) - (255 << 39))]),
        (4, {511}, [((1 << 64) - (1 << 39), 1 << 64)]),
        (5, {256}, [((1 << 64) - (1 << 56), (1 << 64) - (255 << 48))]),
        ("PAE", {1, 2, 3}, [(1 << 30, 1 << 32)]),
        ("32-bit", {0, 1023}, [(0, 1 << 22), (1023 << 22, 1 << 32)]),
        (4, set(), []),
    ],
)
def test_slots_are_ranges_of_linear_addresses(mode, slots, expected):
    paging = context(mode)
    count = {"PAE": 4, "32-bit": 1024}.get(mode, 512)
    chosen = np.array([at in slots for at in range(count)])
    assert expected == slot_ranges(paging, chosen)


@QUICK
@given(drawn=extended_tables(most=3), data=st.data())
def test_what_cant_be_followed_and_the_tables_are_those_of_a_naive_walk_from_each_root(drawn, data):
    picked = data.draw(st.lists(st.sampled_from(drawn.frames), min_size=1, max_size=4))
    low = drawn.context.cr3 & (KIB4 - 1)
    contexts = [
        replace(drawn.context, cr3=drawn.context.cr3 >> 32 << 32 | frame | low) for frame in picked
    ]
    each = [replace(drawn, context=it) for it in contexts]
    lowest = {}
    for va, *entry in (row for it in each for row in naive.unfollowed(it)):
        lowest[tuple(entry)] = min(va, lowest.get(tuple(entry), va))
    expected = sorted(
        ((va, *entry) for entry, va in lowest.items()), key=lambda it: (it[0], -it[1])
    )

    found = unfollowed(drawn.memory, contexts, first=len(expected))
    assert expected == [
        (it.va, it.level, it.pa, it.entry, it.reason is Reason.OUTSIDE) for it in found.first
    ]
    assert len(expected) == len(found)
    assert (
        sorted({frame for it in each for frame in naive.table_frames(it)})
        == table_frames(drawn.memory, contexts).tolist()
    )
