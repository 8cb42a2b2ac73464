from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.vendor.pretty import pretty

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.coverage import coverage_of
from crosswalk.emu.fuzz.coverage.cells import CELLS
from crosswalk.emu.fuzz.coverage.conditions import END
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.testing.paths import ROOT, Path, address_of, layout_of
from crosswalk.emu.testing.strategies import accesses, contexts, layouts
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.translate import StepKind, walk
from tests.emu.fuzz.hunted_bugs import OBVIOUS

QUICK = settings(
    max_examples=200,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    deadline=None,
    derandomize=True,
    database=None,
)
EASY = ("U/S not inherited", "XD not reserved with NXE clear")


def differs(bug, layout):
    """Whether a walker with this bug differs from the right one on a layout."""
    memory, context, asked = layout.memory(), layout.context, layout.accesses
    right = translate_many(memory, context, asked)
    return not agreements(bug.predict(memory, context, asked), right).all()


def words(layout):
    return [int(word) for word in layout.words.ravel() if word]


def drawn(strategy, count):
    """So many values of a strategy, the same every time."""
    values = []

    @settings(QUICK, max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def draw(value):
        values.append(value)

    draw()
    return values


@pytest.fixture(scope="module")
def many():
    return drawn(layouts(), 150)


def test_the_plainest_context_is_the_default_one():
    assert PagingContext(cr3=ROOT) == find(contexts(), lambda _: True, settings=QUICK)


@pytest.mark.parametrize("name", ["wp", "nxe", "smep", "smap", "pke"])
def test_contexts_have_every_switch_both_ways(name):
    assert {False, True} == {getattr(context, name) for context in drawn(contexts(), 60)}


def test_contexts_have_both_numbers_of_levels_and_keys_where_keys_count():
    every = drawn(contexts(), 60)
    assert {4, 5} == {context.levels for context in every}
    assert any(context.pkru for context in every)
    assert not any(context.pkru for context in every if not context.pke)


def test_the_plainest_layout_is_an_empty_root():
    layout = find(layouts(), lambda _: True, settings=QUICK)
    assert (1, []) == (len(layout.frames), words(layout))
    assert [0] * 6 == layout.accesses.va.tolist()


def test_the_plainest_page_is_open_to_all():
    layout = find(layouts(), words, settings=QUICK)
    assert (2, [0x2007, 0x87]) == (len(layout.frames), words(layout))


@pytest.mark.parametrize("bug", [bug for bug in OBVIOUS if bug.name in EASY], ids=lambda b: b.name)
def test_a_bug_shrinks_to_one_path_and_the_bits_that_matter(bug):
    layout = find(layouts(), lambda layout: differs(bug, layout), settings=QUICK)
    # A page takes two entries at the least, a 4-KiB one four.
    assert len(words(layout)) <= 4
    odd = sum(((word ^ 7) & ~0x000F_FFFF_FFFF_F080).bit_count() for word in words(layout))
    assert odd <= 1
    context = layout.context
    switches = sum((getattr(context, n) ^ getattr(PagingContext(cr3=ROOT), n)).bit_count()
                   for n in ("cr0", "cr4", "efer"))  # fmt: skip
    assert switches <= 1


def test_layouts_have_every_kind_of_end_on_every_level(many):
    seen = np.zeros(CELLS.count, np.bool_)
    for layout in many:
        memory, context, asked = layout.memory(), layout.context, layout.accesses
        outcomes = translate_many(memory, context, asked)
        seen |= coverage_of(memory, context, asked, outcomes)
    first = CELLS.first[CELLS.families.index(END)]
    ends = seen[first : first + END.size].reshape(END.shape)
    # Levels, level, how it ends, type, CPL, answer.
    assert ends.any(axis=(0, 2, 3, 4, 5)).all()
    assert ends.any(axis=(0, 1, 3, 4, 5)).all()
    assert ends.any(axis=(0, 1, 2, 5)).all()


def test_layouts_have_recursive_tables_and_pages_that_are_tables(many):
    recursive, tables = 0, 0
    for layout in many:
        frames = set(layout.frames.tolist())
        for va in layout.accesses.va.tolist():
            steps = walk(layout.memory(), layout.context, va).steps
            at = [step.pa >> 12 for step in steps]
            recursive += len(set(at)) < len(at)
            leaf = bool(steps) and steps[-1].kind is StepKind.LEAF and steps[-1].level == 1
            tables += leaf and steps[-1].entry & layout.context.address_mask in frames
    assert recursive > 0
    assert tables > 0


def test_accesses_of_a_layout_are_on_its_pages_and_beside_them():
    layout = layout_of(PagingContext(cr3=ROOT), [Path((1, 1, 1, 1, 1), 1)], Accesses.of([]))
    va = address_of(layout.context, Path((1, 1, 1, 1, 1), 1))
    layout = replace(layout, accesses=Accesses.product(np.array([va], np.uint64), ac=False))
    every = drawn(accesses(layout), 200)
    assert set(AccessType) == {access.type for access in every}
    assert {0, 3} == {access.cpl for access in every}
    assert {va >> 12, (va >> 12) + 1, (va >> 12) - 1} <= {access.va >> 12 for access in every}
    assert any(not layout.context.canonical(access.va) for access in every)


def test_accesses_under_a_context_are_in_both_halves():
    context = PagingContext(cr3=ROOT)
    every = [access.va for access in drawn(accesses(context), 200)]
    assert {0, 1} == {va >> 63 for va in every if context.canonical(va)}


def test_accesses_shrink_to_a_read_of_nought():
    plainest = find(accesses(PagingContext(cr3=ROOT)), lambda _: True, settings=QUICK)
    assert (0, AccessType.READ, 0, False) == (
        plainest.va, plainest.type, plainest.cpl, plainest.ac,
    )  # fmt: skip


def test_a_context_of_ones_own_is_kept():
    own = st.just(PagingContext(cr3=0x7000, cr4=0x1020))
    assert {5} == {layout.context.levels for layout in drawn(layouts(own), 5)}


def test_a_layout_is_printed_in_one_line(many):
    assert isinstance(many[0], Layout)
    for text in (repr(many[0]), pretty(many[0])):
        assert text.startswith("<Layout: ")
        assert "\n" not in text


LEGACY = {"32bit": PagingMode.BIT32, "pae": PagingMode.PAE}


@pytest.mark.parametrize("name", LEGACY)
def test_layouts_in_a_legacy_mode_have_all_its_ends_and_are_agreed_upon(name):
    executor, kinds, sizes, codes = Executor(), set(), set(), set()
    for layout in drawn(layouts(modes=[name]), 120):
        assert layout.context.mode is LEGACY[name]
        assert () == executor.run(lambda layout=layout: layout).findings
        outcomes = translate_many(layout.memory(), layout.context, layout.accesses)
        kinds |= set(outcomes.kind.tolist())
        sizes |= set(outcomes.page_size.tolist())
        codes |= set((outcomes.error_code & 0b1011).tolist())
    assert {Kind.OK, Kind.PAGE_FAULT} <= kinds
    assert (Kind.GENERAL_PROTECTION in kinds) == (name == "pae")
    assert {0, 1 << 12, 1 << (22 if name == "32bit" else 21)} == sizes
    # Not present, denied, reserved.
    assert {0b0000, 0b0001, 0b1001} <= codes


@pytest.mark.parametrize("name", LEGACY)
def test_in_a_legacy_mode_too_the_plainest_page_is_open_to_all(name):
    layout = find(layouts(modes=[name]), words, settings=QUICK)
    assert [0x87] == words(layout)[-1:]
    assert len(words(layout)) == (1 if name == "32bit" else 2)
    assert find(contexts(modes=[name]), lambda _: True, settings=QUICK) == layout.context


@pytest.mark.parametrize("name", LEGACY)
def test_a_bug_in_a_legacy_mode_shrinks_to_one_path(name):
    def wrong(layout):
        memory, context, asked = layout.memory(), layout.context, layout.accesses
        plain = replace(context, cr0=context.cr0 & ~(1 << 16))
        right = translate_many(memory, context, asked)
        return not agreements(translate_many(memory, plain, asked), right).all()

    layout = find(layouts(modes=[LEGACY[name]]), wrong, settings=QUICK)
    # An entry that leads back to its own table makes a path by itself.
    assert len(words(layout)) in ({1} if name == "32bit" else {1, 2})


def test_contexts_are_in_the_given_modes_the_long_ones_first():
    every = drawn(contexts(modes=["pae", "32bit", PagingMode.LEVEL5, "4level"]), 80)
    assert set(PagingMode) == {context.mode for context in every}
    assert {True, False} == {context.pse for context in drawn(contexts(modes=["32bit"]), 60)}
    plainest = find(contexts(modes=["pae", "4level"]), lambda _: True, settings=QUICK)
    assert PagingContext(cr3=ROOT) == plainest


def test_accesses_in_a_legacy_mode_have_32_bits():
    (control,) = drawn(contexts(modes=["32bit"]), 1)
    addresses = [access.va for access in drawn(accesses(control), 100)]
    assert max(addresses) < 1 << 32
    assert any(va >> 31 for va in addresses)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: contexts(modes=["32-bit"]), "modes: '32-bit' is none of 32bit, pae, 4level"),
        (lambda: contexts(modes=[]), "modes: none is given of 32bit"),
        (lambda: layouts(contexts(), modes=["pae"]), "layouts takes a context or modes, not both"),
    ],
)  # fmt: skip
def test_modes_that_there_are_not_are_refused(make, words):
    with pytest.raises(BadInput, match=words):
        drawn(make(), 1)
