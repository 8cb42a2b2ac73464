"""`nested_outcomes` under EPT against a naive processor, and against paging alone."""

from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crosswalk.walker.nested.ept as entries_under_test
import crosswalk.walker.nested.translate as walk_under_test
import crosswalk.walker.nested.violations as under_test
from crosswalk.walker import (
    Access,
    AccessType,
    PageFault,
    SparseWords,
    Translation,
    Vendor,
    translate,
)
from crosswalk.walker.nested import (
    EptCapability,
    EptContext,
    EptMisconfiguration,
    EptViolation,
    NestedContext,
    nested_outcomes,
    translate_nested,
)
from crosswalk.walker.protection.policy import Use
from tests.ept_tables import ACCESSED, ALL, DIRTY, WB, XU, EptTables, R, W, X
from tests.random_tables import random_tables
from tests.tables import GIB1, KIB4, MIB2, OPEN, RW, US, USED, XD, A, D, P, PageTables, context
from tests.walker.naive_ept import Processor

POOL = 1 << 36
EVERY = EptCapability(sum(EptCapability))
KINDS = st.sampled_from(AccessType)
RIGHTS = (ALL, ALL, ALL, R, R | W, R | X, R | X | XU, R | XU, X, XU, X | XU, R | W | X, W, 0)


def numbers(outcome):
    match outcome:
        case Translation():
            return ("ok", outcome.pa, outcome.entries)
        case EptViolation():
            told = outcome.qualification & ~outcome.open, outcome.open
            return ("violation", *told, outcome.gpa, outcome.gla, outcome.entries)
        case EptMisconfiguration():
            return ("misconfiguration", outcome.gpa, outcome.entries)
        case PageFault():
            return ("fault", outcome.error_code, outcome.cr2, outcome.entries)
        case _:
            return ("general protection",)


def plain(expected):
    """The same without the values of bits that are undefined."""
    if expected[0] == "violation":
        what, told, undefined, *rest = expected
        return (what, told & ~undefined, undefined, *rest)
    return expected


def both(case):
    words, ram, guest, ept, access = case
    memory = SparseWords(ram, words)
    said = nested_outcomes(memory, NestedContext(guest, ept), access)
    naive = Processor(words, ram, guest, ept)
    expected = naive.run(access.va, access.type, access.cpl, access.ac)
    return [numbers(each) for each in said], [plain(each) for each in expected]


def ept_of(frames, permissions, levels=4):
    """An EPT that maps 4 GiB as they are, some frames with these permissions, all else openly.

    Pages are of 1 GiB, of 2 MiB or of 4 KiB, as near as they are to one of the frames.
    """
    ept = EptTables(levels, POOL)
    for frame, flags in zip(frames, permissions, strict=False):
        ept.map(frame, frame, flags | WB)
    for level, size in ((3, GIB1), (2, MIB2), (1, KIB4)):
        starts = {frame // (512 * size) * 512 * size for frame in frames}
        for gpa in [0, *range(GIB1, 4 * GIB1, GIB1)] if level == 3 else sorted(starts):
            for at in range(gpa, gpa + (size if level == 3 else 512 * size), size):
                if ept.entry_pa(at, level) not in ept.entries:
                    ept.map(at, at, level=level)
    return ept


@st.composite
def spaces(draw):
    """A random guest under an EPT with random rights, in which some bits are flipped."""
    tables = draw(random_tables(modes=(4, 5)))
    frames = (*tables.frames, 0x3000, 0x20_0000, 0x4000_0000)
    permissions = draw(st.lists(st.sampled_from(RIGHTS), min_size=8, max_size=8))
    ept = ept_of(frames, permissions, draw(st.sampled_from((4, 4, 5))))
    flips = draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 63)), max_size=3))
    words = dict(ept.entries)
    used = sorted(words)
    for which, bit in flips:
        words[used[which % len(used)]] ^= 1 << bit
    capabilities = draw(st.sampled_from((EVERY, EVERY, EVERY & ~EptCapability.EXECUTE_ONLY)))
    for lacking in (EptCapability.PAGE_2M, EptCapability.PAGE_1G, EptCapability.ADVANCED):
        if draw(st.integers(0, 5)) == 5:
            capabilities &= ~lacking
    maxphyaddr = draw(st.sampled_from((40, 46, 52)))
    host = EptContext.at(
        POOL,
        levels=ept.levels,
        accessed_dirty=draw(st.booleans()),
        mbec=draw(st.booleans()),
        maxphyaddr=maxphyaddr,
        capabilities=capabilities,
    )
    guest = replace(tables.context, vendor=Vendor.INTEL, maxphyaddr=maxphyaddr)
    va = tables.address(draw(st.integers(0, 2**40)))
    cpl, ac = draw(st.sampled_from((0, 3))), draw(st.booleans())
    ram = [*tables.ram, (POOL, 64 * KIB4)]
    return words | tables.words, ram, guest, host, Access(va, draw(KINDS), cpl, ac)


