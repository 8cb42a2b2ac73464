"""The monitor in Bochs: its mailbox, what fails, how it ends."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.emu.monitor.monitor import PLACE, CommandFailed, Monitor, MonitorEnded
from crosswalk.emu.workers import sandbox
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.guest.monitor import commands, places
from crosswalk.guest.monitor.commands import Command, Damaged, Op, Status
from crosswalk.guest.monitor.image import ANSWERS_SECTOR, BUFFER, COMMANDS_SECTOR, SECTOR
from crosswalk.walker.errors import BadInput, CrosswalkError
from scripts.mutation.mutants import ROOT

ROOM = 0x1000_0000
TIME_STAMP_COUNTER, IA32_VMX_BASIC, NO_FIELD = 0x10, 0x480, 0x7777


@pytest.fixture
def monitor(bochs3):
    with Monitor(BochsHost(bochs3), seconds=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(bochs3):
    with Monitor(BochsHost(bochs3), seconds=60) as opened:
        yield opened


def test_the_greeting_names_the_machine_and_its_ram(shared):
    greeting = shared.greeting
    assert "Bochs 3." in shared.version
    assert PLACE == greeting.base
    assert (1 << 20) in {start for start, _ in greeting.ram}
    assert greeting.free(ROOM, 1 << 20)
    assert greeting.free(greeting.end, 8)
    assert not greeting.free(greeting.end - 8, 16)
    assert not greeting.free(PLACE - 8, 16)
    assert not greeting.free(0xA0000, 8)


def counters(bochs3, dawdle):
    """The time-stamp counter as some batches find it, with `dawdle` before each of them."""
    with Monitor(BochsHost(bochs3), seconds=60) as monitor:
        found = []
        for _ in range(4):
            dawdle(monitor)
            (answer,) = monitor.perform(commands.read_msr(TIME_STAMP_COUNTER))
            found += answer.words
    return found


def until_it_waits(monitor):
    """Not before the monitor stands still: it has sent a byte, and can't send another."""
    pipe = monitor._process._answers
    while fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) == bytes(4):
        os.sched_yield()


def test_what_the_machine_does_depends_on_nobodys_speed(bochs3):
    at_once = counters(bochs3, lambda _: None)
    assert at_once == counters(bochs3, until_it_waits)
    assert 1 == len(set(np.diff(at_once).tolist()))


