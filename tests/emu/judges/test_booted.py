"""Machines asked through boot images: what is right agrees, what is wrong doesn't, and deaths."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.judges import booted
from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.judge import Interrupted, Question, Reason, Unjudged
from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.machines.machine import Printed
from crosswalk.guest.boot import log
from crosswalk.guest.boot.image import Output, Place, size_bound, size_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, SparseWords

P, RW, US, XD = 1, 2, 4, 1 << 63
CONTEXT = PagingContext(cr0=0x80010033, cr3=0x10_1000, cr4=0x20, efer=0xD00)

PAGES = {
    0: 0x20_0000 | P | RW | US,
    1: 0x20_1000 | P,
    2: 0x20_2000 | P | RW | US | XD,
    3: 0x20_3000 | RW | US,
}
"""Entries of a page table, by slot."""


UPPER = {0x10_1000: 0x10_2000, 0x10_2000: 0x10_3000, 0x10_3000: 0x10_4000}
TABLES = {pa: value | P | RW | US for pa, value in UPPER.items()}
TABLES |= {0x10_4000 + 8 * slot: entry for slot, entry in PAGES.items()}


def question(context=CONTEXT):
    memory = SparseWords([(0, 1 << 31)], TABLES)
    asked = [
        (slot << 12 | 0x123, kind, cpl) for slot in PAGES for kind in AccessType for cpl in (0, 3)
    ]
    va, kind, cpl = (np.array(column) for column in zip(*asked, strict=True))
    accesses = Accesses(
        va.astype(np.uint64), kind.astype(np.uint8), cpl.astype(np.uint8), np.zeros(len(va), bool)
    )
    return Question(memory, context, accesses)


def differing(asked, judged):
    """The rows whose outcome isn't the predicted one, of those with one."""
    predicted = translate_many(asked.memory, judged.context, asked.accesses)
    return np.flatnonzero(~agreements(predicted, judged.outcomes) & (judged.why == 0))


class Around:
    """A machine with something done to what it answers."""

    def __init__(self, machine, change):
        self.name, self.output, self._machine, self._change = (
            "around",
            machine.output,
            machine,
            change,
        )

    version, nothing_from, loads_in = "a machine", None, 10.0

    def heeded(self, wish):
        return self._machine.heeded(wish)

    def boot(self, image, **options):
        return self._change(image, self._machine.boot(image, **options))

    def close(self):
        self._machine.close()


def test_qemu_agrees_with_what_is_predicted(qemu):
    judge = BootedJudge(open_machine(qemu))
    judged = judge.accesses([question(), question(replace(CONTEXT, cr4=0x10_0020))])

    for asked, each in zip(
        [question(), question(replace(CONTEXT, cr4=0x10_0020))], judged, strict=True
    ):
        assert not each.why.any()
        assert {Kind.OK, Kind.PAGE_FAULT} == {Kind(kind) for kind in each.outcomes.kind.tolist()}
        assert [] == differing(asked, each).tolist()
    assert "GenuineIntel of 40 bits" in judge.version


def test_an_answer_that_is_wrong_differs(qemu, monkeypatch):
    real = log._program

    def wrong(words):
        found = real(words)
        (step,) = found.steps
        return replace(found, steps=(replace(step, cr2=step.cr2 ^ 1),))

    monkeypatch.setattr(log, "_program", wrong)
    asked = question()
    (judged,) = BootedJudge(open_machine(qemu)).accesses([asked])

    faults = np.flatnonzero(judged.outcomes.kind == Kind.PAGE_FAULT)
    assert faults.tolist() == differing(asked, judged).tolist()


def cut_at(number):
    """Change a log with programs so that the machine seems to have died at this program."""

    def change(_image, printed):
        found = [record for record in whole_records(printed.data) if record[0] == log.Kind.PROGRAM]
        if len(found) <= number:
            return printed
        return Printed(printed.data[: found[number][1]], "died of SIGABRT")

    return change


def whole_records(data):
    at = 0
    while (record := log._record(data, at)) is not None:
        yield record.kind, at
        at = record.end


def test_a_death_that_does_not_come_again_is_lost_and_the_rest_is_asked(qemu):
    asked = question()
    (judged,) = BootedJudge(Around(open_machine(qemu), cut_at(5))).accesses([asked])

    assert {Unjudged.LOST} == {reason.kind for reason in judged.reasons}
    assert [] == differing(asked, judged).tolist()
    lost = int((judged.why != 0).sum())
    assert 0 < lost < len(asked.accesses) / 2


def test_a_death_that_comes_again_is_a_finding_and_the_rest_is_asked(qemu):
    asked, calls = question(), []

    def change(image, printed):
        calls.append(len(image))
        found = [at for kind, at in whole_records(printed.data) if kind == log.Kind.PROGRAM]
        # The sixth program, in the first boot with programs and alone in the one behind it.
        fatal = {2: 5, 3: 0}.get(len(calls))
        return (
            printed if fatal is None else Printed(printed.data[: found[fatal]], "died of SIGABRT")
        )

    (judged,) = BootedJudge(Around(open_machine(qemu), change)).accesses([asked])

    assert [(Unjudged.ENDED, "the machine died of SIGABRT")] == [
        (reason.kind, reason.text) for reason in judged.reasons
    ]
    assert 1 == int((judged.why != 0).sum())
    assert [] == differing(asked, judged).tolist()


