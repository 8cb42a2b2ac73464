"""Each sentence where it holds, with one entry changed that breaks it, and where none can say."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crosswalk.walker import count_mappings, mappings
from crosswalk.walker.expectations import (
    Outcome,
    judgement,
    parse_expectations,
    take_snapshot,
)
from crosswalk.walker.expectations.sentences import Ability, Privilege
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.symbols import NO_NAMES
from tests.random_tables import address_spaces
from tests.tables import (
    KIB4,
    MIB2,
    OPEN,
    PS,
    RW,
    TOP,
    US,
    USED,
    XD,
    A,
    P,
    PageTables,
    chain,
    context,
)
from tests.walker.expectations.layouts import (
    DATA,
    DATA_PA,
    DIRECT,
    EMPTY,
    NAMES,
    REGISTERS,
    RODATA,
    STACK,
    TEXT,
    TEXT_PA,
    UDATA,
    UPPER,
    UTEXT,
    Plant,
    entry,
    kernel,
    page,
    verdict,
)

HOLDS, BROKEN, UNSAID = Outcome
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outside(tables, va):
    """Let the PDE of an address refer to a table that isn't in memory."""
    tables.entries[tables.entry_pa(va, 2)] = 0x7F00_0000 | OPEN


WRITES_TEXT = page(DIRECT + TEXT_PA, TEXT_PA)
DIRECT_MAP, WRITABLE = '"direct map"', '.data, stacks, "direct map", 0x600000+0x1000'
SENTENCES = [
    (".text is r-x", entry(TEXT + KIB4, add=RW), TEXT),
    ("start is r-x", entry(TEXT, add=XD), TEXT),
    ("handler is r-x for supervisor", entry(TEXT + KIB4, add=RW), TEXT),
    (f"{TEXT:#x}+0x2000 is r-x", entry(TEXT + KIB4, add=RW), TEXT),
    ('"st*" is rw-', entry(STACK, drop=XD), STACK),
    (".text, .rodata never writable", entry(RODATA, add=RW), RODATA),
    ("start, .text never writable", entry(TEXT + KIB4, add=RW), TEXT),
    (".text is --- for user", entry(TEXT + KIB4, add=US), TEXT),
    ("0x400000-0x401000 is r-x for user", entry(UTEXT, add=XD), UTEXT),
    (".rodata never writable", entry(RODATA, add=RW), RODATA),
    (".data never executable by supervisor", entry(DATA, drop=XD), DATA),
    (".data never wx", entry(DATA, drop=XD), DATA),
    (".text never readable by user", entry(TEXT, add=US), TEXT),
    (".text never accessible by user", entry(TEXT, add=US), TEXT),
    ("guard 0x0-0x1000 unmapped", page(0, 0x20_0000), 0),
    ("0x0-0x1000 is unmapped", page(0, 0x20_0000), 0),
    ("all of .text mapped", entry(TEXT + KIB4, drop=P, named=False), TEXT),
    (".data is mapped", entry(DATA, drop=P, named=False), DATA),
    ("stacks surrounded by unmapped", page(STACK - KIB4, 0x20_0000), STACK),
    ("stacks surrounded  by unmapped", page(STACK + 2 * KIB4, 0x20_0000), STACK),
    ("only .text, 0x400000-0x401000 executable", entry(DATA, drop=XD), UDATA),
    ("only .text executable for supervisor", entry(DATA, drop=XD), EMPTY),
    (f"only {WRITABLE} writable", entry(TEXT, add=RW), EMPTY),
    ("no wx", entry(UDATA, drop=XD), EMPTY),
    ("no wx in .data", entry(DATA, drop=XD), DATA),
    ("no user in 0xffff800000000000-", entry(DATA, add=US), EMPTY),
    ("frames of .text never writable", WRITES_TEXT, TEXT),
    ("frames of .text, .rodata never writable by supervisor", WRITES_TEXT, TEXT),
    ("frames of start never wx", WRITES_TEXT, TEXT),
    ("frames never wx", WRITES_TEXT, None),
    ("frames of .data never executable", page(DIRECT + DATA_PA, DATA_PA, P | A), DATA),
    ("tables never writable by user", page(0x70_0000, 0x1000, OPEN | A | XD), None),
    ("tables never executable", page(0x70_0000, 0x2000, P | US | A), None),
    ("at most 2 mappings in 0xffffc90000000000+0x10000", page(STACK - KIB4, 0), STACK),
    ("no reserved bits", entry(TEXT, add=1 << 51), EMPTY),
    ("no reserved bits in .text", entry(TEXT + KIB4, add=1 << 51), TEXT),
    ("no tables outside RAM", Plant(lambda it: outside(it, UTEXT), UTEXT & -MIB2), EMPTY),
    ("no tables outside RAM in .data", Plant(lambda it: outside(it, DATA), DATA), DATA),
    ("no mappings outside RAM", entry(STACK, add=1 << 24), EMPTY),
    ("no mappings outside RAM in .data", entry(DATA, add=1 << 24), DATA),
    ("at most 32 mappings", page(0x70_0000, 0x20_0000), EMPTY),
]
TEXTS = [text for text, *_ in SENTENCES]


