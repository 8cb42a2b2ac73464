"""Workers that crash, hang, run out of memory or are killed, busy and idle, and whose parent is."""

import errno
import faulthandler
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from crosswalk.emu.workers.frames import framed
from crosswalk.emu.workers.pool import Pool, in_order, serve
from crosswalk.emu.workers.process import Ending, ProcessEnded, ProcessLost
from crosswalk.walker.errors import BadInput, CrosswalkError
from tests.emu.targets.walkers import ROOT
from tests.processes import alive, children, until


def double(number):
    """What a worker of its own interpreter finds by name."""
    return 2 * number


def whereabouts(_):
    return os.getpid()


def die(name="SIGSEGV"):
    faulthandler.disable()
    os.kill(os.getpid(), signal.Signals[name])


def once(mark, act):
    """Do `act` in the first process that comes here."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    act()


@pytest.fixture
def pool_of():
    """Makes pools, and sees to it that they leave no process."""
    before, pools = children(), []

    def make(*given, **named):
        pools.append(Pool(*given, **named))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert before == children()


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_order_whatever_is_done_first(pool_of, jobs):
    pool = pool_of(lambda number: time.sleep(0.02 * (number % 2)) or 2 * number, jobs)
    assert [(at, 2 * at) for at in range(20)] == [
        (at, result()) for at, result in in_order(pool, range(20))
    ]


def test_no_more_are_begun_than_were_asked_for(pool_of):
    begun = []
    tasks = (begun.append(at) or at for at in range(100))
    results = in_order(pool_of(double, 2), tasks, ahead=3)
    next(results)
    assert 6 == len(begun)


def test_tasks_and_answers_larger_than_a_pipe_go_both_ways_at_once(pool_of):
    pool = pool_of(lambda data: data[::-1], 2)
    data = [bytes([at]) * (1 << 22) + b"end" for at in range(6)]
    results = [pool.submit(each) for each in data]
    assert [each[::-1] for each in data] == [result() for result in results]


def test_a_process_does_one_task_after_the_other(pool_of):
    pool = pool_of(whereabouts, 1)
    first = pool.submit(None)()
    assert os.getpid() != first
    assert {first} == {pool.submit(None)() for _ in range(5)}


def test_interpreters_of_their_own_do_the_same(pool_of):
    pool = pool_of(double, 2, fresh=True)
    assert [0, 2, 4, 6] == [result() for _, result in in_order(pool, range(4))]


def test_what_an_interpreter_of_its_own_prints_is_no_answer(pool_of, capfd):
    assert None is pool_of(print, fresh=True).submit("aloud")()
    assert "aloud\n" == capfd.readouterr().err


@pytest.mark.parametrize("fresh", [False, True])
def test_idle_workers_that_somebody_kills_are_replaced(pool_of, fresh):
    pool = pool_of(whereabouts, 2, fresh=fresh)
    for _ in range(3):
        idle = {result() for result in [pool.submit(None) for _ in range(8)]}
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not alive(pid))
        assert pool.submit(None)() not in idle


def test_a_task_whose_process_is_killed_is_done_by_another(pool_of, tmp_path):
    pool = pool_of(lambda number: once(tmp_path / "mark", lambda: die("SIGKILL")) or number, 2)
    assert [0, 1, 2] == [result() for _, result in in_order(pool, range(3))]
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_a_task_whose_processes_others_go_on_to_kill_is_lost(pool_of, name, tmp_path):
    def killed(number):
        (tmp_path / str(os.getpid())).touch()
        return die(name) if number == 1 else number

    pool = pool_of(killed, who="a worker")
    first, lost, last = [pool.submit(at) for at in range(3)]
    assert 0 == first()
    with pytest.raises(ProcessLost) as caught:
        lost()
    assert str(caught.value) == (
        f"a worker was killed ({name}), by another program or for want of memory, 5 times"
    )
    assert 2 == last()
    assert 6 == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_crash_that_comes_again_in_a_fresh_process_is_a_result(pool_of, name, tmp_path):
    def crash(number):
        (tmp_path / str(os.getpid())).touch()
        return number or die(name)

    pool = pool_of(crash)
    assert 1 == pool.submit(1)()
    with pytest.raises(ProcessEnded) as caught:
        pool.submit(0)()
    assert (f"died of {name}", f"crash, {name}") == (str(caught.value), caught.value.how)
    assert 2 == len(list(tmp_path.iterdir()))


def test_a_crash_that_does_not_come_again_is_none(pool_of, tmp_path):
    pool = pool_of(lambda number: once(tmp_path / "mark", die) or number)
    assert 7 == pool.submit(7)()


def test_a_process_that_a_crash_and_a_kill_end_in_turn_is_lost_and_no_crash(pool_of, tmp_path):
    def ends(_):
        turn = len(list(tmp_path.iterdir()))
        (tmp_path / str(turn)).touch()
        die(("SIGKILL", "SIGSEGV", "SIGKILL", "SIGABRT", "SIGKILL")[turn])

    with pytest.raises(ProcessLost, match="5 times"):
        pool_of(ends).submit(None)()


def test_a_task_that_hangs_is_ended_and_the_next_is_done(pool_of):
    pool = pool_of(lambda number: time.sleep(number) or number, seconds=0.2)
    hangs, quick = pool.submit(60), pool.submit(0)
    with pytest.raises(ProcessEnded, match=r"hangs: no end after 0.2 s") as caught:
        hangs()
    assert "hang" == caught.value.how
    assert 0 == quick()


def test_a_process_that_is_stopped_is_ended_at_its_deadline(pool_of):
    pool = pool_of(lambda _: os.kill(os.getpid(), signal.SIGSTOP), seconds=0.2)
    with pytest.raises(ProcessEnded, match="hangs"):
        pool.submit(bytes(1 << 22))()


@pytest.mark.parametrize(
    "error",
    [MemoryError, lambda: OSError(errno.ENOMEM, "Cannot allocate memory")],
    ids=["Python's", "the system's"],
)
def test_for_want_of_memory_a_task_is_lost_and_the_next_is_done(pool_of, error):
    def work(number):
        if not number:
            raise error()
        return number

    pool = pool_of(work, who="a worker")
    with pytest.raises(ProcessLost, match=r"^a worker ran out of memory, 2 times$"):
        pool.submit(0)()
    assert 1 == pool.submit(1)()


class Closed(Exception):
    """One that can't be pickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")
        self.held = lambda: one


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (BadInput("this"), BadInput, "^this$"),
        (ZeroDivisionError("that"), ZeroDivisionError, "^that$"),
        (Closed(1, 2), CrosswalkError, "^Closed: 1 and 2$"),
    ],
)
def test_what_a_task_raises_is_raised_here(pool_of, error, kind, words):
    def work(number):
        if not number:
            raise error
        return number

    pool = pool_of(work)
    with pytest.raises(kind, match=words):
        pool.submit(0)()
    assert 1 == pool.submit(1)()


