"""The probe's own reading of the tables, and what catches a mistake in it."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe import workspace as workspaces
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.paths import NO_PAGE, find_paths, find_tables, format_of
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker.memory import SparseWords
from tests.emu.accesses import observe, probe, read, write
from tests.tables import MIB2, OPEN, PS, ROOT, P, PageTables, context

VA = 0x40_0000
FOUR = format_of(Control.of(context()))


def paths_of(builder, *vas):
    space = Space(builder.ram)
    for pa, word in builder.words.items():
        space.words[pa // 8] = word
    form = format_of(Control.of(context(builder.mode)))
    return find_paths(space, form, ROOT, np.array(vas, np.uint64))


@pytest.mark.parametrize("levels", [4, 5])
def test_a_path_names_the_words_from_the_root_down_and_the_page(levels):
    builder = PageTables(levels).map(VA, 0x8000)
    paths = paths_of(builder, VA + 0x123)
    places = [builder.entry_pa(VA, level) for level in range(levels, 0, -1)]
    assert places == paths.pa[0, :levels].tolist()
    assert [pa // 8 for pa in places] + [NOWHERE] * (5 - levels) == paths.index[0].tolist()
    assert [0x8000] == paths.page.tolist()


def test_the_page_of_a_large_leaf_is_the_frame_inside_it():
    builder = PageTables().map(0, 2 * MIB2, OPEN | PS, level=2)
    paths = paths_of(builder, 0x12_3456)
    assert [2 * MIB2 + 0x12_3000] == paths.page.tolist()
    assert [NOWHERE, NOWHERE] == paths.index[0, 3:].tolist()


def test_a_path_ends_where_an_entry_is_not_present_or_a_table_is_not_held():
    builder = PageTables().map(VA, 0x8000)
    builder.words[builder.entry_pa(VA, 2)] &= ~P
    builder.words[ROOT + 8] = 0x8000_0000 | OPEN
    paths = paths_of(builder, VA, 1 << 39)
    assert [[True, True, True, False, False], [True, False, False, False, False]] == (
        paths.index != NOWHERE
    ).tolist()
    assert [NO_PAGE, NO_PAGE] == paths.page.tolist()


def test_tables_are_found_once_each_whatever_leads_to_them():
    words = {ROOT: ROOT | OPEN, ROOT + 8: 0x2000 | OPEN, 0x2000: 0x2000 | OPEN, 0x2008: 0x9000 | 1}
    memory = SparseWords([(0, 0x8000)], words)
    assert [ROOT, 0x2000] == find_tables(memory, FOUR, ROOT).tolist()


def test_what_a_large_leaf_maps_is_no_table_and_what_a_pte_maps_is_none_either():
    builder = PageTables().map(0, MIB2, OPEN | PS, level=2).map(VA, 0x8000)
    found = find_tables(builder.memory, FOUR, ROOT).tolist()
    assert sorted({ROOT, *(word & -4096 for word in builder.words.values())} - {MIB2, 0x8000}) == (
        found
    )


def without(place):
    """`find_paths`, but that it overlooks the word at one place."""

    def broken(*arguments):
        paths = find_paths(*arguments)
        index = paths.index.copy()
        index[:, place] = NOWHERE
        return replace(paths, index=index)

    return broken


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_level_that_was_overlooked_is_an_error_and_no_agreement(monkeypatch, place):
    memory = PageTables().map(VA, 0x8000).memory
    assert 4 == len(observe(memory, context(), write(VA))[0].entries)
    monkeypatch.setattr(workspaces, "find_paths", without(place))
    with pytest.raises(ProbeError, match=r"changed the word at 0x.*, which no walk of the 1 acc"):
        observe(memory, context(), write(VA))


def test_an_overlooked_root_is_an_error_too(monkeypatch):
    memory = PageTables().map(VA, 0x8000).memory
    monkeypatch.setattr(workspaces, "find_paths", without(0))
    with pytest.raises(ProbeError, match="changed the word at 0x"):
        observe(memory, context(), read(VA))


def test_after_such_an_error_the_tables_are_whole_again(monkeypatch):
    asked = Prober(PageTables().map(VA, 0x8000).memory, context())
    with monkeypatch.context() as patch:
        patch.setattr(workspaces, "find_paths", without(2))
        with pytest.raises(ProbeError):
            probe(asked, write(VA))
    (found,) = probe(asked, write(VA))
    assert 4 == len(found.entries)


def test_an_overlooked_page_is_found_all_the_same(monkeypatch):
    # No marker is put there, so that the address is learned in another way.
    monkeypatch.setattr(
        workspaces,
        "find_paths",
        lambda *arguments: replace(
            paths := find_paths(*arguments), page=np.full_like(paths.page, NO_PAGE)
        ),
    )
    memory = PageTables().map(VA, 0x8000).memory
    found = observe(memory, context(), read(VA + 5), write(VA + 6))
    assert [0x8005, 0x8006] == [each.pa for each in found]
