"""The outcomes allowed, by hand from the manual; each rule has a twin that does without it."""

import pytest

from crosswalk.walker.columns import Kind
from crosswalk.walker.context import CR4
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.tlb import Invlpg, MovCr0, MovCr3, MovCr4, Rule, Store, Wrpkru
from tests.walker.tlb.sequences import (
    CR4_ON,
    FAR,
    KEY1,
    LARGE,
    MOVED,
    NEW,
    OLD,
    OPEN,
    OTHER,
    PDE,
    PDPTE,
    PML4E,
    PS,
    PTE,
    READ,
    RW,
    SMALL,
    US,
    WRITE,
    XD,
    A,
    D,
    G,
    P,
    access,
    after,
    fault,
    model_of,
    ok,
)


def test_an_unchanged_address_has_one_outcome():
    assert {ok(OLD)} == after()
    assert {ok(OLD)} == after(access(), access(WRITE))
    assert {fault(0x4)} == after(last=access(va=FAR))
    assert {(Kind.GENERAL_PROTECTION, 0, 0)} == after(last=access(va=1 << 47))


def test_after_a_change_the_old_or_the_new_translation_is_seen_whether_it_was_used_or_not():
    assert {ok(OLD), ok(NEW)} == after(access(), MOVED)
    assert {ok(OLD), ok(NEW)} == after(MOVED)
    third = Store(PTE, 0x30_0000 | OPEN)
    assert {ok(OLD), ok(NEW), ok(0x30_0000)} == after(MOVED, third)


def test_what_is_not_present_or_reserved_is_never_cached():
    absent, reserved = SMALL | {PTE: OLD | OPEN & ~P}, SMALL | {PTE: OLD | OPEN | 1 << 51}
    assert {ok(NEW)} == after(access(), MOVED, entries=absent)
    assert {ok(NEW)} == after(access(), MOVED, entries=reserved)
    without_xd = {"efer": 0x500}
    assert {ok(NEW)} == after(MOVED, entries=SMALL | {PTE: OLD | OPEN | XD}, **without_xd)


def test_what_grants_more_may_fault_once_without_an_invalidation():
    granted = Store(PTE, OLD | OPEN)
    read_only = SMALL | {PTE: OLD | OPEN & ~RW}
    spurious = {ok(OLD), fault(0x7)}
    assert spurious == after(granted, entries=read_only, last=access(WRITE))
    model = model_of(granted, access(WRITE), entries=read_only)
    model.observe(access(WRITE), PageFault(0x7, 0))
    assert {ok(OLD)} == {option[:3] for option in model.allowed(access(WRITE))}


def test_without_its_rule_a_page_fault_may_come_again():
    granted, write = Store(PTE, OLD | OPEN), access(WRITE)
    model = model_of(granted, write, entries=SMALL | {PTE: OLD | P | US | A}, without={Rule.FAULT})
    model.observe(write, PageFault(0x7, 0))
    assert {ok(OLD), fault(0x7)} == {option[:3] for option in model.allowed(write)}


def test_a_page_fault_leaves_other_pages_and_global_entries_of_other_pcids():
    two = SMALL | {PTE + 8: OLD + 0x1000 | OPEN}
    gone, beside = Store(PDE, 0), access(va=0x1000)
    model = model_of(beside, gone, access(), beside, entries=two)
    assert {fault(0x4)} == {option[:3] for option in model.allowed(access())}
    assert {fault(0x4), ok(OLD + 0x1000)} == {option[:3] for option in model.allowed(beside)}


def test_a_page_that_changes_its_size_may_be_seen_in_either():
    split = Store(PDE, 0x4000 | OPEN)
    assert {ok(0x40_0000), ok(OLD)} == after(split, entries=LARGE | {PTE: OLD | OPEN})
    grown = Store(PDE, 0x40_0000 | OPEN | PS)
    assert {ok(0x40_0000), ok(OLD)} == after(grown)
    assert {ok(0x40_0000)} == after(grown, Invlpg(0))


