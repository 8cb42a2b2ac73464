"""Every departure of the emulator still occurs, alone, and nothing but it is explained by it."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import DEPARTURES, compare_all, differs
from crosswalk.emu.check.compare import agreements, as_emulated, explain
from crosswalk.emu.check.departures import FATAL, Scope, departures, named, subsets
from crosswalk.emu.probe import Prober
from crosswalk.emu.report.verdict import replayed_case
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.formats import Case, Cpu, Probe, load_case
from tests.emu.case_files import KNOWN_CASES

ENTRIES = departures(Scope.ACCESS)
EACH = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
ACCESSED, WIDTH, LARGE, BIT_8, FETCH_BIT, LOADED = (
    "pdpte-leaf-accessed-on-fault",
    "maxphyaddr-40",
    "pdpte-ps-always-leaf",
    "amd-pml4e-bit-8",
    "amd-fetch-bit-without-nxe",
    "pae-pdpte-read-when-used",
)


def replayed(case):
    memory, context = case.memory(), case.context()
    accesses = Accesses.of([probe.asked for probe in case.probes])
    predicted = translate_many(memory, context, accesses)
    observed = Prober(memory, context).probe(accesses)
    return memory, context, accesses, predicted, observed


def case_of(name):
    (entry,) = [each for each in ENTRIES if each.id == name]
    return load_case(KNOWN_CASES / entry.case)


def explained(case):
    """The names of what a case's probes show, where they diverge."""
    return [each.known for each in compare_all(*replayed(case))]


def test_the_entries_are_those_that_are_tested_and_each_has_a_case_file():
    assert [ACCESSED, WIDTH, LARGE, BIT_8, FETCH_BIT, LOADED] == [each.id for each in ENTRIES]
    names = sorted(path.name for path in KNOWN_CASES.iterdir() if path.is_file())
    assert sorted(each.case for each in ENTRIES) == names


@EACH
def test_a_departure_still_occurs_and_is_explained_by_it_alone(entry):
    case = load_case(KNOWN_CASES / entry.case)
    assert [entry.id] * len(case.probes) == explained(case)


@EACH
def test_taken_out_of_the_table_it_is_a_divergence_like_another(entry, monkeypatch):
    found = replayed(load_case(KNOWN_CASES / entry.case))
    rest = tuple(each for each in DEPARTURES if each is not entry)
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    assert {None} == {each.known for each in compare_all(*found)}


@EACH
def test_the_case_file_says_what_is_predicted_and_observed_today(entry):
    case = load_case(KNOWN_CASES / entry.case)
    predicted, observed = replayed(case)[3:]
    assert case == replayed_case(case, predicted, observed)


@EACH
def test_the_case_is_the_smallest_that_shows_it(entry):
    case = load_case(KNOWN_CASES / entry.case)
    for pa in case.entries:
        less = {other: word for other, word in case.entries.items() if other != pa}
        assert [entry.id] * len(case.probes) != explained(replace(case, entries=less)), hex(pa)


@pytest.mark.parametrize(
    "entry", [*DEPARTURES, FATAL], ids=lambda entry: f"{entry.scope}-{entry.id}"
)
def test_an_entry_names_the_manual_and_the_reason(entry):
    assert "vol." in entry.manual
    assert entry.reason.endswith(".")
    assert entry.differs.endswith(".")


def changed(outcomes, name, bit):
    """The outcomes with one bit of the first row flipped."""
    copied = getattr(outcomes, name).copy()
    copied[(0, 0) if copied.ndim == 2 else 0] ^= copied.dtype.type(bit)
    return replace(outcomes, **{name: copied})


CHANGES = [
    ("another kind", "kind", 3),
    ("another error code", "error_code", 0x2),
    ("another CR2", "cr2", 0x1000),
    ("another address", "pa", 0x8000),
    ("another word", "entry_pa", 0x8),
    ("another value", "entry_value", 0x40),
]


@EACH
@pytest.mark.parametrize("change", CHANGES, ids=[what for what, *_ in CHANGES])
@pytest.mark.parametrize("side", [3, 4], ids=["predicted", "observed"])
def test_what_is_slightly_different_is_not_explained(entry, change, side):
    _, name, bit = change
    found = list(replayed(load_case(KNOWN_CASES / entry.case)))
    found[side] = changed(found[side], name, bit)
    assert None is explain(*found)[0]


