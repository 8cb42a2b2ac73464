"""Effective rights and ranges of listed mappings: right, wrong, declined, and not given."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.probe import Prober
from crosswalk.emu.targets import judge as judging
from crosswalk.emu.targets.answers import Answers, Given
from crosswalk.emu.targets.capabilities import Capability, parse_claims
from crosswalk.emu.targets.judge import Contradiction, judge
from crosswalk.emu.targets.mapping_lists import ask, ranges_of, rights_text
from crosswalk.emu.targets.registry import BUILTIN
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.rights import Grant, Rights
from tests.emu.seeded_tables import seeded_tables
from tests.emu.targets.judged_answers import LISTS, NOTHING, Asked
from tests.emu.targets.walkers import LARGE, PAGE, READ_ONLY, every
from tests.tables import LEGACY, LONG, OPEN, PS, RW, US, XD, P, PageTables, chain, context

KIB4 = 1 << 12
CLAIMS = "leaves,flags,effective"
RIGHTS = 5  # The column of a row.


@pytest.mark.parametrize("switches", [{}, {"smep": True, "smap": True}, {"wp": False}])
def test_right_effective_rights_are_right_whatever_the_control_registers_say(switches):
    walker = Asked(LISTS, CLAIMS, **switches)
    assert (NOTHING, NOTHING) == walker.wrong
    mappings = walker.answers.listing.mappings
    texts = dict(zip(mappings.va.tolist(), map(rights_text, mappings.rights), strict=True))
    assert {PAGE: "uwx", READ_ONLY: "---", LARGE: "uwx"} == texts


@pytest.mark.parametrize("right", list(Grant))
def test_each_right_of_each_page_is_judged(right):
    walker = Asked(LISTS, CLAIMS)

    def change(rows):
        for row in rows:
            row[RIGHTS] ^= right
        return rows

    walker.list(change)
    accessed = {PAGE, READ_ONLY + 8, LARGE + 0x12345}
    assert ({"effective"}, accessed) == walker.wrong[0]
    # At the pages' first bytes, where no access was asked for.
    assert ({"effective"}, {READ_ONLY, LARGE}) == walker.wrong[1]


def test_effective_rights_are_no_matter_of_who_does_not_claim_or_give_them():
    for claims, given in (("leaves,flags", Given.RIGHTS), (CLAIMS, 0)):
        walker = Asked(LISTS, claims)
        rest = Given.PA | Given.FLAGS
        walker.list(
            lambda rows, given=given, rest=rest: [
                [*row[:5], 7 - row[5], rest | given] for row in rows
            ]
        )
        assert (NOTHING, NOTHING) == walker.wrong


def test_what_a_mapping_does_not_give_is_not_answered():
    walker = Asked(LISTS, CLAIMS)
    walker.list(lambda rows: [[*row[:3], 0, row[4], 0, Given.PA] for row in rows])
    assert (NOTHING, NOTHING) == walker.wrong
    tally = walker.judgement.tally
    assert (Capability.FLAGS, Capability.EFFECTIVE) == tally.unanswered
    # Three pages and a hole with six accesses each; what isn't canonical is asked of nobody.
    assert {"asked": 24, "answered": 24, "declined": 0} == tally.record()["claims"]["leaves"]
    assert {"asked": 18, "answered": 0, "declined": 18} == tally.record()["claims"]["effective"]


def test_a_mapping_without_a_physical_address_is_judged_by_where_it_lies():
    walker = Asked(LISTS, CLAIMS)
    walker.list(lambda rows: [[row[0], 0, *row[2:6], Given.RIGHTS] for row in rows])
    assert (NOTHING, NOTHING) == walker.wrong
    walker.list(lambda rows: rows[1:])
    assert (({"outcome"}, {PAGE}), NOTHING) == walker.wrong


def test_a_range_that_is_declined_is_neither_right_nor_wrong():
    walker = Asked(LISTS, CLAIMS)
    listing = walker.answers.listing
    walker.list(lambda rows: [row for row in rows if listing.ranges.first[row[4]] > LARGE])
    assert NOTHING != walker.wrong[0]
    silent = np.ones(len(listing.ranges), np.bool_)
    walker.answers = replace(walker.answers, listing=replace(walker.answers.listing, silent=silent))
    assert (NOTHING, NOTHING) == walker.wrong
    tally = walker.judgement.tally
    assert (Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE) == tally.unanswered
    assert (24, 0, 24) == tally.total
    assert walker.judgement.silent.all()


def test_no_list_at_all_declines_every_claim_of_lists():
    walker = Asked(LISTS, CLAIMS)
    walker.answers = Answers.none(len(walker.accesses))
    assert (NOTHING, NOTHING) == walker.wrong
    unanswered = (Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE)
    assert unanswered == walker.judgement.tally.unanswered


def test_accesses_are_counted_by_claim():
    walker = Asked(BUILTIN["bulk"], "rights,faults")
    answers = walker.answers
    answers.silent[:7] = True
    record = walker.judgement.tally.record()
    part = {"asked": 30, "answered": 23, "declined": 7}
    assert {"rights": part, "faults": part} == record.pop("claims")
    assert {
        "asked": {"4level": 30},
        "answered": {"4level": 23},
        "declined": {"4level": 7},
    } == record


def neighbours(mode=4):
    """Four pages in a row: two alike, one that leads elsewhere, one without W; then a hole."""
    tables = PageTables(mode, ram=((0, 1 << 24),))
    for at, (pa, flags) in enumerate(
        [(0x20_0000, OPEN), (0x20_1000, OPEN), (0x30_2000, OPEN), (0x30_3000, P | US)]
    ):
        tables.map(PAGE + at * KIB4, pa, flags)
    return tables.memory


def ranged(rows, claims="leaves,ranges,effective", mode=4, *, asked=range(4)):
    """The fields and addresses that are wrong of a list of `rows`, accesses and beside them."""
    memory, under = neighbours(mode), context(mode)
    accesses = every(*(PAGE + at * KIB4 for at in asked))
    outcomes = translate_many(memory, under, accesses)
    ranges = ranges_of(memory, under, accesses)
    inside = lambda va, end: [row for row in rows if va <= row[0] < end]  # noqa: E731  # As a lister.
    answers = replace(Answers.none(len(accesses)), listing=ask(under, ranges, inside))
    judged = judge(parse_claims(claims, "here"), answers, memory, under, accesses, outcomes)
    return [
        (
            {name for name, column in verdict.fields.items() if column.any()},
            {(va - PAGE) // KIB4 for va in verdict.accesses.va[verdict.wrong].tolist()},
        )
        for verdict in judged.verdicts
    ]


SINGLE = [
    (PAGE, 0x20_0000, KIB4, None, "uwx"),
    (PAGE + KIB4, 0x20_1000, KIB4, None, "uwx"),
    (PAGE + 2 * KIB4, 0x30_2000, KIB4, None, "uwx"),
    (PAGE + 3 * KIB4, 0x30_3000, KIB4, None, "u-x"),
]
MERGED = [(PAGE, 0x20_0000, 2 * KIB4, None, "uwx"), *SINGLE[2:]]


@pytest.mark.parametrize("rows", [SINGLE, MERGED], ids=["pages", "ranges"])
@pytest.mark.parametrize("mode", [*LEGACY, *LONG])
def test_merged_neighbours_are_as_good_as_pages(rows, mode):
    assert [NOTHING, NOTHING] == ranged(rows, mode=mode)


def test_merged_neighbours_are_of_a_wrong_size_without_the_claim():
    assert [({"size"}, {0, 1}), NOTHING] == ranged(MERGED, "leaves,effective")


@pytest.mark.parametrize(
    ("rows", "field", "at"),
    [
        ([(PAGE, 0x20_0000, 3 * KIB4, None, "uwx"), SINGLE[3]], "pa", {2}),
        ([*MERGED[:1], (PAGE + 2 * KIB4, 0x30_2000, 2 * KIB4, None, "uwx")], "effective", {3}),
        ([*MERGED[:2], (PAGE + 3 * KIB4, 0x30_3000, 2 * KIB4, None, "u-x")], "outcome", {4}),
        (MERGED[1:], "outcome", {0, 1}),
    ],
    ids=["other frame", "other rights", "a hole", "left out"],
)
@pytest.mark.parametrize("asked", [range(5), range(4, 5), range(1)], ids=["all", "hole", "first"])
def test_a_range_that_merges_what_differs_is_wrong_where_it_differs(rows, field, at, asked):
    wrong, beside = ranged(rows, asked=asked)
    assert ({field} if at & set(asked) else set(), at & set(asked)) == wrong
    rest = at - set(asked)
    assert ({field} if rest else set(), rest) == beside


def test_pages_without_addresses_may_be_merged_whatever_they_lead_to():
    rows = [(PAGE, None, 3 * KIB4, None, "uwx"), (PAGE + 3 * KIB4, None, KIB4, None, "u-x")]
    assert [NOTHING, NOTHING] == ranged(rows)
    assert [({"effective"}, {3}), NOTHING] == ranged([(PAGE, None, 4 * KIB4, None, "uwx")])


def test_flags_of_a_range_are_those_of_each_page_in_it():
    claims = "leaves,ranges,flags"
    flags = OPEN & ~PS
    rows = [(PAGE, 0x20_0000, 2 * KIB4, flags), (PAGE + 2 * KIB4, 0x30_2000, 2 * KIB4, flags)]
    assert [({"flags"}, {3}), NOTHING] == ranged(rows, claims)


@pytest.mark.parametrize("modes", [LONG, LEGACY], ids=["IA-32e", "32 bits"])
def test_effective_rights_explain_what_the_cpu_does_in_every_mode(modes):
    """The truth about hostile tables passes the test by the emulated outcomes."""
    seen = set()
    for seed in range(12):
        made = seeded_tables(seed, 300, *modes)
        seen.add(made.context.mode)
        prober = Prober(made.memory, made.context)
        able = prober.lacking(made.accesses) == 0
        accesses = made.accesses.take(np.flatnonzero(able))
        outcomes = prober.probe(accesses)
        answers = LISTS.answer(made.memory, made.context, accesses)
        claims = parse_claims("leaves,effective", "here")
        judged = judge(claims, answers, made.memory, made.context, accesses, outcomes)
        assert not any(verdict.wrong.any() for verdict in judged.verdicts)
    assert 2 == len(seen)


ACCESSES = ("read", "write", "execute")


@pytest.mark.parametrize(
    "flags", [P | US | RW, P | US | XD, P | RW | XD], ids=["uwx", "u--", "-w-"]
)
@pytest.mark.parametrize("right", list(Grant))
def test_a_planted_bug_in_the_truth_contradicts_an_outcome(monkeypatch, flags, right):
    """Both of Crosswalk's statements are wrong alike: only the CPU says otherwise."""
    memory = PageTables(4, ram=((0, 1 << 24),)).map(PAGE, 0x20_0000, flags).memory
    under, accesses = context(), every(PAGE)
    outcomes = Prober(memory, under).probe(accesses)
    answers = LISTS.answer(memory, under, accesses)
    claims = parse_claims("leaves,effective", "here")
    judge(claims, answers, memory, under, accesses, outcomes)  # Without it there is none.
    bits = {
        Grant.USER: Rights.USER_READ | Rights.USER_WRITE | Rights.USER_EXECUTE,
        Grant.WRITE: Rights.SUPERVISOR_WRITE,
        Grant.EXECUTE: Rights.SUPERVISOR_EXECUTE,
    }[right]

    def translated(*asked):
        found = translate_many(*asked)
        return replace(found, rights=np.where(found.kind == Kind.OK, found.rights ^ bits, 0))

    def listed(*asked):
        found = true_listing(*asked)
        mappings = replace(found.mappings, rights=found.mappings.rights ^ np.uint8(right))
        return replace(found, mappings=mappings)

    true_listing = judging.true_listing
    monkeypatch.setattr(judging, "translate_many", translated)
    monkeypatch.setattr(judging, "true_listing", listed)
    with pytest.raises(Contradiction, match="effective rights of 0x400000: the walk states"):
        judge(claims, answers, memory, under, accesses, outcomes)