def changed(tables):
    """An address space with bit U/S at all levels, so that a leaf's decides."""
    for va in (TEXT, DATA):
        for level in (2, 3, 4):
            tables.change(va, level, add=US)
    return tables


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentence_holds(text):
    assert (HOLDS, "") == (verdict(changed(kernel()), text).outcome, verdict(kernel(), text).reason)


@pytest.mark.parametrize(("text", "plant", "_"), SENTENCES, ids=TEXTS)
def test_one_entry_breaks_it_and_is_named(text, plant, _):
    tables = changed(kernel())
    plant.change(tables)
    found = verdict(tables, text, every=True)
    assert BROKEN == found.outcome
    named = [
        va
        for each in found.evidence
        for va in range(each.range.va, each.range.va + each.range.size, KIB4)
    ] + [each.va for each in found.entries]
    assert plant.va is None or plant.va in named
    assert plant.va is not None or found.reason.endswith("isn't mapped")


@pytest.mark.parametrize(("text", "_", "lost"), SENTENCES, ids=TEXTS)
def test_nothing_is_said_where_tables_lie_outside_memory(text, _, lost):
    tables = kernel()
    doubt = {"doubt_of_all": "other roots are known"}
    if lost is not None:
        doubt = {"complete": False}
        at = tables.entry_pa(lost, 4 if lost == EMPTY else 2)
        tables.entries[at] = 0x7F00_0000 | OPEN
    found = verdict(tables, text, **doubt)
    assert (UNSAID, (), ()) == (found.outcome, found.evidence, found.entries)
    assert "not in memory" in found.reason or "other roots are known" == found.reason
    # Of a whole memory there is nothing else that such an entry could be.
    assert (
        UNSAID != verdict(tables, text).outcome
        or "nothing is mapped" in verdict(tables, text).reason
    )


@pytest.mark.parametrize("text", TEXTS)
def test_a_doubt_about_everything_leaves_nothing_to_say(text):
    found = verdict(kernel(), text, doubt="most entries make no sense")
    assert (UNSAID, "most entries make no sense") == (found.outcome, found.reason)
    found = verdict(kernel(), text, doubt="most entries make no sense", partial=True)
    assert (HOLDS, "partial: most entries make no sense") == (found.outcome, found.reason)


@pytest.mark.parametrize(
    "text",
    [it for it in TEXTS if any(name in it for name in (".", "st*", "start", "stacks", "handler"))],
)
def test_nothing_is_said_of_names_that_nobody_has(text):
    found = verdict(kernel(), text, names=NO_NAMES)
    assert UNSAID == found.outcome
    assert found.reason.startswith("no region, section or symbol ")


def test_a_doubt_about_all_mappings_of_a_frame_is_none_about_a_range():
    doubt = "other roots are known"
    assert HOLDS == verdict(kernel(), ".text is r-x", doubt_of_all=doubt).outcome
    found = verdict(kernel(), "frames of .text never writable", doubt_of_all=doubt)
    assert (UNSAID, doubt) == (found.outcome, found.reason)


@pytest.mark.parametrize(("name", "like"), [(".tex", "; there is .text"), ("?", "")])
def test_names_like_one_that_nobody_has_are_proposed(name, like):
    found = verdict(kernel(), f'"{name}" is r-x')
    assert f"no region, section or symbol {name} is known{like}" == found.reason


@pytest.mark.parametrize(
    "text",
    [
        ".init is r-x",
        ".init never writable",
        "frames of .init never writable",
        ".init unchanged since A",
        ".init surrounded by unmapped",
        "only .init executable",
        ".text, .init is r-x",
    ],
)
def test_nothing_is_said_of_what_is_not_mapped(text):
    earlier = {"A": take_snapshot(kernel().memory, REGISTERS)}
    found = verdict(kernel(), text, earlier=earlier)
    assert (UNSAID, "nothing is mapped in .init") == (found.outcome, found.reason)


