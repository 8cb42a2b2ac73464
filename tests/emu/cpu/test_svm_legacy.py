"""The host of a guest in protected mode, under nested paging: its own paging is off or legacy."""

import pytest

from crosswalk.emu.cpu.cpu import core_state
from crosswalk.emu.cpu.engine import attach
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_MODEL, Host
from crosswalk.emu.pc.results import Stop
from tests.emu.cpu.legacy_machine import DIRECTORY, PAGING, ROOT, TABLE, UNMAPPED, Legacy

VMMCALL = ".byte 0x0f, 1, 0xd9\n"
PLACE, END = 0x40000, "int 0x40"
each_paging = pytest.mark.parametrize("paging", PAGING)


class Guest:
    """The exits of a guest that runs a source, under nested tables that map its memory to itself.

    Nested entries are `changed` once it has been entered.
    """

    def __init__(self, paging, source, changed=None, **intercepts):
        self.guest = guest = Legacy(paging, model=HOST_MODEL)
        self.machine = guest.machine
        memory = Host.memory(4)
        attach(guest.engine, memory)
        self.host = Host(guest.cpu, memory)
        words, start = self.host.pool, self.host.pool_start
        for level in range(3):
            words[512 * level] = start + 0x1000 * (level + 1) | 7
        words[3 * 512 : 4 * 512] = [page << 12 | 7 for page in range(512)]
        self.exits, self.before = [], core_state(guest.cpu)
        self.host.enter(start, **intercepts)
        self.after = core_state(guest.cpu)
        for page, entry in (changed or {}).items():
            words[3 * 512 + page // 0x1000] = entry
        self.host.flush()
        self.machine.on_exit = self.on_exit
        self.ended = guest.start(source)

    def on_exit(self, number):
        found = self.host.left(number)
        self.exits.append(found)
        with self.machine.cpu.changed():
            if found.code == ExitCode.VMMCALL:
                self.machine.cpu.skip(3)
        if found.code != ExitCode.VMMCALL:
            self.machine.stop()

    @property
    def vector(self):
        assert Stop.HALTED is self.ended.stop
        return self.guest.halted()


@each_paging
def test_a_guest_is_entered_as_it_was_and_goes_on_after_a_hypercall(paging):
    guest = Guest(paging, VMMCALL * 2 + END)
    assert guest.before == guest.after
    assert [ExitCode.VMMCALL] * 2 == [each.code for each in guest.exits]
    assert (0x40, 32, False) == (guest.vector, guest.guest.cpu.bits, guest.guest.cpu.long_mode)


@each_paging
@pytest.mark.parametrize(
    ("entry", "source", "error_code"),
    [
        (PLACE | 5, f"mov dword ptr [{PLACE + 8}], 5", 0x7),
        (0, f"mov eax, [{PLACE + 8}]", 0x4),
        (PLACE | 7 | 1 << 63, f"mov eax, {PLACE + 8}\njmp eax", 0x15),
    ],
    ids=["write", "read", "fetch"],
)
def test_a_nested_fault_tells_the_address_and_the_cause(paging, entry, source, error_code):
    guest = Guest(paging, source, {PLACE: entry})
    (found,) = guest.exits
    assert (ExitCode.NPF, error_code, PLACE + 8) == (found.code, found.error_code, found.gpa)


@each_paging
def test_what_the_nested_tables_grant_is_no_exit(paging):
    guest = Guest(paging, f"mov eax, [{PLACE}]\nmov [{PLACE}], eax\n{END}", {PLACE: PLACE | 7})
    assert [] == guest.exits
    assert 0x40 == guest.vector


@pytest.mark.parametrize("paging", ["32-bit", "PAE"])
def test_a_page_fault_of_the_guests_own_is_its_own(paging):
    guest = Guest(paging, f"mov eax, [{UNMAPPED + 4}]")
    assert [] == guest.exits
    assert (14, UNMAPPED + 4) == (guest.vector, guest.guest.cpu.cr2)


@each_paging
@pytest.mark.parametrize(
    ("source", "intercepts", "exit_code"),
    [
        ("mov eax, cr0\nmov cr0, eax", {"cr_writes": frozenset({0})}, ExitCode.CR0_WRITE),
        ("mov eax, cr3\nmov cr3, eax", {"cr_writes": frozenset({3})}, ExitCode.CR3_WRITE),
        ("mov eax, cr4\nmov cr4, eax", {"cr_writes": frozenset({4})}, ExitCode.CR4_WRITE),
        ("mov ecx, 0xc0000080\nrdmsr\nwrmsr", {"efer": True}, ExitCode.MSR),
    ],
)
def test_what_is_intercepted_is_an_exit(paging, source, intercepts, exit_code):
    guest = Guest(paging, source, **intercepts)
    assert [exit_code] == [each.code for each in guest.exits]


def test_a_pdpte_is_read_from_memory_when_an_access_goes_through_it():
    """Nothing loads it anew: CR3 isn't written in between."""
    source = f"mov dword ptr [{ROOT + 8}], {DIRECTORY | 1}\nmov eax, [{0x4000_0000 + PLACE}]\n"
    guest = Guest("PAE", source + END)
    assert ([], 0x40) == (guest.exits, guest.vector)
    # The page's entry has A now.
    assert 0x20 == int(guest.guest.ram.words[TABLE // 8 + PLACE // 0x1000]) & 0x20
