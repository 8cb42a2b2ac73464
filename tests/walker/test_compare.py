"""Two address spaces compared in bulk, held to a comparison page by page in dictionaries."""

import dataclasses
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker import compare
from crosswalk.walker.compare import (
    COUNTED,
    EVERYTHING,
    Aspect,
    Change,
    Changes,
    compare_frames,
    compare_pages,
    match_pages,
)
from crosswalk.walker.frames import Frames
from crosswalk.walker.pages import Mapping, Pages, pages_of
from crosswalk.walker.repeats import Runs
from crosswalk.walker.rights import Rights
from tests.tables import KIB4, MIB2, PAT_LARGE, PS, PWT, RW, A, G, P

TOP = 1 << 64
EVERY = COUNTED | Aspect.SIZE
# Where pages of a case begin: at both ends of the address space, and beside each other.
PLACES = [0, MIB2, 2 * MIB2, TOP - 2 * MIB2, TOP - MIB2]
IGNORED = int(A)


@st.composite
def spaces(draw):
    """Disjoint pages in address order: large ones, and a few small ones in other places."""
    found = []
    # Often all pages are of one frame.
    moving = draw(st.booleans())
    for place in PLACES:
        base = draw(st.sampled_from([0x40000000, 0x40000000 + place % (8 * MIB2), MIB2]))
        if draw(st.booleans()):
            found.append(_page(draw, place, base, MIB2))
            continue
        for at in sorted(draw(st.sets(st.sampled_from([0, 1, 2, 3, 510, 511]), max_size=4))):
            offset = at * KIB4
            found.append(_page(draw, place + offset, base + offset * moving, KIB4))
    return found


def _page(draw, va, pa, size):
    flags = P | draw(st.sampled_from([0, 0, A, RW, PWT | A]))
    pat = PS if size == KIB4 else PAT_LARGE
    flags |= draw(st.sampled_from([0, 0, pat])) | (PS if size > KIB4 else 0)
    rights = Rights(draw(st.sampled_from([1, 1, 3, 5])))
    return Mapping(va, pa, size, 1 if size == KIB4 else 2, flags, rights)


def columns(pages, cuts=()):
    """Pages in blocks, cut at these places."""
    edges = [0, *sorted(cuts), len(pages)]
    for first, last in pairwise(edges):
        yield from pages_of(pages[first:last])


def with_runs(pages, cuts=()):
    """The same, with pages of one frame in a row as one run of it."""
    for block in columns(pages, cuts):
        rows = [*block]
        starts = [0, *(at for at, pair in enumerate(pairwise(rows), 1) if not in_a_row(*pair))]
        counts = np.diff([*starts, len(rows)]).astype(np.uint64)
        some = block.take(np.array(starts, np.intp))
        yield Runs(*(getattr(some, f.name) for f in dataclasses.fields(some)), counts)


def in_a_row(one, other):
    return other == dataclasses.replace(one, va=one.va + one.size)


def by_unit(pages):
    """What each 4 KiB is mapped to: physical address, rights, flags compared, size of the page."""
    found = {}
    for page in pages:
        flags = page.flags & ~(P | PS | IGNORED)
        if page.size == KIB4 and page.flags & PS:
            flags |= PAT_LARGE
        for at in range(0, page.size, KIB4):
            found[page.va + at] = (page.pa + at, page.rights, flags, page.size)
    return found


def naive(before, after, counted, lost=(set(), set())):
    """Kind, aspects, before and after of each 4 KiB that differs, as dictionaries have it."""
    old, new = by_unit(before), by_unit(after)
    names = (Aspect.FRAME, Aspect.RIGHTS, Aspect.FLAGS, Aspect.SIZE)
    for va in sorted(old.keys() | new.keys()):
        was, now = old.get(va), new.get(va)
        aspects = Aspect(0)
        if was is None:
            kind = Change.UNKNOWN if va in lost[0] else Change.ADDED
        elif now is None:
            kind = Change.UNKNOWN if va in lost[1] else Change.REMOVED
        else:
            every = [name for name, a, b in zip(names, was, now, strict=True) if a != b]
            some = [each for each in every if each & counted]
            if not some and Aspect.SIZE not in every:
                continue
            kind = Change.CHANGED if some else Change.RESIZED
            for each in some or [Aspect.SIZE]:
                aspects |= each
        yield va, kind, aspects, was, now


