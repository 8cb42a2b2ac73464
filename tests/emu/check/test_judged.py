"""What a judge says is held against the prediction for its CPU, and each status comes out."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.departures import UNICORN, Scope, departures
from crosswalk.emu.check.emulated import emulated_many
from crosswalk.emu.check.emulated_rules import rules_of
from crosswalk.emu.check.judged import (
    Status,
    access_verdicts,
    composite_verdicts,
    kind_of,
    sequence_verdict,
)
from crosswalk.emu.judges.judge import JudgedSequence, Question, Reason, Unjudged
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.report.composites import load_composite
from crosswalk.walker import SparseWords
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import Vendor
from crosswalk.walker.formats import load_case
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.tlb import Halted, load_sequence
from tests.emu.accesses import every, read
from tests.emu.case_files import COMPOSITE_CASES, JUDGES_CASES, KNOWN_CASES, KNOWN_SEQUENCE_FILES
from tests.emu.composites import composite
from tests.emu.judges.planted import Liar, LosesA, Right, Unplaced, Without, WithoutP
from tests.tables import OPEN, PS, ROOT, P, PageTables, context

VA, BAD = 0x40_0000, 0x60_0000
AGREED, DIVERGED, KNOWN = Status.AGREED, Status.DIVERGED, Status.KNOWN


def question(*accesses, **registers):
    """One page, one with a reserved bit, and one without U/S above its entry, with key 1."""
    tables = PageTables().map(VA, 0x8000, OPEN).map(BAD, 1 << 45, OPEN).map(VA + 0x1000, 0x9000, P)
    return Question(tables.memory, context(**registers), Accesses.of(accesses))


EVERY = (*every(VA), *every(BAD), *every(VA + 0x1000), read(1 << 50))


def judged(judge, asked, who="planted", **more):
    (answer,) = judge.accesses([asked])
    return access_verdicts(asked, answer, who, **more)


def statuses(found):
    return [found.verdicts.of(row) for row in range(len(found.verdicts))]


def test_a_right_judge_agrees_with_everything():
    found = judged(Right(), question(*EVERY))
    assert [(AGREED, "")] * len(EVERY) == statuses(found)
    assert {(AGREED, ""): len(EVERY)} == found.verdicts.counts()


def test_predictions_are_for_the_cpu_that_the_judge_says_it_has():
    right = judged(Right(cpu={"maxphyaddr": 46}), question(*every(BAD)))
    assert [(AGREED, "")] * 6 == statuses(right)
    assert 46 == right.context.maxphyaddr
    assert 0 == int(right.predicted.error_code[0])
    liar = judged(Liar(cpu={"maxphyaddr": 46}), question(*every(BAD), read(VA)))
    assert [(DIVERGED, "")] * 6 + [(AGREED, "")] == statuses(liar)


def test_a_lost_a_bit_diverges():
    found = judged(LosesA(), question(*EVERY))
    assert [0, 3, 12] == found.verdicts.rows(DIVERGED)
    shown = found.divergence(0)
    assert (None, ()) == (shown.known, shown.observed.entries)
    assert found.predicted[0].entries == shown.predicted.entries != ()


def test_a_registered_departure_is_known_of_its_judge_and_of_no_other():
    asked = question(*every(BAD), read(VA))
    found = judged(WithoutP(), asked, "qemu")
    assert [(KNOWN, "reserved-fault-without-p")] * 6 + [(AGREED, "")] == statuses(found)
    assert "reserved-fault-without-p" == found.divergence(0).known
    for who in ("bochs", "unicorn", "log"):
        assert [(DIVERGED, "")] * 6 + [(AGREED, "")] == statuses(judged(WithoutP(), asked, who))


def test_a_known_departure_with_anything_else_wrong_is_a_divergence():
    asked = question(read(BAD))
    (answer,) = WithoutP().accesses([asked])
    other = replace(
        answer, outcomes=replace(answer.outcomes, cr2=answer.outcomes.cr2 + np.uint64(8))
    )
    assert [(DIVERGED, "")] == statuses(access_verdicts(asked, other, "qemu"))


def test_another_judge_than_unicorn_needs_not_have_all_of_its_departures():
    """Bit 8 of an AMD processor's PML4E is ignored, and faults for reserved bits have P."""

    class Intel(Right):
        def under(self, context):
            return replace(context, vendor=Vendor.INTEL)

    tables = PageTables().map(VA, 0x8000, OPEN)
    words = {pa: word | (1 << 8 if pa == ROOT else 0) for pa, word in tables.words.items()}
    memory = SparseWords([(0, 1 << 24)], words)
    asked = Question(memory, context(vendor=Vendor.AMD), Accesses.of([read(VA)]))
    assert [(KNOWN, "amd-pml4e-bit-8")] == statuses(judged(Intel(), asked, "qemu"))
    assert [(KNOWN, "amd-pml4e-bit-8")] == statuses(judged(Intel(), asked, "bochs"))
    assert [(DIVERGED, "")] == statuses(judged(Intel(), asked, "kvm"))