@EACH
def test_the_other_way_round_it_is_not_explained(entry):
    memory, context, accesses, predicted, observed = replayed(load_case(KNOWN_CASES / entry.case))
    assert {None} == set(explain(memory, context, accesses, observed, predicted))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (WIDTH, {"maxphyaddr": 40}),
        (LARGE, {"page1gb": True}),
        (BIT_8, {"vendor": Vendor.INTEL}),
        (FETCH_BIT, {"vendor": Vendor.INTEL}),
    ],
)
def test_what_the_cpu_is_said_to_have_is_no_divergence(name, fields):
    case = case_of(name)
    assert [] == explained(replace(case, cpu=replace(case.cpu, **fields)))


@pytest.mark.parametrize(("width", "bit"), [(32, 13), (36, 17), (39, 20)])
def test_4_mib_pages_above_the_width_are_reached(width, bit):
    """PSE-36: bits 20:13 of the entry are bits 39:32 of the address."""
    case = Case(
        cpu=Cpu(cr3=0x1000, cr4=0x10, efer=0, maxphyaddr=width),
        ram=((0x1000, 0x1000),),
        entries={0x1000: 1 << bit | 0xA1},
        probes=(Probe(va=0x10, access="read"),),
    )
    assert [WIDTH] == explained(case)
    assert 1 << bit + 19 | 0x10 == replayed(case)[4][0].pa
    assert [] == explained(replace(case, entries={0x1000: 1 << 21 | 1 << bit | 0xA1}))
    assert [] == explained(replace(case, cpu=replace(case.cpu, maxphyaddr=40)))


def test_departures_together_have_the_names_of_the_fewest_that_suffice():
    # A 1-GiB page that there is none of, with a reserved bit; and with an address too high.
    large = case_of(LARGE)

    def shown(leaf, **fields):
        entries = {**large.entries, 0x2000: leaf}
        return explained(replace(large, entries=entries, cpu=replace(large.cpu, **fields)))

    assert [f"{ACCESSED}+{LARGE}"] == shown(0x2081)
    assert [LARGE] == shown(0x81)
    assert [] == shown(0x20A1)
    assert [f"{WIDTH}+{LARGE}"] == shown(1 << 39 | 0xA1, maxphyaddr=36)
    assert [f"{ACCESSED}+{WIDTH}+{LARGE}"] == shown(1 << 39 | 0x2081, maxphyaddr=36)


def test_amds_pml4e_with_an_address_too_high_takes_two():
    case = case_of(BIT_8)
    both = replace(
        case, cpu=replace(case.cpu, maxphyaddr=36), entries={0x1000: 1 << 38 | 0x8000_0121}
    )
    assert [f"{WIDTH}+{BIT_8}"] == explained(both)


def test_a_name_is_told_in_words():
    both = named([each for each in DEPARTURES if each.id in {LARGE, WIDTH}])
    assert f"{WIDTH}+{LARGE}" == both
    assert f"{differs(WIDTH)} {differs(LARGE)}" == differs(both)


def test_only_what_changes_something_is_tried():
    assert [[ACCESSED]] == [
        [each.id for each in which] for which in subsets(PagingContext(cr3=0), Scope.ACCESS)
    ]


def test_no_rows_are_explained_by_nothing():
    memory, context, accesses, predicted, observed = replayed(case_of(LARGE))
    none = np.zeros(0, np.intp)
    rows = (accesses.take(none), predicted.take(none), observed.take(none))
    assert [] == explain(memory, context, *rows)


def test_a_walker_that_is_wrong_does_not_hide_behind_a_departure():
    # It forgets W/R of the error code, in an access that the emulated CPU lets pass.
    case = case_of(LARGE)
    case = replace(case, probes=(replace(case.probes[0], access="write"),))
    memory, context, accesses, predicted, observed = replayed(case)
    assert [LARGE] == explain(memory, context, accesses, predicted, observed)
    wrong = replace(predicted, error_code=predicted.error_code & ~np.uint16(2))
    assert [None] == explain(memory, context, accesses, wrong, observed)


def test_what_was_observed_is_what_is_stated():
    for entry in ENTRIES:
        memory, context, accesses, _, observed = replayed(load_case(KNOWN_CASES / entry.case))
        assert agreements(as_emulated(memory, context, accesses), observed).all()