def test_two_statements_of_effective_rights_that_differ_are_a_contradiction(monkeypatch):
    def listed(*asked):
        found = true_listing(*asked)
        return replace(found, mappings=replace(found.mappings, rights=found.mappings.rights ^ 1))

    walker, true_listing = Asked(LISTS, CLAIMS), judging.true_listing
    monkeypatch.setattr(judging, "true_listing", listed)
    with pytest.raises(Contradiction):
        assert walker.verdicts


@pytest.mark.parametrize(
    ("allowed", "kind"), [(True, Kind.OK), (False, Kind.PAGE_FAULT)], ids=["allowed", "refused"]
)
def test_each_access_of_each_page_tests_the_truth(allowed, kind):
    """An outcome turned round is noticed wherever the rights decide it alone."""
    noticed = set()
    for flags in (P, P | RW, P | US, P | XD, OPEN):
        memory = PageTables(4, ram=((0, 1 << 24),)).map(PAGE, 0x20_0000, flags).memory
        accesses = every(PAGE)
        outcomes = translate_many(memory, context(), accesses)
        answers = LISTS.answer(memory, context(), accesses)
        claims = parse_claims("leaves,effective", "here")
        for row in range(6):
            if bool(outcomes.kind[row] == Kind.OK) is allowed:
                continue
            turned = outcomes.kind.copy()
            turned[row] = kind
            with pytest.raises(Contradiction):
                judge(claims, answers, memory, context(), accesses, replace(outcomes, kind=turned))
            noticed.add((ACCESSES[row // 2], row % 2))
    every_kind = {(kind, user) for kind in ACCESSES for user in (0, 1)}
    assert every_kind - ({("read", 0)} if allowed else set()) == noticed


def test_effective_rights_of_a_space_too_large_to_list_are_judged_page_by_page():
    memory, under = chain(4, 0x5000 | 0x27), context()
    accesses = every(0x1234)
    outcomes = Prober(memory, under).probe(accesses)
    answers = LISTS.answer(memory, under, accesses)
    claims = parse_claims("leaves,effective", "here")
    judged = judge(claims, answers, memory, under, accesses, outcomes)
    assert not judged.verdict.wrong.any()
    assert {"asked": 6, "answered": 6, "declined": 0} == judged.tally.record()["claims"][
        "effective"
    ]
    answers.listing.mappings.rights[:] ^= np.uint8(Grant.WRITE)
    judged = judge(claims, answers, memory, under, accesses, outcomes)
    assert 6 == judged.verdict.fields["effective"].sum()