def test_what_is_broken_stays_so_where_not_all_can_be_looked_at():
    tables = kernel()
    WRITES_TEXT.change(tables)
    tables.entries[tables.entry_pa(TEXT + MIB2, 2)] = 0x7F00_0000 | OPEN
    text = "frames of .text, .rodata never writable"
    assert BROKEN == verdict(tables, text, complete=False).outcome
    partial = verdict(kernel_without(RODATA), ".text never writable", complete=False, partial=True)
    assert (HOLDS, "") == (partial.outcome, partial.reason)
    partial = verdict(kernel_without(RODATA), "no wx", complete=False, partial=True)
    assert HOLDS == partial.outcome
    assert f"partial: the table for {RODATA:#x} is not in memory" == partial.reason
    tables = kernel().change(DATA, drop=XD)
    found = verdict(tables, "no wx", doubt="most entries make no sense", complete=False)
    assert (BROKEN, 1) == (found.outcome, found.count)


def kernel_without(va):
    """The kernel without the table of these pages."""
    tables = kernel()
    tables.entries[tables.entry_pa(va, 2)] = 0x7F00_0000 | OPEN
    return tables


def test_the_first_ranges_are_named_and_all_on_request():
    tables = kernel()
    for at in range(0, 40, 2):
        tables.map(EMPTY + at * KIB4, at * KIB4, P | A | RW, upper=UPPER)
    few, every = (verdict(tables, "no wx", every=each) for each in (False, True))
    assert (20, 4, True) == (few.count, len(few.evidence), few.more)
    assert (20, 20, False) == (every.count, len(every.evidence), every.more)
    assert few.evidence == every.evidence[:4]
    uncounted = verdict(tables, f"at most 1 mapping in {EMPTY:#x}+0x200000")
    assert (None, 4, True) == (uncounted.count, len(uncounted.evidence), uncounted.more)


def test_so_many_mappings_are_listed_and_no_more(monkeypatch):
    monkeypatch.setattr(judgement, "_FEW", 2)
    monkeypatch.setattr(judgement, "_MANY", 3)
    tables = kernel()
    for at in range(4):
        tables.map(EMPTY + at * MIB2, at * KIB4, P | A | RW, upper=UPPER)
    few, every = (verdict(tables, "no wx", every=each) for each in (False, True))
    assert (4, 2, True) == (few.count, len(few.evidence), few.more)
    assert (4, 3, True) == (every.count, len(every.evidence), every.more)


def test_mappings_that_several_roots_share_are_named_once():
    tables = kernel().change(DATA, drop=XD)
    other = 0x80_0000
    for slot in range(512):
        entry_pa = tables.root + 8 * slot
        if entry_pa in tables.entries:
            tables.entries[other + 8 * slot] = tables.entries[entry_pa]
    both = [context(4, root=root) for root in (tables.root, other)]
    found = verdict(tables, "no wx", contexts=both)
    assert [(2, DATA)] == [(each.roots, each.range.va) for each in found.evidence]
    assert 1 == found.count


def test_of_frames_that_are_both_writers_and_executors_are_named():
    tables = kernel()
    WRITES_TEXT.change(tables)
    found = verdict(tables, "frames of .text never wx")
    assert {DIRECT + TEXT_PA, TEXT} == {each.range.va for each in found.evidence}
    assert "1 frame, the first at 0x100000" == found.reason
    # Of another ability those that have it.
    found = verdict(tables, "frames of .text never writable")
    assert [DIRECT + TEXT_PA] == [each.range.va for each in found.evidence]


@pytest.mark.parametrize(
    ("ability", "flags", "few", "all_of_them"),
    [("writable", (RW | XD,), (0, 1, 2, 3), 8), ("wx", (RW | XD, 0), (0, 1, 8, 9), 16)],
)
def test_of_each_half_of_wx_as_many_mappings_are_named(
    ability, flags, few, all_of_them, monkeypatch
):
    monkeypatch.setattr(judgement, "_FEW", 5)
    tables = kernel()
    # What lies equally far apart would be one range.
    pages = [EMPTY + at * at * KIB4 for at in range(16)]
    for half, bits in enumerate(flags):
        for at in range(8):
            tables.map(pages[8 * half + at], MIB2, P | A | bits, upper=UPPER)
    text = f"frames of {EMPTY:#x}+0x1000 never {ability}"
    some, every = (verdict(tables, text, every=each) for each in (False, True))
    named = [[each.range.va for each in found.evidence] for found in (some, every)]
    assert [pages[at] for at in few] == named[0]
    assert pages[:all_of_them] == named[1]
    assert (True, False) == (some.more, every.more)


