import numpy as np
import pytest

from crosswalk.walker import BadInput
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.memory import WORDS


class Frames:
    """A place whose word n is n, for each address n * 8, that counts what is fetched."""

    def __init__(self):
        self.asked = []

    def __call__(self, frames):
        assert (np.diff(frames.astype(np.int64)) > 0).all()
        self.asked += frames.tolist()
        return (frames // 8)[:, None] + np.arange(WORDS, dtype=np.uint64)


RANGES = [(0x8000, 0x1000), (0x1000, 0x2000), (0x10800, 0x1000)]


@pytest.fixture
def place():
    return Frames()


@pytest.fixture
def memory(place):
    return FetchedMemory(RANGES, place)


def frames(*addresses):
    return np.array(addresses, np.uint64)


def test_ranges_are_sorted(memory):
    assert ((0x1000, 0x2000), (0x8000, 0x1000), (0x10800, 0x1000)) == tuple(memory.ranges)


def test_a_frame_is_backed_where_all_of_it_is(memory):
    asked = frames(0, 0x1000, 0x2000, 0x3000, 0x8000, 0x9000, 0x10000, 0x11000, 1 << 63)
    assert [0, 1, 1, 0, 1, 0, 0, 0, 0] == memory.backed(asked).tolist()
    assert [] == FetchedMemory([], Frames()).backed(frames()).tolist()


def test_words_and_bytes_are_those_of_the_place(memory):
    assert 0x1008 // 8 == memory.word(0x1008)
    assert 0x8FF8 // 8 == memory.word(0x8FF8)
    assert None is memory.word(0x3000)
    assert None is memory.word(0x10800)
    expected = np.arange(0x1FF8 // 8, 0x2010 // 8, dtype="<u8").tobytes()
    assert expected[3:20] == memory.read(0x1FFB, 17)
    with pytest.raises(BadInput, match="no memory at 0x3000"):
        memory.read(0x2FF8, 16)


def test_tables_come_in_the_order_asked_for_and_zeros_where_there_is_no_memory(memory):
    tables = memory.tables(frames(0x8000, 0x3000, 0x1000, 0x8000))
    assert [0x8000 // 8, 0, 0x1000 // 8, 0x8000 // 8] == tables[:, 0].tolist()
    assert 0 == tables[1].max()
    assert 0x1FF8 // 8 == tables[2, -1]


def test_a_frame_is_fetched_once_while_it_is_kept(memory, place):
    memory.tables(frames(0x2000, 0x1000, 0x2000))
    assert 0x1010 // 8 == memory.word(0x1010)
    assert [0x1000, 0x2000] == place.asked
    memory.forget()
    memory.word(0x1010)
    assert [0x1000, 0x2000, 0x1000] == place.asked


def test_only_so_many_frames_are_kept_the_last_used(place):
    memory = FetchedMemory([(0, 0x10000)], place, cached=2)
    for frame in (0, 0x1000, 0, 0x2000, 0, 0x1000):
        assert frame // 8 == memory.word(frame)
    assert [0, 0x1000, 0x2000, 0x1000] == place.asked


def test_a_change_of_what_was_returned_does_not_change_what_is_kept(memory):
    memory.tables(frames(0x1000))[:] = 0
    assert 0x1000 // 8 == memory.word(0x1000)


def test_many_frames_are_fetched_in_batches(place):
    memory = FetchedMemory([(0, 1 << 26)], place, cached=16)
    every = np.arange(0, 1 << 26, 0x1000, dtype=np.uint64)
    assert (memory.tables(every)[:, 0] == every // 8).all()
    assert every.tolist() == place.asked
