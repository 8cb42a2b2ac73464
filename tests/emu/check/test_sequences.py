"""What a processor with a TLB does is allowed; what one with a bug does isn't always."""

import random

import pytest

from crosswalk.emu.check.sequences import judge
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.tlb import Halted, Invlpg, Rule, Sequence, Store
from tests.emu.check.caching_processor import Chip

SECTIONS = {section.name: section for section in SEQUENCE_SECTIONS}
READ = Access(0, AccessType.READ, 3, ac=False)


def some_of(name, count, **chosen):
    """Return some sequences of a section, from all over it."""
    section = SECTIONS[name]
    choice = {key: frozenset({value}) for key, value in chosen.items()}
    combinations = list(section.combinations(choice))
    chance = random.Random(name)
    drawn = chance.sample(combinations, min(count, len(combinations)))
    return [section.make(named) for named in drawn]


def violations(sequences, bug=None):
    found = []
    for number, sequence in enumerate(sequences):
        judged = judge(sequence, Chip(number, bug).run(sequence))
        if judged.violation:
            found.append(judged.violation)
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_what_a_processor_with_caches_does_is_allowed(name):
    assert [] == violations(some_of(name, 120))


def test_the_processor_really_uses_what_it_has_cached():
    stale = sum(
        judge(sequence, Chip(number).run(sequence)).stale
        for number, sequence in enumerate(some_of("tlb-random", 100))
    )
    assert stale > 20


# Where each bug shows.
BUGS = {
    Rule.INVLPG: ("tlb-leaf", {"invalidate": "invlpg", "change": "target", "page": "4k"}),
    Rule.INVLPG_LARGE: ("tlb-leaf", {"invalidate": "invlpg-near", "change": "p-0", "page": "2m"}),
    Rule.INVLPG_GLOBAL: ("tlb-leaf", {"invalidate": "invlpg", "change": "rw-0", "g": "1"}),
    Rule.INVLPG_TABLES: ("tlb-late", {"invalidate": "invlpg", "change": "p-0"}),
    Rule.CR3: ("tlb-leaf", {"invalidate": "cr3", "change": "us-0", "g": "0"}),
    Rule.CR3_TABLES: ("tlb-late", {"invalidate": "cr3", "change": "us-0"}),
    Rule.PGE: ("tlb-leaf", {"invalidate": "pge", "change": "nx-1"}),
    Rule.SMEP: ("tlb-leaf", {"invalidate": "smep", "change": "target"}),
    Rule.PCIDE: ("tlb-pcid", {"between": "pcide", "change": "target", "g": "1"}),
    Rule.INVPCID_ADDRESS: ("tlb-pcid", {"between": "invpcid-0", "change": "target"}),
    Rule.INVPCID_CONTEXT: ("tlb-pcid", {"between": "invpcid-1", "change": "target"}),
    Rule.INVPCID_GLOBAL: ("tlb-pcid", {"between": "invpcid-2", "change": "target"}),
    Rule.INVPCID_ALL: ("tlb-pcid", {"between": "invpcid-3", "change": "target"}),
    Rule.FAULT: ("tlb-fault", {"change": "rw-0"}),
    Rule.CLEAN: ("tlb-leaf", {"change": "target-d-0", "access": "write"}),
}


@pytest.mark.parametrize("rule", BUGS, ids=lambda rule: rule.name)
def test_a_processor_that_breaks_a_rule_is_found_out_and_the_rule_is_named(rule):
    name, chosen = BUGS[rule]
    found = violations(some_of(name, 400, **chosen), rule)
    assert found
    assert any(str(rule) in violation.causes for violation in found)


def simple(*steps):
    entries = {0x1000: 0x2067, 0x2000: 0x3067, 0x3000: 0x4067, 0x4000: 0x10067}
    context = PagingContext(cr3=0x1000)
    return Sequence(context=context, ram=((0, 0x20000),), entries=entries, steps=steps)


def test_accesses_are_counted_by_what_was_allowed_and_seen():
    moved = Store(0x4000, 0x11067)
    sequence = simple(READ, moved, READ, READ, Invlpg(0), READ)
    old, new = Translation(0x10000), Translation(0x11000)
    judged = judge(sequence, (old, old, new, new))
    assert (2, 1, 1, None) == (judged.forced, judged.fresh, judged.stale, judged.violation)
    assert 4 == judged.accesses


def test_the_first_violation_ends_the_judgement_and_names_its_cause():
    sequence = simple(READ, Store(0x4000, 0x11067), Invlpg(0), READ, READ)
    old = Translation(0x10000)
    judged = judge(sequence, (old, old, old))
    assert judged.violation
    assert (3, old, (str(Rule.INVLPG),), None) == (
        judged.violation.at,
        judged.violation.seen,
        judged.violation.causes,
        judged.violation.known,
    )
    assert 2 == judged.accesses


def test_what_no_cache_explains_is_said_to_be_that():
    for seen in (Translation(0x12000), PageFault(0x4, 0), PageFault(0x5, 0x1000)):
        judged = judge(simple(READ), (seen,))
        assert judged.violation
        assert ("nothing that may have been cached explains it",) == judged.violation.causes


def test_a_processor_that_stops_is_a_violation():
    judged = judge(simple(READ, Invlpg(0), READ), (Translation(0x10000), Halted(1, "#UD")))
    assert judged.violation
    assert ("Invlpg raises #UD",) == judged.violation.causes
    assert None is judged.violation.known
    judged = judge(simple(READ, Invlpg(0)), (Translation(0x10000), Halted(1, "#GP")))
    assert judged.violation
    assert ("Invlpg raises #GP",) == judged.violation.causes
