"""Tables with an encryption mask: the emulated CPU has none, and the probe takes it off."""

from dataclasses import replace

import pytest

from crosswalk.emu.probe import Prober
from crosswalk.emu.probe.workspace import Workspace
from crosswalk.walker.columns import Accesses
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import PageFault
from tests.emu.accesses import every, execute, observe, probe, read, write
from tests.emu.composites import composite, make, ok
from tests.tables import OPEN, ROOT, PageTables, context

VA = 0x40_0000
C_BIT = 1 << 47


def masked(builder, mask=C_BIT):
    """The memory of these tables with the mask in each entry."""
    return SparseWords(builder.ram, {pa: word | mask for pa, word in builder.words.items()})


@pytest.mark.parametrize("mask", [C_BIT, 1 << 51, 0x3F << 46, 1 << 39])
@pytest.mark.parametrize("levels", [4, 5])
def test_pages_are_reached_without_the_mask_and_words_reported_with_it(levels, mask):
    builder = PageTables(levels).map(VA, 0x8000)
    asked = context(levels, root=ROOT | mask, maxphyaddr=52, encryption_mask=mask)
    found = observe(masked(builder, mask), asked, write(VA + 5), read(VA, 3), execute(VA), read(0))
    assert [0x8005, 0x8000, 0x8000] == [each.pa for each in found[:3]]
    used = {pa: word | mask | 0x20 for pa, word in builder.words.items()}
    assert used | {builder.entry_pa(VA, 1): 0x8000 | mask | OPEN | 0x60} == dict(found[0].entries)
    assert used == dict(found[1].entries)
    assert PageFault(0, 0) == replace(found[3], entries=())


def test_without_the_mask_in_the_context_the_bit_is_reserved_or_too_wide():
    builder = PageTables().map(VA, 0x8000)
    prober = Prober(masked(builder), context(root=ROOT, maxphyaddr=47))
    (found,) = probe(prober, read(VA))
    assert PageFault(9, VA) == replace(found, entries=())
    prober = Prober(masked(builder), context(root=ROOT, maxphyaddr=48))
    assert [4] == prober.lacking(Accesses.of([read(VA)])).tolist()


def test_entries_with_and_without_the_bit_lead_to_the_same_page():
    builder = PageTables().map(VA, 0x8000).map(VA + 0x1000, 0x8000 | C_BIT)
    asked = context(maxphyaddr=48, encryption_mask=C_BIT)
    found = observe(builder.memory, asked, *every(VA), *every(VA + 0x1000))
    assert [0x8000] * 12 == [each.pa for each in found]


def test_pae_tables_with_a_mask():
    tables = PageTables("PAE").map(VA, 0x9000)
    words = {pa: word | C_BIT for pa, word in tables.words.items() if word}
    asked = context("PAE", maxphyaddr=48, encryption_mask=C_BIT)
    (found,) = observe(SparseWords(tables.ram, words), asked, write(VA))
    assert 0x9000 == found.pa
    assert {0x9000 | C_BIT | OPEN | 0x60} < {value for _, value in found.entries}


def test_composites_tell_words_with_the_mask():
    builder = PageTables().map(VA, 0x8000).map(VA + 0x1000, 0x9000)
    asked = context(root=ROOT | C_BIT, maxphyaddr=48, encryption_mask=C_BIT)
    found = make(
        masked(builder), asked, composite("rmw:xadd", VA), composite("cross:write", VA + 0xFFC)
    )
    used = {pa: word | C_BIT | 0x20 for pa, word in builder.words.items() if pa < 0x4000}
    leaves = {
        builder.entry_pa(VA, 1): 0x8067 | C_BIT,
        builder.entry_pa(VA + 0x1000, 1): 0x9067 | C_BIT,
    }
    assert ok(0x8000) == found[0][0][0]
    assert used | dict(list(leaves.items())[:1]) == found[0][1]
    assert 0x8FFC == found[1][0][0][1]
    assert used | leaves == found[1][1]


def test_a_mask_that_stays_in_the_tables_is_seen(monkeypatch):
    builder = PageTables().map(VA, 0x8000)
    asked = context(root=ROOT | C_BIT, maxphyaddr=48, encryption_mask=C_BIT)
    (right,) = probe(Prober(masked(builder), asked), write(VA))
    monkeypatch.setattr(Workspace, "with_mask", lambda _self, _pa, value: value)
    (wrong,) = probe(Prober(masked(builder), asked), write(VA))
    assert right != wrong
