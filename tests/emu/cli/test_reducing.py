import pytest

from emu.fuzz.generate import generate
from emu.fuzz.layout_case import layout_case
from tests.emu.fuzz.planted import bug_named, crash, plant_emulator, plant_walker
from walker.source import dump_case, load_case


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
    assert ("ok", "page_fault") == (
        case.probes[0].predicted.outcome, case.probes[0].observed.outcome,
    )  # fmt: skip
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
    assert ran.err == (
        "crosswalk: error: nothing diverges in this case: there is nothing to reduce to\n"
    )


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
    assert f"to run that, say --walker 'exec:touch {mark}'" in ran.err


def test_json_needs_a_file_for_the_case(run, layout):
    ran = run("reduce", layout, "--json")
    assert (2, "crosswalk: error: --json needs --output FILE for the case\n") == (
        ran.status, ran.err,
    )  # fmt: skip


def test_help_tells_limits_and_statuses(run):
    text = run("reduce", "--help").out
    for part in ("3,000 cases", "24 that hang", "exit status: 0", "crosswalk replay"):
        assert part in text