def test_an_answer_that_is_none_is_a_crash(pool_of, monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.workers.pool.serve", lambda _1, _2, end: os.write(end, framed(b"no pickle"))
    )
    with pytest.raises(ProcessEnded, match="sending what is no answer"):
        pool_of(double).submit(1)()


def test_a_length_that_is_no_answers_is_a_crash_and_takes_no_memory(pool_of, monkeypatch):
    monkeypatch.setattr(
        "crosswalk.emu.workers.pool.serve", lambda _1, _2, answers: os.write(answers, b"\xff" * 8)
    )
    with pytest.raises(ProcessEnded, match="sending what is no answer"):
        pool_of(double).submit(1)()


def test_a_worker_whose_parent_takes_no_answers_ends_without_a_word():
    questions, asks = os.pipe()
    unread, answers = os.pipe()
    os.close(unread)
    os.write(asks, framed(pickle.dumps(1)) + framed(pickle.dumps(2)))
    os.close(asks)
    answered = []
    serve(answered.append, questions, answers)
    assert [1] == answered


def test_closing_ends_what_hangs(pool_of):
    pool = pool_of(lambda _: time.sleep(60), 2)
    before = children()
    pool.submit(None)
    pool.submit(None)
    assert 2 == len(children() - before)
    pool.close()
    assert before == children()


def test_descriptors_are_all_given_back():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    with Pool(double, 3) as pool:
        assert [0, 2, 4] == [result() for _, result in in_order(pool, range(3))]
        assert before < descriptors()
    assert before == descriptors()


def test_a_worker_sees_no_pipe_of_another(pool_of):
    def pipes(_):
        return sum(
            str(each.readlink()).startswith("pipe:")
            for each in Path("/proc/self/fd").iterdir()
            if each.is_symlink()
        )

    pool = pool_of(pipes, 3)
    assert 1 == len({result() for result in [pool.submit(None) for _ in range(30)]})


def test_interrupts_are_the_parents_and_no_signal_is_held_back(pool_of):
    def signals(_):
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return handlers, signal.pthread_sigmask(signal.SIG_BLOCK, [])

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert ([signal.SIG_IGN, signal.SIG_DFL], before) == pool_of(signals).submit(None)()
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_default_start_method_of_python_is_nothing_to_it(pool_of, method):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        base = 40
        assert 42 == pool_of(lambda number: base + number).submit(2)()
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_a_warning_of_fork_and_threads_is_no_error(pool_of, monkeypatch):
    fork = os.fork

    def warning():
        warnings.warn("multi-threaded, use of fork() may lead to deadlocks", DeprecationWarning, 2)
        return fork()

    monkeypatch.setattr(os, "fork", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 4 == pool_of(double).submit(2)()


def test_a_machine_without_a_process_left_is_one_clear_line(pool_of, monkeypatch):
    def refused():
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(CrosswalkError, match=r"^no process can be started: Resource temporarily"):
        pool_of(double).submit(2)


PARENT = """
import os, signal, time
from crosswalk.emu.workers.pool import Pool

signal.signal(signal.SIGINT, signal.default_int_handler)

def hang(_):
    os.write(1, b"%d\\n" % os.getpid())
    if {nested}:
        with Pool(hang_alone) as pool:
            pool.submit(None)()
    time.sleep(60)

def hang_alone(_):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)

pool = Pool(hang, 2)
pool.submit(None)
pool.submit(None)()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("nested", [False, True])
def test_no_worker_outlives_its_parent(number, nested):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(nested=nested)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    ) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(4 if nested else 2)]
        assert all(map(alive, workers))
        parent.send_signal(number)
        parent.wait(30)
    until(lambda: not any(map(alive, workers)), 30)


@pytest.mark.parametrize(("ending", "word"), [(each, "SIGSEGV") for each in Ending])
def test_an_end_crosses_from_process_to_process(pool_of, ending, word):
    def work(_):
        raise ProcessEnded(ending, word)

    with pytest.raises(ProcessEnded) as caught:
        pool_of(work).submit(None)()
    assert (ending, word) == (caught.value.ending, caught.value.word)
