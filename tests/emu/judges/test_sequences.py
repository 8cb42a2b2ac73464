"""Sequences put to machines: what is right is allowed, what is planted isn't."""

from dataclasses import replace
from itertools import islice

import pytest

from crosswalk.emu.check.judged import Status, sequence_verdict
from crosswalk.emu.judges.answers import Answered
from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.judges.sequences import CompiledSequence, wish_of_sequence
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.guest.boot import image
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.tlb import Sequence, load_sequence
from crosswalk.walker.tlb.steps import Invlpg, Invpcid, MovCr3, MovCr4, Store, Wrpkru
from tests.emu.case_files import KNOWN_SEQUENCE_FILES
from tests.emu.judges.runners import judge_of, planted

KNOWN = {path.stem: load_sequence(path) for path in sorted(KNOWN_SEQUENCE_FILES.glob("*.json"))}
P, RW, US, XD, G = 1, 2, 4, 1 << 63, 0x100
ROOT, PDPT, PD, PT, OTHER, PAGE, NEXT = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x20_0000, 0x20_1000
CONTEXT = PagingContext(cr0=0x8001_0033, cr3=ROOT, cr4=0x4000A0, efer=0xD00, pkru=0b1100)
TABLES = {ROOT: PDPT | 7, PDPT: PD | 7, PD: PT | 7, PT: PAGE | 7, OTHER: PDPT | 7}
RAM = ((0, 1 << 30),)
READ, WRITE, FETCH = AccessType


def sequence(*steps, context=CONTEXT, **words):
    return Sequence(context=context, ram=RAM, entries=TABLES | words.pop("words", {}), steps=steps)


AGAIN = tuple(Access(0, kind, cpl) for kind in AccessType for cpl in (0, 3))
SEQUENCES = {
    "invlpg": sequence(*AGAIN, Store(PT, NEXT | 7), Invlpg(0), *AGAIN),
    "another root": sequence(
        Access(0, READ), Store(PT, NEXT | 7), MovCr3(OTHER), Access(0, READ), MovCr3(ROOT), *AGAIN
    ),
    "global": sequence(
        *(Access(0, READ), Store(PT, NEXT | 7), MovCr4(0x400020), Access(0, READ)),
        words={PT: PAGE | 7 | G},
    ),
    "keys": sequence(
        *(Access(0, READ, 3), Wrpkru(0), Access(0, READ, 3), Wrpkru(0b1100), Access(0, WRITE, 3)),
        words={PT: PAGE | 7 | 1 << 59},
    ),
    "rights": sequence(
        *(Access(0, WRITE, 3), Store(PT, PAGE | P | XD), Invlpg(0)),
        *(Access(0, kind, cpl) for kind in (FETCH, WRITE, READ) for cpl in (0, 3)),
    ),
}


def put(machine, *sequences, who="qemu"):
    answers = BootedJudge(machine).sequences(sequences)
    return [sequence_verdict(*each, who) for each in zip(sequences, answers, strict=True)]


def sample(stride):
    return [
        section.make(named)
        for section in SEQUENCE_SECTIONS
        for named in islice(section.combinations({}), 0, None, stride)
    ]


def test_machines_answer_sequences_as_caching_allows(qemu):
    several = [*SEQUENCES.values(), *sample(999)]
    found = put(open_machine(qemu), *several)
    assert [Status.AGREED] * len(SEQUENCES) == [each.status for each in found[: len(SEQUENCES)]]
    assert not [each for each in found if each.status.wrong or each.status is Status.LOST]
    assert {"the CPU has no PCIDs"} == {each.detail for each in found if not each.status.answered}
    agreed = [each.judged for each in found if each.status is Status.AGREED]
    assert sum(each.stale for each in agreed)
    assert sum(each.fresh for each in agreed)


def test_qemu_shows_the_departures_that_take_sequences_to_see(qemu):
    found = put(open_machine(qemu), *(each.sequence for each in KNOWN.values()))
    keys = zip(KNOWN, found, strict=True)
    assert {
        "fault-keeps-tlb": Status.KNOWN,
        "invlpg-large-keeps-fetch": Status.KNOWN,
        "pke-change-keeps-rights": Status.KNOWN,
        "invpcid-undefined": Status.NOT_SHOWN,
        "pcide-cleared-keeps-tlb": Status.NOT_SHOWN,
        "cr3-bit-63-under-la57": Status.NOT_SHOWN,
    } == {name: each.status for name, each in keys}
    assert all(each.detail == name for name, each in zip(KNOWN, found, strict=True) if each.judged)