def units(blocks):
    """The same of `Changes`, 4 KiB by 4 KiB."""
    for rows in blocks:
        assert len(rows)
        values = [getattr(rows, field.name).tolist() for field in dataclasses.fields(rows)]
        for va, size, kind, aspects, *sides, count, stride in zip(*values, strict=True):
            piece = size - (count - 1) * stride
            assert (count > 2) == (stride > 0)
            for first, at in product(range(count), range(0, piece, KIB4)):
                was, now = (
                    (pa + at, Rights(rights), 1 << shift) if shift else None
                    for pa, _, rights, shift in (sides[:4], sides[4:])
                )
                yield va + first * stride + at, kind, aspects, was, now


def expected(found):
    for va, kind, aspects, was, now in found:
        sides = (None if it is None else (it[0], it[1], it[3]) for it in (was, now))
        yield (va, kind, aspects, *sides)


def apart(first, second, counted):
    """Whether two neighbours of a naive comparison are two ranges."""
    for old, new in zip(first[3:], second[3:], strict=True):
        if (old is None) != (new is None):
            return True
        if old is not None:
            goes_on = new[0] == old[0] + KIB4 or not counted & Aspect.FRAME
            if not goes_on or old[1:3] != new[1:3]:
                return True
            if counted & Aspect.SIZE and old[3] != new[3]:
                return True
    return second[0] != first[0] + KIB4 or first[1:3] != second[1:3]