def test_an_address_that_cant_be_shown_is_agreed_in_all_else():
    found = judged(Unplaced(), question(*EVERY))
    assert [(AGREED, "")] * len(EVERY) == statuses(found)
    reached = found.predicted.kind == Kind.OK
    assert reached.tolist() == found.unproved.tolist()
    assert found.predicted.pa.tolist() == found.seen.pa.tolist()

    class Wrong(Unplaced):
        def changed(self, question, judged):
            return LosesA.changed(self, question, super().changed(question, judged))

    assert [0, 3, 12] == judged(Wrong(), question(*EVERY)).verdicts.rows(DIVERGED)


@pytest.mark.parametrize("kind", Unjudged)
def test_what_has_no_outcome_is_no_agreement(kind):
    reason = Reason(kind, "it was so")
    found = judged(Without(reason=reason), question(*EVERY))
    status = Status[kind.name]
    fetches = [row for row, each in enumerate(EVERY) if each.type == 2]
    assert fetches == found.verdicts.rows(status)
    assert {(AGREED, ""): len(EVERY) - 6, (status, "it was so"): 6} == found.verdicts.counts()
    assert not status.answered
    assert (kind is Unjudged.ENDED) == status.wrong


def test_a_prediction_that_the_second_walk_doesnt_share_is_never_an_agreement():
    def wrong(memory, registers, accesses):
        said = translate_many(memory, registers, accesses)
        return replace(said, cr2=said.cr2 ^ np.uint64(8))

    class Same(Right):
        def changed(self, question, judged):
            said = wrong(question.memory, judged.context, question.accesses)
            return replace(judged, outcomes=replace(judged.outcomes, cr2=said.cr2))

    found = judged(Same(), question(*every(BAD)), "qemu", predict=wrong)
    assert [(DIVERGED, "")] * 6 == statuses(found)
    assert found.verdicts.unshared.all()


@pytest.mark.parametrize("path", sorted(KNOWN_CASES.iterdir()), ids=lambda path: path.stem)
def test_the_known_cases_are_known_of_unicorn(path):
    case = load_case(path)
    asked = Question(
        case.memory(), case.context(), Accesses.of([probe.asked for probe in case.probes])
    )
    assert {(KNOWN, path.stem)} == set(statuses(judged(UnicornJudge(), asked, "unicorn")))
    assert {(AGREED, "")} == set(statuses(judged(Right(), asked, "unicorn")))


OTHERS = [each for each in departures(who=None) if UNICORN not in each.judges]


class Departing(Right):
    """Does what the second walk does with one departure."""

    def changed(self, question, judged):
        rules = self.entry.change(rules_of(judged.context))
        return replace(judged, outcomes=emulated_many(question.memory, rules, question.accesses))


