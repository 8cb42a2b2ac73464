import mmap
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker import BadInput, Segments, SparseWords
from tests.tables import segments_of


def pattern(size, start=0):
    """Bytes whose every 8-byte word is different: its own number."""
    return np.arange(start // 8, (start + size) // 8, dtype="<u8").tobytes()


def frames(*addresses):
    return np.array(addresses, dtype=np.uint64)


def first_words(tables):
    return [int(table[0]) for table in tables]


@pytest.fixture
def memory():
    """Frames 1 and 2 in one piece, 3 beside it, then a hole, and 8."""
    return Segments(
        [
            (0x8000, pattern(0x1000, 0x8000)),
            (0x3000, pattern(0x1000, 0x3000)),
            (0x1000, pattern(0x2000, 0x1000)),
        ]
    )


def test_ranges_are_sorted_and_adjacent_ones_joined(memory):
    assert ((0x1000, 0x3000), (0x8000, 0x1000)) == tuple(memory.ranges)


def test_a_read_goes_on_from_one_segment_into_the_next(memory):
    assert pattern(0x3000, 0x1000) == memory.read(0x1000, 0x3000)
    assert pattern(16, 0x2FF8) == memory.read(0x2FF8, 16)
    assert pattern(16, 0x2FF8)[3:12] == memory.read(0x2FFB, 9)


@pytest.mark.parametrize(
    ("pa", "size", "missing"),
    [
        (0, 8, "0x0"),
        (0xFF8, 16, "0xff8"),
        (0x3FF8, 16, "0x4000"),
        (0x1000, 0x7008, "0x4000"),
        (0x9000, 1, "0x9000"),
        (1 << 63, 8, "0x8000000000000000"),
    ],
)
def test_a_read_that_leaves_memory_is_refused(memory, pa, size, missing):
    with pytest.raises(BadInput, match=f"no memory at {missing}$"):
        memory.read(pa, size)


def test_overlapping_segments_are_refused():
    with pytest.raises(BadInput, match="overlap at 0x1ff8"):
        Segments([(0x1000, bytes(0x1000)), (0x1FF8, bytes(8))])


def test_empty_segments_are_no_memory():
    found = Segments([(0x1000, b""), (0x1000, bytes(0x1000)), (0x1800, b"")])
    assert ((0x1000, 0x1000),) == tuple(found.ranges)
    assert () == tuple(Segments([]).ranges)
    assert [0] == first_words(Segments([]).tables(frames(0)))


def test_words_are_read_by_address_and_none_outside(memory):
    assert [0x200, 0x3FF, 0x600, 0x1000] == [
        memory.word(pa) for pa in (0x1000, 0x1FF8, 0x3000, 0x8000)
    ]
    assert [None] * 4 == [memory.word(pa) for pa in (0, 0xFF8, 0x4000, 1 << 60)]


def test_frames_that_follow_each_other_are_a_view_on_the_bytes():
    data = np.frombuffer(bytearray(pattern(0x4000)), dtype=np.uint8)
    memory = Segments([(0x10000, data)])

    for wanted in (frames(0x11000, 0x12000), frames(0x13000)):
        assert np.shares_memory(data, memory.tables(wanted))
    assert [0x200, 0x400] == first_words(memory.tables(frames(0x11000, 0x12000)))
    data[0x1000] = 7
    assert 0x207 == memory.word(0x11000)
    assert [0x207] == first_words(memory.tables(frames(0x11000)))


def test_frames_in_any_other_order_are_gathered(memory):
    assert [0x400, 0x200] == first_words(memory.tables(frames(0x2000, 0x1000)))
    assert [0x200, 0x200] == first_words(memory.tables(frames(0x1000, 0x1000)))
    assert [0x1000, 0x600, 0x200] == first_words(memory.tables(frames(0x8000, 0x3000, 0x1000)))
    assert (0, 512) == memory.tables(frames()).shape


def test_frames_outside_memory_read_as_zeros(memory):
    found = memory.tables(frames(0x7000, 0x8000, 1 << 51))
    assert [0, 0x1000, 0] == first_words(found)
    assert not found[[0, 2]].any()
    assert [False, True, False] == memory.backed(frames(0x7000, 0x8000, 1 << 51)).tolist()


def test_the_views_of_writable_memory_are_read_only():
    memory = Segments([(0x1000, bytearray(0x2000))])
    assert not memory.tables(frames(0x1000, 0x2000)).flags.writeable


def test_only_whole_frames_of_an_unaligned_segment_are_tables():
    memory = Segments([(0x1800, pattern(0x2000, 0x1800))])

    assert [False, True, False] == memory.backed(frames(0x1000, 0x2000, 0x3000)).tolist()
    assert [0, 0x400, 0] == first_words(memory.tables(frames(0x1000, 0x2000, 0x3000)))
    assert pattern(0x2000, 0x1800) == memory.read(0x1800, 0x2000)


def test_what_is_less_than_a_frame_is_no_table_wherever_it_lies():
    memory = Segments([(at, bytes(0x801)) for at in (0x1000, 0x5000)] + [(0x3000, bytes(0x1FFF))])

    assert [0x3000] == [pa for pa in range(0, 0x7000, 0x1000) if memory.word(pa) is not None]
    assert [0x3000] == [pa for pa in range(0, 0x7000, 0x1000) if memory.backed(frames(pa)).all()]
    assert (7, 512) == memory.tables(np.arange(0, 0x7000, 0x1000, dtype=np.uint64)).shape


def test_a_segment_may_begin_at_an_odd_address():
    memory = Segments([(0xFFD, b"abc" + pattern(0x1000, 0x1000))])

    assert 0x3FF == memory.word(0x1FF8)
    assert b"bc\0\2" == memory.read(0xFFE, 4)
    assert [0x200] == first_words(memory.tables(frames(0x1000)))


def test_a_frame_that_two_adjacent_segments_make_up_is_backed():
    memory = Segments([(0x1000, pattern(0x800, 0x1000)), (0x1800, pattern(0x1800, 0x1800))])

    assert ((0x1000, 0x2000),) == tuple(memory.ranges)
    assert [True, True] == memory.backed(frames(0x1000, 0x2000)).tolist()
    assert [0x200, 0x400] == first_words(memory.tables(frames(0x1000, 0x2000)))
    assert [0x200, 0x300] == [memory.word(pa) for pa in (0x1000, 0x1800)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "mmap", "array"])
