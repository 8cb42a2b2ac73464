"""Composites put to machines: what is right is allowed, what is planted isn't."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from crosswalk.emu.check.judged import Status, composite_verdicts
from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.emu.judges.composites import CompiledComposites
from crosswalk.emu.judges.judge import Unjudged
from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.probe.composites import FORMS, NAMES, Composites, Family
from crosswalk.emu.report.composites import load_composite
from crosswalk.guest.boot import image
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from tests.emu.case_files import COMPOSITE_CASES
from tests.emu.composites import composite
from tests.emu.judges.runners import judge_of, planted

P, RW, US, XD, KEY = 1, 2, 4, 1 << 63, 1 << 59
WP, SMAP, PKE, LA57 = 1 << 16, 1 << 21, 1 << 22, 1 << 12
ROOT, PDPT, PD, PT, ABOVE = 0x10_1000, 0x10_2000, 0x10_3000, 0x10_4000, 0x10_5000
CONTEXT = PagingContext(cr0=0x80010033, cr3=ROOT, cr4=0x20 | PKE, efer=0xD00)
CONTEXTS = (
    CONTEXT,
    replace(CONTEXT, cr4=0x20 | SMAP),
    replace(CONTEXT, cr3=ABOVE, cr4=0x20 | LA57),
)
PAGES = (
    *(0x20_0000 | 7, 0x20_1000 | 7, 0x20_2000 | P | US, 0x20_3000 | 7 | XD, 0x20_4000 | P | RW),
    *(0, 0x20_6000 | 7 | KEY, 0x20_7000 | 7, 0x20_7000 | 7, 0x20_8000 | RW | US),
)
TWO = 1 << 2  # PKRU that denies reads and writes with key 1.


def memory():
    words = {ABOVE: ROOT | 7, ROOT: PDPT | 7, PDPT: PD | 7, PD: PT | 7}
    words |= {PT + 8 * slot: entry for slot, entry in enumerate(PAGES)}
    return SparseWords([(0, 1 << 31)], words)


def asked(context):
    """Each form at each page, by both privileges; of two accesses each pair of these."""
    found = []
    for (name, form), (slot, page) in product(FORMS.items(), enumerate(PAGES)):
        base = slot << 12
        if form.family is Family.TWICE:
            pkrus = (0, TWO) if page & KEY and context.pke else (-1,)
            found += [
                composite(name, base | 0x40, cpl, then=(then, False), pkru=pkru, then_va=then_va)
                for cpl, then, pkru in product((0, 3), (0, 3), pkrus)
                for then_va in {base | 0x40, 0x8040 if slot == 7 else base | 0x40}
            ]
            continue
        shift = {Family.RMW: 0x123, Family.IMPLICIT: 0x108}.get(form.family)
        if shift is None:
            shift = 0xFFA if AccessType.EXECUTE in form.types else 0xFFC
        found += [
            composite(name, base | shift, cpl, ac=ac)
            for cpl, ac in ((0, False), (0, True), (3, False))
        ]
    return Composites.join(found)


def questions():
    return [(memory(), context, asked(context)) for context in CONTEXTS]


def test_machines_answer_composites_as_the_manuals_allow(qemu):
    judged = BootedJudge(open_machine(qemu)).composites(questions())
    found = [
        composite_verdicts(memory(), some, each, "qemu")
        for (_, _, some), each in zip(questions(), judged, strict=True)
    ]
    for each in found:
        assert [] == each.verdicts.rows(Status.DIVERGED)
        assert len(each.composites) == len(each.verdicts.rows(Status.AGREED, Status.KNOWN))
        reached = each.judged.outcomes.kind[:, 0] == 0
        assert set(range(len(NAMES))) == set(each.composites.form[reached].tolist())
    known = {
        detail
        for each in found
        for (status, detail) in each.verdicts.counts()
        if status is Status.KNOWN
    }
    assert {"locked-rmw-reads-first", "implicit-access-honours-ac"} == known


_NEXT = "\n    jmp done\n.align 32\nload_fs"
# Of the sources: what is there, what is there instead, and the form that is asked.
ACCESSES = {
    "half of a store": ("mov [rdi], rax" + _NEXT, "mov [rdi], eax" + _NEXT, "cross:write"),
    "nothing is added": ("lock xadd [rdi], al", "lock or byte ptr [rdi], 0", "rmw:xadd"),
    "something is exchanged": ("lock cmpxchg [rdi], dl", "xchg [rdi], dl", "rmw:cmpxchg"),
    "no descriptor is read": ("mov fs, ax", "mov eax, eax", "implicit:read"),
    "the wrong half is read": ("mov rax, [rdi]\n", "mov rax, [rdi + 8]\n", "cross:read"),
    "PKRU isn't written": ("wrpkru", "nop", "twice:read+read"),
}
PLANTED = {name: ("runner_accesses.s", *change) for name, change in ACCESSES.items()} | {
    "CR2 is that of the page before": (
        *("runner_traps.s", "    mov rax, cr2\n", "    mov rax, cr2\n    sub rax, 0x1000\n"),
        "cross:execute",
    ),
    "the word isn't looked at between two accesses": (
        *("runner.s", "mov [rbx + r14], rdx\nlooked:", "mov [rbx + r14], rbx\nlooked:"),
        "twice:write+write",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_in_the_runner_diverges(qemu, name, monkeypatch):
    source, line, instead, form = PLANTED[name]
    monkeypatch.setattr(image, "_code", lambda: planted(source, line, instead))
    every = asked(CONTEXT)
    some = every.take(np.flatnonzero(every.form == NAMES.index(form)))
    (judged,) = judge_of(open_machine(qemu)).composites([(memory(), CONTEXT, some)])
    assert composite_verdicts(memory(), some, judged, "qemu").verdicts.rows(Status.DIVERGED)


def reasons(some, context=CONTEXT, words=None):
    memory_ = memory() if words is None else SparseWords([(0, 1 << 31)], words)
    return [
        (reason.kind, reason.text)
        for reason in CompiledComposites(
            (memory_, context, some), Ram([(0, 1 << 31)]), None
        ).refused.reasons
    ]


def test_what_cannot_be_asked_is_refused_by_name():
    structure = {PT + 8 * 0: PT | 7}
    words = {ROOT: PDPT | 7, PDPT: PD | 7, PD: PT | 7} | structure
    not_exportable = Unjudged.NOT_EXPORTABLE
    assert [(not_exportable, "a composite of this form can't begin there")] == reasons(
        composite("cross:read", 0x123)
    )
    assert [(not_exportable, "a composite that may reach a paging structure")] == reasons(
        composite("rmw:xadd", 0x123), words=words
    )
    assert [(not_exportable, "a descriptor table at an address that isn't canonical")] == reasons(
        composite("implicit:read", (1 << 47) + 8)
    )
    assert [(not_exportable, "composites are of 4- and 5-level paging")] == reasons(
        composite("rmw:xadd", 0x123), replace(CONTEXT, efer=0)
    )


def known(machine, who):
    """The verdict on each composite that is a known departure's case."""
    cases = [load_composite(path) for path in sorted(COMPOSITE_CASES.glob("*.json"))]
    some = [(each.case.memory(), each.case.context(), each.composite) for each in cases]
    answers = BootedJudge(machine).composites(some)
    return [
        composite_verdicts(space, composites, answer, who).verdicts.of(0)
        for (space, _, composites), answer in zip(some, answers, strict=True)
    ]


