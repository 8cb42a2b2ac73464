"""Many address spaces in one run: what comes out is what comes out of each alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.probe import ProbeError, ProberCache, many, shared_memory, shared_trampoline
from crosswalk.emu.probe.many import TOGETHER, ManyProber
from crosswalk.emu.probe.mixed_loop import COMPARE, MIXED_CODE, NEXT
from crosswalk.emu.testing.strategies import layouts
from crosswalk.guest.assembler import assemble
from crosswalk.walker import SparseWords
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import open_source
from tests.emu.accesses import columns, every, execute, read, write
from tests.tables import OPEN, PS, RW, US, XD, A, D, G, P, PageTables, context

CASES = sorted((Path(__file__).parents[2] / "cases").rglob("*.json"))
VA = 0x40_0000
PROBER, TOGETHER_PROBER = ProberCache(), ManyProber()


def alone(case):
    """What the emulated CPU lacks, and the outcomes or the error, of a case by itself."""
    memory, control, accesses = case
    try:
        prober = PROBER.prober(memory, control)
        lacking = prober.lacking(accesses)
        return lacking.tolist(), columns(prober.probe(accesses.take(lacking == 0)))
    except CrosswalkError as error:
        return [0] * len(accesses), str(error)


def said(observation):
    made = observation.made
    found = str(made) if isinstance(made, CrosswalkError) else columns(made)
    return observation.lacking.tolist(), found


def together(cases, prober=TOGETHER_PROBER):
    """What was observed of the cases, and how the accesses were made."""
    prober.made.clear()
    found = [said(each) for each in prober.probe(cases)]
    return found, dict(prober.made)


def drawn(layout):
    return layout.memory(), layout.context, layout.accesses


def built(tables, *accesses, cr3=0, cr4=0, **control):
    """A case, with these bits of CR3 and CR4 besides."""
    memory, registers = SparseWords([(0, 1 << 26)], tables.words), context(tables.mode, **control)
    registers = replace(registers, cr3=registers.cr3 | cr3, cr4=registers.cr4 | cr4)
    return memory, registers, Accesses.of(accesses)


def differing(count=8):
    """Cases that have all but one entry in common: the pages differ, and every other one's rights.

    Of accesses to one page, all leave marks but those that fault.
    """
    rights = [OPEN, P | US | XD, OPEN | G, P | RW]
    return [
        built(
            PageTables().map(VA, 0x8000 + 0x1000 * at, rights[at % 4]),
            *every(VA),
            *every(VA + 0x123),
            read(VA + 0x1000),
            cr4=1 << 7,  # PGE
        )
        for at in range(count)
    ]


def case_files():
    for path in CASES:
        try:
            case = open_source(str(path)).case
        except BadInput:
            continue  # Composites and sequences, and files that are refused.
        if case is not None and case.probes and path.stem != "linux-6.1-4level":
            accesses = Accesses.of([each.asked for each in case.probes])
            yield case.memory(), case.context(), accesses


def test_case_files_come_out_as_each_alone():
    cases = list(case_files())
    assert len(cases) > 20
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert {"alone: not in IA-32e mode", TOGETHER} <= set(made)


@settings(max_examples=25, deadline=None)
@given(st.lists(layouts(), min_size=2, max_size=6))
def test_drawn_layouts_come_out_as_each_alone(several):
    cases = [drawn(layout) for layout in several]
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert {TOGETHER} == set(made)


def test_layouts_of_a_campaign_come_out_as_each_alone():
    cases = [drawn(generate(11, index, accesses=120)) for index in range(24)]
    assert {4, 5} == {control.levels for _, control, _ in cases}
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert made[TOGETHER] > 1000


@pytest.mark.parametrize("mode", [4, 5, "32-bit", "PAE"])
def test_in_each_mode(mode):
    cases = [
        built(PageTables(mode).map(VA, 0x8000 + 0x1000 * at), *every(VA), write(VA + 0x1000))
        for at in range(3)
    ]
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    kinds = [Kind.OK] * 6 + [Kind.PAGE_FAULT]
    assert [kinds] * 3 == [outcomes["kind"] for _, outcomes in found]
    assert [[0x8000 + 0x1000 * at] * 6 for at in range(3)] == [
        outcomes["pa"][:6] for _, outcomes in found
    ]
    assert [TOGETHER if mode in (4, 5) else "alone: not in IA-32e mode"] == list(made)


def test_cases_with_the_same_addresses_keep_their_own_pages_rights_and_marks():
    cases = differing()
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert {TOGETHER: 13 * 8} == made
    assert [0x8000 + 0x1000 * at for at in range(8)] == [each["pa"][0] for _, each in found]
    # Of a user's write: a page that isn't the user's, one that is read-only, and ones that may be.
    assert [0, 7, 0, 7] == [each["error_code"][4] for _, each in found[:4]]
    leaf = [each["entry_value"][1][3] for _, each in found[::2]]
    assert [0x8000 + 0x2000 * at | OPEN | A | D | G * (at % 2) for at in range(4)] == leaf


def test_control_registers_are_those_of_each_case():
    tables = PageTables().map(VA, 0x8000, P | US).map(VA + 0x1000, 0x9000, OPEN | 5 << 59)
    asked = (write(VA), read(VA), execute(VA), read(VA, ac=True), read(VA + 0x1000, 3))
    controls = (
        {},
        {"wp": False},
        {"smap": True},
        {"smep": True},
        {"smep": True, "smap": True, "wp": False},
        {"pke": True, "pkru": 1 << 10},
        {"pke": True, "pkru": 0xFFFF_FFFF},
        {"nxe": False},
    )
    cases = [built(tables, *asked, **control) for control in controls * 2]
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    codes = [outcomes["error_code"] for _, outcomes in found[:7]]
    assert [3, 0, 0, 0, 0] == codes[0]
    assert [0] * 5 == codes[1]
    assert [3, 1, 0, 0, 0] == codes[2]
    assert [3, 0, 17, 0, 0] == codes[3]
    assert 0x25 == codes[5][4] == codes[6][4]
    assert 5 * 16 == sum(made.values())


def test_a_recursive_table_is_read_written_and_restored():
    tables = PageTables().map(VA, 0x8000)
    tables.words[0x1000 + 8 * 300] = 0x1000 | OPEN
    root = 0xFFFF << 48 | sum(300 << shift for shift in (39, 30, 21, 12))
    cases = [built(tables, *every(root), *every(root + 8 * 300), *every(VA))] * 3
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert {TOGETHER: 54} == made


def test_a_slot_that_all_roots_use_isnt_lent_to_accesses_through_it():
    words = {0x1000 + 8 * slot: 0x2000 | OPEN for slot in range(512)}
    words[0x2000] = OPEN | PS  # A page of 1 GiB.
    asked = [read((0xFFFF << 48 if slot > 255 else 0) | slot << 39) for slot in range(512)]
    case = SparseWords([(0, 1 << 26)], words), context(), Accesses.of(asked)
    found, made = together([case])
    assert [alone(case)] == found
    assert [Kind.OK] * 512 == found[0][1]["kind"]
    assert {TOGETHER: 512} == made


def test_a_case_that_cant_be_asked_is_an_error_of_its_own():
    good = built(PageTables().map(VA, 0x8000), read(VA))
    nowhere = good[0], context(root=1 << 30), good[2]
    found = TOGETHER_PROBER.probe([good, nowhere, good])
    assert said(found[0]) == said(found[2]) == alone(good)
    assert isinstance(found[1].made, BadInput)
    with pytest.raises(BadInput, match="no RAM"):
        found[1].outcomes  # noqa: B018  # To be read is to be told.


def test_what_the_emulated_cpu_lacks_is_told_for_each_access():
    lam = built(PageTables().map(VA, 0x8000), read(VA), read(VA | 1 << 60), cr3=1 << 62)
    (found,) = TOGETHER_PROBER.probe([lam])
    assert alone(lam) == said(found)
    assert [False, True] == [each > 0 for each in found.lacking.tolist()]


def test_a_case_that_uses_none_of_what_the_emulated_cpu_lacks_is_made_with_others():
    memory, control, accesses = built(PageTables().map(VA, 0x8000), *every(VA))
    wide = PageTables().map(VA, 1 << 41)
    cases = [
        (memory, replace(control, maxphyaddr=46), accesses),
        (SparseWords([(0, 1 << 26)], wide.words), replace(control, maxphyaddr=46), accesses),
        (memory, replace(control, cr4=control.cr4 | 1 << 28), accesses),  # LAM_SUP
    ]
    found, made = together(cases)
    assert [alone(case) for case in cases] == found
    assert {TOGETHER: 12, "alone: a feature that the emulated CPU lacks": 6} == made


def test_a_system_without_the_address_space_has_each_made_alone(monkeypatch):
    def none(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(shared_memory, "_Whole", none)
    cases = differing(3)
    found, made = together(cases, ManyProber())
    assert [alone(case) for case in cases] == found
    assert TOGETHER not in made
    assert 39 == sum(made.values())


def test_no_more_is_put_side_by_side_than_fits(monkeypatch):
    monkeypatch.setattr(many, "_MAX_ROWS", 30)
    monkeypatch.setattr(shared_memory, "CAPACITY", 7)
    cases = differing()
    found, made = together(cases, ManyProber())
    assert [alone(case) for case in cases] == found
    assert {TOGETHER: 13 * 8} == made


def test_memory_is_given_back_and_what_runs_is_still_there(monkeypatch):
    monkeypatch.setattr(shared_memory, "_TOUCHED", 3)
    prober = ManyProber()
    for _ in range(3):
        found, made = together(differing(3), prober)
        assert [alone(case) for case in differing(3)] == found
        assert {TOGETHER: 39} == made


# What follows breaks the runs: none of it may pass for an outcome.


def broken(monkeypatch, old, new):
    """A prober whose guest code has other instructions of the same length."""
    assert 1 == MIXED_CODE.count(old)
    assert len(old) == len(new)
    monkeypatch.setattr(shared_trampoline, "MIXED_CODE", MIXED_CODE.replace(old, new))
    return ManyProber()


def code(text):
    return assemble("planted", text, bits=64, address=0, symbols={})


@pytest.mark.parametrize(
    "left_out",
    [
        code("mov cr3, rax"),
        code("mov cr0, rax"),
        code("mov cr4, rdi"),
        code("wrmsr"),
        code("wrpkru"),
    ],
)
def test_a_control_register_that_isnt_switched_decides_nothing(monkeypatch, left_out):
    prober = broken(monkeypatch, left_out, b"\x90" * len(left_out))
    tables = PageTables().map(VA, 0x8000, P | US)
    cases = [
        built(tables, *every(VA), wp=wp, smep=wp, nxe=wp, pke=not wp, pkru=1 << 2)
        for wp in (True, False)
    ]
    found, made = together(cases, prober)
    assert [alone(case) for case in cases] == found
    assert TOGETHER not in made or made[TOGETHER] < 12
    assert made["alone: a shared run can't decide it"] > 0


def test_marks_that_arent_looked_at_decide_nothing(monkeypatch):
    skipped = code(f"jmp {NEXT - COMPARE:#x}")
    at = MIXED_CODE[COMPARE:]
    prober = broken(monkeypatch, at[:32], (skipped + at)[:32])
    found, made = together(differing(), prober)
    assert [alone(case) for case in differing()] == found
    assert {"alone: a shared run can't decide it": 13 * 8} == made


def test_a_tlb_that_isnt_emptied_shows(monkeypatch):
    prober = broken(monkeypatch, code("invlpg [rbx]"), b"\x90" * 3)
    found, _ = together(differing(), prober)
    # Marks are set by the first access to a page alone: equality is what notices.
    assert [alone(case) for case in differing()] != found


def test_a_neighbours_page_decides_nothing(monkeypatch):
    moved = shared_memory.moved

    def strays(entries, by):
        """Leave the last entry of all, a leaf of the last case, where it was: in the first."""
        found = moved(entries, by)
        if entries.ndim == 1:
            found[-1] = entries[-1]
        return found

    monkeypatch.setattr(shared_memory, "moved", strays)
    found, made = together(differing(), ManyProber())
    assert [alone(case) for case in differing()] == found
    assert made["alone: a shared run can't decide it"] > 0


def test_a_neighbours_tables_decide_nothing(monkeypatch):
    class Rotated(shared_memory._Spaces):
        @classmethod
        def of(cls, *given):
            found = super().of(*given)
            found.control[:, 0] = np.roll(found.control[:, 0], 1)
            return found

    monkeypatch.setattr(shared_memory, "_Spaces", Rotated)
    cases = [*differing(3), built(PageTables(), *every(VA))]
    found, made = together(cases, ManyProber())
    assert [alone(case) for case in cases] == found
    assert {"alone: a shared run can't decide it": 45} == made


def test_an_engine_that_gives_no_outcome_is_an_error_of_that_case(monkeypatch):
    def fails(*_, **__):
        raise ProbeError("no outcome")

    prober = ManyProber()
    monkeypatch.setattr("crosswalk.emu.probe.prober.Prober.probe", fails)
    legacy = built(PageTables("PAE").map(VA, 0x8000), read(VA))
    good = built(PageTables().map(VA, 0x8000), read(VA))
    first, second = prober.probe([legacy, good])
    assert isinstance(first.made, ProbeError)
    assert [0x8000] == second.outcomes.pa.tolist()