def test_anything_that_holds_bytes_can_be_memory(kind):
    data = pattern(0x1000)
    if kind == "mmap":
        held = mmap.mmap(-1, 0x1000)
        held[:] = data
    else:
        held = np.frombuffer(data, dtype=np.uint8) if kind == "array" else kind(data)

    assert 511 == Segments([(0, held)]).word(0xFF8)


def scattered(count):
    """As many segments of a frame each, a frame apart; every fourth begins in the middle of one."""
    return [
        (at * 0x2000 + (0x800 if at % 4 == 3 else 0), pattern(0x1000, at << 12))
        for at in range(count)
    ]


def test_of_many_segments_each_frame_is_found_in_its_own():
    memory, count = Segments(scattered(1000)), 1000
    wanted = np.random.default_rng(5).permutation(np.arange(-2, 2 * count + 2)) % (1 << 40)
    addresses = wanted.astype(np.uint64) * np.uint64(0x1000)
    at, odd = wanted // 2, wanted % 2
    held = (at < count) & (odd == 0) & (at % 4 != 3)
    assert 750 == held.sum()
    assert (held == memory.backed(addresses)).all()
    expected = np.where(held, at * 0x200, 0)
    assert (expected == memory.tables(addresses)[:, 0]).all()
    assert [
        word if there else None
        for word, there in zip(expected.tolist(), held.tolist(), strict=True)
    ] == [memory.word(pa) for pa in addresses.tolist()]