def shown(entry, case, *more):
    """What comes of a case's probes on each judge that has this departure, and on some more."""
    accesses = Accesses.of([probe.asked for probe in case.probes])
    judge = Departing()
    judge.entry = entry
    asked = Question(case.memory(), case.context(), accesses)
    return {who: set(statuses(judged(judge, asked, who))) for who in [*entry.judges, "log", *more]}


def test_each_departure_of_another_judge_has_a_case_that_it_explains_alone():
    names = sorted(path.name for path in JUDGES_CASES.iterdir())
    cases = [each.case for each in OTHERS if each.scope is not Scope.NESTED]
    assert sorted(cases) == names
    for entry in (each for each in OTHERS if each.scope is Scope.ACCESS):
        case = load_case(JUDGES_CASES / entry.case)
        known = {who: {(KNOWN, entry.id)} for who in entry.judges}
        assert known | {"log": {(DIVERGED, "")}} == shown(entry, case)
        for pa in case.entries:
            less = {other: word for other, word in case.entries.items() if other != pa}
            found = shown(entry, replace(case, entries=less))
            assert {(AGREED, "")} == set().union(*found.values()), hex(pa)


def test_a_departure_of_another_judge_s_tlb_explains_its_sequence_alone():
    (entry,) = [each for each in OTHERS if each.scope is Scope.SEQUENCE]
    sequence = load_sequence(JUDGES_CASES / entry.case).sequence
    read, _, fetch, again = sequence.steps
    ok, fault = Translation(0x10000), PageFault(0x14, 0)

    def found(some, *outcomes, who="bochs"):
        verdict = sequence_verdict(some, JudgedSequence(some.context, outcomes), who)
        return verdict.status, verdict.detail

    assert (KNOWN, entry.id) == found(sequence, ok, fault, ok)
    assert (DIVERGED, "") == found(sequence, ok, fault, ok, who="kvm")
    assert (AGREED, "") == found(sequence, ok, fault, PageFault(4, 0))
    # A read that faults leaves nothing that reads use.
    alike = replace(sequence, steps=(*sequence.steps[:2], replace(fetch, type=read.type), again))
    assert (DIVERGED, "") == found(alike, ok, PageFault(4, 0), ok)


def test_composites_have_a_status_each():
    case = load_composite(COMPOSITE_CASES / "locked-rmw-reads-first.json")
    memory, registers = case.case.memory(), case.case.context()
    (answer,) = UnicornJudge().composites([(memory, registers, case.composite)])

    def found(answer, who):
        return composite_verdicts(memory, case.composite, answer, who).verdicts.of(0)

    assert (KNOWN, "locked-rmw-reads-first") == found(answer, "unicorn")
    assert (KNOWN, "locked-rmw-reads-first") == found(answer, "qemu")
    assert (DIVERGED, "") == found(answer, "kvm")
    other = replace(
        answer, outcomes=replace(answer.outcomes, cr2=answer.outcomes.cr2 + np.uint64(1))
    )
    assert (DIVERGED, "") == found(other, "qemu")
    right = answer.outcomes.error_code | np.uint16(2)  # As a write.
    right = replace(
        answer, outcomes=replace(answer.outcomes, error_code=right * (answer.outcomes.kind == 1))
    )
    assert (AGREED, "") == found(right, "qemu")
    (nothing,) = Without(reason=Reason(Unjudged.LOST, "gone")).composites(
        [(memory, registers, case.composite)]
    )
    assert (Status.LOST, "gone") == found(nothing, "qemu")


