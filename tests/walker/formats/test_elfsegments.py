"""Which part of a core is which part of memory, however many segments there are."""

import errno
import mmap
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import elfsegments
from crosswalk.walker.formats.elfcore import read_core
from crosswalk.walker.formats.elfsegments import apart, joined_extents, uncovered

PAGE = 0x1000


def joined(*extents):
    columns = np.array(extents, np.uint64).reshape(-1, 3).T
    return joined_extents(*columns)


def filled(size):
    """A mapping in which each word is its own number."""
    data = mmap.mmap(-1, size)
    data[:] = np.arange(size // 8, dtype="<u8").tobytes()
    return data


def test_extents_that_go_on_in_memory_and_file_are_one():
    assert [(0x1000, 0x200, 0x3000)] == joined((0x3000, 0x2200, 0x1000), (0x1000, 0x200, 0x2000))


def test_the_same_part_of_the_file_given_again_is_one():
    assert [(0x1000, 0x200, 0x3000)] == joined(
        (0x2000, 0x1200, 0x1000), (0x1000, 0x200, 0x3000), (0x1000, 0x200, 0x10)
    )


def test_extents_that_go_on_in_memory_alone_stay_apart():
    assert [(0x1000, 0x200, 0x1000), (0x2000, 0x9200, 0x1000)] == joined(
        (0x2000, 0x9200, 0x1000), (0x1000, 0x200, 0x1000)
    )


def test_of_extents_with_one_beginning_the_largest_comes_first():
    assert [(0, 0x9000, 0x3000), (0, 0x200, 0x1000)] == joined(
        (0, 0x200, 0x1000), (0, 0x9000, 0x3000)
    )


EXTENTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=12
)


@settings(max_examples=200)
@given(extents=EXTENTS)
def test_joined_extents_put_each_byte_where_the_given_ones_do(extents):
    def placed(extents):
        return {(start + at, place + at) for start, place, size in extents for at in range(size)}

    found = joined(*extents)
    assert placed(extents) == placed(found)
    assert sorted(found, key=lambda each: (each[0], -each[2], each[1])) == found


@settings(max_examples=200)
@given(extents=EXTENTS)
def test_apart_yields_each_byte_of_memory_once_or_refuses(extents):
    # The file repeats itself after 8 bytes: extents overlap with equal bytes, or with others.
    data = mmap.mmap(-1, 64)
    data[:] = bytes(range(8)) * 8
    bytes_at = {}
    for start, place, size in extents:
        for at in range(size):
            bytes_at.setdefault(start + at, set()).add(data[place + at])
    if any(len(found) > 1 for found in bytes_at.values()):
        with pytest.raises(BadInput, match=r"overlap at .* and differ there"):
            list(apart(data, joined(*extents)))
        return
    found = {}
    for start, place, size in apart(data, joined(*extents)):
        for at in range(size):
            assert start + at not in found
            found[start + at] = {data[place + at]}
    assert bytes_at == found


def test_without_bytes_to_compare_the_first_extent_has_what_is_in_two():
    extents = joined((0, 0x1000, 0x2000), (0x1000, 0x8000, 0x2000))
    assert [(0, 0x1000, 0x2000), (0x2000, 0x9000, 0x1000)] == list(apart(None, extents))


def test_of_a_large_overlap_frames_are_compared_that_lie_evenly_apart(monkeypatch):
    monkeypatch.setattr(elfsegments, "_SMALL", PAGE)
    monkeypatch.setattr(elfsegments, "_WHOLE", 8 * PAGE)
    monkeypatch.setattr(elfsegments, "_FRAMES", 4)
    data = filled(32 * PAGE)
    data[16 * PAGE :] = data[: 16 * PAGE]
    extents = joined((0, 0, 16 * PAGE), (0, 16 * PAGE, 16 * PAGE))
    for frame in range(16):
        at = (16 + frame) * PAGE + 0x800
        data[at] ^= 1
        refused = False
        try:
            list(apart(data, extents))
        except BadInput:
            refused = True
        assert (frame in (0, 5, 10, 15)) == refused
        data[at] ^= 1
    assert [(0, 0, 16 * PAGE)] == list(apart(data, extents))


