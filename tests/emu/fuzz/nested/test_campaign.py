"""Many pairs: the same results with any number of processes, and crashes as results."""

import os
import signal
from dataclasses import replace

import pytest

from crosswalk.emu.check.nested_deviations import MANUAL
from crosswalk.emu.fuzz.nested import campaign, make_pair
from crosswalk.emu.fuzz.nested.campaign import PairCrash, dies, pair_results, try_pair
from crosswalk.emu.probe import ProbeError
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.access import Access
from tests.emu.fuzz.planting import crash
from tests.emu.probe.nested.two_stages import GUEST, PAGE, SHIFT, TwoStages
from tests.tables import OPEN, READ, XD, A, D

ACCESS = Access(0x5123, READ, 3)


def fatal_pair():
    two = TwoStages()
    two.host(1, GUEST[1], (GUEST[1] + SHIFT) * PAGE | OPEN | A | D | XD)
    accesses = (Access(1 << 47, READ, 3), ACCESS)
    return replace(make_pair(0, 0, 1), memory=two.memory, context=two.context, accesses=accesses)


def test_processes_do_not_matter():
    one = list(pair_results(3, range(4), 20, 1))
    assert one == list(pair_results(3, range(4), 20, 2))
    assert [0, 1, 2, 3] == [result.number for result in one]
    assert one[2:3] == list(pair_results(3, [2], 20, 1))
    assert all(not result.verdict.divergences for result in one)


def test_a_crash_that_is_foreseen_is_proved_and_not_made():
    pair = fatal_pair()
    result = try_pair(pair, NestedProber(pair.memory, pair.context))
    assert (ACCESS,) == result.verdict.fatal
    assert (1, 1, ()) == (result.verdict.probes, result.proved, result.survived)


def test_a_crash_that_does_not_come_is_told(monkeypatch):
    two = TwoStages()
    pair = replace(fatal_pair(), memory=two.memory)
    monkeypatch.setattr("crosswalk.emu.check.nested.emulated", lambda *_: None)
    result = try_pair(pair, NestedProber(pair.memory, pair.context))
    assert 2 == len(result.verdict.fatal)
    assert result.verdict.fatal[:1] == result.survived


def test_a_crash_that_is_not_foreseen_is_a_result_and_the_access_is_named(monkeypatch):
    monkeypatch.setattr(campaign, "make_pair", lambda *_: fatal_pair())
    monkeypatch.setattr("crosswalk.emu.check.nested.EMULATOR", MANUAL)
    (result,) = pair_results(0, [7], 2, 1)
    assert PairCrash(7, "crash, SIGSEGV", (ACCESS,)) == result


@pytest.mark.parametrize(
    ("work", "killed"),
    [
        (crash, True),
        (lambda: None, False),
    ],
    ids=["crashes", "returns"],
)
def test_only_a_signal_is_a_death(work, killed):
    assert killed is dies(work)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_others_kill_has_neither_died_nor_survived(number):
    with pytest.raises(ProcessLost, match=f"{number.name}.*, 5 times"):
        dies(lambda: os.kill(os.getpid(), number))


def test_a_pair_whose_process_is_killed_once_is_tried_again(monkeypatch, tmp_path):
    whole = list(pair_results(3, range(2), 20, 1))
    attempt = campaign.try_pair

    def once(pair, prober):
        if not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt(pair, prober)

    monkeypatch.setattr(campaign, "try_pair", once)
    assert whole == list(pair_results(3, range(2), 20, 1))
    assert (tmp_path / "killed").exists()


def test_a_pair_whose_process_others_go_on_to_kill_is_lost_and_no_crash(monkeypatch):
    monkeypatch.setattr(campaign, "try_pair", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ProcessLost, match=r"pair 7: a process was killed \(SIGKILL\).*, 5 times"):
        list(pair_results(0, [7], 2, 1))


def test_what_raises_has_neither_died_nor_survived():
    with pytest.raises(ProbeError, match="ZeroDivisionError: division by zero"):
        dies(lambda: 1 / 0)


def test_a_proof_that_raises_is_no_survival(monkeypatch):
    pair = fatal_pair()
    prober = NestedProber(pair.memory, pair.context)
    probe = prober.probe

    def failing(access):
        if access == ACCESS:
            raise ProbeError("no outcome")
        return probe(access)

    monkeypatch.setattr(prober, "probe", failing)
    with pytest.raises(ProbeError, match="where a crash was to be proved: ProbeError: no outcome"):
        try_pair(pair, prober)