def lines(work):
    """How many lines of Python are run by what is done."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "asked",
    [
        lambda memory: memory.word(0x8000),
        lambda memory: memory.backed(frames(0x2000, 0x8000, 0x3000)),
        lambda memory: memory.tables(frames(0x8000)),
        lambda memory: memory.tables(frames(0x2000, 0x8000, 0x2000, 0x18000, 0x3000)),
    ],
    ids=["word", "backed", "table", "tables"],
)
def test_segments_that_are_not_asked_for_cost_nothing(asked):
    few, many = (Segments(scattered(count)) for count in (20, 2000))
    assert 0 < lines(lambda: asked(few)) == lines(lambda: asked(many))


RAM = [(0x0, 0x1000), (0x2000, 0x2000), (0x4000, 0x1000), (0x8000_0000, 0x1000)]
BACKED = [0x0, 0x2000, 0x3000, 0x4000, 0x8000_0000]
PLACES = st.builds(lambda frame, at: frame + 8 * at, st.sampled_from(BACKED), st.integers(0, 511))
ANYWHERE = st.sampled_from([*BACKED, 0x1000, 0x5000, 0x7FFF_F000, 0x8000_1000, 1 << 51])


def read_of(memory, pa, size):
    try:
        return memory.read(pa, size)
    except BadInput:
        return None


@settings(max_examples=60, deadline=None)
@given(
    words=st.dictionaries(PLACES, st.integers(0, 2**64 - 1), max_size=6),
    wanted=st.lists(ANYWHERE, max_size=6),
    spans=st.lists(st.tuples(st.integers(0, 0x6000) | PLACES, st.integers(1, 0x2100)), max_size=4),
)
def test_sparse_words_and_segments_with_equal_contents_answer_alike(words, wanted, spans):
    sparse, dense = SparseWords(RAM, words), segments_of(words, RAM)

    assert tuple(dense.ranges) == tuple(sparse.ranges)
    assert (dense.tables(frames(*wanted)) == sparse.tables(frames(*wanted))).all()
    assert (dense.backed(frames(*wanted)) == sparse.backed(frames(*wanted))).all()
    for pa in [*words, *wanted]:
        assert dense.word(pa) == sparse.word(pa)
        assert dense.word(pa + 0xFF8 - pa % 4096) == sparse.word(pa + 0xFF8 - pa % 4096)
    for pa, size in spans:
        assert read_of(dense, pa, size) == read_of(sparse, pa, size)


def test_sparse_words_hold_what_they_were_given_and_zeros_beside():
    memory = SparseWords(RAM, {0x2008: 5, 0x8000_0FF8: 1 << 63, 0x0: 3})

    assert ((0x0, 0x1000), (0x2000, 0x3000), (0x8000_0000, 0x1000)) == tuple(memory.ranges)
    assert [5, 0, 1 << 63, 3, 0] == [
        memory.word(pa) for pa in (0x2008, 0x2000, 0x8000_0FF8, 0, 0x3000)
    ]
    assert [None, None] == [memory.word(pa) for pa in (0x1000, 0x5000)]
    assert bytes([5, 0, 0, 0]) == memory.read(0x2008, 4)


@pytest.mark.parametrize("pa", [0x1000, 0x1FF8, 0x5000, 1 << 51])
def test_a_sparse_word_outside_ram_is_refused(pa):
    with pytest.raises(BadInput, match=f"outside RAM: {pa // 4096 * 4096:#x}"):
        SparseWords(RAM, {0x0: 1, pa: 1})


def called(work):
    """The Python functions that are called by what is done."""
    found = []
    sys.setprofile(lambda frame, event, _: event == "call" and found.append(frame.f_code.co_name))
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_a_word_that_was_asked_for_costs_no_function_call():
    memory = SparseWords(RAM, {0x2008: 5})
    assert [5, 0, None] == [memory.word(pa) for pa in (0x2008, 0x2010, 0x1000)]

    def again():
        for pa in (0x2008, 0x2010, 0x1000):
            memory.word(pa)

    assert ["again"] == called(again)


@pytest.mark.parametrize("count", [1000, 70_000], ids=["few", "many"])
def test_words_are_those_of_the_tables_however_many_there_are(count):
    words = {0x10_0000 + 24 * at: at + 1 for at in range(count)}
    memory = SparseWords([(0x10_0000, 1 << 22)], words)
    assert [*words.values()] == [memory.word(pa) for pa in words]
    beside = range(0x10_0008, 0x10_0008 + 24 * count, 24)
    assert {0} == {memory.word(pa) for pa in beside}
    assert {None} == {memory.word(pa) for pa in (0, 0xF_FFF8, 0x50_0000, 1 << 63, -8)}
    assert words == dict(memory.words())


def test_a_word_is_found_by_any_integer_and_by_any_address_in_it():
    memory = SparseWords(RAM, {0x2008: 5})
    assert [5] * 3 == [memory.word(pa) for pa in (np.uint64(0x2008), 0x200F, np.uint64(0x200D))]
    assert int is type(memory.word(np.uint64(0x2008)))


def test_words_that_were_asked_for_are_not_pickled():
    memory = SparseWords(RAM, {0x2008: 5})
    before = pickle.dumps(memory)
    assert 5 == memory.word(0x2008)
    assert before == pickle.dumps(memory)
    assert 5 == pickle.loads(before).word(0x2008)  # noqa: S301  # Our own.


def test_what_may_be_written_is_never_given_back(tmp_path):
    path = tmp_path / "memory"
    path.write_bytes(bytes(0x4000))
    with path.open("r+b") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    anonymous = mmap.mmap(-1, 0x4000)
    for data in (private, anonymous, bytearray(0x4000)):
        data[0x1000:0x1004] = b"kept"
        memory = Segments([(0, data)])
        memory.release(0, 0x4000)
        assert b"kept" == memory.read(0x1000, 4)
