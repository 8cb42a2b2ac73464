import numpy as np
import pytest

from crosswalk.emu.probe import Prober, ProberCache
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from tests.emu.seeded_tables import seeded_tables
from tests.tables import PageTables, context


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in type(one).__slots__
    )


def test_one_address_space_after_another_is_probed_as_by_a_new_prober():
    probers = ProberCache()
    for seed in range(25):
        memory, registers, accesses = seeded_tables(seed, 120)
        assert same(
            probers.observe(memory, registers, accesses),
            Prober(memory, registers).probe(accesses),
        ), seed


def test_the_order_of_address_spaces_makes_no_difference():
    several = [seeded_tables(seed, 60) for seed in range(8)]
    there, back = ProberCache(), ProberCache()
    first = [there.observe(*each) for each in several]
    second = [back.observe(*each) for each in reversed(several)]
    assert all(same(one, other) for one, other in zip(first, reversed(second), strict=True))


def test_engines_are_kept_where_ram_lies_the_same_and_only_there():
    probers = ProberCache()
    one, two = (seeded_tables(seed, 1) for seed in (1, 2))
    engine = probers.prober(one.memory, one.context)._engines.single
    assert probers.prober(two.memory, two.context)._engines.single is engine
    other = PageTables(ram=((0, 1 << 23),)).map(0x40_0000, 0x5000)
    assert probers.prober(other.memory, context())._engines.single is not engine


def test_what_the_last_address_space_left_is_gone():
    probers = ProberCache()
    for seed in (3, 4):
        memory, registers, accesses = seeded_tables(seed, 200)
        probers.observe(memory, registers, accesses)
    workspace = probers._prober._workspace
    start, size = memory.ranges[0]
    ram = workspace.space.words[: (start + size) // 8]
    assert ram.any()
    workspace.hand_over()
    assert not ram.any()


def test_an_address_space_that_is_refused_leaves_the_one_before():
    memory, registers, accesses = seeded_tables(5, 40)
    prober = Prober(memory, registers)
    with pytest.raises(BadInput, match="CR3"):
        prober.enter(memory, context(root=1 << 39))
    assert same(prober.probe(accesses), Prober(memory, registers).probe(accesses))


def test_protection_keys_change_with_the_context():
    builder = PageTables()
    builder.map(0x40_0000, 0x5000, flags=0x67 | 3 << 59)
    access = Accesses.of([Access(0x40_0000, AccessType.READ, 3)])
    probers = ProberCache()
    kinds = [
        int(probers.observe(builder.memory, context(pke=True, pkru=pkru), access).kind[0])
        for pkru in (0, 1 << 6, 0, 1 << 7)
    ]
    assert [0, 1, 0, 0] == kinds
