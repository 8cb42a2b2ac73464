"""Every departure of the emulator that is said to be known still occurs, and explains no other."""

from dataclasses import replace

import pytest

from emu.check import KNOWN, compare_all
from emu.check.known import known_divergence
from emu.probe import Prober
from emu.report.records import access_of, replayed_case
from tests.emu.cases import KNOWN_CASES
from walker.bulk import translate_many
from walker.columns import Accesses
from walker.context import PagingContext, Vendor
from walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation
from walker.source import Case, Cpu, Probe, load_case
from walker.translate import StepKind

ENTRIES = {entry.id: entry for entry in KNOWN}
ACCESSED, WIDTH, LARGE, BIT_8, LOADED = (
    "pdpte-leaf-accessed-on-fault",
    "maxphyaddr-40",
    "pdpte-ps-always-leaf",
    "amd-pml4e-bit-8",
    "pae-pdpte-read-when-used",
)


def replayed(case):
    memory, context = case.memory(), case.context()
    accesses = Accesses.of([access_of(probe) for probe in case.probes])
    predicted = translate_many(memory, context, accesses)
    observed = Prober(memory, context).probe(accesses)
    return predicted, observed, compare_all(memory, context, accesses, predicted, observed)


def instance(name):
    """The context and the first divergence of an entry's own case."""
    case = load_case(KNOWN_CASES / ENTRIES[name].case)
    return case.context(), replayed(case)[2][0]


def test_the_entries_are_those_that_are_tested_and_each_has_a_case_file():
    assert {ACCESSED, WIDTH, LARGE, BIT_8, LOADED} == set(ENTRIES)
    assert sorted(entry.case for entry in KNOWN) == sorted(p.name for p in KNOWN_CASES.iterdir())


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.id)
def test_a_known_divergence_still_occurs_and_is_explained_by_its_entry_alone(entry):
    case = load_case(KNOWN_CASES / entry.case)
    divergences = replayed(case)[2]
    assert len(case.probes) == len(divergences)
    context = case.context()
    for divergence in divergences:
        assert entry.id == divergence.known
        assert [entry.id] == [each.id for each in KNOWN if each.explains(context, divergence)]


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.id)
def test_the_case_file_says_what_is_predicted_and_observed_today(entry):
    case = load_case(KNOWN_CASES / entry.case)
    predicted, observed, _ = replayed(case)
    assert case == replayed_case(case, predicted, observed)


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.id)
def test_an_entry_names_the_manual_and_the_reason(entry):
    assert "vol." in entry.manual
    assert entry.reason
    assert entry.differs.endswith(".")


def fault(code, cr2=0, entries=()):
    return lambda outcome: PageFault(code, cr2, entries)


def last_step(**changes):
    """Change the entry at which the walk ended."""

    def change(divergence):
        steps = divergence.walk.steps
        path = replace(divergence.walk, steps=(*steps[:-1], replace(steps[-1], **changes)))
        return replace(divergence, walk=path)

    return change


def observed(change):
    return lambda divergence: replace(divergence, observed=change(divergence.observed))


def predicted(change):
    return lambda divergence: replace(divergence, predicted=change(divergence.predicted))


def swapped(divergence):
    return replace(divergence, predicted=divergence.observed, observed=divergence.predicted)


ABOVE, LEAF = (0x1000, 0x2063), (0x2000, 0xA1)
NEAR_MISSES = [
    (ACCESSED, "error code", observed(fault(0x1, entries=(LEAF,)))),
    (ACCESSED, "CR2", observed(fault(0x3, 0x1000, (LEAF,)))),
    (ACCESSED, "another word", observed(fault(0x3, entries=((0x2008, 0xA1),)))),
    (ACCESSED, "one word more", observed(fault(0x3, entries=(ABOVE, LEAF)))),
    (ACCESSED, "D as well", observed(fault(0x3, entries=((0x2000, 0xE1),)))),
    (ACCESSED, "nothing marked", observed(fault(0x3))),
    (ACCESSED, "no fault", observed(lambda _: Translation(0, entries=(LEAF,)))),
    (ACCESSED, "#GP", observed(lambda _: GeneralProtection((LEAF,)))),
    (ACCESSED, "no fault predicted", predicted(lambda _: Translation(0))),
    (ACCESSED, "a PDE", last_step(level=2)),
    (ACCESSED, "no leaf", last_step(entry=0x1)),
    (ACCESSED, "not present", last_step(entry=0x80)),
    (WIDTH, "no fault predicted", predicted(lambda _: Translation(0))),
    (WIDTH, "both reserved", observed(fault(0x9, 0x1000))),
    (WIDTH, "bit 38", last_step(entry=1 << 38 | 1)),
    (WIDTH, "bit 40", last_step(entry=1 << 40 | 1)),
    (WIDTH, "bit 52", last_step(entry=1 << 52 | 1)),
    (LARGE, "no reserved bit predicted", predicted(fault(0x1))),
    (LARGE, "a PDE", last_step(level=2)),
    (LARGE, "a PML4E", last_step(level=4)),
    (LARGE, "no PS", last_step(entry=0x21)),
    (BIT_8, "no reserved bit predicted", predicted(fault(0x1))),
    (BIT_8, "a PDPTE", last_step(level=3)),
    (BIT_8, "a PTE", last_step(level=1)),
    (BIT_8, "no bit 8", last_step(entry=0x8000_0021)),
    (LOADED, "no #GP predicted", predicted(fault(0x9))),
    (LOADED, "an entry with rights", last_step(restricts=True)),
    (LOADED, "a table", last_step(kind=StepKind.TABLE)),
    (
        LOADED,
        "no walk",
        lambda divergence: replace(divergence, walk=replace(divergence.walk, steps=())),
    ),
    (LOADED, "another page", observed(lambda _: Translation(0x4010))),
]
TOO_WIDE = [
    (name, what, change)
    for name in (WIDTH, LARGE, BIT_8, LOADED)
    for what, change in (
        ("#GP", observed(lambda _: GeneralProtection())),
        ("CR2", observed(fault(0x0, 0x1000))),
        ("another access's error code", observed(fault(ErrorCode.P | ErrorCode.WR))),
    )
] + [(WIDTH, "the other way round", swapped)]


