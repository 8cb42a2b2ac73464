"""Every departure of the emulator's TLB that is said to be known still occurs."""

from dataclasses import replace

import pytest

from emu.check.known_sequences import KNOWN_SEQUENCES, known_sequence
from emu.check.stale import judge
from emu.matrix.tlb.unit import recorded
from emu.probe.sequences import Runner
from tests.emu.cases import KNOWN_SEQUENCE_FILES
from walker.access import Access, AccessType
from walker.context import CR4
from walker.tlb import Invpcid, MovCr3, Rule, dump_sequence, load_sequence
from walker.tlb.steps import NO_FLUSH


def sequence_of(entry):
    return load_sequence(KNOWN_SEQUENCE_FILES / entry.sequence).sequence


def test_each_entry_has_a_sequence_and_each_sequence_an_entry():
    files = sorted(path.name for path in KNOWN_SEQUENCE_FILES.iterdir())
    assert sorted(entry.sequence for entry in KNOWN_SEQUENCES) == files


@pytest.mark.parametrize("entry", KNOWN_SEQUENCES, ids=lambda entry: entry.id)
def test_a_known_departure_still_occurs_and_is_explained_by_its_entry_alone(entry):
    sequence = sequence_of(entry)
    violation = judge(sequence, Runner().run(sequence)).violation
    assert violation
    assert entry.id == violation.known
    (cause,) = violation.causes
    explains = [each.id for each in KNOWN_SEQUENCES if each.explains(sequence, violation.at, cause)]
    assert [entry.id] == explains


@pytest.mark.parametrize("entry", KNOWN_SEQUENCES, ids=lambda entry: entry.id)
def test_the_file_says_what_is_allowed_and_observed_today(entry):
    sequence = sequence_of(entry)
    observed = Runner().run(sequence)
    record = recorded(sequence, observed, judge(sequence, observed), None)
    assert dump_sequence(record) == (KNOWN_SEQUENCE_FILES / entry.sequence).read_bytes()


@pytest.mark.parametrize("entry", KNOWN_SEQUENCES, ids=lambda entry: entry.id)
def test_an_entry_names_the_manual_and_the_reason(entry):
    assert "vol." in entry.manual
    assert entry.reason.endswith(".")
    assert entry.differs.endswith(".")


@pytest.mark.parametrize("rule", sorted(set(Rule) - {Rule.PCIDE, Rule.PKE, Rule.FAULT}))
def test_another_broken_rule_is_not_known(rule):
    read = Access(0, AccessType.READ)
    sequence = replace(sequence_of(KNOWN_SEQUENCES[0]), steps=(read,))
    assert known_sequence(sequence, 0, str(rule)) is None


def test_what_is_slightly_different_is_not_known():
    fetch, read = Access(0, AccessType.EXECUTE), Access(0, AccessType.READ)
    sequence = sequence_of(KNOWN_SEQUENCES[0])
    context = replace(sequence.context, cr4=0x20000 | 0xA0, cr3=0x1001)
    five = replace(context, cr4=int(context.cr4 | CR4.LA57))
    keep, load = MovCr3(NO_FLUSH | 0x1001), MovCr3(0x1001)

    def known(step, cause, context=context):
        made = replace(sequence, context=context, steps=(step,))
        return known_sequence(made, 0, cause)

    assert "invlpg-large-keeps-fetch" == known(fetch, Rule.INVLPG_LARGE)
    assert known(read, Rule.INVLPG_LARGE) is None
    assert "cr3-bit-63-under-la57" == known(keep, "MovCr3 raises #PF", five)
    assert known(keep, "MovCr3 raises #PF") is None
    assert known(load, "MovCr3 raises #PF", five) is None
    assert known(keep, "MovCr3 raises #GP", five) is None
    assert "invpcid-undefined" == known(Invpcid(2), "Invpcid raises #UD")
    assert known(Invpcid(2), "Invpcid raises #GP") is None
    assert known(load, "MovCr3 raises #UD") is None
