"""`reduce --judge`: what a machine shows is made small with that machine."""

from dataclasses import replace

import pytest

from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.fuzz import judged
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.judges.judge import JudgedSequence
from crosswalk.emu.report.composites import dump_composite, load_composite
from crosswalk.walker.formats import dump_case, load_case
from crosswalk.walker.tlb import Invlpg, SequenceRecord, dump_sequence, load_sequence
from tests.emu.case_files import COMPOSITE_CASES, JUDGES_CASES, KNOWN_SEQUENCE_FILES
from tests.emu.cli.running import refused
from tests.emu.fuzz.planted_judges import DIED, PlantedJudge

JUDGE = ("--judge", "exec:it")
"""No departure is known of a command."""

SEQUENCE = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"
COMPOSITE = COMPOSITE_CASES / "locked-rmw-reads-first.json"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    judged._executor.cache_clear()
    monkeypatch.setattr(judged, "open_judge", lambda _: PlantedJudge())
    yield
    judged._executor.cache_clear()


def test_a_case_becomes_small_and_the_judge_still_shows_it(run, tmp_path):
    large, small = tmp_path / "large.json", tmp_path / "small.json"
    case = layout_case(generate(5, 0, accesses=512))
    large.write_bytes(dump_case(replace(case, walker="exec:never run")))
    ran = run("reduce", large, *JUDGE, "-o", small)
    about, *_, again = ran.err.splitlines()
    assert (0, "") == (ran.status, ran.out)
    assert "P in the error code at a present entry: judge:exec:it says clear, it is set" == about
    assert f"replay: crosswalk judge {small} --with exec:it" == again
    (probe,) = load_case(small).probes
    assert (9, None) == (probe.predicted.error_code & 9, probe.observed)
    assert len(load_case(small).entries) <= 4
    assert small.read_text() == run("reduce", small, *JUDGE).out


def test_a_sequence_loses_steps_while_the_judge_departs(run, tmp_path):
    record = load_sequence(SEQUENCE)
    steps = (Invlpg(5 << 39), *record.sequence.steps, Invlpg(6 << 39))
    large, small = tmp_path / "large.json", tmp_path / "small.json"
    large.write_bytes(dump_sequence(SequenceRecord(replace(record.sequence, steps=steps))))
    ran = run("reduce", large, *JUDGE, "-o", small)
    assert (0, "") == (ran.status, ran.out)
    assert len(load_sequence(small).sequence.steps) <= len(record.sequence.steps)
    assert f"replay: crosswalk judge {small} --with exec:it" in ran.err


def test_a_sequence_at_which_the_judge_ends_is_made_small(run, tmp_path, monkeypatch):
    def dies(_self, sequences):
        return [JudgedSequence(each.context, DIED) for each in sequences]

    monkeypatch.setattr(PlantedJudge, "sequences", dies)
    small = tmp_path / "small.json"
    ran = run("reduce", SEQUENCE, *JUDGE, "-o", small)
    assert (0, True) == (ran.status, "judge:exec:it: died of SIGABRT" in ran.err)
    assert len(load_sequence(small).sequence.steps) <= 1


def test_a_composite_becomes_small_while_the_judge_departs(run, tmp_path):
    large, small = tmp_path / "large.json", tmp_path / "small.json"
    composite = load_composite(COMPOSITE)
    more = replace(composite.case, entries={0x1008: 0x1003, **composite.case.entries})
    large.write_bytes(dump_composite(replace(composite, case=more)))
    ran = run("reduce", large, *JUDGE, "-o", small)
    assert (0, True) == (ran.status, "judge:exec:it says" in ran.err.splitlines()[0])
    assert len(load_composite(small).case.entries) < len(more.entries)


@pytest.mark.parametrize("path", [SEQUENCE, COMPOSITE])
def test_what_is_known_of_the_judge_is_nothing_to_reduce_to(run, path):
    line = refused(run("reduce", path, "--judge", "unicorn"))
    assert "that isn't a known divergence of this judge" in line


def test_a_log_and_a_walker_besides_are_refused(run):
    path = JUDGES_CASES / "reserved-fault-without-p.json"
    assert "questions of one image alone" in refused(run("reduce", path, "--judge", "log:x"))
    assert "not both" in refused(run("reduce", path, *JUDGE, "--walker", "bulk"))
