import json

from tests.emu.case_files import KNOWN_SEQUENCE_FILES

NAME = "section=tlb-leaf,page=2m,change=target,g=0,prime=read,invalidate=none,access=read,cpl=3"


def test_a_named_sequence_is_run_and_shown_step_by_step(run):
    done = run("sequence", NAME)
    assert 0 == done.status
    assert f"{NAME}: steps 4, accesses 3" in done.out
    assert "  Store 0x" in done.out
    assert "(stale)" in done.out
    assert "VIOLATION" not in done.out


def test_a_known_violation_is_named_and_no_failure(run):
    done = run("sequence", str(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"))
    assert 0 == done.status
    assert "VIOLATION: a page fault keeps what is cached of its address" in done.out
    assert "known emulator divergence: fault-keeps-tlb" in done.out


def test_a_step_that_stops_the_processor_is_shown(run):
    done = run("sequence", str(KNOWN_SEQUENCE_FILES / "invpcid-undefined.json"))
    assert 0 == done.status
    assert "VIOLATION: Invpcid raises #UD" in done.out


def test_an_unknown_violation_is_a_failure(run, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    done = run("sequence", str(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"))
    assert 1 == done.status


def test_as_json_the_file_is_filled_in(run):
    path = KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json"
    done = run("sequence", "--json", str(path))
    assert path.read_text() == done.out
    named = json.loads(run("sequence", "--json", NAME).out)
    assert NAME == named["note"]


def test_bad_input_is_one_line(run, tmp_path):
    case = tmp_path / "case.json"
    case.write_text('{"format": "crosswalk-case/1"}')
    for given in ("section=tlb-leaf", "section=tlb-nothing", "number=1", str(case)):
        done = run("sequence", given)
        assert 2 == done.status
        assert 1 == done.err.count("\n")