IMPLICIT, LOCKED = "implicit-access-honours-ac", "locked-rmw-reads-first"


def test_qemu_shows_the_departures_that_take_composites_to_see(qemu):
    assert [(Status.KNOWN, IMPLICIT), (Status.KNOWN, LOCKED)] == known(open_machine(qemu), "qemu")


@pytest.mark.slow
def test_qemu_with_two_processors_locks_as_the_manuals_say(qemu):
    several = open_machine(qemu.replace("qemu", "qemu-mttcg", 1))
    assert [(Status.KNOWN, IMPLICIT), (Status.AGREED, "")] == known(several, "qemu-mttcg")


@pytest.mark.slow
def test_each_bochs_locks_as_the_manuals_say(bochs):
    for name in bochs:
        found = known(open_machine(name), "bochs")
        assert [(Status.KNOWN, IMPLICIT), (Status.AGREED, "")] == found


@pytest.mark.slow
def test_each_bochs_answers_composites_as_the_manuals_allow(bochs):
    for name in bochs:
        judge = BootedJudge(open_machine(name))
        for (space, _, some), judged in zip(
            questions(), judge.composites(questions()), strict=True
        ):
            found = composite_verdicts(space, some, judged, "bochs").verdicts
            assert [] == found.rows(Status.DIVERGED, Status.ENDED)
            assert np.count_nonzero(judged.why == 0) or judged.reasons
