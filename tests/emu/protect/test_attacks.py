"""The attack table, row by row; and planted bugs that make rows fail."""

import faulthandler

import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Host
from crosswalk.emu.protect.actions import do, perform, request
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import (
    Attack,
    Crash,
    Granted,
    Intercepted,
    NestedFault,
    NotStopped,
    Other,
    Refused,
    run_attack,
)
from crosswalk.emu.protect.attacks import ATTACKS, CR0_VALUE, TEXT
from crosswalk.emu.protect.guest import Guest
from crosswalk.emu.protect.hypervisor import Answer, Hypercall, Hypervisor, Reply
from crosswalk.emu.protect.permissions import ALL
from crosswalk.emu.protect.pins import Pins
from crosswalk.emu.protect.subject import ProtectedGuest
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.guest import places
from crosswalk.walker.architecture import CR0, CR4, EFER

ROWS = {row.name: row for row in ATTACKS}
STOPPED = [
    row for row in ATTACKS if isinstance(row.expected, NestedFault) and row.expected.error_code & 1
]


def test_rows_have_names_of_their_own():
    assert len(ROWS) == len(ATTACKS)


@pytest.mark.parametrize("name", [row.name for row in ATTACKS if row.expected != Crash()])
def test_an_attack_ends_as_stated(shared_guest, name):
    assert run_attack(shared_guest, ROWS[name]) == ROWS[name].expected


@pytest.mark.parametrize("name", [row.name for row in STOPPED])
def test_what_nested_faults_stop_works_without_them(shared_guest, name):
    assert isinstance(run_attack(shared_guest, ROWS[name], protected=False), NotStopped)


def test_a_frame_that_is_no_table_crashes_the_emulator_as_one(subject):
    (row,) = (row for row in ATTACKS if row.expected == Crash())

    def work():
        faulthandler.disable()  # The crash is meant: pytest need not show where.
        run_attack(subject, row)

    with pytest.raises(EmulatorCrash, match="SIGSEGV"):
        contained(work)


def test_a_right_too_many_is_reported(subject, monkeypatch):
    restore = subject.restore

    def leaky(**options):
        restore(**options)
        subject.hypervisor.tables.set(TEXT, 0x1000, ALL)

    monkeypatch.setattr(subject, "restore", leaky)
    result = run_attack(subject, ROWS["text written through a new alias"])
    assert result == NotStopped()


@pytest.mark.parametrize("name", ["CR0.WP cleared", "CR4.SMEP cleared", "CR4.SMAP cleared"])
def test_a_register_that_isnt_pinned_is_reported(subject, monkeypatch, name):
    monkeypatch.setattr(Pins, "lost", lambda _self, _write: [])
    assert run_attack(subject, ROWS[name]) == NotStopped()


@pytest.mark.parametrize("name", ["CR0.WP cleared", "CR4.SMEP cleared", "CR4.SMAP cleared"])
def test_a_missing_intercept_is_reported(own_guest, monkeypatch, name):
    monkeypatch.setattr("crosswalk.emu.protect.guest.INTERCEPTED", frozenset())
    assert run_attack(ProtectedGuest(Guest(own_guest)), ROWS[name]) == NotStopped()


def test_efer_that_isnt_pinned_is_reported(subject, monkeypatch):
    monkeypatch.setattr(Pins, "lost", lambda _self, _write: [])
    assert run_attack(subject, ROWS["EFER.NXE cleared"]) == NotStopped()
    assert not subject.guest.context.efer & EFER.NXE


def test_a_missing_intercept_of_efer_is_reported(own_guest, monkeypatch):
    enter = Host.enter

    def careless(self, nested_cr3, **options):
        enter(self, nested_cr3, **{**options, "efer": False})

    monkeypatch.setattr(Host, "enter", careless)
    subject = ProtectedGuest(Guest(own_guest))
    assert run_attack(subject, ROWS["EFER.NXE cleared"]) == NotStopped()
    assert not subject.guest.context.efer & EFER.NXE


def test_a_refusal_that_changes_nested_tables_is_reported(subject, monkeypatch):
    require = Hypervisor._require

    def careless(self, entries, allowed):
        self.tables.set(TEXT, 0x1000, ALL)
        require(self, entries, allowed)

    monkeypatch.setattr(Hypervisor, "_require", careless)
    assert isinstance(run_attack(subject, ROWS["asks for text to be writable"]), Other)


def test_a_refusal_for_another_reason_is_reported(subject):
    row = Attack("", do(Operation.HYPERCALL, 0x666), Refused(Answer.UNKNOWN), reason="a cycle")
    assert isinstance(run_attack(subject, row), Other)


def test_a_step_that_fails_early_is_reported(subject):
    row = Attack("", do(Operation.SET_CR0, CR0_VALUE & ~CR0.WP) + do(Operation.LOAD), NotStopped())
    assert "action 1 of 2" in str(run_attack(subject, row))
    row = Attack("", do(Operation.HYPERCALL, 0x666) + do(Operation.LOAD), NotStopped())
    assert "refused" in str(run_attack(subject, row))


def test_what_isnt_pinned_can_be_changed(subject):
    no_task_switched = Attack("", do(Operation.SET_CR0, CR0_VALUE | 8), NotStopped())
    assert run_attack(subject, no_task_switched) == no_task_switched.expected
    assert CR0_VALUE | 8 == subject.guest.context.cr0
    both = Attack("", do(Operation.SET_CR4, CR4.SMEP), Intercepted(ExitCode.CR4_WRITE))
    assert run_attack(subject, both) == both.expected


def test_asking_for_less_is_granted_and_reported(subject):
    row = Attack("", request((places.DATA, places.DATA + 0x1000, 1)), Granted(1))
    assert run_attack(subject, row) == row.expected
    reply = subject.hypervisor.replies[-1]
    assert reply == Reply(Hypercall.PROTECT_MEMORY, Answer.DONE, more=1)
    assert 3 == subject.hypervisor.granted[places.DATA // 0x1000]


def test_what_is_asked_for_as_mappings_need_it_isnt_reported(subject):
    row = Attack("", request((places.DATA, places.DATA + 0x1000, 3)), NotStopped())
    assert run_attack(subject, row) == row.expected


def test_what_isnt_granted_doesnt_count_as_more(subject):
    """The mappings need text writable, by an alias; it is sealed, and was asked for as it is."""
    row = ROWS["reports a writable alias of text"]
    assert run_attack(subject, row) == row.expected
    *_, (_, asked) = perform(subject.agent, request((TEXT, TEXT + 0x1000, 5)))
    assert 0 == asked.value
    assert Answer.DONE is subject.hypervisor.replies[-1].answer
    assert ALL == subject.hypervisor.collective[TEXT // 0x1000]


def test_what_the_nested_walk_doesnt_predict_is_reported(subject, monkeypatch):
    monkeypatch.setattr(type(subject.guest), "predict", lambda _self, _access: None)
    result = run_attack(subject, ROWS["rodata remapped writable"])
    assert "doesn't predict" in str(result)


def test_an_exceptions_frame_is_pushed_on_text_where_nothing_is_protected(subject):
    row = ROWS["an exception's frame pushed on text, by a stack of the TSS's"]
    assert run_attack(subject, row, protected=False) == NotStopped()
    assert subject.changed(TEXT + 0x7D8, 40)
    assert run_attack(subject, row) == row.expected
    assert not subject.changed(TEXT, 0x1000)