@settings(max_examples=400)
@given(spaces())
def test_a_guest_under_random_ept_ends_in_what_a_naive_processor_may_end_in(case):
    said, expected = both(case)
    assert expected == said


@settings(max_examples=100)
@given(random_tables(modes=(4, 5)), st.integers(0, 2**40), KINDS, st.sampled_from((0, 3)))
def test_under_an_ept_of_all_rights_a_guest_translates_as_alone(tables, number, kind, cpl):
    ept = EptTables(5, POOL)
    for gib in range(4):
        ept.map(gib * GIB1, gib * GIB1, level=3)
    memory = SparseWords([*tables.ram, (POOL, 8 * KIB4)], ept.entries | tables.words)
    guest = replace(tables.context, vendor=Vendor.INTEL, maxphyaddr=52)
    host = EptContext.at(POOL, levels=5, maxphyaddr=52)
    access = Access(tables.address(number), kind, cpl)
    said = translate_nested(memory, NestedContext(guest, host), access)
    if isinstance(said, EptViolation):
        # Only what lies above the 4 GiB that are mapped.
        assert said.gpa >> 32
        return
    assert translate(memory, guest, access) == said


@cache
def examples():
    """A few hundred accesses to guests whose tables and pages are granted this and that."""
    random = Random(23)
    return [planned(random) for _ in range(900)]


def planned(random):
    levels = random.choice((4, 5))
    guest = PageTables(levels)
    vas = [0x1000, 0x20_1000, 0x40_0000_1000, 0xFFFF_8000_0000_1000]
    for at, va in enumerate(vas):
        used = random.choice((0, A, A | D))
        flags = random.choice((OPEN, OPEN, OPEN, P | RW, P | US, OPEN | XD, OPEN | 1 << 59, 0))
        guest.map(va, 0x8_0000 + at * KIB4, flags | used, upper=random.choice((OPEN, USED)))
    pages = [0x8_0000 + at * KIB4 for at in range(4)]
    frames = [*pages, random.randrange(1, 16) * KIB4, random.randrange(1, 16) * KIB4]
    ept = ept_of(frames, [random.choice(RIGHTS) for _ in frames])
    for gpa in frames:
        ept.change(gpa, add=random.choice((0, 0, 0, ACCESSED, ACCESSED | DIRTY)))
        if random.random() < 0.04:
            ept.change(gpa, drop=7 << 3, add=random.choice((1, 2, 3, 5, 7)) << 3)
    if random.random() < 0.3:
        ept.change(0, random.choice((2, 3, 4)), drop=random.choice((W, X, XU, W | X, X | XU)))
    words = dict(ept.entries)
    if random.random() < 0.3:
        at = ept.entry_pa(random.choice(frames), random.choice((1, 1, 2, 3, 4)))
        words[at] ^= 1 << random.randrange(64)
    registers = context(
        levels,
        **{name: random.random() < 0.5 for name in ("wp", "smep", "smap", "pke")},
        nxe=random.random() < 0.8,
        pkru=random.getrandbits(32),
    )
    host = EptContext.at(
        POOL,
        accessed_dirty=random.random() < 0.5,
        mbec=random.random() < 0.5,
        capabilities=EVERY & ~random.choice((EptCapability(0), *EptCapability))
        | EptCapability.LENGTH_4
        | EptCapability.WB
        | EptCapability.ACCESSED_DIRTY,
    )
    va = random.choice([*vas, *vas, *vas, 1 << 60]) + random.randrange(KIB4)
    access = Access(
        va, AccessType(random.randrange(3)), random.choice((0, 3)), random.random() < 0.5
    )
    return words | guest.words, [(0, 1 << 20), (POOL, 64 * KIB4)], registers, host, access


def without_update_faults(monkeypatch):
    monkeypatch.setattr(under_test.Ept, "update_fault", lambda *_: None)