def test_a_machine_that_others_kill_has_no_answers(qemu):
    machine, calls = open_machine(qemu), []

    def change(_image, printed):
        calls.append(printed)
        return printed if len(calls) == 1 else Printed(b"", "was killed", by_others=True)

    (judged,) = BootedJudge(Around(machine, change)).accesses([question()])

    assert {Unjudged.LOST} == {reason.kind for reason in judged.reasons}
    assert judged.why.all()
    assert 1 + booted._TRIES == len(calls)


class Printing:
    """A machine that only says this."""

    name, version, nothing_from, loads_in = "it", "a machine", None, 1.0
    output = Output.SERIAL

    def __init__(self, *printed):
        self._printed, self.boots = Printed(*printed), 0

    def heeded(self, wish):
        return wish

    def boot(self, image, **_options):
        self.boots += 1
        return self._printed


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        ((b"", "ends"), "it: it ended, and printed nothing"),
        ((b"x", "ends"), "it: it ended, and printed 1 byte that is no record of a boot image"),
        (
            (bytes(range(256)) * 5, "died of SIGABRT", False, "x"),
            "it: it died of SIGABRT, and printed 1,280 bytes that are no record of a boot image: x",
        ),
    ],
)
def test_a_machine_without_an_answer_is_told_by_what_it_did(printed, error):
    with pytest.raises(BadInput) as raised:
        BootedJudge(Printing(*printed)).accesses([question()])
    assert error == str(raised.value)


def test_a_machine_killed_before_its_first_answer_has_no_result():
    machine = Printing(b"", "was killed (SIGKILL), by another program", True)
    with pytest.raises(BadInput) as raised:
        BootedJudge(machine).accesses([question()])
    assert (
        f"it: was killed (SIGKILL), by another program, {booted._TRIES} times, before it answered: "
        "no result" == str(raised.value)
    )
    assert booted._TRIES == machine.boots


def test_an_interrupted_machine_keeps_what_it_has_answered(qemu, monkeypatch):
    monkeypatch.setattr(booted, "_LARGEST", 1)  # A boot for each run.
    boots, heard = [], []

    def change(_image, printed):
        boots.append(printed)
        if len(boots) == 3:  # The first is to find out what CPU it is.
            raise KeyboardInterrupt
        return printed

    judge = BootedJudge(Around(open_machine(qemu), change))
    judge.heard = heard.append
    others = replace(CONTEXT, maxphyaddr=36)
    with pytest.raises(Interrupted) as raised:
        judge.accesses([question(), question(), question(others)])
    first, second, third = raised.value.answers
    assert not first.why.any()
    assert [] == differing(question(), first).tolist()
    assert second.why.all()
    assert [Reason(Unjudged.LOST, "interrupted")] == list(second.reasons)
    assert None is third
    assert [len(question().accesses)] == heard


def test_a_machine_that_ends_before_it_is_asked_anything_says_how(qemu):
    def cut(_image, printed):
        (end,) = [at for kind, at in whole_records(printed.data) if kind == log.Kind.END]
        return Printed(printed.data[:end], "died of SIGABRT")

    with pytest.raises(BadInput, match="no end of an image without runs: the machine died of SIG"):
        BootedJudge(Around(open_machine(qemu), cut)).accesses([question()])


def test_a_fetch_where_a_table_has_the_same_byte_does_not_prove_its_address():
    asked = question()
    row = np.flatnonzero(asked.accesses.type == AccessType.EXECUTE)[0]

    def alone(more):
        memory = SparseWords([(0, 1 << 31)], TABLES | more)
        compiled = CompiledAccesses(replace(asked, memory=memory), Ram([(0, 1 << 32)]), None)
        return compiled._expected[row].alone

    assert alone({})
    assert not alone({0x10_3120: 0xCC << 24})
    assert alone({0x10_3120: 0xCC << 32})


def test_many_small_questions_go_into_one_boot(qemu):
    calls = []
    machine = Around(open_machine(qemu), lambda image, printed: calls.append(image) or printed)
    some = [question(replace(CONTEXT, cr3=CONTEXT.cr3 | flags)) for flags in (0, 8, 16, 24)] * 50
    judged = BootedJudge(machine).accesses(some)
    assert not any(each.why.any() for each in judged)
    assert 2 == len(calls)  # The first is to find out what CPU it is.


def test_a_run_adds_no_more_to_an_image_than_is_reserved_for_it():
    asked = CompiledAccesses(question(), Ram([(0, 1 << 32)]), None).parts[0].asked
    place = Place(0x800_0000)
    for count in (1, 7, 40):
        runs = [asked.placed(place)] * count
        bound = count * (size_bound(asked.run) + booted._LENT)
        added = size_of(runs) - size_of([])
        assert added - 4 * FRAME <= bound < 3 * added


@pytest.mark.slow
def test_each_bochs_agrees_with_what_is_predicted(bochs):
    for name in bochs:
        asked = question()
        (judged,) = BootedJudge(open_machine(name)).accesses([asked])

        assert not judged.why.any()
        assert [] == differing(asked, judged).tolist()
