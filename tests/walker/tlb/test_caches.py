"""What invalidates what, by hand from the manual; each rule has a twin that does without it."""

import pytest

from crosswalk.walker.context import CR4, PagingContext, Vendor
from crosswalk.walker.outcome import PageFault
from crosswalk.walker.tlb import Invlpg, Invpcid, MovCr0, MovCr3, MovCr4, Rule, Sequence, Store
from crosswalk.walker.tlb.steps import NO_FLUSH, PCIDE
from tests.walker.tlb.sequences import (
    CR4_ON,
    FAR,
    LARGE,
    MOVED,
    NEW,
    OLD,
    OPEN,
    PDE,
    PML4E,
    PS,
    PTE,
    RAM,
    SMALL,
    G,
    access,
    after,
    fault,
    model_of,
    ok,
)


@pytest.mark.parametrize(
    ("invalidation", "rule"),
    [
        (Invlpg(0), Rule.INVLPG),
        (Invlpg(0xFFF), Rule.INVLPG),
        (MovCr3(PML4E), Rule.CR3),
        (MovCr4(int(CR4.PAE)), Rule.PGE),
        (MovCr4(int(CR4_ON | CR4.SMEP)), Rule.SMEP),
        (Invpcid(0), Rule.INVPCID_ADDRESS),
        (Invpcid(1), Rule.INVPCID_CONTEXT),
        (Invpcid(2), Rule.INVPCID_GLOBAL),
        (Invpcid(3), Rule.INVPCID_ALL),
    ],
    ids=str,
)
def test_after_an_invalidation_the_new_translation_is_seen(invalidation, rule):
    assert {ok(NEW)} == after(access(), MOVED, invalidation)
    assert {ok(OLD), ok(NEW)} == after(access(), MOVED, invalidation, without={rule})


@pytest.mark.parametrize(
    "step",
    [
        Invlpg(FAR),
        Invlpg(0x1000),
        MovCr0(0x8000_0033),
        MovCr4(int(CR4_ON)),
        MovCr4(int(CR4_ON | CR4.SMAP)),
        MovCr4(int(CR4_ON | PCIDE)),
        Invpcid(0, 0, 0x1000),
    ],
    ids=str,
)
def test_what_has_to_invalidate_nothing_leaves_the_choice(step):
    assert {ok(OLD), ok(NEW)} == after(access(), MOVED, step)


def test_clearing_smep_has_to_invalidate_nothing():
    smep = int(CR4_ON | CR4.SMEP)
    assert {ok(OLD), ok(NEW)} == after(MOVED, MovCr4(int(CR4_ON)), cr4=smep)


GLOBAL = SMALL | {PTE: OLD | OPEN | G}


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (MovCr3(PML4E), True),
        (Invpcid(0), True),
        (Invpcid(1), True),
        (Invpcid(3), True),
        (Invpcid(2), False),
        (Invlpg(0), False),
        (MovCr4(int(CR4.PAE)), False),
    ],
    ids=str,
)
def test_a_global_page_outlives_what_is_for_one_pcid(step, kept):
    assert ({ok(OLD), ok(NEW)} if kept else {ok(NEW)}) == after(MOVED, step, entries=GLOBAL)


def test_g_means_nothing_while_pge_is_clear():
    assert {ok(NEW)} == after(MOVED, MovCr3(PML4E), entries=GLOBAL, cr4=int(CR4.PAE))


def test_invlpg_without_its_rule_for_global_pages_keeps_those_alone():
    without = {Rule.INVLPG_GLOBAL}
    assert {ok(OLD), ok(NEW)} == after(MOVED, Invlpg(0), entries=GLOBAL, without=without)
    assert {ok(NEW)} == after(MOVED, Invlpg(0), without=without)


def test_invlpg_of_any_address_in_a_large_page_invalidates_all_of_it():
    moved, last = Store(PDE, 0x60_0000 | OPEN | PS), access(va=0x5000)
    both, new = {ok(0x40_5000), ok(0x60_5000)}, {ok(0x60_5000)}
    assert both == after(moved, entries=LARGE, last=last)
    assert new == after(moved, Invlpg(0x1F_F000), entries=LARGE, last=last)
    assert both == after(moved, Invlpg(0x20_0000), entries=LARGE, last=last)
    without = {Rule.INVLPG_LARGE}
    assert both == after(moved, Invlpg(0x1F_F000), entries=LARGE, last=last, without=without)


@pytest.mark.parametrize(
    ("step", "rule"),
    [(Invlpg(FAR), Rule.INVLPG_TABLES), (MovCr3(PML4E), Rule.CR3_TABLES)],
    ids=str,
)
def test_entries_of_upper_levels_are_invalidated_whatever_the_address(step, rule):
    # Nothing of the page itself can be cached: its PTE comes when the PDE has gone.
    entries, steps = SMALL | {PTE: 0}, (Store(PDE, 0), step, Store(PTE, NEW | OPEN))
    assert {fault(0x4)} == after(*steps, entries=entries)
    assert {fault(0x4), ok(NEW)} == after(*steps, entries=entries, without={rule})
    assert {fault(0x4), ok(NEW)} == after(steps[0], steps[2], entries=entries)


