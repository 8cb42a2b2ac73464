"""The targets of an address space in pieces: each once, whatever the pieces."""

import numpy as np
import pytest

from crosswalk.emu.check import make_plan, survey
from crosswalk.emu.check.selection import Gaps, Pages, Place, Targets, united
from crosswalk.emu.check.survey import Survey
from crosswalk.emu.probe import mapped
from crosswalk.walker import SparseWords, walk_leaves
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.leaves import TOP, Leaves
from tests.emu.seeded_tables import seeded_tables
from tests.tables import GIB1, KIB4, MIB2, OPEN, PS, ROOT, P, PageTables, context

VA = 0x40_0000


def pages(*rows):
    """Pages given as (va, shift) or (va, shift, listed)."""
    rows = [(*row, True)[:3] for row in rows]
    return Pages(
        np.array([va for va, *_ in rows], np.uint64),
        np.array([shift for _, shift, _ in rows], np.uint8),
        np.zeros(len(rows), np.bool_),
        np.array([listed for *_, listed in rows], np.bool_),
    )


def rows_of(found):
    return list(zip(found.va.tolist(), found.shift.tolist(), found.listed.tolist(), strict=True))


def all_of(targets):
    """Every target as (va, place, listed), in an order of its own."""
    columns = (targets.va, targets.place, targets.listed)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def survey_of(memory, found, **options):
    made = Survey(memory, found, **options)
    pieces = list(made.pieces())
    return made, pieces


def several():
    builder = PageTables()
    for at in (0, 1, 2, 7, 9, 511, 512):
        builder.map(VA + at * KIB4, 0x8000 + at * KIB4)
    builder.map(GIB1, 2 * MIB2, OPEN | PS, level=2).map(3 * GIB1, GIB1, OPEN | PS, level=3)
    builder.map(5 * GIB1, 0x9000, P | 1 << 51).map(TOP - KIB4, 0xA000)
    return builder


def test_pages_of_both_sides_come_once_and_in_order():
    one = iter([pages((0, 12), (0x3000, 12)), pages((0x20_0000, 21))])
    other = iter([pages((0, 12, False)), pages((0x1000, 12, False), (0x20_0000, 21, False))])
    found = Pages.join(list(united(one, other)))
    assert [
        (0, 12, True), (0x1000, 12, False), (0x3000, 12, True), (0x20_0000, 21, True),
    ] == rows_of(found)  # fmt: skip


def test_pages_of_two_sizes_at_one_address_come_both():
    found = Pages.join(list(united(iter([pages((0, 12))]), iter([pages((0, 21, False))]))))
    assert [(0, 12, True), (0, 21, False)] == rows_of(found)


def test_a_side_that_ends_early_or_has_nothing_leaves_the_other():
    none = pages()
    rest = [pages((at << 12, 12, False)) for at in range(5)]
    found = Pages.join(list(united(iter([pages((0, 12)), none]), iter(rest))))
    assert [(at << 12, 12, at == 0) for at in range(5)] == rows_of(found)
    assert [] == list(united(iter([]), iter([none])))


@pytest.mark.parametrize("cut", range(1, 5))
def test_gaps_are_the_same_wherever_blocks_end(cut):
    rows = [(KIB4, 12), (2 * KIB4, 12), (MIB2, 21), (TOP - KIB4, 12)]
    whole = Gaps(context(), 0, TOP)
    expected = np.concatenate([whole.before(pages(*rows)), whole.rest()])
    parts = Gaps(context(), 0, TOP)
    found = [parts.before(pages(*rows[:cut])), parts.before(pages(*rows[cut:])), parts.rest()]
    assert expected.tolist() == np.concatenate(found).tolist()
    half = 1 << 47
    after = 2 * MIB2
    assert [
        0, 0x7FF, 0xFFF,
        3 * KIB4, 3 * KIB4 + (MIB2 - 3 * KIB4 - 1) // 2, MIB2 - 1,
        after, after + (half - after - 1) // 2, half - 1,
        TOP - half, TOP - half + (half - KIB4 - 1) // 2, TOP - KIB4 - 1,
    ] == expected.tolist()  # fmt: skip


def test_a_gap_of_a_single_byte_is_accessed_once():
    gaps = Gaps(context(), 0xFFF, 0x3001)
    assert [0xFFF] == gaps.before(pages((0x1000, 12), (0x2000, 12))).tolist()
    assert [0x3000] == gaps.rest().tolist()


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_the_targets_are_the_same_whatever_the_size_of_a_piece(size, monkeypatch):
    memory = several().memory
    _, whole = survey_of(memory, context())
    assert 1 == len(whole)
    monkeypatch.setattr(survey, "PIECE", size)
    made, pieces = survey_of(memory, context())
    assert {size} >= {len(piece) for piece in pieces[:-1]}
    assert all_of(Targets.join(whole)) == all_of(Targets.join(pieces))
    assert (10, 10, {}) == (made.mappings, made.taken, made.beyond)


@pytest.mark.parametrize("seed", range(6))
def test_the_accesses_to_a_seeded_tables_are_the_same_whatever_the_pieces(seed, monkeypatch):
    memory, found, _ = seeded_tables(seed, 0)
    whole = make_plan(memory, found, limit=1 << 30)
    monkeypatch.setattr(survey, "PIECE", 3)
    parts = make_plan(memory, found, limit=1 << 30)

    def rows(plan):
        columns = (plan.va, plan.type, plan.cpl, plan.ac, plan.place, plan.listed)
        return sorted(zip(*(column.tolist() for column in columns), strict=True))

    assert rows(whole) == rows(parts)


