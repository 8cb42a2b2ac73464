import numpy as np
import pytest

from crosswalk.emu.check.compare import differing_fields
from crosswalk.emu.check.crosscheck import confirm
from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.fuzz import executor as executors
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.probe import ProbeError, Prober, ProberCache
from tests.emu.fuzz.hunted_bugs import HUNTED
from tests.emu.fuzz.planting import bug_named


def planted(name):
    (bug,) = [bug for bug in HUNTED if bug.name == name]
    return executors.Executor(predict=bug.predict)


def test_each_signature_is_found_once_with_how_often_and_the_first_access():
    layout = generate(0, 2, accesses=512)
    found = planted("U/S not inherited").findings(layout)
    every = found.all()
    assert len(every) > 2
    assert len(every) == len({each.signature for each in every})
    assert found.divergent == sum(each.count for each in every)
    assert sorted(each.row for each in every) == [each.row for each in every]
    for each in every:
        (probe,) = each.case.probes
        assert int(layout.accesses.va[each.row]) == probe.va
        assert each.case.probes == each.whole.probes
        assert each.case.entries.items() <= each.whole.entries.items()
        assert probe.predicted != probe.observed


def test_the_case_of_a_finding_shows_it_alone():
    broken = planted("U/S not inherited")
    for each in broken.findings(generate(0, 1, accesses=512)).all():
        for case in (each.case, each.whole):
            assert each.signature in broken.findings(case_layout(case)).signatures


def test_without_a_bug_only_known_divergences_are_counted():
    found = executors.Executor().findings(generate(0, 2, accesses=512))
    assert (0, (), set()) == (found.divergent, found.all(), found.signatures)


def test_what_bulk_and_single_probes_say_differently_is_an_error_of_the_testbed():
    layout = generate(0, 1, accesses=64)
    prober = ProberCache().prober(layout.memory(), layout.context)
    observed = prober.probe(layout.accesses)
    confirm(prober, layout.accesses, observed, np.array([0, 5]))
    observed.kind[5] = (observed.kind[5] + 1) % 3
    with pytest.raises(ProbeError, match="bulk and single probes differ"):
        confirm(prober, layout.accesses, observed, np.array([0, 5]))


def test_every_divergence_is_made_again_alone(monkeypatch):
    bug = bug_named("A not set").predict
    made = []

    def noted(prober, accesses, observed, rows):
        made.append(rows.tolist())
        confirm(prober, accesses, observed, rows)

    monkeypatch.setattr(executors, "confirm", noted)
    layout = generate(0, 0, accesses=2048)
    found = executors.Executor(predict=bug).findings(layout)
    predicted, observed = (
        say(layout.memory(), layout.context, layout.accesses)
        for say in (bug, ProberCache().observe)
    )
    differ = np.logical_or.reduce([*differing_fields(predicted, observed).values()])
    assert [np.flatnonzero(differ).tolist()] == made
    assert found.divergent <= len(made[0])
    assert 512 < len(made[0])


def test_a_divergence_that_is_another_one_alone_is_no_result(monkeypatch):
    probe = Prober.probe

    def otherwise(self, accesses, *rest, **more):
        outcomes = probe(self, accesses, *rest, **more)
        if not more.get("bulk", True):
            outcomes.kind[-1] = (outcomes.kind[-1] + 1) % 3
        return outcomes

    monkeypatch.setattr(Prober, "probe", otherwise)
    layout = generate(0, 0, accesses=2048)
    with pytest.raises(ProbeError, match="bulk and single probes differ"):
        executors.Executor(predict=bug_named("A not set").predict).findings(layout)
