"""Every departure of the emulator's TLB that is said to be known still occurs."""

from dataclasses import replace
from itertools import product

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.sequences import judge, reading_of, sequence_subsets
from crosswalk.emu.probe.sequences import Runner
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR4, PagingContext, Vendor
from crosswalk.walker.outcome import PageFault
from crosswalk.walker.tlb import (
    Invlpg,
    Invpcid,
    MovCr3,
    Rule,
    Sequence,
    SequenceRecord,
    dump_sequence,
    load_sequence,
)
from crosswalk.walker.tlb.steps import NO_FLUSH
from crosswalk.walker.tlb.walks import decoded
from crosswalk.walker.translate import cause as cause_of
from crosswalk.walker.translate import denied
from tests.emu.case_files import KNOWN_SEQUENCE_FILES
from tests.tables import PS, USED, P

ENTRIES = departures(Scope.SEQUENCE)
EACH = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)


def sequence_of(entry):
    return load_sequence(KNOWN_SEQUENCE_FILES / entry.case).sequence


def known_sequence(sequence, at, cause):
    return next((each.id for each in ENTRIES if each.explains(sequence, at, cause)), None)


def test_each_entry_has_a_sequence_and_each_sequence_an_entry():
    files = sorted(path.name for path in KNOWN_SEQUENCE_FILES.iterdir())
    assert sorted(entry.case for entry in ENTRIES) == files


@EACH
def test_a_known_departure_still_occurs_and_is_explained_by_its_entry_alone(entry):
    sequence = sequence_of(entry)
    violation = judge(sequence, Runner().run(sequence)).violation
    assert violation
    assert entry.id == violation.known
    (cause,) = violation.causes
    explains = [each.id for each in ENTRIES if each.explains(sequence, violation.at, cause)]
    assert [entry.id] == explains


@EACH
def test_taken_out_of_the_table_it_is_a_violation_like_another(entry, monkeypatch):
    sequence = sequence_of(entry)
    observed = Runner().run(sequence)
    rest = tuple(each for each in ENTRIES if each is not entry)
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    violation = judge(sequence, observed).violation
    assert violation
    assert None is violation.known


@EACH
def test_the_file_says_what_is_allowed_and_observed_today(entry):
    sequence = sequence_of(entry)
    observed = Runner().run(sequence)
    record = SequenceRecord(sequence, None, judge(sequence, observed).allowed, observed)
    assert dump_sequence(record) == (KNOWN_SEQUENCE_FILES / entry.case).read_bytes()


@pytest.mark.parametrize("rule", sorted(set(Rule) - {Rule.PCIDE, Rule.PKE, Rule.FAULT}))
def test_another_broken_rule_is_not_known(rule):
    read = Access(0, AccessType.READ)
    sequence = replace(sequence_of(ENTRIES[0]), steps=(read,))
    assert None is known_sequence(sequence, 0, str(rule))


def test_what_is_slightly_different_is_not_known():
    fetch, read = Access(0, AccessType.EXECUTE), Access(0, AccessType.READ)
    sequence = sequence_of(ENTRIES[0])
    context = replace(sequence.context, cr4=0x20000 | 0xA0, cr3=0x1001)
    five = replace(context, cr4=int(context.cr4 | CR4.LA57))
    keep, load = MovCr3(NO_FLUSH | 0x1001), MovCr3(0x1001)

    def known(step, cause, context=context):
        made = replace(sequence, context=context, steps=(step,))
        return known_sequence(made, 0, cause)

    assert "invlpg-large-keeps-fetch" == known(fetch, Rule.INVLPG_LARGE)
    assert None is known(read, Rule.INVLPG_LARGE)
    assert "cr3-bit-63-under-la57" == known(keep, "MovCr3 raises #PF", five)
    assert None is known(keep, "MovCr3 raises #PF")
    assert None is known(load, "MovCr3 raises #PF", five)
    assert None is known(keep, "MovCr3 raises #GP", five)
    assert "invpcid-undefined" == known(Invpcid(2), "Invpcid raises #UD")
    assert None is known(Invpcid(2), "Invpcid raises #GP")
    assert None is known(load, "MovCr3 raises #UD")


RAM = ((0, 1 << 21),)
READ = Access(0x10_0010, AccessType.READ, 0, ac=False)
LATE = 1 << 13
"""An address bit that a 1-GiB leaf must not have, and which is looked at when A has been set."""