def test_mappings_of_the_first_frame_are_named_first():
    tables = kernel()
    pages = [EMPTY + at * at * KIB4 for at in range(8)]
    for at, va in enumerate(pages):
        tables.map(va, MIB2 + at % 2 * MIB2, P | A | RW | XD, upper=UPPER)
    found = verdict(tables, f"frames of {EMPTY:#x}+0x2000 never writable")
    assert pages[::2] == [each.range.va for each in found.evidence]


def test_tables_are_counted_and_where_none_is_in_memory_nothing_is_said():
    tables = kernel()
    for row, table in enumerate((0x1000, 0x2000)):
        tables.map(0x70_0000 + row * KIB4, table, OPEN | A | XD)
    text = "tables never writable by user"
    found = verdict(tables, text)
    assert (BROKEN, "2 tables, the first at 0x1000") == (found.outcome, found.reason)
    found = verdict(tables, text, contexts=context(4, root=0x7F00_0000))
    assert (UNSAID, "no table is in memory") == (found.outcome, found.reason)


def test_entries_are_counted_and_where_no_table_is_in_memory_nothing_is_said():
    tables = kernel().change(TEXT, add=1 << 51).change(DATA, add=1 << 45)
    narrow = context(4, maxphyaddr=45)
    found = verdict(tables, "no reserved bits", contexts=narrow)
    named = [(each.pa, each.va, each.reserved) for each in found.entries]
    assert [
        (tables.entry_pa(TEXT), TEXT, 1 << 51),
        (tables.entry_pa(DATA), DATA, 1 << 45),
    ] == named
    assert (BROKEN, 2, "", False) == (found.outcome, found.count, found.reason, found.more)
    lost = context(4, root=0x7F00_0000)
    found = verdict(tables, "no reserved bits", contexts=lost)
    assert (UNSAID, "no table is in memory") == (found.outcome, found.reason)


def test_reserved_bits_are_broken_in_a_memory_that_lacks_some():
    tables = kernel().change(TEXT, add=1 << 51)
    assert BROKEN == verdict(tables, "no reserved bits", complete=False).outcome


def test_the_first_entries_are_named_and_all_on_request():
    tables = kernel()
    for at in range(6):
        tables.map(EMPTY + at * KIB4, 1 << 24, P | A | RW, upper=UPPER)
    few, every = (verdict(tables, "no mappings outside RAM", every=each) for each in (False, True))
    assert (6, 4, True) == (few.count, len(few.entries), few.more)
    assert (6, 6, False) == (every.count, len(every.entries), every.more)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no tables outside RAM", f"the table for {RODATA:#x} is not in memory"),
        ("no mappings outside RAM", f"the page at {STACK:#x} is not in memory"),
    ],
)
def test_what_is_outside_a_memory_that_may_lack_some_is_no_fault(text, reason):
    tables = kernel_without(RODATA).change(STACK, add=1 << 24)
    found = verdict(tables, text, complete=False)
    assert (UNSAID, reason) == (found.outcome, found.reason)
    found = verdict(tables, text, complete=False, partial=True)
    assert (HOLDS, f"partial: {reason}") == (found.outcome, found.reason)


def test_of_many_frames_the_mappings_of_the_first_are_looked_up(monkeypatch):
    # Every other frame holds a table, and one page maps all of them.
    tables = kernel()
    tables.map(EMPTY, 0, P | A | RW | XD | PS, level=2, upper=UPPER)
    for at in range(8):
        tables._free += KIB4
        tables.map(EMPTY + (1 + at) * MIB2, 0x15_0000, P | A | XD, upper=UPPER)
    monkeypatch.setattr(judgement, "_LOOKED_UP", 1)
    few, every = (verdict(tables, "tables never writable", every=each) for each in (False, True))
    assert (BROKEN, every.reason) == (few.outcome, few.reason)
    assert (2, True) == (len(few.evidence), few.more)
    assert few.evidence == every.evidence[:2]
    assert (True, False) == (len(every.evidence) > 2, every.more)
    # The large page is named once.
    assert 1 == [each.range.va for each in every.evidence].count(EMPTY)


