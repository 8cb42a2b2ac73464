"""What is assumed is true of every layout, and what is selected is all that is asked."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.findings.layout import IntendedKind, Layout
from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import base_of, generate, mutate
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.restrict import restricted
from crosswalk.emu.fuzz.generate.shares import Share, share_of
from crosswalk.emu.matrix.select import layout_choice
from crosswalk.walker import malformed_entries
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingMode
from crosswalk.walker.formats import load_case
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.translate import walk
from tests.emu.case_files import LINUX_CASE
from tests.emu.fuzz.generate.intentions import differing
from tests.tables import MODES, P, PageTables, context

SHARES = [
    Share(), Share(PagingMode.LEVEL5), Share(PagingMode.PAE), Share(PagingMode.BIT32),
    Share(wide=True),
]  # fmt: skip
EVERYTHING = LayoutChoice()
COUNT = 12


def mode_of(context):
    return context.levels if context.mode.long else str(context.mode)


def made(share, choice=EVERYTHING, count=COUNT):
    return [generate(2, index, accesses=1024, share=share, choice=choice) for index in range(count)]


def name_of(share):
    return f"{'' if share.mode is None else share.mode.slug}{'wide' if share.wide else ''}" or "any"


def malformed(layout):
    """The present entries with a reserved bit that a walk may read, by the walker's own list."""
    entries = malformed_entries(layout.memory(), layout.context).entry
    return int(((entries & np.uint64(P)) != 0).sum())


def second_parents(layout):
    """How often an entry leads to the root, or to a table to which another one leads.

    Where no entry is malformed: one with a reserved bit is followed here.
    """
    context, words = layout.context, {}
    row, at = np.nonzero(layout.words)
    for frame, index, word in zip(row.tolist(), at.tolist(), layout.words[row, at], strict=True):
        words[int(layout.frames[frame]) + 8 * index] = int(word)
    form = MODES[mode_of(context)]
    again, seen, tables = 0, {context.root & -4096}, [context.root]
    for level in sorted(form.shifts, reverse=True)[:-1]:
        below = []
        for table in tables:
            for number in range(form.count(level)):
                pa = table + form.entry_size * number
                word = words.get(pa & -8, 0) >> (pa % 8 * 8)
                entry = word & (1 << 8 * form.entry_size) - 1
                large = level == 2 and (form.entry_size == 8 or context.pse)
                large |= level == 3 and context.mode.long and context.page1gb
                if not entry & P or (large and entry & 0x80):
                    continue
                to = entry & context.address_mask
                again += to in seen
                seen.add(to)
                below.append(to)
        tables = below
    return again


@pytest.mark.parametrize("share", SHARES, ids=name_of)
def test_no_entry_is_malformed_where_all_are_assumed_to_be_well_formed(share):
    assert any(malformed(layout) for layout in made(share))
    choice = LayoutChoice(assume=("wellformed",))
    for layout in made(share, choice):
        assert 0 == malformed(layout)
        codes = translate_many(layout.memory(), layout.context, layout.accesses).error_code
        assert not (codes & ErrorCode.RSVD).any()


@pytest.mark.parametrize("share", SHARES, ids=name_of)
def test_each_table_has_one_parent_where_a_tree_is_assumed(share):
    both = LayoutChoice(assume=("tree", "wellformed"))
    assert any(
        second_parents(layout) for layout in made(share, LayoutChoice(assume=("wellformed",)))
    )
    for layout in made(share, both):
        assert 0 == second_parents(layout)
    for layout in made(share, LayoutChoice(assume=("tree",))):
        for va in np.unique(layout.accesses.va)[:40].tolist():
            frames = [step.pa & -4096 for step in walk(layout.memory(), layout.context, va).steps]
            assert len(set(frames)) == len(frames)


@pytest.mark.parametrize("share", SHARES, ids=name_of)
def test_all_addresses_are_canonical_where_they_are_assumed_to_be(share):
    choice = LayoutChoice(assume=("canonical",))
    addresses = [layout.accesses.va.tolist() for layout in made(share, choice)]
    controls = [layout.context for layout in made(share, choice)]
    for control, each in zip(controls, addresses, strict=True):
        assert all(control.canonical(va) for va in each)
    if share.mode is None or share.mode.long:
        assert sum(map(len, addresses)) < sum(len(each.accesses) for each in made(share))


@pytest.mark.parametrize("share", SHARES, ids=name_of)
def test_what_stays_intended_is_true_and_all_witnesses_agree(share):
    choice = LayoutChoice(assume=("canonical", "tree", "wellformed"))
    executor, intended = Executor(), 0
    for layout in made(share, choice, 6):
        assert not differing(layout).any()
        assert () == executor.run(lambda layout=layout: layout).findings
        intended += int((layout.intended.kind == IntendedKind.OK).sum())
    assert intended > 100


def test_a_mutated_address_space_is_restricted_too():
    case = load_case(LINUX_CASE)
    linux = base_of(case.memory(), case.context())
    choice = LayoutChoice(assume=("canonical", "tree", "wellformed"))
    plain = [mutate(linux, 1, index, accesses=256) for index in range(8)]
    assert any(malformed(layout) for layout in plain)
    for index in range(8):
        layout = mutate(linux, 1, index, accesses=256, choice=choice)
        assert 0 == malformed(layout)
        assert 0 == second_parents(layout)


def test_a_loop_and_a_shared_table_are_cut_where_they_are_met_last():
    tables = PageTables(ram=((0, 0x100000),)).map(0, 0x8000).map(1 << 39, 0x9000)
    shared = dict(tables.words) | {0x1000 + 8 * 300: tables.words[0x1000], 0x1000 + 8 * 511: 0x1003}
    layout = space(SparseWords(tables.ram, shared))
    assert second_parents(layout) > 1
    tree = restricted(layout, LayoutChoice(assume=("tree",)))
    assert dict(tables.words) == dict(tree.memory().words())


