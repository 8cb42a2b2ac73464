"""`nested --tables --with`: other machines, and other tables than AMD's."""

import json
from dataclasses import replace

import pytest

from crosswalk.emu.check.nested import EPT_KINDS
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation
from crosswalk.walker.outcome import Translation
from tests.emu.check.nested.simulated import PANIC, SimulatedJudge, honest

FEW = ("nested", "--tables", "ept-mbec", "--with", "bochs", "--pairs", "3", "--accesses", "40")
AGAIN = "--tables ept-mbec --with bochs --seed 0 --accesses 40 --pair"


@pytest.fixture
def judged(run, monkeypatch):
    """Runs the command with a machine that boots nothing."""

    def judge(machine, *more):
        monkeypatch.setattr("crosswalk.emu.cli.nested.open_nested_judge", lambda *_: machine)
        done = run(*FEW, *more)
        assert machine.closed
        return done

    return judge


def test_a_machine_s_known_departures_are_named_and_no_agreements(judged):
    done = judged(SimulatedJudge())
    assert (0, "") == (done.status, done.err)
    lines = done.out.splitlines()
    assert list(EPT_KINDS) == [line[:30].strip() for line in lines[: len(EPT_KINDS)]]
    assert "asked: Bochs 3.0, VMX, 40 bits" in lines
    assert "ept-user-execute-in-bit-13: Under mode-based execute control" in done.out
    assert lines[-2].startswith("verdict: agreement")
    assert "known divergences: " in lines[-2]
    assert "accesses not made" not in done.out
    assert f"reproduce: crosswalk {' '.join(FEW)}" == lines[-1]


def test_as_json_the_machine_is_named_and_the_sum_adds_up(judged):
    done = judged(SimulatedJudge(), "--json")
    assert 0 == done.status
    record = json.loads(done.out)
    assert {"name": "bochs", "version": "Bochs 3.0, VMX, 40 bits"} == record["judge"]
    assert "ept-mbec" == record["tables"]
    assert 120 == record["probes"] + sum(record["not_asked"].values())
    assert record["agreements"] + record["known_divergences"] == record["probes"]
    assert sum(record["outcomes"].values()) == record["probes"]


def elsewhere(outcome):
    return replace(outcome, pa=outcome.pa ^ 8) if isinstance(outcome, Translation) else outcome


def test_a_divergence_is_shown_with_both_dimensions_and_how_to_get_it_again(judged):
    done = judged(replace(honest(), change=elsewhere))
    assert 1 == done.status
    assert "verdict: FAILED" in done.out
    assert "divergence: " in done.out
    assert f"reproduce: crosswalk nested {AGAIN} " in done.out
    assert "  host:  4-level EPT in " in done.out
    assert "    EPT PML4E[0] " in done.out


def other_violation(outcome):
    if isinstance(outcome, EptViolation):
        return EptMisconfiguration(outcome.gpa, outcome.entries)
    return outcome


def test_the_other_kind_of_exit_is_a_divergence(judged):
    done = judged(replace(honest(), change=other_violation))
    assert 1 == done.status
    assert "predicted: VM exit: EPT violation, qualification " in done.out
    assert "observed:  VM exit: EPT misconfiguration, gpa " in done.out


def ending(outcome):
    return PANIC if isinstance(outcome, EptMisconfiguration) else outcome


def test_a_machine_that_ends_is_a_failure(judged):
    done = judged(replace(honest(), change=ending))
    assert 1 == done.status
    assert ": the machine panics: a reason" in done.out
    assert "crashes that were not foreseen" in done.out


def test_a_machine_that_shows_nothing_is_no_agreement(judged):
    why = Reason(Unjudged.NOT_SHOWN, "no RAM there")
    done = judged(replace(honest(), change=lambda _: why))
    assert (2, "verdict: nothing asked; not asked: 120 (no RAM there)") == (
        done.status,
        done.out.splitlines()[-2],
    )
    assert "\n120 accesses without an outcome: no RAM there\n" in done.out


def test_the_known_are_explained_when_asked_for(judged):
    done = judged(SimulatedJudge(), "--verbose")
    assert "ept-user-execute-in-bit-13:\n  manual: Intel SDM vol. 3C" in done.out


def test_of_one_pair_every_known_divergence_is_shown_with_both_answers(judged):
    done = judged(SimulatedJudge(), "--pair", "2", "--verbose")
    head = "known divergence, ept-user-execute-in-bit-13: "
    shown = [
        each for each in done.out.split("\n\n")[0].splitlines() if each.startswith("known div")
    ]
    assert head + "write of 0xffff804000401983 at CPL 0" in shown
    assert "  observed:  VM exit: EPT violation, qualification 0x21a2 (" in done.out
    assert f"; known divergences: {len(shown)}" in done.out
    assert head not in judged(SimulatedJudge(), "--pair", "2").out
    assert head not in judged(SimulatedJudge(), "--verbose").out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--tables", "ept"), "--tables ept: the emulated CPU has none; give --with bochs[:PATH]"),
        (("--tables", "ept-mbec", "--with", "unicorn"), "there is --with bochs[:PATH]"),
        (("--tables", "ept", "--with", "qemu"), "qemu isn't asked about these tables"),
        (("--with", "bochs"), "there is --with unicorn or qemu[:PATH]"),
        (("--with", "kvm"), "there is --with unicorn or qemu[:PATH]"),
        (("--with", "none"), "none: no judge; there are "),
        (("--tables", "ept", "--with", "bochs:"), "nothing behind the colon"),
        (("--tables", "ept", "--with", "bochs:/no/such/bochs"), "/no/such/bochs"),
        (("--tables", "npt5"), "invalid choice: 'npt5'"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_status_2(run, given, said):
    done = run("nested", *given)
    assert (2, "") == (done.status, done.out)
    assert said in done.err


def test_the_emulated_cpu_may_be_named(run):
    few = ("--pairs", "1", "--accesses", "5", "--seed", "5", "--json")
    one, other = (
        json.loads(run("nested", *each, *few).out) for each in ((), ("--with", "unicorn"))
    )
    assert one["outcomes"] == other["outcomes"]
    assert "judge" not in other
