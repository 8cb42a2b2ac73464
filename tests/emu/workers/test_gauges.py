"""How long a process may take: by readings that are given here, and not by a clock."""

import subprocess
import sys

import pytest

from crosswalk.emu.workers.gauges import Allowance, Gauges, family_seconds, memory_kills
from crosswalk.emu.workers.sandbox import Failure, Limits, NoAnswer, Process


class Readings:
    """A clock and a CPU meter that show what is set; `looks` counts readings of the meter."""

    def __init__(self):
        self.clock, self.used, self.looks = 100.0, 7.0, 0
        self.gauges = Gauges(lambda: self.clock, self.cpu, lambda: 0)

    def cpu(self, root):
        assert 42 == root
        self.looks += 1
        return self.used

    def allowance(self, seconds=10.0, wall=100.0):
        return Allowance(42, seconds, wall, self.gauges)

    def after(self, allowance, clock, used):
        self.clock, self.used = 100.0 + clock, 7.0 + used
        return allowance.exceeded()


def test_on_a_loaded_machine_it_is_cpu_time_that_counts():
    readings = Readings()
    allowance = readings.allowance()
    used = [readings.after(allowance, clock, clock / 15) for clock in range(1, 100)]
    assert {""} == set(used)
    assert "100 s" == readings.after(allowance, 100, 6.7)


def test_cpu_time_is_over_when_it_is_used_up():
    readings = Readings()
    allowance = readings.allowance()
    assert "" == readings.after(allowance, 1, 1)
    assert "" == readings.after(allowance, 11, 10.9)
    assert "10 s of CPU time" == readings.after(allowance, 12, 11)


def test_time_used_before_the_question_does_not_count():
    readings = Readings()
    readings.used = 1000.0
    allowance = readings.allowance()
    readings.clock = 101.0
    assert "" == allowance.exceeded()
    readings.clock, readings.used = 112.0, 1009.0
    assert "" == allowance.exceeded()


def test_a_quick_answer_costs_no_reading():
    readings = Readings()
    allowance = readings.allowance()
    assert 1.0 == pytest.approx(allowance.left)
    assert ["", 0] == [readings.after(allowance, 0.9, 0.9), readings.looks]


def test_it_is_looked_at_again_when_the_rest_may_be_used_up():
    readings = Readings()
    allowance = readings.allowance()
    readings.after(allowance, 1, 0)
    assert 10.0 == pytest.approx(allowance.left)
    readings.after(allowance, 11, 9)
    assert 1.0 == pytest.approx(allowance.left)
    readings.after(allowance, 99.5, 9)
    assert 0.5 == pytest.approx(allowance.left)
    assert 0 == readings.allowance(seconds=0).left


def test_without_a_meter_the_clock_alone_bounds_it():
    readings = Readings()
    readings.cpu = None
    gauges = Gauges(lambda: readings.clock, lambda _: None, lambda: None)
    allowance = Allowance(42, 10.0, 100.0, gauges)
    assert "" == readings.after(allowance, 99, 99)
    assert "100 s" == readings.after(allowance, 101, 0)


def lines(count):
    left = [count]

    def whole(part):
        left[0] -= part.count(b"\n")
        return left[0] <= 0

    return whole


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
BURNS_ON = BURN + "print(flush=True)\ntime.sleep(60)"
STARTS = "import subprocess, sys\nsubprocess.Popen("


@pytest.mark.parametrize(
    "code",
    [
        BURN,
        f"{STARTS}[sys.executable, '-c', {BURN!r}]).wait()\n",
        f"{STARTS}[sys.executable, '-c', {BURNS_ON!r}], stdout=-1).stdout.readline()\n",
    ],
    ids=["its own", "of a child that it waited for", "of a child that runs"],
)
def test_what_a_process_and_its_children_use_is_read(code):
    process = Process(Limits(60), lambda: None, [sys.executable, "-c", f"{code}print()\ninput()"])
    assert b"\n" == process.talk(b"", lines(1), 100)
    assert family_seconds(process._keeper) >= 0.28  # In ticks of 10 ms.
    process.close()


def test_of_a_process_that_is_not_there_nothing_is_read():
    with subprocess.Popen(["true"]) as ended:
        pass
    assert None is family_seconds(ended.pid)


def test_the_kernel_counts_what_it_kills_for_want_of_memory():
    assert memory_kills() >= 0


def test_an_honest_process_has_not_hung_because_the_machine_was_busy():
    """It takes real time, more than its limit, and no reading says that it used any."""
    still = Gauges(lambda: 0.0, lambda _: 0.0, lambda: 0)
    command = [sys.executable, "-c", "print('here')"]
    process = Process(Limits(seconds=1e-6), lambda: None, command, still)
    assert b"here\n" == process.talk(b"", lines(1), 100)
    process.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("while True: pass", "no answer in 0.2 s of CPU time"),
        (
            "import os\nos.fork() and time.sleep(60)\nwhile True: pass",
            "no answer in 0.2 s of CPU time",
        ),
        ("time.sleep(60)", "no answer in 2 s"),
    ],
    ids=["it is busy", "a child of it is busy", "it sleeps"],
)
def test_who_uses_its_cpu_time_up_hangs_and_who_sleeps_ten_times_as_long(code, message):
    code = f"import time\nprint(flush=True)\n{code}"
    process = Process(Limits(seconds=20), lambda: None, [sys.executable, "-c", code])
    process.talk(b"", lines(1), 100)
    process._limits = Limits(seconds=0.2)
    with pytest.raises(NoAnswer) as caught:
        process.talk(b"?\n", lines(1), 100)
    assert (Failure.HANG, "no answer in time", message) == (
        caught.value.failure, caught.value.kind, str(caught.value),
    )  # fmt: skip