def short(leaf, *steps, **features):
    """A sequence over one 1-GiB page at 0, with this leaf at 0x2000."""
    context = PagingContext(cr3=0x1000, **features)
    entries = {0x1000: 0x2000 | USED, 0x2000: leaf}
    return Sequence(context=context, ram=RAM, entries=entries, steps=steps)


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        (short(P | PS | LATE, READ, READ), "pdpte-leaf-accessed-on-fault"),
        (short(USED | PS, READ, Invlpg(0x10_0010), READ, page1gb=False), "pdpte-ps-always-leaf"),
        (short(USED | 1 << 38, READ, READ, maxphyaddr=38), "maxphyaddr-40"),
        (
            short(P | PS | LATE, READ, page1gb=False),
            "pdpte-leaf-accessed-on-fault+pdpte-ps-always-leaf",
        ),
        (
            short(P | PS | LATE | 1 << 38, READ, READ, page1gb=False, maxphyaddr=38),
            "pdpte-leaf-accessed-on-fault+maxphyaddr-40+pdpte-ps-always-leaf",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_departures_of_accesses_are_explained_in_sequences_too(sequence, name):
    observed = Runner().run(sequence)
    assert name == judge(sequence, observed).violation.known


def test_what_departures_of_accesses_do_not_lead_to_is_not_explained():
    sequence = short(USED | PS, READ, page1gb=False)
    (seen,) = Runner().run(sequence)
    assert "pdpte-ps-always-leaf" == judge(sequence, (seen,)).violation.known
    for wrong in (replace(seen, pa=seen.pa + 8), replace(seen, entries=((0x2000, USED | PS | 8),))):
        violation = judge(sequence, (wrong,)).violation
        assert violation
        assert None is violation.known


@pytest.mark.parametrize("kind", list(AccessType))
@pytest.mark.parametrize("vendor", list(Vendor))
def test_with_every_departure_off_entries_are_read_as_the_walker_reads_them(kind, vendor):
    reading = reading_of(())
    bits = [1 << bit for bit in range(64)]
    for la57, page1gb, nxe in ((0, True, 0x800), (1 << 12, False, 0)):
        context = PagingContext(
            cr3=0x1000,
            cr4=0x10_0020 | la57,
            efer=0x500 | nxe,
            maxphyaddr=39,
            page1gb=page1gb,
            vendor=vendor,
        )
        for level in range(1, context.levels + 1):
            for entry in (base ^ bit for base in (0, P, P | PS, P | PS | LATE) for bit in bits):
                assert decoded(context, level, entry) == reading.decode(context, level, entry)
        for cpl in (0, 3):
            access = Access(0, kind, cpl)
            assert cause_of(context, access) == reading.describe(context, access)


@pytest.mark.parametrize("wp", [0, 1 << 16])
@pytest.mark.parametrize("features", [0, 1 << 20, 1 << 21, 1 << 22, 7 << 20])
def test_rights_are_read_as_the_walker_has_them_and_keys_as_a_departure_does(wp, features):
    (entry,) = [each for each in departures(who="bochs 3.0") if each.id == "keys-by-privilege"]
    differ = set()
    for pkru in range(4):
        cr4 = 0x20 | features
        registers = PagingContext(cr0=0x80000033 | wp, cr3=0, cr4=cr4, pkru=pkru << 2)
        for kind, cpl, ac, grant in product(AccessType, (0, 3), (False, True), range(8)):
            access = Access(0, kind, cpl, ac)
            expected = denied(registers, access, grant, 1)
            assert expected == reading_of(()).deny(registers, access, grant, 1)
            if expected != reading_of((entry,), "bochs").deny(registers, access, grant, 1):
                differ.add((cpl, bool(grant & 2)))
    # WD of a supervisor page counts at CPL 0 with WP alone.
    keyed = {(0, True), (3, False), *([(0, False)] if wp else [])}
    assert differ == (keyed if features & 1 << 22 else set())


def test_a_key_of_a_page_that_its_own_entry_makes_a_supervisor_s_explains_a_sequence():
    def found(upper, who):
        words = {0x1000: 0x2067, 0x2000: 0x3067, 0x3000: 0x4063 | upper}
        sequence = Sequence(
            context=PagingContext(cr3=0x1000, cr4=0x40_0020, efer=0xD00, pkru=0xC),
            ram=((0, 1 << 20),),
            entries=words | {0x4000: 0x10063 | 1 << 59},
            steps=(Access(0, READ, 0),),
        )
        violation = judge(sequence, [PageFault(0x21, 0)], who).violation
        return violation.known

    assert "keys-of-supervisor-pages" == found(4, "bochs 3.1")
    assert None is found(0, "bochs 3.1")
    assert None is found(4, "qemu 7.2")


def test_only_departures_that_change_something_are_tried():
    assert [()] == list(sequence_subsets(short(0, READ)))[:1]

    def tried(**features):
        return sorted(each.id for each in [*sequence_subsets(short(0, READ, **features))][-1])

    early = "pdpte-leaf-accessed-on-fault"
    assert [early] == tried()
    assert ["maxphyaddr-40", early, "pdpte-ps-always-leaf"] == tried(page1gb=False, maxphyaddr=38)