@pytest.mark.parametrize("place", [PML4E, PDPTE, PDE])
def test_a_changed_upper_entry_may_still_be_used_and_leads_to_changed_lower_ones(place):
    # What it led to is changed as well, later: the old upper entry leads to the new page.
    upper, lower = Store(place, 0), Store(PTE, NEW | OPEN)
    assert {fault(0x4), ok(OLD)} == after(upper)
    assert {fault(0x4), ok(OLD), ok(NEW)} == after(upper, lower)


def test_rights_of_upper_levels_are_cached_with_them():
    denied = Store(PML4E, 0x2000 | OPEN & ~US)
    assert {ok(OLD), fault(0x5)} == after(denied)
    assert {fault(0x5)} == after(denied, Invlpg(0))


def test_another_root_is_walked_from_its_own_entries():
    entries = SMALL | OTHER | {0xA000: 0x7000 | OPEN}
    assert {ok(NEW)} == after(access(), MovCr3(0xA000), entries=entries)
    assert {ok(NEW)} == after(access(), MovCr3(0xA000), MovCr3(0xA000), entries=entries)
    shared = entries | {PTE: OLD | OPEN | G}
    assert {ok(OLD), ok(NEW)} == after(access(), MovCr3(0xA000), entries=shared)


CLEAN = SMALL | {PTE: OLD | OPEN & ~D}


def test_a_write_through_a_clean_entry_walks_anew():
    moved = Store(PTE, NEW | OPEN & ~D)
    assert {ok(NEW)} == after(moved, entries=CLEAN, last=access(WRITE))
    assert {ok(OLD), ok(NEW)} == after(moved, entries=CLEAN, last=access(READ))
    assert {ok(OLD), ok(NEW)} == after(MOVED, last=access(WRITE))
    without = {Rule.CLEAN}
    assert {ok(OLD), ok(NEW)} == after(moved, entries=CLEAN, last=access(WRITE), without=without)


@pytest.mark.parametrize(
    ("step", "registers", "rule", "kind", "cpl", "before", "now"),
    [
        (MovCr0(0x8000_0033), {}, Rule.WP, WRITE, 0, fault(0x3), ok(OLD)),
        (MovCr0(0x8001_0033), {"cr0": 0x8000_0033}, Rule.WP, WRITE, 0, ok(OLD), fault(0x3)),
        (MovCr4(int(CR4_ON | CR4.SMAP)), {}, Rule.SMAP, READ, 0, ok(OLD), fault(0x1)),
        (MovCr4(int(CR4_ON | CR4.PKE)), {"pkru": 4}, Rule.PKE, READ, 3, ok(OLD), fault(0x25)),
        (Wrpkru(4), {"cr4": int(CR4_ON | CR4.PKE)}, Rule.PKRU, READ, 3, ok(OLD), fault(0x25)),
    ],
    ids=["WP cleared", "WP set", "SMAP", "PKE", "PKRU"],
)
def test_control_registers_count_at_the_access(step, registers, rule, kind, cpl, before, now):
    entries = SMALL | {PTE: OLD | P | US | A | KEY1}
    last = access(kind, cpl)
    assert {now} == after(access(), step, entries=entries, last=last, **registers)
    both = after(access(), step, entries=entries, last=last, without={rule}, **registers)
    assert {before, now} == both


def test_a_key_is_cached_with_the_page():
    keys = {"cr4": int(CR4_ON | CR4.PKE), "pkru": 4}
    keyed = SMALL | {PTE: OLD | OPEN | KEY1}
    opened = Store(PTE, OLD | OPEN)
    assert {ok(OLD), fault(0x25)} == after(opened, entries=keyed, **keys)
    assert {ok(OLD)} == after(opened, Invlpg(0), entries=keyed, **keys)


def explained(model, last, seen):
    return model.explains(last, model.allowed(last), seen) is not None