def test_a_composite_with_several_departures_is_named_by_the_fewest():
    """An entry with a reserved bit: a locked access is reported as a read, and without P."""
    tables = PageTables().map(VA, 0x8000, OPEN)
    words = {pa: word | (PS if pa == ROOT else 0) for pa, word in tables.words.items()}
    memory, some = SparseWords([(0, 1 << 24)], words), composite("rmw:xadd", VA)
    (answer,) = UnicornJudge().composites([(memory, context(), some)])
    found = composite_verdicts(memory, some, answer, "qemu")
    assert (KNOWN, "locked-rmw-reads-first") == found.verdicts.of(0)
    assert 9 == int(answer.outcomes.error_code[0, 0])
    without = answer.outcomes.error_code - np.array([[1, 0]], np.uint16)
    answer = replace(answer, outcomes=replace(answer.outcomes, error_code=without))
    found = composite_verdicts(memory, some, answer, "qemu")
    both = "reserved-fault-without-p+locked-rmw-reads-first"
    assert (KNOWN, both) == found.verdicts.of(0)
    as_a_write = replace(
        answer,
        outcomes=replace(answer.outcomes, error_code=without + np.array([[2, 0]], np.uint16)),
    )
    found = composite_verdicts(memory, some, as_a_write, "qemu")
    assert (KNOWN, "reserved-fault-without-p") == found.verdicts.of(0)


def test_sequences_have_a_status():
    path = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"
    sequence = load_sequence(path).sequence
    (answer,) = UnicornJudge().sequences([sequence])

    def found(answer, who):
        verdict = sequence_verdict(sequence, answer, who)
        return verdict.status, verdict.detail

    assert (KNOWN, "fault-keeps-tlb") == found(answer, "unicorn")
    assert (KNOWN, "fault-keeps-tlb") == found(answer, "qemu")
    assert (DIVERGED, "") == found(answer, "bochs")
    lost = JudgedSequence(sequence.context, Reason(Unjudged.LOST, "gone"))
    assert (Status.LOST, "gone") == found(lost, "bochs")
    halted = JudgedSequence(sequence.context, (Halted(0, "#UD"),))
    assert (DIVERGED, "") == found(halted, "qemu")


@pytest.mark.parametrize(
    ("name", "kind"), [("qemu:/usr/bin/other", "qemu"), ("bochs", "bochs"), ("exec:qemu", "exec")]
)
def test_departures_are_listed_by_the_kind_of_judge(name, kind):
    assert kind == kind_of(name)


@pytest.mark.parametrize(
    ("name", "version", "who"),
    [
        ("bochs:/a b/bochs", "Bochs 3.1, GenuineIntel of 40 bits", "bochs 3.1"),
        ("qemu", "QEMU 11.1.3, TCG", "qemu 11.1.3"),
        ("unicorn", "Unicorn 2.1.4", "unicorn"),
        ("exec:true", "AuthenticAMD of 40 bits", "exec"),
    ],
)
def test_departures_are_listed_by_version(name, version, who):
    assert who == kind_of(name, version)


@pytest.mark.parametrize(
    ("who", "names"),
    [
        ("bochs 2.7", {"keys-by-privilege", "pkrs-by-privilege"}),
        ("bochs 3.0.1", {"keys-by-privilege", "pkrs-by-privilege"}),
        ("bochs 3.1", {"keys-of-supervisor-pages", "pkrs-by-upper-levels"}),
        ("bochs 10.2", {"keys-of-supervisor-pages", "pkrs-by-upper-levels"}),
    ],
)
def test_a_version_shows_what_is_registered_for_it(who, names):
    found = {each.id for each in departures(who=who)}
    assert names == found & {each.id for each in OTHERS if each.since or each.until}
    assert found < {each.id for each in departures(who="bochs")}


def test_a_departure_of_another_version_explains_nothing():
    entry = next(each for each in OTHERS if each.id == "pkrs-by-privilege")
    case = load_case(JUDGES_CASES / entry.case)
    assert {(KNOWN, entry.id)} == shown(entry, case, "bochs 3.0")["bochs 3.0"]
    assert {(DIVERGED, "")} == shown(entry, case, "bochs 3.1")["bochs 3.1"]