def test_with_tce_invlpg_leaves_upper_entries_of_other_addresses():
    entries, steps = SMALL | {PTE: 0}, (Store(PDE, 0), Invlpg(FAR), Store(PTE, NEW | OPEN))
    tce = {"efer": 0x8D00, "vendor": Vendor.AMD}
    assert {fault(0x4), ok(NEW)} == after(*steps, entries=entries, **tce)
    there = steps[0], Invlpg(0x5000), steps[2]
    assert {fault(0x4)} == after(*there, entries=entries, **tce)


def test_invpcid_of_one_address_leaves_upper_entries_of_others():
    entries, last = SMALL | {PTE + 8: 0}, access(va=0x1000)
    steps = Store(PDE, 0), Invpcid(0, 0, FAR), Store(PTE + 8, NEW | OPEN)
    assert {fault(0x4), ok(NEW)} == after(*steps, entries=entries, last=last)
    steps = Store(PDE, 0), Invpcid(0, 0, 0x5000), Store(PTE + 8, NEW | OPEN)
    assert {fault(0x4)} == after(*steps, entries=entries, last=last)


PCIDS = {"cr4": int(CR4_ON | PCIDE), "cr3": PML4E | 1}


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ((MovCr3(PML4E | 1),), False),
        ((MovCr3(PML4E | 1 | NO_FLUSH),), True),
        ((MovCr3(PML4E | 2),), False),
        ((MovCr3(PML4E | 2 | NO_FLUSH),), False),
        ((MovCr3(PML4E | 2), MovCr3(PML4E | 1)), False),
        ((MovCr3(PML4E | 2), MovCr3(PML4E | 1 | NO_FLUSH)), True),
        ((MovCr3(PML4E | 2), Invlpg(0), MovCr3(PML4E | 1 | NO_FLUSH)), True),
        ((Invpcid(0, 1, 0),), False),
        ((Invpcid(0, 2, 0),), True),
        ((Invpcid(1, 1),), False),
        ((Invpcid(1, 2),), True),
        ((Invpcid(2),), False),
        ((Invpcid(3),), False),
        ((MovCr4(int(CR4_ON)),), False),
    ],
    ids=str,
)
def test_what_is_cached_belongs_to_a_pcid(steps, kept):
    expected = {ok(OLD), ok(NEW)} if kept else {ok(NEW)}
    assert expected == after(access(), MOVED, *steps, **PCIDS)
    # The same of what leads there, where nothing of the page can be cached.
    entries, new = SMALL | {PTE: 0}, Store(PTE, NEW | OPEN)
    expected = {fault(0x4), ok(NEW)} if kept and Invlpg(0) not in steps else {fault(0x4)}
    if Invlpg(0) in steps:
        expected = {fault(0x4), ok(NEW)}  # INVLPG is about the PCID it is executed in.
    assert expected == after(Store(PDE, 0), *steps, new, entries=entries, **PCIDS)


def test_invlpg_reaches_global_entries_of_other_pcids():
    there_and_back = MovCr3(PML4E | 2), Invlpg(0), MovCr3(PML4E | 1 | NO_FLUSH)
    assert {ok(NEW)} == after(MOVED, *there_and_back, entries=GLOBAL, **PCIDS)


def test_global_entries_of_another_pcid_outlive_a_page_fault():
    steps = access(), Store(PTE, 0), MovCr3(PML4E | 2)
    model = model_of(*steps, access(), entries=GLOBAL, **PCIDS)
    for _ in range(2):
        assert {fault(0x4), ok(OLD)} == {option[:3] for option in model.allowed(access())}
        model.observe(access(), PageFault(0x4, 0))
    model = model_of(*steps[:2], access(), entries=GLOBAL, **PCIDS)
    model.observe(access(), PageFault(0x4, 0))
    assert {fault(0x4)} == {option[:3] for option in model.allowed(access())}


def test_bit_63_is_no_part_of_cr3():
    steps = (MovCr3(PML4E | 2 | NO_FLUSH),)
    context = PagingContext(**PCIDS)
    made = Sequence(context=context, ram=RAM, entries=SMALL, steps=steps)
    *_, last = made.contexts()
    assert PML4E | 2 == last.cr3


def test_without_its_rule_what_was_cached_under_a_pcid_is_used_when_pcide_is_cleared():
    off = MovCr4(int(CR4_ON))
    assert {ok(OLD), ok(NEW)} == after(MOVED, off, without={Rule.PCIDE}, **PCIDS)
