import json

import pytest

from crosswalk.emu.check.nested import KINDS, NestedVerdict
from crosswalk.emu.fuzz.nested import campaign
from crosswalk.emu.fuzz.nested.campaign import PairCrash, PairResult
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.nested.outcome import NestedError, NestedPageFault
from crosswalk.walker.nested.translate import translate_nested

FEW = ("nested", "--pairs", "3", "--accesses", "40", "--seed", "5")


def test_pairs_are_checked_and_counted(run):
    done = run(*FEW, "--jobs", "2")
    assert 0 == done.status
    assert "3 pairs, " in done.out
    assert " 0 diverge, " in done.out
    for kind in KINDS:
        assert f"\n{kind} " in f"\n{done.out}"
    not_asked = "not asked: 30 (would end the emulator)"
    assert done.out.splitlines()[-2:] == [
        f"verdict: agreement on 86 of 120 probes; known divergences: 4; {not_asked}",
        "reproduce: crosswalk nested --pairs 3 --accesses 40 --seed 5 --jobs 2",
    ]


def test_where_everything_could_be_asked_the_word_stands_alone(run):
    done = run("nested", "--pairs", "1", "--accesses", "1", "--seed", "5")
    assert (0, "verdict: agreement") == (done.status, done.out.splitlines()[-2])


def test_where_nothing_could_be_asked_there_is_no_agreement(run, monkeypatch):
    access = Access(0x1234, AccessType.READ, 3)
    verdict = NestedVerdict(0, (), (), {}, {}, (access,))
    result = PairResult(0, verdict, 1, ())
    monkeypatch.setattr("crosswalk.emu.cli.nested.pair_results", lambda *_: iter([result]))
    done = run(*FEW)
    assert (2, "verdict: nothing asked; not asked: 1 (would end the emulator)") == (
        done.status,
        done.out.splitlines()[-2],
    )
    assert "agreement" not in done.out


def test_as_json_the_sum_adds_up(run):
    done = run(*FEW, "--json")
    assert 0 == done.status
    record = json.loads(done.out)
    assert 3 * 40 == record["probes"] + record["crashes_foreseen"]
    assert record["agreements"] + record["known_divergences"] == record["probes"]
    assert {"would end the emulator": 30} == record["not_asked"]
    assert {} == record["predicted_only"]
    assert sum(record["outcomes"].values()) == record["probes"]
    assert (0, 0, 0) == (
        record["divergences"],
        record["crashes_not_foreseen"],
        record["crashes_that_did_not_come"],
    )
    again = json.loads(run(*FEW, "--json", "--jobs", "1").out)
    for volatile in ("seconds", "reproduce"):
        del record[volatile], again[volatile]
    assert record == again


def without_the_stage(memory, context, access):
    outcome = translate_nested(memory, context, access)
    if isinstance(outcome, NestedPageFault):
        stages = int(NestedError.FINAL | NestedError.TABLE)
        return NestedPageFault(outcome.error_code & ~stages, outcome.gpa, outcome.entries)
    return outcome


@pytest.fixture
def wrong_walker(monkeypatch):
    check = campaign.check_nested
    monkeypatch.setattr(
        campaign,
        "check_nested",
        lambda *given: check(*given, predict=lambda *asked: (without_the_stage(*asked),)),
    )


def test_a_divergence_is_shown_with_its_walk_and_how_to_get_it_again(run, wrong_walker):
    done = run(*FEW)
    assert 1 == done.status
    assert "verdict: FAILED" in done.out
    line = next(line for line in done.out.splitlines() if "reproduce: crosswalk nested" in line)
    again = line.partition("reproduce: crosswalk ")[2].split()
    assert "divergence: " in done.out
    assert "  guest PML4E at gpa 0x" in done.out
    repeated = run(*again)
    assert 1 == repeated.status
    assert line in repeated.out
    assert "\n1 pair, " in repeated.out


def test_a_crash_that_was_not_foreseen_is_a_failure(run, monkeypatch):
    access = Access(0x1234, AccessType.READ, 3)
    crash = PairCrash(2, "crash, SIGSEGV", (access,))
    monkeypatch.setattr("crosswalk.emu.cli.nested.pair_results", lambda *_: iter([crash]))
    done = run(*FEW)
    assert 1 == done.status
    assert "crash, SIGSEGV; alone: read of 0x1234 at CPL 3" in done.out
    assert "1 crashes that were not foreseen" in done.out
    assert 1 == json.loads(run(*FEW, "--json").out)["crashes_not_foreseen"]


def test_the_known_are_explained_when_asked_for(run):
    done = run("nested", "--pairs", "6", "--accesses", "60", "--verbose")
    assert 0 == done.status
    assert "nested-leaf-not-marked:\n  manual: AMD APM" in done.out


@pytest.mark.parametrize("option", ["--pairs", "--accesses", "--jobs"])
@pytest.mark.parametrize("value", ["0", "x", "-1"])
def test_bad_numbers_are_refused(run, option, value):
    done = run("nested", option, value)
    assert 2 == done.status
    assert "" == done.out
    assert option in done.err
