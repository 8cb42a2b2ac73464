import numpy as np
import pytest

from crosswalk.emu.findings.layout import IntendedKind, case_layout, layout_case
from crosswalk.emu.fuzz.generate import generate
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, dump_case, parse_case


@pytest.mark.parametrize("index", range(8))
def test_a_layout_comes_back_from_its_case_file(index):
    layout = generate(3, index, accesses=64)
    case = layout_case(layout)
    again = case_layout(parse_case(dump_case(case), "case"))
    assert layout.context == again.context
    assert layout.ram == again.ram
    for column in ("va", "type", "cpl", "ac"):
        assert np.array_equal(getattr(layout.accesses, column), getattr(again.accesses, column))
    used = layout.words.any(axis=1)
    assert layout.frames[used].tolist() == again.frames.tolist()
    assert np.array_equal(layout.words[used], again.words)
    assert {IntendedKind.UNKNOWN} == {IntendedKind(each) for each in again.intended.kind.tolist()}


def test_both_translate_alike():
    layout = generate(3, 5, accesses=256)
    again = case_layout(layout_case(layout))
    ours, theirs = (
        translate_many(each.memory(), each.context, each.accesses) for each in (layout, again)
    )
    assert ours.kind.tobytes() == theirs.kind.tobytes()
    assert ours.pa.tobytes() == theirs.pa.tobytes()
    assert len(set(ours.kind.tolist())) > 1


def test_rows_choose_probes_and_leave_all_entries():
    layout = generate(3, 1, accesses=64)
    whole, some, none = (
        layout_case(layout, rows=rows) for rows in (slice(None), slice(3, 5), slice(0))
    )
    assert whole.entries == some.entries == none.entries
    assert (whole.probes[3:5], ()) == (some.probes, none.probes)


def test_a_case_without_paging_is_bad_input():
    with pytest.raises(BadInput, match="paging is off"):
        case_layout(Case(cpu=Cpu(cr3=0x1000, cr0=0x11), ram=((0, 0x2000),)))