# Of the sources: what is there, what is there instead, and the sequence that is asked.
PLANTED = {
    "INVLPG does nothing": ("runner_accesses.s", "invlpg [rdi]", "nop", "invlpg"),
    "CR3 isn't moved": ("runner_accesses.s", "mov cr3, rax", "nop", "another root"),
    "CR4 isn't moved": ("runner_accesses.s", "mov cr4, rax", "nop", "global"),
    "PKRU isn't written": ("runner_accesses.s", "wrpkru", "nop", "keys"),
    "nothing is stored": (
        *("runner_accesses.s", "store:\n    mov [rdi], rax", "store:\n    nop"),
        "rights",
    ),
    "words are looked at below": (
        *("runner.s", "    mov rdx, [rbx + rdi]\n    mov dword ptr [rbx + r14], NO_VECTOR"),
        "    mov rdx, [rbx + rdi - 8]\n    mov dword ptr [rbx + r14], NO_VECTOR",
        "invlpg",
    ),
    "CR2 is that of the page before": (
        *("runner_traps.s", "    mov rax, cr2\n", "    mov rax, cr2\n    sub rax, 0x1000\n"),
        "rights",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_in_the_runner_diverges(qemu, name, monkeypatch):
    source, line, instead, which = PLANTED[name]
    monkeypatch.setattr(image, "_code", lambda: planted(source, line, instead))
    (answer,) = judge_of(open_machine(qemu)).sequences([SEQUENCES[which]])
    assert Status.DIVERGED is sequence_verdict(SEQUENCES[which], answer, "qemu").status


def refusal(some, ram=((0, 1 << 32),)):
    return next(iter(CompiledSequence(some, Ram(ram), None).refused.reasons), None)


def test_what_cannot_be_asked_is_refused_by_name():
    read = Access(0, READ)
    assert None is refusal(sequence(read))
    assert Reason(
        Unjudged.NOT_EXPORTABLE, "an access of a sequence that isn't at a multiple of 8"
    ) == refusal(sequence(Access(1, READ)))
    assert Reason(Unjudged.NOT_EXPORTABLE, "a sequence that may reach a paging structure") == (
        refusal(sequence(read, Store(PT, PT | 7), read))
    )
    assert Reason(Unjudged.NOT_EXPORTABLE, "CR3 points to no RAM of the case") == (
        refusal(sequence(read, MovCr3(1 << 35), read))
    )
    no_ram = Reason(Unjudged.NOT_SHOWN, "no RAM where the access may lead")
    assert no_ram == refusal(sequence(read), ram=((0, PAGE),))


def test_a_sequence_that_the_cpu_met_could_not_run_is_not_shown():
    wide = replace(CONTEXT, maxphyaddr=52)
    some = replace(
        sequence(Access(0, READ), MovCr3(1 << 45), context=wide),
        ram=((0, 1 << 30), (1 << 45, 4096)),
    )
    compiled = CompiledSequence(some, Ram(None), None)
    judged = compiled.judged(CONTEXT, [Answered() for _ in compiled.parts])
    assert wide == judged.context
    assert Unjudged.NOT_SHOWN is judged.answer.kind


def test_an_entry_of_the_past_leads_to_pages_that_are_signed():
    # A cached PDE leads to the table from before, whose entry has changed since.
    some = sequence(
        Access(0, READ), Store(PD, OTHER | 7), Store(PT, NEXT | 7), words={OTHER: 0x20_2000 | 7}
    )
    compiled = CompiledSequence(some, Ram(((0, 1 << 32),)), None)
    assert (PAGE, NEXT, 0x20_2000) == compiled._plan.pages


def test_a_sequence_wants_a_cpu_with_all_that_it_comes_to_use():
    some = sequence(Access(0, READ), MovCr4(0x4200A0), Invpcid(2))
    assert {"pcid", "invpcid"} <= wish_of_sequence(some).features


@pytest.mark.slow
def test_bochs_has_none_of_the_departures_of_sequences(bochs):
    for name in bochs:
        found = put(open_machine(name), *(each.sequence for each in KNOWN.values()), who="bochs")
        answered = [each for each in found if each.status is not Status.NOT_SHOWN]
        assert {Status.AGREED} == {each.status for each in answered}
        assert len(KNOWN) - 1 <= len(answered)  # Bochs 2.7 has no 5-level paging.


@pytest.mark.slow
def test_each_bochs_answers_sequences_as_caching_allows(bochs):
    several = [*SEQUENCES.values(), *sample(1999)]
    for name in bochs:
        found = put(open_machine(name), *several, who="bochs")
        assert not [each for each in found if each.status.wrong]
        with_pcid = [each for each in found if each.sequence.context.cr4 & 1 << 17]
        assert any(each.status is Status.AGREED for each in with_pcid)