def test_a_walk_sets_a_and_d_and_a_cached_translation_need_not():
    bare = {pa: word & ~(A | D) for pa, word in SMALL.items()}
    marked = tuple((pa, word | A) for pa, word in sorted(bare.items()))
    model = model_of(access(), entries=bare)
    assert explained(model, access(), Translation(OLD, entries=marked))
    assert not explained(model, access(), Translation(OLD, entries=marked[1:]))
    assert not explained(model, access(), Translation(OLD))
    dirty = (*marked[:3], (PTE, bare[PTE] | A | D))
    assert not explained(model, access(), Translation(OLD, entries=dirty))
    assert explained(model, access(WRITE), Translation(OLD, entries=dirty))
    assert not explained(model, access(WRITE), Translation(OLD, entries=marked))
    # Cleared in memory, while the translation is cached: nothing has to be set again…
    model = model_of(access(), Store(PTE, SMALL[PTE] & ~(A | D)), access())
    assert explained(model, access(), Translation(OLD))
    assert explained(model, access(), Translation(OLD, entries=((PTE, SMALL[PTE] & ~D),)))
    assert explained(model, access(WRITE), Translation(OLD))
    # …until it is invalidated.
    model = model_of(access(), Store(PTE, SMALL[PTE] & ~(A | D)), Invlpg(0), access())
    assert not explained(model, access(), Translation(OLD))
    assert not explained(model, access(WRITE), Translation(OLD))


def test_nothing_else_in_an_entry_may_change():
    model = model_of(access())
    assert not explained(model, access(), Translation(OLD, entries=((PTE, OLD | OPEN | G),)))
    assert not explained(model, access(), Translation(OLD, entries=((PTE, OLD | OPEN & ~A),)))
    assert not explained(model, access(), Translation(OLD, entries=((0x5000, A),)))
    assert not explained(model, access(va=FAR), PageFault(0x4, 0))
    assert not explained(model, access(va=FAR), PageFault(0x6, FAR))
    assert explained(model, access(va=FAR), PageFault(0x4, FAR))


def test_a_cached_upper_entry_needs_its_a_set_no_more():
    # The PDE's A is cleared and the PTE changed: through the cached PDE, the new page is seen.
    cleared = Store(PDE, SMALL[PDE] & ~A)
    model = model_of(access(), cleared, MOVED, access())
    assert explained(model, access(), Translation(NEW))
    model = model_of(access(), cleared, MOVED, Invlpg(0), access())
    assert not explained(model, access(), Translation(NEW))
    assert explained(model, access(), Translation(NEW, entries=((PDE, SMALL[PDE]),)))


def test_a_is_set_by_prefetches_in_what_they_read_since_the_last_access_alone():
    bare = SMALL | {PTE: OLD | OPEN & ~A}
    gone, marked = Store(PDE, 0), PageFault(0x4, 0, ((PTE, OLD | OPEN),))
    # Before the PDE went, a prefetch may have come to the PTE…
    model = model_of(gone, Invlpg(0), access(), entries=bare)
    assert explained(model, access(), marked)
    # …but not after an access that saw nothing of it.
    model.observe(access(), PageFault(0x4, 0))
    assert not explained(model, access(), marked)
    # Nor is it seen any more in a word that was written to since.
    absent = OLD | OPEN & ~A & ~P
    model = model_of(Store(PTE, absent), access(), entries=bare)
    assert not explained(model, access(), PageFault(0x4, 0, ((PTE, absent | A),)))


def test_no_bit_is_ever_cleared():
    two, beside = SMALL | {PTE + 8: NEW | OPEN}, access(va=0x1000)
    model = model_of(beside, access(), entries=two)
    cleared = ((PTE + 8, two[PTE + 8] & ~A),)
    assert not explained(model, access(), Translation(OLD, entries=cleared))


def test_another_page_may_be_cached_through_an_upper_entry_before_a_fault_drops_that():
    beside, late = access(va=0x1000), Store(PTE + 8, NEW | OPEN)
    model = model_of(Store(PDE, 0), late, access(), beside)
    assert {fault(0x4), ok(NEW)} == {option[:3] for option in model.allowed(beside)}


def test_the_fresh_outcome_comes_first_and_is_the_only_one_called_so():
    model = model_of(MOVED, access())
    options = model.allowed(access())
    assert [True, False] == [option.fresh for option in options]
    assert NEW == options[0].pa


def test_five_levels_are_cached_alike():
    five = {0xB000: PML4E | OPEN} | SMALL
    registers = {"cr3": 0xB000, "cr4": int(CR4_ON | CR4.LA57)}
    gone = Store(0xB000, 0)
    assert {ok(OLD), fault(0x4)} == after(gone, entries=five, **registers)
    assert {fault(0x4)} == after(gone, Invlpg(0), entries=five, **registers)
