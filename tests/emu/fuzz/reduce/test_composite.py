import pytest

from crosswalk.emu.findings.findings import CompositeFinding
from crosswalk.emu.findings.signature import lost_signature
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce.composite import reduced_composite
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.composite import CompositeProber
from tests.emu.fuzz.planting import bug_named, crash, plant_walker

BUG = bug_named("XD not inherited").predict


@pytest.fixture(scope="module")
def finding():
    found = Executor(BUG).run(lambda: generate(0, 1, accesses=4096), cross=True)
    return next(each for each in found.findings if isinstance(each, CompositeFinding))


@pytest.fixture
def trial():
    made = Trial()
    yield made
    made.close()


def test_it_becomes_small_while_it_shows_the_same(finding, trial, monkeypatch):
    plant_walker(monkeypatch, BUG)

    def shows(case):
        return finding.signature in [each.signature for each in trial.composite_findings(case)]

    assert shows(finding.case)
    small = reduced_composite(finding.case, shows).case
    assert shows(small)
    assert len(small.case.entries) <= min(5, len(finding.case.case.entries))
    assert small.case.ram[0][1] <= finding.case.case.ram[0][1]
    again = reduced_composite(small, shows).case
    assert (again.case, again.composite.va) == (small.case, small.composite.va)


def test_without_a_bug_nothing_is_shown(finding, trial):
    assert () == trial.composite_findings(finding.case)


def test_an_emulator_that_crashes_or_fails_shows_nothing(finding, trial, monkeypatch):
    def fail(*_):
        raise ProbeError("no outcome")

    plant_walker(monkeypatch, BUG)
    monkeypatch.setattr(CompositeProber, "probe", lambda *_: crash())
    assert () == trial.composite_findings(finding.case)
    assert [lost_signature("crash, SIGSEGV")] == trial.composite_signatures(finding.case)
    assert 0 == trial.hung
    monkeypatch.setattr(CompositeProber, "probe", fail)
    failing = Trial()
    assert () == failing.composite_findings(finding.case)
    assert [lost_signature("error", "no outcome")] == failing.composite_signatures(finding.case)
    failing.close()
