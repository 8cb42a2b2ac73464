import pytest

from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.findings.signature import lost_signature
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce.interesting import MAX_HANGING, reduced_to
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu
from tests.emu.fuzz.planting import bug_named, crash, hang, plant_emulator, plant_walker

LAYOUT = layout_case(generate(1, 1, accesses=192))


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
    (shown,) = trial_of().signatures(LAYOUT)
    assert "error: no outcome of N at N" == shown.said


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
