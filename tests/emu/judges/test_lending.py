"""Slots lent to the runner are apart from all that accesses come across."""

import numpy as np

from crosswalk.emu.judges.lending import use_of
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.paths import format_of
from crosswalk.walker.context import CR4, PagingContext

ROOT, NOWHERE = 0x1000, (1 << 64) - 8


def slots_used(context, entry):
    form = format_of(Control.of(context))
    entries, targets = np.array([[entry]], np.uint64), np.array([[NOWHERE]], np.uint64)
    return sorted(use_of(form, ROOT, entries, targets).slot.tolist())


def test_both_entries_of_a_word_are_used_in_32_bit_paging():
    narrow = PagingContext(cr3=ROOT, cr4=int(CR4.PSE), efer=0)
    assert [1022, 1023] == slots_used(narrow, ROOT + 4 * 1022)
    assert [1022, 1023] == slots_used(narrow, ROOT + 4 * 1023)


def test_an_entry_is_a_word_in_4_level_paging():
    assert [510] == slots_used(PagingContext(cr3=ROOT), ROOT + 8 * 510)