def by_cpl(monkeypatch):
    """MBEC by the privilege level of the access, not by U/S of the page."""
    real = under_test.Ept.page_fault

    def page_fault(self, path, access, grant):
        user = grant | 2 if access.cpl == 3 else grant & ~2
        return real(self, path, access, user)

    monkeypatch.setattr(under_test.Ept, "page_fault", page_fault)


def written_tables(*, always):
    """Tables are read as if EPTP bit 6 were set, or clear."""

    def plant(monkeypatch):
        real = under_test.Ept.table_fault

        def table_fault(self, path, va):
            eptp = self.context.eptp & ~(1 << 6) | always << 6
            return real(replace(self, context=replace(self.context, eptp=eptp)), path, va)

        monkeypatch.setattr(under_test.Ept, "table_fault", table_fault)

    return plant


def without_marks(monkeypatch):
    monkeypatch.setattr(under_test.Ept, "accessed", property(lambda _: 0))


def always_marked(monkeypatch):
    monkeypatch.setattr(under_test.Ept, "accessed", property(lambda _: 0x100))


def not_dirty(monkeypatch):
    monkeypatch.setattr(under_test.Ept, "dirty", property(lambda _: 0))


def execute_is_both(monkeypatch):
    """XU has no say."""
    monkeypatch.setattr(under_test, "_executes", lambda _: Use.SUPERVISOR_EXECUTE)


def misconfigurations(of):
    def plant(monkeypatch):
        real = entries_under_test.misconfigured

        def misconfigured(*arguments):
            found = real(*arguments)
            return None if found is of else found

        monkeypatch.setattr(entries_under_test, "misconfigured", misconfigured)

    return plant


def present_by_three_bits(monkeypatch):
    monkeypatch.setattr(entries_under_test, "ept_present_bits", lambda _: 7)


def the_last_entry_alone(monkeypatch):
    real = under_test.ept_uses_of
    monkeypatch.setattr(
        under_test,
        "ept_uses_of",
        lambda context, path: real(context, replace(path, steps=path.steps[-1:])),
    )


def qualification_without(bits):
    def plant(monkeypatch):
        real = under_test.EptViolation
        monkeypatch.setattr(
            under_test,
            "EptViolation",
            lambda code, *rest, **open_: real(code & ~bits, *rest, **open_),
        )

    return plant


def page_before_the_guest(monkeypatch):
    real = walk_under_test.judge

    def judge(context, access, path):
        return real(replace(context, cr0=context.cr0 & ~(1 << 16)), access, path)

    monkeypatch.setattr(walk_under_test, "judge", judge)


PLANTED = {
    "A and D set where EPT allows no writing": without_update_faults,
    "MBEC by CPL": by_cpl,
    "guest tables always written": written_tables(always=True),
    "guest tables never written": written_tables(always=False),
    "no A in EPT": without_marks,
    "A in EPT without EPTP bit 6": always_marked,
    "no D in EPT": not_dirty,
    "XU ignored": execute_is_both,
    "writable and unreadable taken": misconfigurations(entries_under_test.Misconfigured.WRITE_ONLY),
    "execute-only taken without the capability": misconfigurations(
        entries_under_test.Misconfigured.EXECUTE_ONLY
    ),
    "reserved bits taken": misconfigurations(entries_under_test.Misconfigured.RESERVED),
    "memory types taken": misconfigurations(entries_under_test.Misconfigured.MEMORY_TYPE),
    "XU alone isn't present": present_by_three_bits,
    "rights of the last entry alone": the_last_entry_alone,
    **{f"bit {bit} missing": qualification_without(1 << bit) for bit in range(12)},
    "the guest's WP ignored": page_before_the_guest,
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug, monkeypatch):
    cases = examples()
    PLANTED[bug](monkeypatch)
    assert any(said != expected for said, expected in map(both, cases))


def test_the_examples_agree_and_meet_every_outcome():
    kinds, several = set(), 0
    for case in examples():
        said, expected = both(case)
        assert expected == said
        several += len(said) > 1
        stage = said[0][1] >> 8 & 1 if said[0][0] == "violation" else 0
        kinds.add((said[0][0], stage))
    guests = {("ok", 0), ("fault", 0), ("general protection", 0), ("misconfiguration", 0)}
    assert guests | {("violation", 0), ("violation", 1)} == kinds
    assert several > 20