def space(memory):
    words = dict(memory.words())
    frames = np.unique(np.array([pa & -4096 for pa in words], np.uint64))
    accesses = Accesses.product(np.array([0, 1 << 39], np.uint64), ac=False)
    found = generate(0, 0, accesses=64)
    return replace(
        found, context=context(), ram=tuple(memory.ranges), frames=frames,
        words=memory.tables(frames), accesses=accesses,
        intended=found.intended.nothing(len(accesses)),
    )  # fmt: skip


def selected(text, share=SHARES[0], count=COUNT):
    return made(share, layout_choice(select=text), count)


def entries_read(layout: Layout, level):
    """The entries of one level that the walks of the accesses read."""
    return [
        next(
            (s.entry for s in walk(layout.memory(), layout.context, va).steps if s.level == level),
            None,
        )
        for va in layout.accesses.va.tolist()
    ]


def test_accesses_are_of_the_selected_kinds():
    for layout in selected("access=write,access=execute,cpl=3,rflags.ac=0"):
        assert {1, 2} >= set(layout.accesses.type.tolist())
        assert {3} >= set(layout.accesses.cpl.tolist())
        assert not layout.accesses.ac.any()
        assert len(layout.accesses)


def test_control_bits_and_features_are_the_selected_ones():
    text = (
        "cr0.wp=0,efer.nx=1,cr4.smep=1,cr4.lass=1,cr4.pks=1,maxphyaddr=46,maxphyaddr=41,"
        "pkru.ad=1,pkrs.wd=1"
    )
    layouts = selected(text)
    for layout in layouts:
        control = layout.context
        assert (False, True, True, True) == (control.wp, control.nxe, control.smep, control.lass)
        assert control.pkru >> 2 & 1
        assert control.pks
        assert control.pkrs >> 3 & 1
    assert len({layout.context.pkrs for layout in layouts}) > len(layouts) / 2
    assert {41, 46} == {layout.context.maxphyaddr for layout in layouts}
    assert {4, 5} == {layout.context.levels for layout in layouts}


@pytest.mark.parametrize("share", [Share(), *SHARES[2:4]], ids=name_of)
def test_every_walk_reads_an_entry_with_the_selected_bits(share):
    layouts = selected("pte.us=0,pde.rw=1", share)
    for layout in layouts:
        assert all(entry is not None and not entry & 4 for entry in entries_read(layout, 1))
        assert all(entry & 2 for entry in entries_read(layout, 2))
    assert sum(len(layout.accesses) for layout in layouts) > 50


def test_a_key_is_selected_as_a_number_and_a_group_by_any_of_its_bits():
    for layout in selected("pte.key5=1,pte.sw=1"):
        for entry in entries_read(layout, 1):
            assert 5 == entry >> 59 & 15
            assert entry & (0x7F << 52 | 7 << 9)


def test_selected_layouts_are_agreed_upon_and_may_be_empty():
    executor, asked = Executor(), 0
    for text in ("access=write,pte.rw=0", "cr4.smap=1,rflags.ac=0", "pte.bit50=1,pte.bit49=1"):
        for layout in selected(text, count=6):
            tried = executor.run(lambda layout=layout: layout, cross=True)
            assert () == tried.findings
            asked += len(layout.accesses)
    assert asked
    # A layout in which nothing is to be asked.
    empty = generate(
        0, 0, accesses=64, choice=layout_choice(select="pte.key5=1,pte.key6=0,pte.p=0,pde.p=0")
    )
    assert 0 == len(empty.accesses)
    assert 0 == Executor().run(lambda: empty).probes


SELECTIONS = (
    "maxphyaddr=36", "maxphyaddr=40,vendor=amd", "page1gb=0,vendor=intel", "cr4.pse=0,cr0.wp=1",
    "encryption_mask=0x800000000000", "encryption_mask=0x0", "cr4.lass=1,cr4.smap=1",
    "cr3.lam_u48=1,cr4.lam_sup=1", "cr3.lam_u57=1,maxphyaddr=52", "efer.uaie=1", "efer.nx=0",
    "cr4.pke=1,pkru.ad=1,pkru.wd=0", "vendor=amd,vendor=intel,maxphyaddr=46,maxphyaddr=39",
)  # fmt: skip


@pytest.mark.parametrize("text", SELECTIONS)
def test_every_control_bit_and_feature_can_be_selected_in_every_mode(text):
    choice, executor = layout_choice(select=text), Executor()
    shares = [share_of(index, choice.asked_modes) for index in range(16)]
    for share, index in shares:
        layout = generate(3, index, accesses=256, share=share, choice=choice)
        assert () == executor.run(lambda layout=layout: layout).findings
        for name, mask, value in choice.select.controls:
            assert value == bool(getattr(layout.context, name) & mask)
        for name, values in choice.select.features:
            assert getattr(layout.context, name) in values


def test_composites_are_left_out_where_their_accesses_might_not_be_chosen():
    def crossing(choice):
        return sum(Plan(choice=choice).crosses(index) for index in range(64))

    assert crossing(EVERYTHING) > 3
    assert crossing(LayoutChoice(assume=("tree", "wellformed"))) == crossing(EVERYTHING)
    assert 0 == crossing(LayoutChoice(assume=("canonical",)))
    assert 0 == crossing(layout_choice(select="cpl=3"))
    assert 0 == crossing(LayoutChoice((PagingMode.PAE, PagingMode.BIT32)))