def test_of_one_frames_mappings_the_first_are_folded_and_all_on_request(monkeypatch):
    tables = kernel()
    for at in range(6):
        tables.map(EMPTY + at * KIB4, TEXT_PA, P | A | RW | XD, upper=UPPER)
    monkeypatch.setattr(judgement, "_FEW", 4)
    text = "frames of .text never writable"
    few, every = (verdict(tables, text, every=each).evidence for each in (False, True))
    assert [(EMPTY, 4), (EMPTY, 6)] == [
        (found[0].range.va, found[0].range.count) for found in (few, every)
    ]


def test_one_frame_of_a_large_page_is_told_from_the_others():
    tables = kernel().map(EMPTY, MIB2, P | A | XD | PS, level=2, upper=UPPER)
    inner = f"frames of {EMPTY:#x}+0x200000 never writable"
    assert HOLDS == verdict(tables, inner).outcome
    tables.map(EMPTY + MIB2, MIB2 + 5 * KIB4, P | A | RW | XD, upper=UPPER)
    found = verdict(tables, inner)
    assert (BROKEN, "1 frame, the first at 0x205000") == (found.outcome, found.reason)
    assert [EMPTY + MIB2] == [each.range.va for each in found.evidence]


def test_rights_are_those_that_all_levels_leave():
    tables = kernel().change(TEXT, add=RW).change(TEXT, 2, drop=RW)
    assert HOLDS == verdict(tables, ".text is r-x").outcome
    assert BROKEN == verdict(tables, ".text is r-x", contexts=context(4, wp=False)).outcome


def test_a_page_that_a_range_cuts_belongs_to_it():
    tables = kernel().map(EMPTY, 0, P | A | RW | 1 << 7, level=2, upper=UPPER)
    inside = f"no wx in {EMPTY + 5:#x}+0x1"
    assert BROKEN == verdict(tables, inside).outcome
    assert HOLDS == verdict(tables, f"no wx in {EMPTY + MIB2:#x}+0x1000").outcome
    # Nor is the rest of a large page inside what only part of it is.
    only = f"only {EMPTY:#x}+0x1000, .text, 0x400000-0x401000 executable"
    assert BROKEN == verdict(tables, only).outcome
    whole = f"only {EMPTY:#x}+0x200000, .text, 0x400000-0x401000 executable"
    assert HOLDS == verdict(tables, whole).outcome


def test_what_a_target_holds_of_another_is_inside_both():
    tables = kernel().change(RODATA, drop=XD)
    only = f"only {TEXT:#x}+0x300000, handler, 0x400000-0x401000 executable"
    assert HOLDS == verdict(tables, only).outcome
    count = f"at most 3 mappings in {TEXT:#x}+0x300000, handler"
    assert HOLDS == verdict(tables, count).outcome


