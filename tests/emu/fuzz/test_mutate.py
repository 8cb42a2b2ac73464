import sys

import numpy as np
import pytest

from crosswalk.emu.findings.findings import WALKER
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import base_of, mutate
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.walker import bulk
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import Case, Cpu, dump_case, load_case
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.translate import walk
from tests.emu.case_files import LINUX_CASE
from tests.emu.check.planting import without_code
from tests.tables import GIB1, OPEN, PS, RW, P, PageTables, context

SEED = 7


@pytest.fixture(scope="module")
def linux():
    case = load_case(LINUX_CASE)
    return base_of(case.memory(), case.context())


def columns(layout):
    asked = layout.accesses
    return [layout.words, asked.va, asked.type, asked.cpl, asked.ac, layout.context]


def test_equal_seeds_give_equal_layouts_and_others_give_others(linux):
    one, same, other = (mutate(linux, SEED, index) for index in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(columns(one), columns(same), strict=True))
    assert not np.array_equal(one.words, other.words)


def test_every_table_is_where_a_walk_meets_it(linux):
    case = load_case(LINUX_CASE)
    memory, control = case.memory(), case.context()
    held = linux.frames[(linux.words != 0).any(1)].tolist()
    assert sorted({pa & -4096 for pa in case.entries}) == held
    assert len(linux.frames) > len(held) > 40  # Some are empty.
    for frame, level, va in zip(linux.frames.tolist(), linux.level, linux.va, strict=True):
        extended = int(va) | (0xFFFF << 48 if int(va) >> 47 & 1 else 0)
        tables = {step.level: step.pa & -4096 for step in walk(memory, control, extended).steps}
        assert frame == tables[int(level)]


def test_a_few_words_are_changed_and_the_accesses_go_through_them(linux):
    case = load_case(LINUX_CASE)
    memory = case.memory()
    for index in range(6):
        layout = mutate(linux, SEED, index)
        rows, at = np.nonzero(layout.words != linux.words)
        assert 0 < len(rows) <= 64
        changed = {
            int(linux.frames[row]) + 8 * int(column) for row, column in zip(rows, at, strict=True)
        }
        met = {
            step.pa
            for va in np.unique(layout.accesses.va).tolist()
            for step in walk(memory, linux.context, va).steps
        }
        # Through the tables as they were: what a change cuts off lies behind it.
        assert len(changed - met) <= len(changed) // 2
        assert len(layout.accesses) > 100


def test_all_kinds_of_accesses_are_made_and_no_two_are_the_same(linux):
    asked = mutate(linux, SEED, 0).accesses
    kinds = set(zip(asked.type.tolist(), asked.cpl.tolist(), asked.ac.tolist(), strict=True))
    assert 12 == len(kinds)
    rows = list(zip(asked.va, asked.type, asked.cpl, asked.ac, strict=True))
    assert len(rows) == len(set(rows))


def test_control_bits_are_changed_in_some_layouts_and_kept_in_others(linux):
    contexts = {mutate(linux, SEED, index, accesses=16).context for index in range(60)}
    assert linux.context in contexts
    for name in ("wp", "nxe", "smep", "smap", "pke"):
        assert {False, True} == {getattr(each, name) for each in contexts}
    assert {linux.context.levels} == {each.levels for each in contexts}


def test_changed_tables_of_linux_are_as_the_cpu_has_them(linux):
    executor = Executor()
    attempts = [executor.run(lambda index=index: mutate(linux, SEED, index)) for index in range(4)]
    assert [0] * 4 == [each.divergent for each in attempts]
    assert min(each.probes for each in attempts) > 100


def test_a_bug_of_the_walker_is_found_from_real_tables(linux):
    def predict(memory, control, accesses):
        outcomes = translate_many(memory, control, accesses)
        outcomes.error_code[:] = without_code(8)(outcomes, accesses)["error_code"]
        return outcomes

    # Reserved bits: the real tables have none set, so that only a change can show it.
    executor = Executor(predict)
    found = [
        finding
        for index in range(12)
        for finding in executor.run(lambda index=index: mutate(linux, SEED, index)).findings
    ]
    assert found


def test_tables_used_at_two_places_and_cycles_come_to_an_end():
    builder = PageTables(ram=((0, 0x100000),)).map(0x40_0000, 0x8000, P | RW)
    words = dict(builder.words) | {
        0x1000 + 8 * 511: 0x1003,
        0x1000 + 8 * 300: builder.words[0x1000],
    }
    base = base_of(SparseWords(builder.ram, words), context())
    assert {4, 3, 2, 1} == set(base.level.tolist())
    assert len(mutate(base, 1, 1, accesses=64).accesses) > 10