def test_more_memory_than_a_batch_has_room_for_is_written_and_read(shared):
    words = np.arange(BUFFER // 8 + 1000, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    shared.write(ROOM, words)
    assert np.array_equal(words, shared.read(ROOM, len(words)))
    assert 0 == len(shared.read(ROOM, 0))


def test_a_command_that_has_no_room_is_refused_and_the_monitor_goes_on(shared):
    with pytest.raises(BadInput, match="a command of 524,291 words, where 524,288 have room"):
        shared.perform(commands.write(ROOM, np.zeros(BUFFER // 8, np.uint64)))
    with pytest.raises(BadInput, match="STORE: a word that isn't one of 64 bits"):
        shared.perform(commands.store([(ROOM, 1 << 64)]))
    assert 1 == len(shared.read(ROOM, 1))


@pytest.mark.slow
def test_more_commands_than_their_numbers_have_bits_for(shared):
    shared.write(ROOM, np.arange(70_000, dtype=np.uint64))
    answers = shared.perform(*(commands.load([ROOM + 8 * at]) for at in range(70_000)))
    assert list(range(70_000)) == [answer.words[0] for answer in answers]


def test_an_exception_is_an_answer_and_ends_the_batch(shared):
    shared.perform(commands.store([(ROOM, 1)]))
    asked = commands.read(ROOM, 1), commands.load([1 << 63]), commands.store([(ROOM, 2)])
    with pytest.raises(
        CommandFailed, match=r"the monitor answers LOAD: #GP\(0x0\) at 0x"
    ) as failed:
        shared.perform(*asked)
    assert Status.FAULT is failed.value.answer.status
    assert [[1]] == [answer.words for answer in failed.value.answers]
    first, fault, stored, last = shared.perform(
        commands.read(ROOM, 1),
        commands.load([1 << 63]).may_fail(),
        commands.store([(ROOM, 3)]),
        commands.read(ROOM, 1),
    )
    assert ([1], Status.FAULT, 13) == (first.words, fault.status, fault.words[0])
    assert ([], [3]) == (stored.words, last.words)


def test_what_lies_outside_the_identity_map_is_a_page_fault(shared):
    (fault,) = shared.perform(commands.load([1 << 46]).may_fail())
    assert (Status.FAULT, 14, 1 << 46) == (fault.status, fault.words[0], fault.words[3])


def test_fields_are_written_and_read(monitor):
    with pytest.raises(CommandFailed, match=r"READ_FIELDS: #UD\(0x0\)"):
        monitor.perform(commands.read_fields([0x681E]))
    on, _, read = monitor.perform(
        commands.vmx_on(),
        commands.write_fields([(0x681E, 0x1234_5678_9ABC_DEF0), (0x4004, 1 << 14)]),
        commands.read_fields([0x4004, 0x681E]),
    )
    (basic,) = monitor.perform(commands.read_msr(IA32_VMX_BASIC))
    assert [on.words[0], basic.words[0]] == on.words
    assert [1 << 14, 0x1234_5678_9ABC_DEF0] == read.words
    with pytest.raises(CommandFailed, match="WRITE_FIELDS: VM-instruction error 12"):
        monitor.perform(commands.write_fields([(NO_FIELD, 0)]))
    with pytest.raises(CommandFailed, match="RUN: VM-instruction error 7"):
        monitor.perform(commands.run([]))  # Without controls.
    (again,) = monitor.perform(commands.vmx_on())
    assert on.words == again.words
    assert [0] == monitor.perform(commands.read_fields([0x4004]))[0].words


def test_an_unknown_command_ends_the_monitor(monitor):
    with pytest.raises(
        CommandFailed, match="the monitor answers GREETING: refused, for its command"
    ):
        monitor.perform(Command(Op.GREETING))
    with pytest.raises(CrosswalkError, match="bochs: the monitor has ended"):
        monitor.perform(commands.read(ROOM, 1))


def test_a_monitor_is_switched_off(monitor):
    read, end = monitor.perform(commands.read(ROOM, 1), commands.end())
    assert (Op.READ, Op.END) == (read.op, end.op)
    with pytest.raises(CrosswalkError, match="the monitor has ended"):
        monitor.perform(commands.read(ROOM, 1))


class Damages:
    """A mailbox in which one bit changes on the way: of the commands, or of the answers."""

    def __init__(self, monkeypatch, sector, at):
        self.sector, self.at = sector, at
        self._pread, self._pwrite = os.pread, os.pwrite
        monkeypatch.setattr(os, "pread", self.read)
        monkeypatch.setattr(os, "pwrite", self.write)

    def _damaged(self, data, place):
        if place != self.sector * SECTOR:
            return data
        damaged = bytearray(data)
        damaged[self.at] ^= 0x10
        return bytes(damaged)

    def read(self, file, size, place):
        return self._damaged(self._pread(file, size, place), place)

    def write(self, file, data, place):
        return self._pwrite(file, self._damaged(data, place), place)


def test_a_damaged_batch_is_noticed_by_the_monitor(monitor, monkeypatch):
    Damages(monkeypatch, COMMANDS_SECTOR, 9)
    with pytest.raises(CommandFailed, match="READ: refused, for its checksum"):
        monitor.perform(commands.read(ROOM, 1))


def test_damaged_answers_are_noticed_here(monitor, monkeypatch):
    Damages(monkeypatch, ANSWERS_SECTOR, 9)
    with pytest.raises(Damaged, match="bochs: answer 0 hasn't the checksum of its words"):
        monitor.perform(commands.read(ROOM, 1))


def test_a_machine_that_ends_leaves_the_answers_that_were_written_down(bochs3):
    """A triple fault: Bochs 3.0 panics, 3.1 shuts its CPU down."""
    with Monitor(BochsHost(bochs3), seconds=5) as monitor:
        monitor.perform(commands.store([(ROOM, 1), (ROOM + 8, 2)]))
        with pytest.raises(MonitorEnded) as ended:
            monitor.perform(
                commands.read(ROOM, 1),
                commands.read(ROOM + 8, 1),
                commands.flush(),
                commands.fill(PLACE + places.IDT, 64),
                commands.load([1 << 63]),
            )
        how = r"panics: .*3rd \(13\) exception with no resolution|hangs: no answer in \d+ s"
        assert re.fullmatch(rf"bochs ({how}).*", str(ended.value))
        assert [[1], [2]] == [answer.words for answer in ended.value.answers]


@pytest.mark.slow
def test_a_machine_that_hangs_is_ended(bochs3):
    with Monitor(BochsHost(bochs3), seconds=3) as monitor:
        with pytest.raises(MonitorEnded, match=r"bochs hangs: no answer in \d+ s") as ended:
            monitor.perform(
                commands.read(ROOM, 1), commands.flush(), commands.compare(0, 0, 1 << 40)
            )
        assert [Op.READ] == [answer.op for answer in ended.value.answers]


def test_a_cpu_that_no_bochs_has_is_refused(bochs3):
    with pytest.raises(BadInput, match=r"/no-bochs: no such command"):
        Monitor(BochsHost(f"{bochs3}/no-bochs"))
    with pytest.raises(BadInput, match="bochs isn't started"):
        Monitor(BochsHost(bochs3, wish=CpuWish(), more="nonsense: 1\n"))


def test_nothing_is_left_when_a_monitor_is_closed(bochs3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Monitor(BochsHost(bochs3), seconds=60) as monitor:
        assert list(tmp_path.iterdir())
        assert monitor.perform(commands.read(ROOM, 1))
    assert [] == list(tmp_path.iterdir())


def descendants(number):
    """This process' descendants, by the kernel's list."""
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def test_a_machine_that_others_kill_is_no_result(monitor):
    (machine,) = (
        number
        for number in descendants(os.getpid())
        if str(monitor._folder.name).encode() in Path(f"/proc/{number}/cmdline").read_bytes()
    )
    os.kill(machine, signal.SIGTERM)
    with pytest.raises(ProcessLost, match=r"bochs .*was killed \(SIGTERM\)"):
        monitor.perform(commands.read(ROOM, 1))


def test_a_batch_that_is_interrupted_ends_the_machine(bochs3, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = descendants(os.getpid())
    with Monitor(BochsHost(bochs3), seconds=60) as monitor:
        assert before != descendants(os.getpid())
        monkeypatch.setattr(sandbox, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            monitor.perform(commands.read(ROOM, 1))
        monkeypatch.undo()
    assert before == descendants(os.getpid())


def test_the_page_lists_every_command():
    page = (ROOT / "docs" / "monitor.md").read_text()
    listed = set(re.findall(r"^\| ([A-Z_]+) \|", page, re.MULTILINE))
    assert listed == {op.name for op in Op} - {"GREETING", "DONE"}


def test_the_pages_example_does_what_the_page_shows(bochs3):
    page = (ROOT / "docs" / "monitor.md").read_text()
    example = ROOT / "docs" / "examples" / "monitor" / "monitored_guest.py"
    done = subprocess.run(
        [sys.executable, example, bochs3], capture_output=True, text=True, check=True
    )
    assert 2 == done.stdout.count("\n")
    assert done.stdout in page
