"""Every claim has its twins here: a walker that answers right, and one that doesn't."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.probe import Prober
from crosswalk.emu.targets.answers import Given
from crosswalk.emu.targets.capabilities import parse_claims
from crosswalk.emu.targets.judge import judge
from crosswalk.emu.targets.registry import BUILTIN
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import CR3, EFER
from tests.emu.seeded_tables import seeded_tables
from tests.emu.targets.judged_answers import (
    ADDRESSES,
    LISTS,
    NOT_CANONICAL,
    NOTHING,
    TRANSLATES,
    Asked,
    changed,
)
from tests.emu.targets.walkers import HOLE, LARGE, PAGE, READ_ONLY, every, space
from tests.tables import LEGACY, LONG, chain, context

KIB4, MIB2 = 1 << 12, 1 << 21


EVERY_CLAIM = [
    "translation",
    "rights",
    "faults",
    "rights,marks",
    "faults,marks",
    "translation,rights",
]


@pytest.mark.parametrize("claims", EVERY_CLAIM)
def test_right_answers_are_right_whatever_is_claimed(claims):
    walker = Asked(TRANSLATES, claims)
    if claims == "translation":
        # Mapped is what is there, whoever may use it.
        walker.say(kind=changed(slice(0, 18), Kind.OK), pa=_places)
    assert (NOTHING, NOTHING) == walker.wrong


def _places(pa):
    pa[:18] = np.repeat(np.array([0x20_0000, 0x20_1008, 0x61_2345], np.uint64), 6)
    return pa


def test_who_claims_translation_is_held_to_what_is_mapped():
    walker = Asked(TRANSLATES, "translation")
    walker.say(kind=changed(slice(0, 18), Kind.OK), pa=_places)
    walker.say(kind=changed(0, Kind.PAGE_FAULT))
    walker.say(kind=changed(18, Kind.OK))
    walker.say(kind=changed(24, Kind.OK))
    assert (({"outcome"}, {PAGE, HOLE, NOT_CANONICAL}), NOTHING) == walker.wrong


def test_who_claims_translation_is_held_to_the_address():
    walker = Asked(TRANSLATES, "translation")
    walker.say(kind=changed(slice(0, 18), Kind.OK), pa=_places)
    walker.say(pa=changed(12, 0x61_2344))
    assert (({"pa"}, {LARGE + 0x12345}), NOTHING) == walker.wrong


def test_rights_are_no_matter_of_who_claims_translation_alone():
    walker = Asked(TRANSLATES, "translation")
    walker.say(kind=changed(slice(0, 18), Kind.OK), pa=_places)
    assert 0 < (walker.outcomes.kind[:18] != Kind.OK).sum()
    assert NOTHING == walker.wrong[0]


def test_who_claims_rights_is_held_to_them():
    walker = Asked(TRANSLATES, "rights")
    write = 6 + 2  # Of the read-only page, at CPL 0.
    assert Kind.PAGE_FAULT == walker.outcomes.kind[write]
    walker.say(kind=changed(write, Kind.OK), pa=changed(write, 0x20_1008))
    assert (({"outcome"}, {READ_ONLY + 8}), NOTHING) == walker.wrong


def test_who_refuses_too_much_is_wrong_about_rights():
    walker = Asked(TRANSLATES, "rights")
    walker.say(kind=changed(0, Kind.PAGE_FAULT))
    assert (({"outcome"}, {PAGE}), NOTHING) == walker.wrong


def test_which_fault_is_no_matter_of_who_claims_rights_alone():
    walker = Asked(TRANSLATES, "rights")
    walker.say(
        kind=lambda kind: np.where(kind == Kind.OK, kind, Kind.PAGE_FAULT).astype(np.uint8),
        error_code=np.zeros_like,
        cr2=np.zeros_like,
    )
    assert (NOTHING, NOTHING) == walker.wrong


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("error_code", 18, 0x2), ("cr2", 18, HOLE + 1), ("kind", 24, int(Kind.PAGE_FAULT))],
    ids=["error code", "CR2", "kind"],
)
def test_who_claims_faults_is_held_to_each_part_of_them(column, row, value):
    walker = Asked(TRANSLATES, "faults")
    walker.say(**{column: changed(row, value)})
    field = {"kind": "outcome"}.get(column, column)
    assert (({field}, {ADDRESSES[row // 6]}), NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
def test_who_claims_marks_is_held_to_them(claims):
    walker = Asked(TRANSLATES, claims)
    walker.say(entry_value=changed(0, lambda row: row ^ np.uint64(0x20)))
    assert (({"entries"}, {PAGE}), NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights", "faults"])
def test_marks_are_no_matter_of_who_does_not_claim_them(claims):
    walker = Asked(TRANSLATES, claims)
    walker.say(entry_pa=np.zeros_like, entry_value=np.zeros_like)
    assert (NOTHING, NOTHING) == walker.wrong


def test_silence_is_no_wrong_answer():
    walker = Asked(TRANSLATES, "faults,marks")
    walker.say(kind=lambda kind: kind ^ 1)
    assert NOTHING != walker.wrong[0]
    walker.answers = replace(walker.answers, silent=np.ones(len(walker.accesses), np.bool_))
    assert (NOTHING, NOTHING) == walker.wrong


def test_a_right_list_is_right():
    assert (NOTHING, NOTHING) == Asked(LISTS, "leaves,flags").wrong


@pytest.mark.parametrize("field", ["outcome", "pa", "size", "flags"])
def test_who_claims_leaves_is_held_to_each_part_of_a_mapping(field):
    walker = Asked(LISTS, "leaves,flags")

    def change(rows):
        (row,) = [row for row in rows if row[0] == LARGE]
        if field == "outcome":
            rows.remove(row)
        elif field == "size":
            row[2] = 1 << 30
        else:
            row[{"pa": 1, "flags": 3}[field]] ^= MIB2
        return rows

    walker.list(change)
    fields, addresses = walker.wrong[0]
    assert ({field}, {LARGE + 0x12345}) == (fields, addresses)
    assert ({field}, {LARGE}) == walker.wrong[1]


@pytest.mark.parametrize(
    ("levels", "registers", "tag"),
    [
        (4, {"cr3": CR3.LAM_U48}, 0x1234 << 48),
        (5, {"cr3": CR3.LAM_U48}, 0x1234 << 48),
        (4, {"cr3": CR3.LAM_U57}, 0x12 << 57),
        (4, {"efer": EFER.UAIE}, 0x12 << 57),
    ],
)
@pytest.mark.parametrize(
    ("walker", "claims"), [(LISTS, "leaves,flags"), (TRANSLATES, "translation")]
)
def test_a_tagged_pointer_is_judged_by_the_address_that_it_leads_to(
    walker, claims, levels, registers, tag
):
    plain = context(levels, vendor="amd" if "efer" in registers else "intel")
    under = replace(plain, **{name: getattr(plain, name) | bit for name, bit in registers.items()})
    memory, accesses = space(levels).memory, every(PAGE | tag)
    outcomes = translate_many(memory, under, accesses)
    # Reads and writes reach the page; a fetch goes by the pointer as it is.
    assert [Kind.OK] * 4 + [Kind.GENERAL_PROTECTION] * 2 == outcomes.kind.tolist()
    answers = walker.answer(memory, under, accesses)
    judged = judge(parse_claims(claims, "here"), answers, memory, under, accesses, outcomes)
    for verdict in judged.verdicts:
        assert [] == np.flatnonzero(verdict.wrong).tolist()


def test_a_mapping_that_begins_elsewhere_is_of_another_size():
    walker = Asked(LISTS, "leaves")

    def cut(rows):
        for row in rows:
            if row[0] == LARGE:
                row[:3] = [LARGE + KIB4, row[1] + KIB4, MIB2]
        return rows

    walker.list(cut)
    assert ({"size"}, {LARGE + 0x12345}) == walker.wrong[0]
    assert {"size", "outcome"} == walker.wrong[1][0]


def test_flags_are_no_matter_of_who_does_not_claim_them():
    walker = Asked(LISTS, "leaves")
    walker.list(lambda rows: [[*row[:3], 0, *row[4:]] for row in rows])
    assert (NOTHING, NOTHING) == walker.wrong


def test_a_mapping_invented_in_a_hole_that_nobody_accesses_is_found():
    walker = Asked(LISTS, "leaves")
    walker.list(lambda rows: [*rows, [0x7000_0000_0000, 0x5000, KIB4, 0, 0, 0, Given.PA]])
    assert (NOTHING, ({"outcome"}, {0x7000_0000_0000})) == walker.wrong


def test_a_mapping_left_out_that_nobody_accesses_is_found():
    walker = Asked(LISTS, "leaves")
    walker.accesses = walker.accesses.take(slice(18, 30))
    walker.outcomes = walker.outcomes.take(slice(18, 30))
    walker.list(lambda rows: [row for row in rows if row[0] != READ_ONLY])
    assert (NOTHING, ({"outcome"}, {READ_ONLY})) == walker.wrong


def test_a_large_page_listed_in_parts_is_found():
    walker = Asked(LISTS, "leaves")

    def split(rows):
        for row in rows:
            if row[0] == LARGE:
                for at in range(0, MIB2, KIB4):
                    yield [LARGE + at, row[1] + at, KIB4, 0, 0, 0, Given.PA]
            else:
                yield row

    walker.list(split)
    assert ({"size"}, {LARGE + 0x12345}) == walker.wrong[0]
    assert {"size"} == walker.wrong[1][0]


def test_who_lists_and_translates_is_held_to_both():
    walker = Asked(TRANSLATES, "leaves,rights")
    listing = LISTS.answer(walker.memory, walker.context, walker.accesses).listing
    walker.answers = replace(walker.answers, listing=listing)
    assert (NOTHING, NOTHING) == walker.wrong
    walker.say(kind=changed(0, Kind.PAGE_FAULT))
    walker.list(lambda rows: [row for row in rows if row[0] != READ_ONLY])
    assert (({"outcome"}, {PAGE, READ_ONLY + 8}), ({"outcome"}, {READ_ONLY})) == walker.wrong


def test_what_is_mapped_does_not_hang_on_smap_or_keys():
    walker = Asked(LISTS, "leaves,flags", smap=True, pke=True, pkru=0xFFFF_FFFF)
    assert Kind.PAGE_FAULT == walker.outcomes.kind[0]
    assert (NOTHING, NOTHING) == walker.wrong


def test_pages_of_a_space_too_large_to_list_are_judged_one_by_one():
    memory, under = chain(4, 0x5000 | 0x27), context()
    accesses = every(0x1234, 0x7FFF_FFFF_F000)
    outcomes = Prober(memory, under).probe(accesses)
    answers = LISTS.answer(memory, under, accesses)
    claims = parse_claims("leaves,flags", "here")
    judged = judge(claims, answers, memory, under, accesses, outcomes)
    assert not any(verdict.wrong.any() for verdict in judged.verdicts)
    answers.listing.mappings.pa[:] ^= np.uint64(0x1000)
    one, beside = judge(claims, answers, memory, under, accesses, outcomes).verdicts
    assert (12, 0) == (one.fields["pa"].sum(), len(beside.accesses))


@pytest.mark.parametrize("modes", [LONG, LEGACY], ids=["IA-32e", "32 bits"])
@pytest.mark.parametrize("walker", sorted(BUILTIN))
def test_the_built_in_walkers_are_right_about_hostile_tables(walker, modes):
    for seed in range(12):
        made = seeded_tables(seed, 300, *modes)
        outcomes = BUILTIN["bulk"].answer(made.memory, made.context, made.accesses).outcomes
        target = BUILTIN[walker]
        answers = target.answer(made.memory, made.context, made.accesses)
        judged = judge(target.claims, answers, made.memory, made.context, made.accesses, outcomes)
        assert not any(verdict.wrong.any() for verdict in judged.verdicts)
