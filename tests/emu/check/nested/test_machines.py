"""What other machines are known to do otherwise, each by a pair made by hand; and random pairs.

Each is shown by a machine made of the second statement, and by the machine itself where it is at
hand.
"""

from collections import Counter
from dataclasses import replace
from functools import cache, reduce
from operator import or_

import pytest

from crosswalk.emu.check.departures import PANIC, Scope, departures
from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.check.nested import EPT_KINDS, KINDS, allowed_by, check_answers
from crosswalk.emu.check.nested_deviations import MANUAL
from crosswalk.emu.check.nested_emulated import emulated, emulated_outcomes
from crosswalk.emu.fuzz.nested.judged import judge_pair, judged_pairs, pair_of
from crosswalk.emu.judges.judge import ELSEWHERE, Reason, Unjudged
from crosswalk.emu.judges.nested.registry import open_nested_judge
from crosswalk.walker.access import Access
from crosswalk.walker.nested.outcome import EptViolation
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.protection.policy import TableKind
from tests.emu.check.nested.by_hand import EPT_BY_HAND, NPT_BY_HAND, pair_by_hand
from tests.emu.check.nested.ept_planted_bugs import (
    WRONG,
    WRONG_WITH_MBEC,
    WRONG_WITHOUT_MBEC,
)
from tests.emu.check.nested.planted_bugs import WRONG as NPT_WRONG
from tests.emu.check.nested.planted_bugs import WRONG_FOR_OTHERS, one_of
from tests.emu.check.nested.two_stages_ept import ALL, PS, WB, XU, R, TwoEptStages, X
from tests.emu.probe.nested.two_stages import GUEST, HOST, PAGE, SHIFT, TwoStages
from tests.tables import EXECUTE, OPEN, READ, RW, WRITE, A, D, P

BOCHS, QEMU = "bochs 3.0", "qemu 7.2.22"
GIB1 = 1 << 30
VA = 5 * PAGE + 0x123
MIB2 = 1 << 21


def table_without_write():
    two = TwoEptStages(accessed_dirty=True)
    two.host(1, GUEST[1], (GUEST[1] + SHIFT) * PAGE | R | X | WB)
    return two, Access(VA, READ, 3)


def table_without_write_under_mbec():
    two = TwoEptStages(accessed_dirty=True, mbec=True)
    two.host(1, GUEST[1], (GUEST[1] + SHIFT) * PAGE | R | X | WB)
    return two, Access(VA, EXECUTE, 3)


def user_executable(kind):
    two = TwoEptStages(mbec=True)
    two.host(1, 5, (5 + SHIFT) * PAGE | (R if kind is WRITE else X) | XU | WB)
    return two, Access(VA, kind, 3)


def marks(bits, kind):
    two = TwoEptStages()
    two.guest(1, 5, 5 * PAGE | OPEN | bits)
    two.host(1, GUEST[1], (GUEST[1] + SHIFT) * PAGE | R | WB)
    return two, Access(VA, kind, 3)


def large_page(level):
    two = TwoEptStages()
    base = MIB2 if level == 2 else GIB1
    two.guest(1, 5, base | OPEN | A | D)
    two.host(level, 1, ALL | WB | PS | 1 << 12)
    return two, Access(VA, READ, 3)


def reserved_in_guest():
    two = TwoStages()
    two.guest(1, 5, 5 * PAGE | OPEN | A | D | 1 << 45)
    return two, Access(VA, READ, 3)


def reserved_in_host():
    two = TwoStages()
    two.host(1, 5, (5 + SHIFT) * PAGE | OPEN | A | D | 1 << 45)
    return two, Access(VA, WRITE, 3)


INSTANCES = {
    "a table that EPT makes read-only": (table_without_write, "ept-table-access-no-read"),
    "the same under MBEC": (table_without_write_under_mbec, "ept-table-access-no-read"),
    "a write to what a user may run": (
        lambda: user_executable(WRITE),
        "ept-user-execute-in-bit-13",
    ),
    "a read of what may be run alone": (
        lambda: user_executable(READ),
        "ept-user-execute-in-bit-13",
    ),
    "A to be set": (lambda: marks(D, READ), "ept-guest-marks-unchecked"),
    "D to be set": (lambda: marks(A, WRITE), "ept-guest-marks-unchecked"),
    "2 MiB with bit 12": (lambda: large_page(2), "ept-large-page-bit-12"),
    "1 GiB with bit 12": (lambda: large_page(3), "ept-large-page-bit-12"),
    "a reserved bit of the guest's": (reserved_in_guest, "reserved-fault-without-p"),
    "a reserved bit of the host's": (reserved_in_host, "reserved-fault-without-p"),
}
MADE = pytest.mark.parametrize(("make", "known"), INSTANCES.values(), ids=INSTANCES)


def judge_of(known):
    return QEMU if known == "reserved-fault-without-p" else BOCHS


def deviation_of(*ids):
    found = (each for each in departures(Scope.NESTED, who=None) if each.id in ids)
    return reduce(or_, (each.deviation for each in found), MANUAL)


def verdict_on(two, access, observed, who, **options):
    return check_answers(two.memory, two.context, [access], [observed], who, **options)


