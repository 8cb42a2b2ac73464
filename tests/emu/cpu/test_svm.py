"""The host of a guest under nested paging."""

import pytest

from crosswalk.emu.cpu.cpu import core_state
from crosswalk.emu.cpu.engine import attach
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.cpu.svm.host import HOST_MODEL, Host
from crosswalk.emu.load.linux.loader import enter_kernel
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.errors import BadInput

CODE, FRAMES = 0x20_0000, 0x4000
VMMCALL, HLT = "0f01d9", "f4"
READ, WRITE = "488b0425", "48890425"  # RAX, at a 32-bit address


def at(opcode, pa):
    return opcode + pa.to_bytes(4, "little").hex()


class Guest:
    """The exits of a guest that runs this code in an identity map, nested tables likewise."""

    def __init__(self, *code, changed=None, **intercepts):
        ram = Ram(0, FRAMES * 0x1000 // 2)
        self.machine = machine = Machine(ram, model=HOST_MODEL)
        memory = Host.memory(64)
        attach(machine.engine, memory)
        self.host = Host(machine.cpu, memory)
        enter_kernel(machine, CODE, 4)
        ram.write(CODE, bytes.fromhex("".join(code) + HLT))
        self.map(changed or {})
        self.exits, self.before = [], core_state(machine.cpu)
        self.host.enter(self.host.pool_start, **intercepts)
        self.after = core_state(machine.cpu)
        machine.on_exit = self.on_exit
        self.ended = machine.run(seconds=10)

    def map(self, changed):
        words, start = self.host.pool, self.host.pool_start
        for level in range(2):
            words[512 * level] = start + 0x1000 * (level + 1) | 7
        for large in range(FRAMES // 1024):
            table = 3 + large
            words[1024 + large] = start + 0x1000 * table | 7
            for small in range(512):
                pa = large << 21 | small << 12
                words[512 * table + small] = changed.get(pa, pa | 7)

    def on_exit(self, number):
        found = self.host.left(number)
        cpu = self.machine.cpu
        self.exits.append(found)
        cpu.load()
        if found.code == ExitCode.VMMCALL:
            cpu.rip += 3
            cpu.store()
        else:
            self.machine.stop()


def test_a_guest_is_entered_as_it_was_and_goes_on_after_a_hypercall():
    guest = Guest(VMMCALL, VMMCALL)
    assert guest.before == guest.after
    assert [ExitCode.VMMCALL] * 2 == [each.code for each in guest.exits]
    assert Stop.HALTED is guest.ended.stop


@pytest.mark.parametrize(
    ("entry", "code", "error_code"),
    [
        (0x30_0000 | 5, WRITE, 0x7),
        (0, READ, 0x4),
        (0, WRITE, 0x6),
        (0x30_0000 | 3, READ, 0x5),
        (0x30_0000 | 7 | 1 << 51, READ, 0xD),
    ],
)
def test_a_nested_fault_tells_the_address_and_the_cause(entry, code, error_code):
    guest = Guest(at(code, 0x30_0008), changed={0x30_0000: entry})
    (found,) = guest.exits
    assert (ExitCode.NPF, error_code, 0x30_0008) == (found.code, found.error_code, found.gpa)


def test_a_frame_without_execution_is_refused_to_a_fetch():
    jump = "ff2425" + (CODE + 0x100).to_bytes(4, "little").hex()
    code = [jump, "90" * (0x100 - 7), (0x30_0010).to_bytes(8, "little").hex()]
    guest = Guest(*code, changed={0x30_0000: 0x30_0000 | 7 | 1 << 63})
    (found,) = guest.exits
    assert (ExitCode.NPF, 0x15, 0x30_0010) == (found.code, found.error_code, found.gpa)


def test_many_faults_in_a_row_are_each_reported():
    code = [at(WRITE, 0x30_0000 + 8 * number) for number in range(4)]
    guest = Guest(*code, changed={0x30_0000: 0x30_0001 | 4})
    assert [0x30_0000] == [each.gpa for each in guest.exits]
    for number in range(1, 4):
        with guest.machine.cpu.changed():
            guest.machine.cpu.rip += 8
        guest.machine.run(seconds=10)
        assert 0x30_0000 + 8 * number == guest.exits[-1].gpa
    guest.host.pool[512 * 4 + 0x100] |= 2
    guest.host.flush()
    assert Stop.HALTED is guest.machine.run(seconds=10).stop
    assert 4 == len(guest.exits)


@pytest.mark.parametrize(
    ("code", "intercepts", "exit_code"),
    [
        ("0f20c0 0f22c0", {"cr_writes": frozenset({0})}, ExitCode.CR0_WRITE),
        ("0f20d8 0f22d8", {"cr_writes": frozenset({3})}, ExitCode.CR3_WRITE),
        ("0f20e0 0f22e0", {"cr_writes": frozenset({4})}, ExitCode.CR4_WRITE),
        ("b9800000c0 0f32 0f30", {"efer": True}, ExitCode.MSR),
        ("0f01da", {}, ExitCode.VMLOAD),
        ("0f01db", {}, ExitCode.VMSAVE),
        ("0f01d8", {}, ExitCode.VMRUN),
        ("0f01dc", {}, ExitCode.STGI),
    ],
)
def test_what_is_intercepted_is_an_exit(code, intercepts, exit_code):
    guest = Guest(code.replace(" ", ""), **intercepts)
    assert [exit_code] == [each.code for each in guest.exits]


def test_reading_efer_is_no_exit():
    assert [] == Guest("b9800000c00f32", efer=True).exits


def test_five_levels_are_refused():
    ram = Ram(0, 1 << 24)
    machine = Machine(ram)
    memory = Host.memory(1)
    attach(machine.engine, memory)
    enter_kernel(machine, CODE, 5)
    with pytest.raises(BadInput, match="5-level"):
        Host(machine.cpu, memory).enter(0)


def test_exits_have_names():
    assert ["NPF", "CR8_WRITE", "vector 17", "0x123"] == [
        exit_name(code) for code in (0x400, 0x18, 0x51, 0x123)
    ]


def test_the_guests_first_exception_is_no_double_fault():
    # A load from an address that nothing maps.
    guest = Guest("48b80000000000100000", "488b00")
    assert (14, 0x1000_0000_0000) == first_fault(guest)


def first_fault(guest):
    noted = guest.machine.events[0]
    return noted.event.vector, noted.cr2


class Changing(Guest):
    """A guest that changes its intercepts by a hypercall."""

    writes, efer = frozenset(), False

    def on_exit(self, number):
        super().on_exit(number)
        if self.exits[-1].code == ExitCode.VMMCALL:
            self.host.intercept(self.writes, efer=self.efer)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (set(), set(), []),
        (set(), {0}, [ExitCode.CR0_WRITE]),
        (set(), {4}, [ExitCode.CR4_WRITE]),
        ({0, 4}, set(), []),
        ({0}, {4, 3}, [ExitCode.CR4_WRITE]),
    ],
    ids=str,
)
def test_intercepts_can_be_changed_while_the_guest_runs(before, after, expected):
    class Guest(Changing):
        writes = frozenset(after)

    guest = Guest(VMMCALL, "0f20e0 0f22e0 0f20c0 0f22c0".replace(" ", ""), cr_writes=before)
    assert [ExitCode.VMMCALL, *expected] == [each.code for each in guest.exits]


@pytest.mark.parametrize("efer", [True, False])
def test_writes_to_efer_can_be_let_go(efer):
    class Guest(Changing):
        pass

    Guest.efer = efer
    guest = Guest(VMMCALL, "b9800000c0 0f32 0f30".replace(" ", ""), efer=True)
    expected = [ExitCode.VMMCALL, ExitCode.MSR] if efer else [ExitCode.VMMCALL]
    assert expected == [each.code for each in guest.exits]
