from dataclasses import replace

import pytest

from crosswalk.emu.findings.layout import layout_case
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import dump_composite, load_composite
from crosswalk.walker.formats import dump_case, load_case
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.tlb import Invlpg, SequenceRecord, dump_sequence, load_sequence
from tests.emu.case_files import COMPOSITE_CASES, KNOWN_SEQUENCE_FILES
from tests.emu.fuzz.planting import bug_named, crash, first_composite, plant_emulator, plant_walker


@pytest.fixture
def layout(tmp_path):
    path = tmp_path / "layout.json"
    path.write_bytes(dump_case(layout_case(generate(5, 0, accesses=512))))
    return path


@pytest.fixture
def bug(monkeypatch):
    plant_walker(monkeypatch, bug_named("SMAP ignored").predict)


def test_a_case_becomes_small_and_still_shows_it(run, layout, bug, tmp_path):
    small = tmp_path / "small.json"
    ran = run("reduce", layout, "-o", small)
    assert (0, "") == (ran.status, ran.out)
    said = ran.err.splitlines()
    assert "SMAP: walker says ok, it is #PF, P" == said[0]
    assert said[-1] == f"replay: crosswalk replay {small}"
    case = load_case(small)
    assert (1, 2) == (len(case.probes), len(case.entries))
    assert isinstance(case.probes[0].predicted, Translation)
    assert isinstance(case.probes[0].observed, PageFault)
    replayed = run("replay", small)
    assert (1, True) == (replayed.status, "probes 1, divergences 1" in replayed.out)


def test_what_is_reduced_is_reduced_to_itself(run, layout, bug, tmp_path):
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    run("reduce", layout, "-o", first)
    run("reduce", first, "-o", again)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_text() == run("reduce", layout).out


def test_sizes_are_said_to_machines(run, layout, bug, tmp_path):
    document = run("reduce", layout, "--json", "-o", tmp_path / "small.json").document
    case = load_case(layout)
    assert {"before": len(case.probes), "after": 1} == document["probes"]
    assert {"before": len(case.entries), "after": 2} == document["entries"]
    assert (True, True) == (document["minimal"], 10 < document["tries"] < 200)


def test_a_case_that_shows_nothing_is_bad_input(run, layout):
    ran = run("reduce", layout)
    assert (2, "") == (ran.status, ran.out)
    assert (
        "crosswalk: error: nothing diverges in this case: there is nothing to reduce to\n"
    ) == ran.err


def test_a_crash_of_the_emulator_is_reduced(run, layout, monkeypatch, tmp_path):
    plant_emulator(monkeypatch, lambda path, context, rows: rows.type == 2, crash)
    small = tmp_path / "small.json"
    ran = run("reduce", layout, "-o", small)
    assert (0, "an outcome is due: emulator: crash, SIGSEGV") == (
        ran.status, ran.err.splitlines()[0],
    )  # fmt: skip
    (probe,) = load_case(small).probes
    assert ("execute", 0) == (probe.access, len(load_case(small).entries))
    again = run("replay", small)
    assert (2, True) == (again.status, "SIGSEGV" in again.err)


def test_a_case_does_not_choose_what_program_is_run(run, tmp_path, layout):
    path = tmp_path / "strange.json"
    mark = tmp_path / "mark"
    case = load_case(layout)
    text = dump_case(case).decode().replace(
        '"cpu"', f'"walker": "exec:touch {mark}",\n  "cpu"', 1
    )  # fmt: skip
    path.write_text(text)
    ran = run("reduce", path)
    assert (2, False) == (ran.status, mark.exists())
    assert f"to run that, give --walker 'exec:touch {mark}'" in ran.err


def test_json_needs_a_file_for_the_case(run, layout):
    ran = run("reduce", layout, "--json")
    assert (2, "crosswalk: error: --json needs --output FILE for the case\n") == (
        ran.status, ran.err,
    )  # fmt: skip


def test_help_tells_limits_and_statuses(run):
    text = run("reduce", "--help").out
    for part in ("3,000 candidates", "24 that hang", "exit status: 0", "crosswalk replay"):
        assert part in text


