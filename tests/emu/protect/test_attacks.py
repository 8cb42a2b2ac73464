"""The attack table, row by row; and that a row can fail."""

import faulthandler

import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Host
from crosswalk.emu.protect.actions import listed, perform
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import CR0, NXE, SMEP, TEXT, WP, Attack, do
from crosswalk.emu.protect.attacks import ATTACKS
from crosswalk.emu.protect.grants import ALL
from crosswalk.emu.protect.hypervisor import Answer, Hypercall, Hypervisor, Reply
from crosswalk.emu.protect.results import (
    Crash,
    Granted,
    Intercepted,
    NestedFault,
    NotStopped,
    Other,
    Refused,
)
from crosswalk.emu.protect.run_attacks import attack
from crosswalk.emu.protect.snapshot import World
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.guest import places

ROWS = {row.name: row for row in ATTACKS}
STOPPED = [row for row in ATTACKS if isinstance(row.stop, NestedFault) and row.stop.error_code & 1]


def test_rows_have_names_of_their_own():
    assert len(ROWS) == len(ATTACKS)


@pytest.mark.parametrize("name", [row.name for row in ATTACKS if row.stop != Crash()])
def test_an_attack_ends_as_stated(shared_world, name):
    assert attack(shared_world, ROWS[name]).stop == ROWS[name].stop


@pytest.mark.parametrize("name", [row.name for row in STOPPED])
def test_what_nested_faults_stop_works_without_them(shared_world, name):
    assert isinstance(attack(shared_world, ROWS[name], protected=False).stop, NotStopped)


def test_a_frame_that_is_no_table_crashes_the_emulator_as_one(world):
    (row,) = (row for row in ATTACKS if row.stop == Crash())

    def work():
        faulthandler.disable()  # The crash is meant: pytest need not show where.
        attack(world, row)

    with pytest.raises(EmulatorCrash, match="SIGSEGV"):
        contained(work)


def test_a_right_too_many_is_told(world, monkeypatch):
    restore = world.restore

    def leaky():
        restore()
        world.hypervisor.tables.set(TEXT, 0x1000, ALL)

    monkeypatch.setattr(world, "restore", leaky)
    done = attack(world, ROWS["text written through a new alias"])
    assert done.stop == NotStopped()
    assert not done.as_expected


@pytest.mark.parametrize("name", ["CR0.WP cleared", "CR4.SMEP cleared", "CR4.SMAP cleared"])
def test_a_register_that_isnt_pinned_is_told(world, monkeypatch, name):
    monkeypatch.setattr(world.hypervisor.pins, "kept", {})
    assert attack(world, ROWS[name]).stop == NotStopped()


@pytest.mark.parametrize("name", ["CR0.WP cleared", "CR4.SMEP cleared", "CR4.SMAP cleared"])
def test_a_missing_intercept_is_told(own_guest, monkeypatch, name):
    monkeypatch.setattr("crosswalk.emu.protect.guest.INTERCEPTED", frozenset())
    assert attack(World(own_guest), ROWS[name]).stop == NotStopped()


def test_efer_that_isnt_pinned_is_told(world, monkeypatch):
    monkeypatch.setattr(world.hypervisor.pins, "kept", {})
    assert attack(world, ROWS["EFER.NXE cleared"]).stop == NotStopped()
    assert not world.guest.context.efer & NXE


def test_a_missing_intercept_of_efer_is_told(own_guest, monkeypatch):
    enter = Host.enter

    def careless(self, nested_cr3, **options):
        enter(self, nested_cr3, **{**options, "efer": False})

    monkeypatch.setattr(Host, "enter", careless)
    world = World(own_guest)
    assert attack(world, ROWS["EFER.NXE cleared"]).stop == NotStopped()
    assert not world.guest.context.efer & NXE


def test_a_refusal_that_changes_nested_tables_is_told(world, monkeypatch):
    require = Hypervisor._require

    def careless(self, entries, allowed):
        self.tables.set(TEXT, 0x1000, ALL)
        require(self, entries, allowed)

    monkeypatch.setattr(Hypervisor, "_require", careless)
    assert isinstance(attack(world, ROWS["asks for text to be writable"]).stop, Other)


def test_a_refusal_for_another_reason_is_told(world):
    row = Attack("", do(Operation.HYPERCALL, 0x666), Refused(Answer.UNKNOWN), told="a cycle")
    assert isinstance(attack(world, row).stop, Other)


def test_a_step_that_fails_early_is_told(world):
    row = Attack("", do(Operation.SET_CR0, CR0 & ~WP) + do(Operation.LOAD), NotStopped())
    assert "step 1 of 2" in str(attack(world, row).stop)
    row = Attack("", do(Operation.HYPERCALL, 0x666) + do(Operation.LOAD), NotStopped())
    assert "refused" in str(attack(world, row).stop)


def test_what_isnt_pinned_can_be_changed(world):
    no_task_switched = Attack("", do(Operation.SET_CR0, CR0 | 8), NotStopped())
    assert attack(world, no_task_switched).as_expected
    assert world.guest.context.cr0 == CR0 | 8
    both = Attack("", do(Operation.SET_CR4, SMEP), Intercepted(ExitCode.CR4_WRITE))
    assert attack(world, both).as_expected


def test_asking_for_less_is_granted_and_told(world):
    row = Attack("", listed((places.DATA, places.DATA + 0x1000, 1)), Granted(1))
    assert attack(world, row).as_expected
    reply = world.hypervisor.replies[-1]
    assert reply == Reply(Hypercall.PROTECT_MEMORY, Answer.DONE, more=1)
    assert world.hypervisor.granted[places.DATA // 0x1000] == 3


def test_what_is_asked_for_as_mappings_need_it_isnt_told(world):
    row = Attack("", listed((places.DATA, places.DATA + 0x1000, 3)), NotStopped())
    assert attack(world, row).as_expected


def test_what_isnt_granted_doesnt_count_as_more(world):
    """The mappings need text writable, by an alias; it is sealed, and was asked for as it is."""
    assert attack(world, ROWS["reports a writable alias of text"]).as_expected
    *_, (_, asked) = perform(world.agent, listed((TEXT, TEXT + 0x1000, 5)))
    assert asked.value == 0
    assert world.hypervisor.replies[-1].answer is Answer.DONE
    assert world.hypervisor.collective[TEXT // 0x1000] == ALL


def test_what_the_walk_in_two_dimensions_doesnt_foretell_is_told(world, monkeypatch):
    monkeypatch.setattr(type(world.guest), "foretell", lambda _self, _access: None)
    done = attack(world, ROWS["rodata remapped writable"])
    assert "doesn't foretell" in str(done.stop)


def test_an_exceptions_frame_is_pushed_on_text_where_nothing_is_protected(world):
    row = ROWS["an exception's frame pushed on text, by a stack of the TSS's"]
    assert attack(world, row, protected=False).stop == NotStopped()
    assert world.changed(TEXT + 0x7D8, 40)
    assert attack(world, row).stop == row.stop
    assert not world.changed(TEXT, 0x1000)