def test_what_the_other_reading_finds_is_no_listed_page():
    def one_less(*given):
        for leaves in walk_leaves(*given):
            yield leaves.take(leaves.va != np.uint64(VA))

    made, pieces = survey_of(several().memory, context(), walk=one_less)
    targets = Targets.join(pieces)
    # The malformed entry is in no list either.
    assert [VA, 5 * GIB1] == targets.va[~targets.listed].tolist()
    assert 9 == made.mappings


def test_a_limit_takes_the_first_of_each_kind_and_counts_the_rest():
    made, pieces = survey_of(several().memory, context(), limit=2, cut=True)
    targets = Targets.join(pieces)
    small = targets.va[targets.place == Place.PAGE_4K].tolist()
    assert [VA, VA + KIB4, 5 * GIB1] == small  # The last is the other reading's alone.
    assert 1 == (targets.place == Place.PAGE_2M).sum() == (targets.place == Place.PAGE_1G).sum()
    assert (10, 4) == (made.mappings, made.taken)
    holes = made.beyond["addresses in holes, beyond the limit"]
    assert {"mappings, beyond the limit": 6, "addresses in holes, beyond the limit": holes} == (
        made.beyond
    )
    assert 6 == (targets.place == Place.HOLE).sum()
    _, whole = survey_of(several().memory, context())
    assert 6 + holes == (Targets.join(whole).place == Place.HOLE).sum()


def test_malformed_entries_beyond_a_limit_are_counted():
    builder = PageTables().map(VA, 0x8000)
    for at in range(1, 6):
        builder.map(VA + at * KIB4, 0x8000, P | 1 << 51)
    made, pieces = survey_of(builder.memory, context(), limit=2, cut=True)
    assert 2 == (Targets.join(pieces).place == Place.MALFORMED).sum()
    assert 3 == made.beyond["malformed entries, beyond the limit"]
    assert 3 == made.beyond["present entries that the walk lists no page for, beyond the limit"]


def test_a_limit_within_a_range_counts_what_is_in_it():
    ranges = [(0, VA + 8 * KIB4)]
    made, _ = survey_of(several().memory, context(), ranges=ranges, limit=2, cut=True)
    assert (4, 2) == (made.mappings, made.taken)
    with pytest.raises(LimitExceeded, match="more than 2 mappings in this range"):
        Survey(several().memory, context(), ranges=ranges, limit=2)


def test_ranges_have_the_targets_that_each_has_alone():
    memory = several().memory
    ranges = [(VA + KIB4, VA + 8 * KIB4), (GIB1, 2 * GIB1), (1 << 46, 1 << 47)]
    together, pieces = survey_of(memory, context(), ranges=ranges)
    apart = [survey_of(memory, context(), ranges=[each]) for each in ranges]
    assert sum(made.mappings for made, _ in apart) == together.mappings == 4
    assert sorted(row for _, some in apart for row in all_of(Targets.join(some))) == all_of(
        Targets.join(pieces)
    )


def test_an_image_of_very_many_mappings_costs_what_the_limit_takes(monkeypatch):
    monkeypatch.setattr(survey, "_SCANNED", 1 << 12)
    # One table on all four levels below the root maps 2^36 pages.
    frame = ROOT + KIB4
    words = {ROOT: frame | OPEN, **{frame + 8 * at: frame | OPEN for at in range(512)}}
    memory = SparseWords([(0, 1 << 20)], words)
    made, pieces = survey_of(memory, context(), limit=10, cut=True)
    assert 10 == made.taken == (Targets.join(pieces).place == Place.PAGE_4K).sum()
    assert {"mappings, beyond the limit": (1 << 27) - 10} == made.beyond
    assert 1 << 27 == made.mappings
    with pytest.raises(LimitExceeded, match="134,217,728 mappings; the limit is 200,000"):
        Survey(memory, context())


def test_a_walk_out_of_order_loses_nothing():
    def backwards(*given):
        leaves = Leaves.join([Leaves.none(), *walk_leaves(*given)])
        for at in reversed(range(len(leaves))):
            yield leaves.take(slice(at, at + 1))

    _, pieces = survey_of(several().memory, context(), walk=backwards)
    _, right = survey_of(several().memory, context())
    assert set(all_of(Targets.join(right))) <= set(all_of(Targets.join(pieces)))


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_the_older_modes_have_the_same_targets_whatever_the_pieces(mode, monkeypatch):
    tables = PageTables(mode).map(0, 0x8000).map(0xC000_0000, 0x9000).map(0xFFFF_F000, 0xB000)
    _, whole = survey_of(tables.memory, context(mode))
    monkeypatch.setattr(survey, "PIECE", 2)
    _, pieces = survey_of(tables.memory, context(mode))
    assert all_of(Targets.join(whole)) == all_of(Targets.join(pieces))
    assert 3 == sum((piece.place == Place.PAGE_4K).sum() for piece in pieces)


def test_the_other_reading_may_be_left_out():
    def nothing(*_):
        return iter(())

    made, pieces = survey_of(several().memory, context(), read=nothing)
    assert Targets.join(pieces).listed.all()
    with_it, others = survey_of(several().memory, context(), read=mapped)
    assert made.mappings == with_it.mappings
    # The malformed entry makes two holes of one.
    assert len(Targets.join(others)) == len(Targets.join(pieces)) + 1 + 3