@MADE
def test_a_known_departure_is_explained_by_itself_alone(make, known):
    two, access = make()
    observed = emulated(two.memory, two.context, access, deviation_of(known))
    if isinstance(observed, EptViolation):
        observed = replace(observed, open=0)
    predicted = nested_outcomes(two.memory, two.context, access)
    assert not allowed_by(two.memory, predicted, observed)
    assert {known: 1} == verdict_on(two, access, observed, judge_of(known)).known
    (other,) = verdict_on(two, access, observed, "kvm").divergences
    assert () == other.known


@MADE
def test_what_the_manual_says_is_agreed_with(make, known):
    two, access = make()
    for outcome in emulated_outcomes(two.memory, two.context, access, MANUAL):
        seen = replace(outcome, open=0) if isinstance(outcome, EptViolation) else outcome
        assert 1 == verdict_on(two, access, seen, judge_of(known)).agreements


def closed_page():
    """A write that CR0.WP lets pass, to a page whose D is clear."""
    two = TwoEptStages(cr0=0x8000_0033)
    two.guest(1, 5, 5 * PAGE | P | A)
    return two, Access(VA, WRITE, 0)


def test_a_machine_that_is_known_to_end_has_no_outcome_and_another_end_is_a_finding():
    two, access = closed_page()
    why = Reason(Unjudged.ENDED, "panics")
    assert (access,) == verdict_on(two, access, why, BOCHS).fatal
    assert ((access, why),) == verdict_on(two, access, why, "bochs 3.1").ended
    two.guest(1, 5, 5 * PAGE | P | A | D)
    assert ((access, why),) == verdict_on(two, access, why, BOCHS).ended
    two.guest(1, 5, 5 * PAGE | P | RW | A)
    assert ((access, why),) == verdict_on(two, access, why, BOCHS).ended
    assert PANIC.shown_by(BOCHS)
    assert not PANIC.shown_by("bochs 3.1")


def test_a_nested_fault_without_its_stage_is_agreed_with_of_unicorn_alone():
    two = TwoStages()
    two.host(1, 5, 0)
    access = Access(VA, READ, 3)
    (fault,) = nested_outcomes(two.memory, two.context, access)
    bare = replace(fault, error_code=fault.error_code & 0x1F)
    assert 1 == verdict_on(two, access, bare, "unicorn").agreements
    assert 1 == verdict_on(two, access, fault, QEMU).agreements
    assert 1 == len(verdict_on(two, access, bare, QEMU).divergences)


def test_a_translation_that_nothing_shows_is_no_agreement():
    two, access = TwoEptStages(), Access(VA, READ, 3)
    (found,) = nested_outcomes(two.memory, two.context, access)
    hidden = verdict_on(two, access, found, BOCHS, shows=lambda _access, _pa: False)
    assert (0, 1) == (hidden.probes, sum(hidden.not_shown.values()))
    two, access = large_page(2)
    passed = emulated(two.memory, two.context, access, deviation_of("ept-large-page-bit-12"))
    assert {"ept-large-page-bit-12": 1} == verdict_on(two, access, passed, BOCHS).known
    lost = replace(passed, pa=ELSEWHERE)
    hidden = verdict_on(two, access, lost, BOCHS, shows=lambda _access, _pa: False)
    assert (0, {}, 1) == (hidden.probes, hidden.known, sum(hidden.not_shown.values()))


def test_a_word_that_is_an_entry_of_both_dimensions_is_no_divergence():
    two = TwoEptStages()
    # The guest's last table is the EPT's: A of the guest's entry is a bit of its memory type.
    two.host(1, GUEST[1], HOST[1] * PAGE | ALL | WB)
    two.host(1, 5, 5 * PAGE | ALL | 1 << 3)
    access = Access(VA, READ, 3)
    (found,) = nested_outcomes(two.memory, two.context, access)
    other = replace(found, pa=found.pa ^ PAGE)
    verdict = verdict_on(two, access, other, BOCHS)
    assert (0, (), 1) == (verdict.probes, verdict.divergences, sum(verdict.not_shown.values()))


@pytest.mark.parametrize(
    "entry", [each for each in (*departures(Scope.NESTED, who=None), PANIC) if each.pair]
)
def test_the_pair_of_a_departure_shows_it_and_no_other(entry):
    tables, number = entry.pair
    pair = pair_of(TableKind(tables), 0, number, 1)
    (access,) = pair.accesses
    observed = emulated(pair.memory, pair.context, access, entry.deviation)
    if entry is PANIC:
        assert None is observed
        return
    if isinstance(observed, EptViolation):
        observed = replace(observed, open=0)
    who = min(entry.judges)
    verdict = check_answers(pair.memory, pair.context, [access], [observed], who)
    assert {entry.id: 1} == verdict.known


@pytest.fixture(scope="module")
def machines(request):
    """Opens a machine for a kind of tables, once."""
    opened = {}

    def judge(tables):
        kind = TableKind.EPT if tables is not TableKind.NPT else tables
        if kind not in opened:
            npt = kind is TableKind.NPT
            text = request.getfixturevalue("qemu" if npt else "bochs3")
            opened[kind] = open_nested_judge(text if npt else f"bochs:{text}", kind)
        return opened[kind]

    yield judge
    for each in opened.values():
        each.close()


