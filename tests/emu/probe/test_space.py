import numpy as np
import pytest
from unicorn import UC_ARCH_X86, UC_MODE_64, UC_PROT_ALL, UC_PROT_EXEC, Uc

from crosswalk.emu.probe.space import MAX_RAM, NOWHERE, Space
from crosswalk.walker.errors import BadInput

RANGES = [(0x1000, 0x2000), (0x8000, 0x1000), (0xFF_FFFF_F000, 0x1000)]


def at(space, *addresses):
    return space.index_of(np.array(addresses, np.uint64)).tolist()


def test_every_word_of_every_range_has_an_index_of_its_own():
    space = Space(RANGES)
    assert [0, 512, 1024, 1536] == at(space, 0x1000, 0x2000, 0x8000, 0xFF_FFFF_F000)
    assert [1, 1535, 2047] == at(space, 0x1008, 0x8FF8, 0xFF_FFFF_FFF8)
    assert 2048 == len(space.words)


def test_addresses_that_no_range_holds_are_nowhere():
    space = Space(RANGES)
    assert [NOWHERE] * 4 == at(space, 0, 0xFF8, 0x3000, 0x100_0000_0000)
    assert [NOWHERE, NOWHERE] == [space.byte_at(0xFFF), space.byte_at(0x9000)]
    assert [7, 0x2FFF] == [space.byte_at(0x1007), space.byte_at(0x8FFF)]


def test_ranges_are_cut_to_whole_frames():
    space = Space([(0x800, 0x1900), (0x7001, 0xFFF)])
    assert [NOWHERE, 0, NOWHERE, NOWHERE] == at(space, 0x800, 0x1000, 0x2000, 0x7008)


def test_words_bytes_and_tables_show_the_same_memory():
    space = Space(RANGES)
    tables = np.arange(1024, dtype=np.uint64).reshape(2, 512)
    space.write_tables(np.array([0x8000, 0x2000], np.uint64), tables)
    assert [0, 512] == [int(space.words[1024]), space.view[512]]
    assert 511 == int.from_bytes(space.bytes[0x2FF8:0x3000], "little")
    found = space.tables(np.array([0x2000, 0x4000, 0x8000], np.uint64))
    assert np.array_equal(tables[::-1], found[::2])
    assert 0 == np.count_nonzero(found[1])


def test_much_memory_that_nobody_touches_costs_nothing():
    space = Space([(0, MAX_RAM)])
    space.words[-1] = 7
    assert 7 == space.view[MAX_RAM // 8 - 1]


def test_more_memory_than_is_taken_is_refused():
    with pytest.raises(BadInput, match="the probe takes 0x4000000000"):
        Space([(0, MAX_RAM), (MAX_RAM, 0x1000)])


@pytest.mark.parametrize("fetch", [True, False])
def test_only_the_probes_own_range_may_be_executed_where_others_may_not(fetch):
    space, engine = Space(RANGES), Uc(UC_ARCH_X86, UC_MODE_64)
    space.map_into(engine, own=(0x8000, 0x9000), fetch=fetch)
    rights = {start: prot for start, _, prot in engine.mem_regions()}
    other = UC_PROT_ALL if fetch else UC_PROT_ALL & ~UC_PROT_EXEC
    assert {0x1000: other, 0x8000: UC_PROT_ALL, 0xFF_FFFF_F000: other} == rights


def test_a_word_has_an_address_again():
    space = Space([(0x3000, 0x2000), (0x10_0000, 0x1000)])
    for pa in (0x3000, 0x4FF8, 0x10_0000, 0x10_0FF8):
        assert pa == space.address_of(space.byte_at(pa) // 8)
    with pytest.raises(IndexError):
        space.address_of(3 * 512)