def test_a_composite_becomes_small_and_replays(run, monkeypatch, tmp_path):
    plant_walker(monkeypatch, bug_named("XD not inherited").predict)
    found = first_composite(bug_named("XD not inherited").predict)
    large, small, again = (tmp_path / f"{name}.json" for name in ("large", "small", "again"))
    large.write_bytes(dump_composite(found.case, found.allowed, found.seen))
    ran = run("reduce", large, "-o", small)
    said = ran.err.splitlines()
    assert (0, "", str(found.signature)) == (ran.status, ran.out, said[0])
    assert said[-1] == f"replay: crosswalk replay {small}"
    assert len(load_composite(small).case.entries) <= 6
    assert 1 == run("replay", small).status
    document = run("reduce", small, "--json", "-o", again).document
    assert small.read_bytes() == again.read_bytes()
    assert {"signature", "entries", "tries", "minimal"} == set(document)
    monkeypatch.undo()
    ran = run("reduce", small)
    assert (2, True) == (ran.status, "nothing diverges in this case" in ran.err)


def test_a_sequence_loses_steps_and_departs_for_the_same_cause(run, tmp_path):
    record = load_sequence(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json")
    steps = (Invlpg(7 << 39), *record.sequence.steps, Invlpg(5 << 39))
    large, small, again = (tmp_path / f"{name}.json" for name in ("large", "small", "again"))
    padded = replace(record.sequence, steps=steps)
    large.write_bytes(dump_sequence(SequenceRecord(padded, "a note")))
    ran = run("reduce", large, "-o", small)
    said = ran.err.splitlines()
    assert (0, "a page fault keeps what is cached of its address") == (ran.status, said[0])
    assert f"steps: {len(steps)} to {len(record.sequence.steps)}" in said
    assert said[-1] == f"replay: crosswalk sequence {small}"
    reduced = load_sequence(small)
    assert ("a note", len(record.sequence.steps)) == (reduced.note, len(reduced.sequence.steps))
    run("reduce", small, "-o", again)
    assert small.read_bytes() == again.read_bytes()
    assert "known emulator divergence: fault-keeps-tlb" in run("sequence", small).out


def test_no_walker_can_be_asked_for_a_composite_or_a_sequence(run, tmp_path):
    sequence = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"
    composite = COMPOSITE_CASES / "locked-rmw-reads-first.json"
    for path, what in ((sequence, "a sequence"), (composite, "a composite")):
        ran = run("reduce", path, "--walker", "translate")
        assert (2, "") == (ran.status, ran.out)
        assert ran.err == f"crosswalk: error: {path}: a walker can't be asked for {what}\n"


def interrupted_after(monkeypatch, name, calls):
    """SIGINT comes when a process is asked for the next candidates after so many calls."""
    act, left = getattr(Trial, name), [calls]

    def asked(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return act(self, *arguments)

    monkeypatch.setattr(Trial, name, asked)


def test_an_interrupted_reduction_gives_the_smallest_case_so_far(
    run, layout, bug, tmp_path, monkeypatch
):
    small, whole = tmp_path / "small.json", load_case(layout)
    interrupted_after(monkeypatch, "findings_many", 12)
    ran = run("reduce", layout, "-o", small)
    assert (130, "") == (ran.status, ran.out)
    assert "; interrupted, and it may not be the smallest\n" in ran.err
    monkeypatch.undo()
    plant_walker(monkeypatch, bug_named("SMAP ignored").predict)
    left = load_case(small)
    assert 1 <= len(left.probes) < len(whole.probes)
    assert 1 == run("replay", small).status
    assert run("reduce", small).out == run("reduce", layout).out


def test_an_interrupted_reduction_of_a_sequence_or_a_composite_does_so_too(
    run, tmp_path, monkeypatch
):
    record = load_sequence(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json")
    more = replace(
        record.sequence, steps=(Invlpg(5 << 39), *record.sequence.steps, Invlpg(6 << 39))
    )
    path, small = tmp_path / "sequence.json", tmp_path / "small.json"
    path.write_bytes(dump_sequence(SequenceRecord(more)))
    interrupted_after(monkeypatch, "departure", 8)
    ran = run("reduce", path, "-o", small, "--json")
    assert (130, False) == (ran.status, ran.document["minimal"])
    monkeypatch.undo()
    assert len(load_sequence(small).sequence.steps) < len(more.steps)
    predict = bug_named("XD not inherited").predict
    plant_walker(monkeypatch, predict)
    whole = tmp_path / "composite.json"
    whole.write_bytes(dump_composite(first_composite(predict).case))
    interrupted_after(monkeypatch, "composite_signatures", 20)
    ran = run("reduce", whole, "-o", small, "--json")
    assert (130, False) == (ran.status, ran.document["minimal"])
    monkeypatch.undo()
    plant_walker(monkeypatch, predict)
    assert len(load_composite(small).case.entries) <= len(load_composite(whole).case.entries)
    assert 1 == run("replay", small).status
