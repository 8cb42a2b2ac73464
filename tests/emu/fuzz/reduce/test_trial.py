from dataclasses import replace

import pytest

from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.findings.signature import lost_signature
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce.interesting import MAX_HANGING, reduced_to
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu
from tests.emu.fuzz.planting import (
    bug_named,
    crash,
    hang,
    one_at_a_time,
    plant_emulator,
    plant_walker,
)

LAYOUT = layout_case(generate(1, 1, accesses=192))
SICK = LAYOUT.probes[40].asked.va


@pytest.fixture
def trial_of():
    trials = []

    def make(*arguments, **more):
        trials.append(Trial(*arguments, **more))
        return trials[-1]

    yield make
    for trial in trials:
        trial.close()


def stores(path, context, accesses):
    return (accesses.type == 1) & (accesses.cpl == 3)


def test_without_a_bug_nothing_is_shown(trial_of):
    assert [] == trial_of().signatures(LAYOUT)


def test_a_walkers_bug_is_shown(trial_of, monkeypatch):
    plant_walker(monkeypatch, bug_named("A not set").predict)
    assert {"walker"} == {each.witness for each in trial_of().signatures(LAYOUT)}


def test_a_crash_is_what_a_case_shows_and_the_next_is_tried_all_the_same(trial_of, monkeypatch):
    plant_emulator(monkeypatch, stores, crash)
    trial = trial_of()
    assert [lost_signature("crash, SIGSEGV")] == trial.signatures(LAYOUT)
    reads = Case(cpu=LAYOUT.cpu, ram=LAYOUT.ram, entries=LAYOUT.entries, probes=())
    assert [] == trial.signatures(reads)
    assert 0 == trial.hung


def test_a_hang_is_what_a_case_shows_and_is_counted(trial_of, monkeypatch):
    plant_emulator(monkeypatch, stores, hang)
    trial = trial_of(seconds=0.2)
    assert [lost_signature("hang")] == trial.signatures(LAYOUT)
    assert 1 == trial.hung


def test_what_is_no_outcome_is_shown_by_its_words_without_its_numbers(trial_of, monkeypatch):
    def fail(self, accesses, **more):
        raise ProbeError(f"no outcome of {len(accesses)} at 0x{id(self):x}")

    monkeypatch.setattr(Prober, "probe", fail)
    one_at_a_time(monkeypatch)
    (shown,) = trial_of().signatures(LAYOUT)
    assert "error: no outcome of N at N" == shown.said


def several():
    """Cases of one layout with different accesses, and one that can't be tried."""
    parts = [replace(LAYOUT, probes=LAYOUT.probes[at : at + 16]) for at in range(0, 96, 16)]
    return [*parts, Case(cpu=Cpu(cr3=0x1000, cr4=0), ram=((0, 0x2000),))]


def one_by_one(trial, cases):
    return [trial.findings(case) for case in cases[:-1]]


def test_many_cases_show_what_each_alone_shows(trial_of, monkeypatch):
    plant_walker(monkeypatch, bug_named("A not set").predict)
    cases = several()
    *found, refused = trial_of().findings_many(cases)
    assert one_by_one(trial_of(), cases) == found
    assert any(found)
    assert isinstance(refused, BadInput)


def test_of_many_cases_that_are_made_together_none_is_made_alone(trial_of, monkeypatch):
    probe = Prober.probe

    def again(self, accesses, *, bulk=True):
        if bulk:
            raise AssertionError("made alone, and not to confirm a divergence")
        return probe(self, accesses, bulk=bulk)

    monkeypatch.setattr(Prober, "probe", again)
    assert [()] * 6 == trial_of().findings_many(several())[:-1]


def test_of_many_cases_the_one_that_crashes_is_named_and_the_others_are_tried(
    trial_of, monkeypatch
):
    plant_walker(monkeypatch, bug_named("A not set").predict)
    plant_emulator(monkeypatch, lambda _path, _context, rows: rows.va == SICK, crash)
    cases = several()
    *found, refused = trial_of().findings_many(cases)
    assert one_by_one(trial_of(), cases) == found
    crashed = [lost_signature("crash, SIGSEGV") in [it.signature for it in each] for each in found]
    assert 1 <= sum(crashed) < len(crashed)
    assert isinstance(refused, BadInput)


def test_a_case_that_is_no_paging_is_bad_input(trial_of):
    with pytest.raises(BadInput):
        trial_of().signatures(Case(cpu=Cpu(cr3=0x1000, cr4=0), ram=((0, 0x2000),)))


@pytest.mark.parametrize(
    ("act", "how"),
    [(crash, "crash, SIGSEGV"), pytest.param(hang, "hang", marks=pytest.mark.slow)],
)
def test_a_crash_or_a_hang_is_reduced_to_what_it_takes(trial_of, monkeypatch, act, how):
    plant_emulator(monkeypatch, stores, act)
    trial = trial_of(seconds=10.0 if act is crash else 0.5)
    reduced = reduced_to(trial, LAYOUT, lost_signature(how))
    (probe,) = reduced.case.probes
    assert ("write", 3) == (probe.access, probe.cpl)
    assert {} == reduced.case.entries
    assert reduced.done == (how != "hang" or trial.hung < MAX_HANGING)
    assert trial.signatures(reduced.case) == [lost_signature(how)]