def as_ids(table):
    return [f"{name}: {what}" for name, what, _ in table]


@pytest.mark.parametrize(("name", "_what", "change"), NEAR_MISSES, ids=as_ids(NEAR_MISSES))
def test_what_is_slightly_different_is_not_explained(name, _what, change):
    context, divergence = instance(name)
    assert known_divergence(context, change(replace(divergence, known=None))).known is None


@pytest.mark.parametrize(("name", "_what", "change"), TOO_WIDE, ids=as_ids(TOO_WIDE))
def test_what_the_emulated_cpu_would_not_do_either_is_not_explained(name, _what, change):
    context, divergence = instance(name)
    assert known_divergence(context, change(replace(divergence, known=None))).known is None


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (WIDTH, {"maxphyaddr": 40}),
        (LARGE, {"page1gb": True}),
        (BIT_8, {"vendor": Vendor.INTEL}),
    ],
    ids=[WIDTH, LARGE, BIT_8],
)
def test_what_the_cpu_is_not_said_to_lack_is_not_explained(name, fields):
    context, divergence = instance(name)
    names = PagingContext.__dataclass_fields__
    changed = PagingContext(**{each: getattr(context, each) for each in names} | fields)
    assert known_divergence(changed, replace(divergence, known=None)).known is None


def test_bits_above_the_emulators_width_are_known_to_be_reserved_there():
    case = load_case(KNOWN_CASES / ENTRIES[WIDTH].case)
    wider = replace(case, cpu=replace(case.cpu, maxphyaddr=46), entries={0x1000: 1 << 40 | 0x21})
    (divergence,) = replayed(wider)[2]
    assert WIDTH == divergence.known
    assert PageFault(0x0, 0, ()) == divergence.predicted
    assert PageFault(0x9, 0, ()) == divergence.observed
    assert StepKind.OUTSIDE is divergence.walk.steps[-1].kind


@pytest.mark.parametrize("other", [{"cr4": 0x10, "efer": 0}, {"efer": 0xD00}])
def test_pdptes_of_other_modes_are_not_loaded(other):
    context, divergence = instance(LOADED)
    names = PagingContext.__dataclass_fields__
    changed = PagingContext(**{each: getattr(context, each) for each in names} | other)
    assert known_divergence(changed, replace(divergence, known=None)).known is None


@pytest.mark.parametrize(("width", "bit"), [(32, 13), (36, 17), (39, 20)])
def test_4_mib_pages_above_the_width_are_known_to_be_reached(width, bit):
    """PSE-36: bits 20:13 of the entry are bits 39:32 of the address."""
    case = Case(
        cpu=Cpu(cr3=0x1000, cr4=0x10, efer=0, maxphyaddr=width),
        ram=((0x1000, 0x1000),),
        entries={0x1000: 1 << bit | 0x81},
        probes=(Probe(va=0x10, access="read"),),
    )
    _, seen, (divergence,) = replayed(case)
    assert WIDTH == divergence.known
    assert 1 << bit + 19 | 0x10 == seen[0].pa
    bare = replace(divergence, known=None)
    for entry in (1 << 21 | 0x81, 1 << 21 | 1 << bit | 0x81):
        assert known_divergence(case.context(), last_step(entry=entry)(bare)).known is None
    wide = replace(case, cpu=replace(case.cpu, maxphyaddr=40))
    assert [] == replayed(wide)[2]


def test_what_agrees_is_no_divergence():
    case = load_case(KNOWN_CASES / ENTRIES[BIT_8].case)
    assert replayed(replace(case, cpu=replace(case.cpu, vendor="intel")))[2] == []


def test_an_entry_reserved_for_two_known_reasons_at_once_is_explained():
    case = load_case(KNOWN_CASES / ENTRIES[LARGE].case)
    entries = {pa: word | (1 << 39 if word & 0x80 else 0) for pa, word in case.entries.items()}
    both = replace(case, cpu=replace(case.cpu, maxphyaddr=36), entries=entries)
    assert case.entries != both.entries
    divergences = replayed(both)[2]
    assert divergences
    assert {WIDTH} == {divergence.known for divergence in divergences}
