"""A judge and its machine: batches, deaths, others that kill it, and what it can't be asked."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested import judge as judge_module
from crosswalk.emu.judges.nested.judge import NestedJudge
from crosswalk.emu.judges.nested.outcomes import Left
from crosswalk.emu.judges.nested.svm import NestedEntries
from crosswalk.emu.monitor.monitor import Greeting, MonitorEnded
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.guest.monitor.commands import Answer, Op, Status, load
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, Segments
from crosswalk.walker.nested.outcome import NestedPageFault
from tests.emu.judges.nested.grid import VA, npt_grid

RAM = ((0, 0x9_F000), (0x10_0000, 0x4000_0000))


class Machine:
    name, version = "fake", "fake 1"


class Backend:
    """Runs are LOAD commands of RIP; how the guest is left says the machine's script."""

    form, keeps_code, enters_anywhere, version = NestedEntries(), True, True, "a CPU"
    refusal = None

    def began(self, greeting):
        return [load([greeting.base])]

    def learn(self, answers):
        self.learnt = [answer.op for answer in answers]

    def refuses(self, context):
        return self.refusal

    def met(self, context):
        return context

    def host_root(self, context):
        return context.npt.root

    def enter(self, context):
        return [load([1])]

    def run(self, rip, cpl, *, quiet, rflags, registers):
        return [load([rip])]

    def left(self, answer):
        return Left(answer.words[0], vector=Vector.PF, error_code=4, address=answer.words[0])


class FakeMonitor:
    """Answers each command; the runs of one RIP end the machine; what is changed is of a script."""

    deaths, changed, ram, starts, refuses, kills = frozenset(), (), RAM, 0, 0, 0

    def __init__(self, machine, *, seconds):
        type(self).starts += 1
        if type(self).starts <= self.refuses:
            raise ProcessLost("fake was killed by somebody else")
        self.greeting = Greeting(0x800_0000, 0x80_0000, self.ram)
        self.open = True

    def perform(self, *commands):
        assert self.open
        answers, written = [], []
        for number, command in enumerate(commands):
            words = []
            if command.op is Op.LOAD:
                words = [int(command.payload[0])]
                if words[0] == VA and type(self).kills:
                    type(self).kills -= 1
                    raise ProcessLost("fake was killed by somebody else")
                if words[0] in self.deaths:
                    raise MonitorEnded("fake", "panics: why not", written)
            elif command.op is Op.RESTORE:
                words = [len(self.changed) // 2, *self.changed]
            answers.append(Answer(command.op, Status.OK, number, np.array(words, np.uint64)))
            if command.op is Op.FLUSH:
                written = list(answers)
        return answers

    def close(self):
        self.open = False


@pytest.fixture
def machine(monkeypatch):
    """The class of a monitor that isn't one."""
    kind = type("Fake", (FakeMonitor,), {})
    monkeypatch.setattr(judge_module, "Monitor", kind)
    return kind


def fetches(*pages):
    return tuple(Access(VA + page * FRAME, AccessType.EXECUTE) for page in pages)


def question(accesses):
    return replace(npt_grid(), accesses=accesses)


def answers(accesses, backend=None):
    with NestedJudge(Machine(), backend or Backend()) as judge:
        (judged,) = judge.ask([question(accesses)])
    return judged.answers, judge


def test_each_access_has_its_answer_in_one_machine(machine):
    found, judge = answers(fetches(*range(5)))
    assert [VA + page * FRAME for page in range(5)] == [each.cr2 for each in found]
    assert (1, 0) == (machine.starts, judge.deaths)
    assert "fake 1, a CPU" == judge.version


def test_a_machine_that_ends_is_blamed_on_one_access_and_another_goes_on(machine):
    machine.deaths = frozenset({VA + FRAME, VA + 3 * FRAME})
    found, judge = answers(fetches(*range(5)))
    ended = Reason(Unjudged.ENDED, "panics: why not")
    assert [False, True, False, True, False] == [each == ended for each in found]
    assert (3, 2) == (machine.starts, judge.deaths)


def test_after_many_deaths_the_rest_is_not_asked(machine):
    machine.deaths = frozenset(access.va for access in fetches(*range(80)))
    found, judge = answers(fetches(*range(80)))
    kinds = [(kind, len(list(some))) for kind, some in itertools.groupby(e.kind for e in found)]
    assert [(Unjudged.ENDED, 64), (Unjudged.LOST, 16)] == kinds
    assert 64 == judge.deaths


@pytest.mark.parametrize(("killed", "fails"), [(2, False), (3, True)])
def test_a_machine_that_others_kill_is_begun_again_twice(machine, killed, fails):
    machine.refuses = killed
    if fails:
        with pytest.raises(ProcessLost):
            answers(fetches(0))
    else:
        assert 1 == len(answers(fetches(0))[0])
    assert 3 == machine.starts


@pytest.mark.parametrize(("kills", "fails"), [(2, False), (3, True)])
def test_a_machine_that_others_kill_at_work_is_asked_again_twice(machine, kills, fails):
    machine.kills = kills
    if fails:
        with pytest.raises(ProcessLost):
            answers(fetches(1, 0))
    else:
        found, judge = answers(fetches(1, 0))
        assert [VA + FRAME, VA] == [each.cr2 for each in found]
        assert 0 == judge.deaths
    assert 3 == machine.starts


def test_what_a_backend_refuses_is_not_shown(machine):
    backend = Backend()
    backend.refusal = Reason(Unjudged.NOT_SHOWN, "no such tables")
    found, _ = answers(fetches(0, 1), backend)
    assert (backend.refusal,) * 2 == found


def test_more_changes_than_are_listed_are_a_finding(machine):
    machine.changed = tuple(range(130))
    (found,), _ = answers(fetches(0))
    assert (Unjudged.ENDED, "the access changed more than 64 words") == (found.kind, found.text)


def test_changed_words_come_with_the_outcome(machine):
    machine.changed = (0x1000, 0x67, 0x2000, 0x63)
    (found,), _ = answers(fetches(0))
    assert ((0x1000, 0x67), (0x2000, 0x63)) == found.entries


@pytest.mark.parametrize(
    ("ram", "where"),
    [
        (((0, 0x9_F000),), "0xc000000 for the judge's own"),
        (RAM[1:], "a pair has memory at 0x0, and the machine has none"),
    ],
)
def test_a_machine_without_the_ram_is_refused(machine, ram, where):
    machine.ram = ram
    with pytest.raises(BadInput, match=where):
        answers(fetches(0))


def test_a_pair_in_the_judges_own_memory_is_refused(machine):
    asked = question(fetches(0))
    page = Segments([(0, asked.memory.read(0, 40 * FRAME)), (0xC40_0000, bytes(FRAME))])
    with (
        NestedJudge(Machine(), Backend()) as judge,
        pytest.raises(BadInput, match="at 0xc400000, and the judge has its own there"),
    ):
        next(judge.ask([replace(asked, memory=page)]))


class Unreachable(Backend):
    """Under SVM: where the guest's first table can't be reached, no code of the judge runs."""

    keeps_code = False

    def left(self, answer):
        return Left(answer.words[0], fault=NestedPageFault(4, 0x4F80))


def test_where_the_code_is_out_of_reach_fetches_alone_are_shown(machine):
    kinds = (AccessType.READ, AccessType.WRITE, AccessType.EXECUTE)
    found, _ = answers(tuple(Access(VA, kind) for kind in kinds), Unreachable())
    assert [Unjudged.NOT_SHOWN] * 2 == [each.kind for each in found[:2]]
    assert NestedPageFault(4, 0x4F80) == found[2]