@MADE
def test_a_machine_still_shows_its_departure(machines, make, known):
    two, access = make()
    tables = TableKind.NPT if judge_of(known) is QEMU else TableKind.EPT
    result = judge_pair(machines(tables), pair_by_hand(two, access), 0)
    assert {known: 1} == result.verdict.known


@pytest.mark.parametrize("tables", [TableKind.NPT, TableKind.EPT])
def test_a_machine_does_what_an_entry_by_hand_asks_for(entries, tables):
    found = entries(tables)
    # The machine's own code lies behind that entry of the root: nothing shows a fetch through it.
    hidden = {name for name, each in found.items() if "level 4" in name and fetches(each)}
    agreed = {
        name: (each.verdict.agreements, sum(each.verdict.not_shown.values()))
        for name, each in found.items()
    }
    assert {name: (0, 1) if name in hidden else (1, 0) for name in found} == agreed


def fetches(result):
    return [EXECUTE] == [access.type for access in result.made]


@pytest.mark.parametrize("tables", TableKind)
def test_random_pairs_in_machines_agree_and_wrong_walkers_do_not(machines, tables):
    judge = machines(tables)
    found = list(judged_pairs(judge, tables, 2, range(8), 40))
    assert [()] * 8 == [each.verdict.divergences for each in found]
    assert [()] * 8 == [each.verdict.ended for each in found]
    counts = sum((Counter(each.verdict.counts) for each in found), Counter())
    kinds = KINDS if tables is TableKind.NPT else EPT_KINDS
    assert set(counts) <= set(kinds)
    assert len(counts) > 0.7 * len(kinds)
    assert sum(each.verdict.agreements for each in found) > 0.5 * sum(counts.values())
    if tables is TableKind.NPT:
        return
    who = kind_of(judge.name, judge.version)
    wrong = [WRONG[name] for name in ("R ignored", "A and D always", "W ignored")]
    if tables is TableKind.EPT_MBEC:
        wrong.append(WRONG_WITH_MBEC["mode-based execute control ignored"])
    for predict in wrong:
        assert any(contradicts(each, who, predict) for each in found)


def contradicts(result, who, predict):
    """Whether a walker that says something else than the right one is told so by the answers."""
    said = result.said
    for access, answer in zip(result.made, said.answers, strict=True):
        asked = said.memory, said.context
        if predict(*asked, access) != nested_outcomes(*asked, access):
            about = *asked, [access], [answer], who
            if check_answers(*about, predict=predict, shows=said.shows).divergences:
                return True
    return False


@pytest.fixture(scope="module")
def thousands(machines):
    """Judges pairs of a kind of tables, once."""

    @cache
    def judged(tables):
        return list(judged_pairs(machines(tables), tables, 1, range(64), 60))

    return judged


@pytest.fixture(scope="module")
def entries(machines):
    """Judges the entries by hand of a kind of tables, once; by name."""

    @cache
    def judged(tables):
        made = NPT_BY_HAND if tables is TableKind.NPT else EPT_BY_HAND
        return {
            name: judge_pair(machines(tables), pair_by_hand(make(), access), 0)
            for name, (make, access, _) in made.items()
        }

    return judged


def caught(judge, found, wrong):
    """The names of the walkers that what the machine answered contradicts."""
    who = kind_of(judge.name, judge.version)
    return {name for name in wrong if any(contradicts(each, who, wrong[name]) for each in found)}


@pytest.mark.slow
@pytest.mark.parametrize("tables", TableKind)
def test_thousands_of_accesses_in_machines_agree(thousands, tables):
    found = thousands(tables)
    assert [()] * 64 == [each.verdict.divergences for each in found]
    assert [()] * 64 == [each.verdict.ended for each in found]
    counts = sum((Counter(each.verdict.counts) for each in found), Counter())
    assert set(KINDS if tables is TableKind.NPT else EPT_KINDS) == set(counts)


@pytest.mark.slow
def test_what_bochs_answers_catches_every_wrong_walker_of_ept(machines, thousands, entries):
    ept, mbec = thousands(TableKind.EPT), thousands(TableKind.EPT_MBEC)
    every = [*ept, *mbec, *entries(TableKind.EPT).values()]
    judge = machines(TableKind.EPT)
    assert set(WRONG) == caught(judge, every, WRONG)
    assert set(WRONG_WITH_MBEC) == caught(judge, mbec, WRONG_WITH_MBEC)
    assert set(WRONG_WITHOUT_MBEC) == caught(judge, ept, WRONG_WITHOUT_MBEC)


@pytest.mark.slow
def test_what_qemu_answers_catches_every_wrong_walker_of_npt(machines, thousands, entries):
    found = [*thousands(TableKind.NPT), *entries(TableKind.NPT).values()]
    wrong = {name: one_of(predict) for name, predict in (NPT_WRONG | WRONG_FOR_OTHERS).items()}
    assert set(wrong) == caught(machines(TableKind.NPT), found, wrong)