def test_overlaps_without_end_are_refused_after_a_bounded_part(monkeypatch):
    monkeypatch.setattr(elfsegments, "_MOST", 64 * PAGE)
    compared = []
    equal = elfsegments._equal

    def counted(data, one, other, size):
        compared.append(size)
        return equal(data, one, other, size)

    monkeypatch.setattr(elfsegments, "_equal", counted)
    data = mmap.mmap(-1, 4096 * PAGE)
    extents = joined(*((PAGE * at, 2 * PAGE * at, 16 * PAGE) for at in range(1000)))
    with pytest.raises(LimitExceeded, match="of segments overlap, from different places"):
        list(apart(data, extents))
    assert 0 < sum(compared) <= 64 * PAGE


def test_what_is_compared_does_not_stay_in_memory_as_a_copy():
    data = mmap.mmap(-1, 1 << 25)
    tracemalloc.start()
    try:
        assert 1 == len(list(apart(data, joined((0, 0, 1 << 24), (0, 1 << 24, 1 << 24)))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 23


class Vmcore(mmap.mmap):
    """A mapping of /proc/vmcore takes no advice."""

    def madvise(self, *_):
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("whole", [1 << 28, 1 << 16], ids=["whole", "frames"])
def test_a_mapping_that_takes_no_advice_is_compared_as_well(monkeypatch, whole):
    monkeypatch.setattr(elfsegments, "_WHOLE", whole)
    data = Vmcore(-1, 1 << 20)
    extents = joined((0, 0, 1 << 19), (0, 1 << 19, 1 << 19))
    assert [(0, 0, 1 << 19)] == list(apart(data, extents))
    data[1 << 19] = 1
    with pytest.raises(BadInput, match="overlap at 0x0 and differ there"):
        list(apart(data, extents))


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8)


@settings(max_examples=200)
@given(gaps=RANGES, ranges=RANGES)
def test_uncovered_counts_the_bytes_of_gaps_that_no_range_has(gaps, ranges):
    held, disjoint = set(), []
    for start, size in sorted(ranges):
        if not held & {*range(start, start + size)}:
            held |= {*range(start, start + size)}
            disjoint.append((start, size))
    expected = {at for start, size in gaps for at in range(start, start + size)} - held
    assert len(expected) == uncovered([(start, start + size) for start, size in gaps], disjoint)


def test_a_core_of_a_hundred_thousand_segments_is_memory_as_one(elf):
    count, far = 100_000, 1 << 40
    words = np.arange(count * 2, dtype="<u8")
    core = elf.Core(loads=[(far, words.tobytes())], notes=b"", many=count + 1)
    # Segments of 16 bytes, that lie in memory in another order than in the file.
    body = 64 + 56 * (count + 1)
    core.parts = [(1, 0, body + 16 * at, 0, 16 * (at ^ 1), 16, 16, 0) for at in range(count)]
    memory = read_core(elf.mapped(core.build())).memory
    assert [(0, 16 * count), (far, 16 * count)] == list(memory.ranges)
    expected = words.reshape(-1, 2, 2)[:, ::-1].reshape(-1)[: 390 * 512]
    frames = np.arange(0, 390 * PAGE, PAGE, dtype=np.uint64)
    assert (expected.reshape(-1, 512) == memory.tables(frames)).all()
    assert memory.backed(frames).all()


def test_a_hundred_thousand_segments_of_the_same_memory_are_one(elf):
    core = elf.Core(loads=[(0, filled(0x4000)[:])], notes=b"")
    count = 100_000
    body = 64 + 56 * (count + 1)
    core.parts = [(1, 0, body + 0x1000, PAGE * at, 0x1000, PAGE, PAGE, 0) for at in range(count)]
    core.many = count + 1
    memory = read_core(elf.mapped(core.build())).memory
    assert [(0, 0x4000)] == list(memory.ranges)
    assert 1 == len(memory._parts)
    assert [0x0, 0x200, 0x7FF] == [memory.word(pa) for pa in (0, 0x1000, 0x3FF8)]