@settings(max_examples=40)
@given(spaces(), spaces(), st.data())
def test_a_comparison_is_that_of_dictionaries(before, after, data):
    if data.draw(st.booleans()):
        # Most pages of two looks at one system are the same.
        after = [*before[: len(before) // 2], *(p for p in after if p.va > _middle(before))]
    counted = data.draw(st.sampled_from([COUNTED, EVERY, Aspect.RIGHTS]))
    cuts = [data.draw(st.sets(st.integers(0, len(each)))) for each in (before, after)]
    made = data.draw(st.sampled_from([columns, with_runs]))
    require_equal(before, after, counted, cuts, made)


def require_equal(before, after, counted, cuts=((), ()), made=columns):
    """Hold the comparison of two address spaces to that of dictionaries: its rows, and folding."""
    blocks = [made(each, some) for each, some in zip((before, after), cuts, strict=True)]
    changes = [*compare_pages(*blocks, ignore=IGNORED, counted=counted)]
    wanted = [*naive(before, after, counted)]
    # Of a folded range only the first page's size is told where sizes don't count, nor frames.
    keep = {
        COUNTED: lambda it: it[:2],
        EVERY: lambda it: it,
        Aspect.RIGHTS: lambda it: it[1:2],
    }[counted]
    shown, hoped = (
        [(*it[:3], *(None if side is None else keep(side) for side in it[3:])) for it in found]
        for found in (units(changes), expected(wanted))
    )
    assert hoped == sorted(shown, key=lambda it: it[0])
    assert listed(wanted, counted) == [
        row
        for rows in changes
        for row in zip(rows.va.tolist(), rows.size.tolist(), rows.count.tolist(), strict=True)
    ]


def listed(wanted, counted):
    """Where ranges begin, their sizes and pieces: neighbours in one, and then three at least."""
    cuts = [0, *(at for at, pair in enumerate(pairwise(wanted), 1) if apart(*pair, counted))]
    ranges = [wanted[a:b] for a, b in pairwise([*cuts, len(wanted)]) if b > a]
    found = []
    while ranges:
        count = run_of(ranges, counted)
        first, last = ranges[0][0][0], ranges[count - 1][-1][0] + KIB4
        found.append((first, last - first, count))
        ranges = ranges[count:]
    return found


def run_of(ranges, counted):
    """How many of the first ranges are repeats at equal distances: 1, or 3 and more."""
    for count, pair in enumerate(pairwise(ranges[1:]), 2):
        one, other = pair
        distances = {b[0][0] - a[0][0] for a, b in pairwise(ranges[: count + 1])}
        alike = all(same_kind(ranges[0], each, counted) for each in (one, other))
        if not alike or len(distances) > 1:
            return count if count > 2 else 1
    return len(ranges) if len(ranges) > 2 else 1


def same_kind(one, other, counted):
    """Whether two ranges are alike but for their addresses."""

    def key(each):
        first = each[0]
        sides = [it and (it[1:], it[0] * bool(counted & Aspect.FRAME)) for it in first[3:]]
        return len(each), first[1:3], sides

    return key(one) == key(other)


def _middle(pages):
    half = pages[: len(pages) // 2]
    return half[-1].va + half[-1].size - 1 if half else -1


@settings(max_examples=40)
@given(spaces(), spaces(), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)))
def test_what_a_side_cannot_tell_is_unknown(before, after, first, second):
    lost = [{PLACES[at] for at in chosen} for chosen in (first, second)]
    before = [page for page in before if page.va // MIB2 * MIB2 not in lost[0]]
    after = [page for page in after if page.va // MIB2 * MIB2 not in lost[1]]
    spans = [[stretches(each)] for each in lost]
    changes = compare_pages(columns(before), columns(after), ignore=IGNORED, lost=spans)
    missing = [{at + by for at in each for by in range(0, MIB2, KIB4)} for each in lost]
    wanted = [it[:3] for it in naive(before, after, COUNTED, missing)]
    assert wanted == [it[:3] for it in units(changes)]


def stretches(starts):
    return np.array(sorted(starts), np.uint64), np.full(len(starts), MIB2, np.uint64)


@given(spaces())
def test_an_address_space_is_equal_to_itself(pages):
    assert [] == [*compare_pages(columns(pages), columns(pages), ignore=0, counted=EVERY)]


SPLIT = [Mapping(MIB2 + at * KIB4, MIB2 + at * KIB4, KIB4, 1, P, Rights(3)) for at in range(512)]
LARGE = [Mapping(MIB2, MIB2, MIB2, 2, P | PS, Rights(3))]


def test_a_page_split_into_small_ones_of_the_same_frames_is_one_range():
    (rows,) = compare_pages(columns(LARGE), columns(SPLIT))
    assert [(MIB2, MIB2, Change.RESIZED, Aspect.SIZE, 21, 12)] == [
        *zip(
            rows.va, rows.size, rows.kind, rows.aspects, rows.old_shift, rows.new_shift, strict=True
        )
    ]
    (rows,) = compare_pages(columns(LARGE), columns(SPLIT), counted=EVERY)
    assert [Change.CHANGED] == rows.kind.tolist()


def test_one_page_of_them_with_other_rights_is_a_change_of_its_own():
    other = [*SPLIT]
    other[7] = dataclasses.replace(SPLIT[7], rights=Rights(1), flags=P | G)
    rows = Changes.join(compare_pages(columns(LARGE), columns(other)))
    assert [Change.RESIZED, Change.CHANGED, Change.RESIZED] == rows.kind.tolist()
    assert Aspect.RIGHTS | Aspect.FLAGS == rows.aspects[1]
    assert [MIB2, MIB2 + 7 * KIB4, MIB2 + 8 * KIB4] == rows.va.tolist()
    assert [MIB2, MIB2 + 7 * KIB4, MIB2 + 8 * KIB4] == rows.old_pa.tolist()


@pytest.mark.parametrize("cuts", [(), (1,), (2, 3), (1, 2, 3, 4, 5), (4,), (5,)])
def test_mappings_of_one_frame_at_equal_distances_are_one_range(cuts):
    aliases = [Mapping(at * 16 * KIB4, MIB2, KIB4, 1, P, Rights(1)) for at in range(6)]
    rows = Changes.join(compare_pages(columns([]), columns(aliases, cuts)))
    assert [(0, 81 * KIB4, 6, 16 * KIB4, KIB4)] == [
        *zip(rows.va, rows.size, rows.count, rows.stride, rows.piece, strict=True)
    ]
    moved = [*aliases[:5], dataclasses.replace(aliases[5], pa=0)]
    rows = Changes.join(compare_pages(columns([]), columns(moved, cuts)))
    assert [5, 1] == rows.count.tolist()
    rows = Changes.join(
        compare_pages(
            columns([]), columns(aliases, cuts), region=lambda va: va.view(np.int64) >> 18
        )
    )
    assert [4, 1, 1] == rows.count.tolist()


def test_windows_are_laid_over_each_other():
    moved = [dataclasses.replace(page, va=page.va + 5 * MIB2) for page in SPLIT]
    over = (MIB2 + KIB4, 2 * MIB2), (6 * MIB2 + KIB4, 7 * MIB2)
    assert [] == [*compare_pages(columns(SPLIT), columns(moved), windows=over)]
    back = tuple(reversed(over))
    assert [] == [*compare_pages(columns(moved), columns(SPLIT), windows=back)]
    (rows,) = compare_pages(columns(SPLIT), columns(moved[1:-1]), windows=over)
    assert [2 * MIB2 - KIB4] == rows.va.tolist()
    rows = Changes.join(
        compare_pages(columns(SPLIT), columns(moved), windows=(over[0], EVERYTHING))
    )
    assert Change.REMOVED in rows.kind


def test_windows_may_be_an_odd_number_of_pages_apart():
    moved = [dataclasses.replace(page, va=page.va + KIB4) for page in SPLIT]
    over = (MIB2, 2 * MIB2), (MIB2 + KIB4, 2 * MIB2 + KIB4)
    assert [] == [*compare_pages(columns(SPLIT), columns(moved), windows=over)]
    back = tuple(reversed(over))
    assert [] == [*compare_pages(columns(moved), columns(SPLIT), windows=back)]


def test_of_a_page_and_a_run_of_one_frame_the_frames_alone_differ():
    run = [dataclasses.replace(page, pa=MIB2) for page in SPLIT]
    rows = Changes.join(compare_pages(columns(LARGE), with_runs(run)))
    expected = [
        (MIB2, KIB4, Change.RESIZED, Aspect.SIZE),
        (MIB2 + KIB4, MIB2 - KIB4, Change.CHANGED, Aspect.FRAME),
    ]
    assert expected == [*zip(rows.va, rows.size, rows.kind, rows.aspects, strict=True)]


def test_a_large_page_is_compared_as_far_as_the_window_goes():
    window = (MIB2 + 16 * KIB4, MIB2 + 17 * KIB4)
    (rows,) = compare_pages(columns(LARGE), columns([]), windows=(window, window))
    assert [(window[0], KIB4, window[0])] == [*zip(rows.va, rows.size, rows.old_pa, strict=True)]


@st.composite
def frames(draw):
    at, ranges = 0, []
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.sampled_from([0, KIB4, 3 * KIB4]))
        size = draw(st.sampled_from([KIB4, 2 * KIB4, 5 * KIB4]))
        rights = draw(st.sampled_from([0, 1, 3, 63]))
        if ranges and sum(ranges[-1][:2]) == at and ranges[-1][2] == rights:
            continue
        ranges.append((at, size, rights))
        at += size
    start, size, rights = zip(*ranges, strict=True) if ranges else ((), (), ())
    return Frames(np.array(start, np.uint64), np.array(size, np.uint64), np.array(rights, np.uint8))


@given(frames(), frames())
def test_collective_rights_are_compared_frame_by_frame(before, after):
    old, new = (
        {start + at: int(rights) for start, size, rights in each for at in range(0, size, KIB4)}
        for each in (before, after)
    )
    wanted = [
        (pa, old.get(pa), new.get(pa))
        for pa in sorted(old.keys() | new.keys())
        if old.get(pa) != new.get(pa)
    ]
    found = []
    for rows in compare_frames(before, after):
        columns = (rows.va, rows.size, rows.kind, rows.old_rights, rows.new_rights)
        for pa, size, kind, *rights in zip(*(each.tolist() for each in columns), strict=True):
            absent = {Change.ADDED: 0, Change.REMOVED: 1}.get(Change(kind))
            was, now = (None if side == absent else it for side, it in enumerate(rights))
            found += [(pa + at, was, now) for at in range(0, size, KIB4)]
    assert wanted == found


@given(spaces(), spaces())
def test_pages_are_matched_as_dictionaries_do(before, after):
    old, new = ({page.va: page for page in each} for each in (before, after))
    found = match_pages(*(whole(each) for each in (before, after)), ignore=IGNORED)
    assert old.keys() - new.keys() == {before[row].va for row in found.gone}
    assert new.keys() - old.keys() == {after[row].va for row in found.new}
    wanted = [va for va in sorted(old.keys() & new.keys()) if _use(old[va]) != _use(new[va])]
    assert wanted == [before[row].va for row in found.was] == [after[row].va for row in found.now]


def _use(page):
    return dataclasses.replace(page, flags=page.flags & ~IGNORED)


def whole(pages):
    none = [np.zeros(0, kind) for kind in (np.uint64,) * 3 + (np.uint8,) * 2]
    return Pages.join([Pages(*none), *pages_of(pages)])


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("pa", {"pa": MIB2 + KIB4}),
        ("rights", {"rights": Rights(1)}),
        ("key", {"flags": P | PWT}),
        ("shift", {"flags": P | PS, "size": MIB2, "level": 2}),
    ],
)
def test_a_comparison_that_forgets_a_column_is_noticed(monkeypatch, column, other):
    before, after = SPLIT[:1], [dataclasses.replace(SPLIT[0], **other)]
    require_equal(before, after, EVERY)
    kept = tuple(each for each in compare._COMPARED if each[1] != column)
    monkeypatch.setattr(compare, "_COMPARED", kept)
    with pytest.raises(AssertionError):
        require_equal(before, after, EVERY)