def test_too_many_tables_are_refused(linux, monkeypatch):
    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["crosswalk.emu.fuzz.generate.mutate"], "MAX_TABLES", 10)
    case = load_case(LINUX_CASE)
    with pytest.raises(LimitExceeded, match="tables; a layout starts from 10"):
        base_of(case.memory(), case.context())


def test_a_plan_makes_layouts_of_its_source_whatever_has_been_seen(linux):
    plan = Plan(seed=SEED, source=str(LINUX_CASE))
    layout = plan.layout(3, b"")
    assert np.array_equal(mutate(linux, SEED, 3).words, layout.words)
    assert None is Plan(seed=SEED).tables
    assert plan.tables == Plan(seed=SEED + 1, source=str(LINUX_CASE)).tables is not None


def kernel_at_3_gib(mode):
    """The tables of a small kernel: user pages below, itself at 3 GiB, in pages of both sizes."""
    root = 0x1020 if mode == "PAE" else 0x1000
    tables = PageTables(mode, root=root, ram=((0x1000, 0x2_0000), (0x40_0000, 0x40_0000)))
    tables.map(0, 0x9000).map(0x1000, 0xA000, P | OPEN).map(3 * GIB1, 0xB000, P | RW)
    size = 22 if mode == "32-bit" else 21
    tables.map(3 * GIB1 + (1 << size), 1 << 22, P | RW | PS, level=2)
    return base_of(SparseWords(tables.ram, tables.words), context(mode, root=root))


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_tables_of_legacy_modes_are_where_walks_meet_them(mode):
    kernel = kernel_at_3_gib(mode)
    levels = [2, 1, 1] if mode == "32-bit" else [3, 2, 1, 2, 1]
    assert levels == kernel.level.tolist()
    memory = SparseWords.of_tables(kernel.ram, kernel.frames, kernel.words)
    for frame, level, va in zip(kernel.frames.tolist(), kernel.level, kernel.va, strict=True):
        tables = {
            step.level: step.pa & -4096 for step in walk(memory, kernel.context, int(va)).steps
        }
        assert frame == tables[int(level)]
    assert {0, 3 * GIB1} <= set(kernel.va.tolist())
    assert len(kernel.used) == (6 if mode == "32-bit" else 8)


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_accesses_reach_all_pages_of_a_kernel_at_3_gib_and_all_witnesses_agree(mode):
    kernel, executor = kernel_at_3_gib(mode), Executor()
    pages, sizes, probes = set(), set(), 0
    for index in range(24):
        layout = mutate(kernel, SEED, index, accesses=512)
        tried = executor.run(lambda layout=layout: layout)
        assert () == tried.findings
        probes += tried.probes
        pages |= {va >> 12 for va in layout.accesses.va.tolist()}
        outcomes = translate_many(layout.memory(), layout.context, layout.accesses)
        sizes |= set(outcomes.page_size.tolist())
        assert {context(mode).mode} == {layout.context.mode}
    assert {0, 1, 3 * GIB1 >> 12} <= pages
    assert {0, 1 << 12, 1 << (22 if mode == "32-bit" else 21)} == sizes
    assert probes > 5000


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        ("32-bit", "addresses_4mib", lambda entries: entries & np.uint64(0xFFC0_0000)),
        ("32-bit", "reserved_bits", lambda *_, **__: 0),
        ("PAE", "reserved_bits", lambda *_, **__: 0),
    ],
)
def test_a_bug_in_a_legacy_mode_is_found_from_a_kernel(mode, name, value, monkeypatch):
    kernel, executor = kernel_at_3_gib(mode), Executor()
    monkeypatch.setattr(bulk, name, value)
    found = [
        finding.signature.witness
        for index in range(48)
        for finding in executor.run(
            lambda index=index: mutate(kernel, SEED, index, accesses=512)
        ).findings
    ]
    assert WALKER in found


def test_a_source_in_a_mode_that_is_not_chosen_is_refused(tmp_path):
    tables = PageTables("32-bit").map(0, 0x8000)
    path = tmp_path / "small.json"
    path.write_bytes(dump_case(Case(
        cpu=Cpu.from_context(context("32-bit")), ram=tables.ram, entries=tables.words, probes=(),
    )))  # fmt: skip
    Plan(source=str(path), choice=LayoutChoice((PagingMode.BIT32,))).open_source()
    with pytest.raises(BadInput, match="is in 32-bit paging, which isn't chosen"):
        Plan(source=str(path), choice=LayoutChoice((PagingMode.PAE,))).open_source()