def test_of_more_mappings_than_could_be_listed_the_first_are_named():
    memory = chain(4, USED)
    subject = judgement.Subject(memory, context(4), NAMES)
    text = "no wx\nno user in 0xffff800000000000-\nguard 0x0-0x1000 unmapped\nframes never wx\n"
    text += "at most 68719476736 mappings\nall of 0x0-0x800000000000 mapped\n"
    found = judgement.judge(subject, parse_expectations(text, "test"))
    assert [BROKEN] * 4 + [HOLDS] * 2 == [each.outcome for each in found]
    assert [512**4, 512**4 // 2, 1] == [each.count for each in found[:3]]
    assert all(each.evidence for each in found[:4])


NOWHERE = {
    4: ("0x800000000000-0xffff7fffffffffff", "0xffff80000000000+0x1000"),
    5: ("0x100000000000000-0xff00000000000000",),
    "PAE": ("0x100000000-", "0xffff800000000000-"),
    "32-bit": ("0x100000000", "0xffff800000000000-"),
}
ABOUT = (
    "guard {} unmapped",
    "{} is unmapped",
    "no user in {}",
    "no wx in {}",
    "at most 1 mapping in {}",
    "{} is r-x",
    "{} is mapped",
    "{} surrounded by unmapped",
    "frames of {} never writable",
    "only {} executable",
    "0x0-0x1000, {} is unmapped",
    "{} unchanged since A",
)


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("mode", NOWHERE)
def test_nothing_is_said_of_addresses_that_the_mode_does_not_have(mode, about):
    tables = PageTables(mode, ram=((0, 1 << 24),)).map(0x40_0000, 0x20_0000, P)
    asked = context(tables.mode, root=tables.root)
    earlier = {"A": take_snapshot(tables.memory, asked)}
    for there in NOWHERE[mode]:
        found = verdict(tables, about.format(there), contexts=asked, earlier=earlier)
        reason = f"{there} has no address that {asked.mode.value} paging translates"
        assert (UNSAID, reason) == (found.outcome, found.reason)
    # A range that has some is judged by those.
    assert HOLDS == verdict(tables, "no user in 0x500000-", contexts=asked).outcome


@st.composite
def claims(draw):
    """Address spaces, a range, an ability and a privilege."""
    memory, contexts = draw(address_spaces())
    assume(0 < sum(count_mappings(memory, contexts).values()) < 80)
    every = [it for each in contexts for it in mappings(memory, each)]
    page = draw(st.sampled_from(every))
    start = draw(st.sampled_from([0, page.va, page.va + page.size - 1]))
    end = draw(st.sampled_from([start + 1, page.va + page.size, TOP]))
    privilege = draw(st.sampled_from([None, *Privilege]))
    return memory, contexts, (start, end), draw(st.sampled_from([*Ability])), privilege


LETTERS = {Ability.READABLE: "r", Ability.WRITABLE: "w", Ability.EXECUTABLE: "x"}


def able(rights, ability, privilege):
    """Whether rights allow it, by their letters."""
    texts = {Privilege.SUPERVISOR: rights.supervisor, Privilege.USER: rights.user}
    chosen = [text for whose, text in texts.items() if privilege in {None, whose}]
    if ability is Ability.WX:
        return any("w" in text and "x" in text for text in chosen)
    if ability is Ability.ACCESSIBLE:
        return any(text != "---" for text in chosen)
    return any(LETTERS[ability] in text for text in chosen)


def wrong_of(every, frames, ability, privilege):
    """Whether mappings let something happen to some of the frames; of WX all of one frame's."""
    halves = [ability]
    if ability is Ability.WX:
        halves = [Ability.WRITABLE, Ability.EXECUTABLE]
    chosen = [privilege] if privilege else [*Privilege]
    for whose in chosen:
        left = frames
        for half in halves:
            able_to = [it for it in every if able(it.rights, half, whose)]
            left = [
                (max(lo, it.pa), min(hi, it.pa + it.size))
                for lo, hi in left
                for it in able_to
                if max(lo, it.pa) < min(hi, it.pa + it.size)
            ]
        if left:
            return True
    return False


def require_as_listed(claim):
    memory, contexts, (start, end), ability, privilege = claim
    by = f" by {privilege}" if privilege else ""
    about = judgement.Subject(memory, contexts, NO_NAMES)
    there = f"{start:#x}-{end:#x}"
    text = f"{there} never {ability}{by}\nframes of {there} never {ability}{by}\n"
    text += f"only {there} {ability}{by}\ntables never {ability}{by}"
    found = [each.outcome for each in judgement.judge(about, parse_expectations(text, "test"))]
    every = [it for each in contexts for it in mappings(memory, each)]
    inside = [it for it in every if it.va < end and it.va + it.size > start]
    if not inside:
        assert [UNSAID] * 3 == found[:3]
        return
    assert (
        BROKEN if any(able(it.rights, ability, privilege) for it in inside) else HOLDS
    ) == found[0]
    low, high = start & -KIB4, -(-end // KIB4) * KIB4
    there = [(it.pa + max(low - it.va, 0), it.pa + min(high - it.va, it.size)) for it in inside]
    assert (BROKEN if wrong_of(every, there, ability, privilege) else HOLDS) == found[1]
    tables = [(pa, pa + KIB4) for pa in table_frames(memory, contexts).tolist()]
    assert (BROKEN if wrong_of(every, tables, ability, privilege) else HOLDS) == found[3]
    outside = any(
        able(it.rights, ability, privilege) and (it.va < low or it.va + it.size > high)
        for it in every
    )
    assert (BROKEN if outside else HOLDS) == found[2]


@given(claims())
@QUICK
def test_verdicts_are_those_of_a_list_of_all_mappings(claim):
    require_as_listed(claim)


def test_a_verdict_that_forgets_a_privilege_is_noticed(monkeypatch):
    tables = kernel()
    claim = tables.memory, [context(4)], (UDATA, UDATA + KIB4), Ability.WRITABLE, Privilege.USER
    require_as_listed(claim)
    monkeypatch.setattr(judgement, "rule_of", lambda *_: np.arange(64) & 2 == 2)
    monkeypatch.setattr(judgement, "_bits", lambda *_: judgement.Rights(2))
    with pytest.raises(AssertionError):
        require_as_listed(claim)
