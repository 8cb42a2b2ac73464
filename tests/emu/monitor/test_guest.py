"""Guests of the monitor under VMX, in Bochs: entries, exits, what is handled, memory."""

import numpy as np
import pytest

from crosswalk.emu.monitor.guest import Exit, GuestMemory, VmxGuest, enter_vmx, long_mode
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.emu.monitor.monitor import CommandFailed, Monitor
from crosswalk.emu.monitor.vmx import (
    Capabilities,
    Controls,
    ExitReason,
    Field,
    Pin,
    Primary,
    Secondary,
)
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import RunFlag
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.mappings import mappings
from crosswalk.walker.translate import translate

RAM, SIZE = 0x1000_0000, 0x20_0000
EPT, BITMAP = 0x2000_0000, 0x2010_0000
EPTP = EPT | 3 << 3 | 6
ROOT, CODE, DATA = 0x1000, 0x8000, 0x9000
EVERYTHING = 0x407
"""Of an EPT entry: R, W, XS and XU."""
MBEC = Secondary.EPT | Secondary.MODE_BASED_EXECUTE

VMCALL = b"\x0f\x01\xc1"
CPUID = b"\x0f\xa2"
XSETBV = b"\x0f\x01\xd1"
RDMSR, WRMSR = b"\x0f\x32", b"\x0f\x30"
MONITOR_MSR = 0x1234_5678
"""An MSR that no bitmap has, and no CPU."""


def load_rax(va):
    return b"\x48\xa1" + va.to_bytes(8, "little")


def ecx(value):
    return b"\xb9" + value.to_bytes(4, "little")


@pytest.fixture(scope="module")
def monitor(bochs3):
    with Monitor(BochsHost(bochs3), seconds=60) as opened:
        yield opened


class Made:
    """A guest whose first 2 MiB are mapped to themselves for user and supervisor, 4 KiB each."""

    def __init__(self, monitor, code, *, controls=None, fields=(), entries=(), **options):
        self.monitor = monitor
        cpu = enter_vmx(monitor)
        table = [RAM + 0x1000 * at | EVERYTHING | 6 << 3 for at in range(512)]
        for frame, entry in dict(entries).items():
            table[frame // 0x1000] = entry
        monitor.perform(
            commands.fill(RAM, SIZE // 8),
            commands.fill(EPT, 512 * 8),
            commands.fill(BITMAP, 512),
            commands.write(EPT, [EPT + 0x1000 | EVERYTHING]),
            commands.write(EPT + 0x1000, [EPT + 0x2000 | EVERYTHING]),
            commands.write(EPT + 0x2000, [EPT + 0x3000 | EVERYTHING]),
            commands.write(EPT + 0x3000, table),
            commands.write(RAM + ROOT, [0x2007]),
            commands.write(RAM + 0x2000, [0x3007]),
            commands.write(RAM + 0x3000, [0x4007]),
            commands.write(RAM + 0x4000, [0x1000 * at | 3 for at in range(512)]),
        )
        self.memory = GuestMemory(monitor, RAM, SIZE)
        self.memory.write(CODE, code)
        state = long_mode(PagingContext(cr3=ROOT), cpu, rip=CODE, rsp=0x7000)
        state |= {Field.EPTP: EPTP, Field.MSR_BITMAP: BITMAP, **dict(fields)}
        self.guest = VmxGuest(monitor, controls or Controls(secondary=MBEC), state, **options)

    def run(self, *more):
        return self.guest.run(RunFlag.INVEPT, more)


def test_a_guest_goes_on_where_it_left(monitor):
    made = Made(monitor, VMCALL + b"\x48\xff\xc0" + VMCALL)
    left = made.run()
    assert (ExitReason.VMCALL, CODE, 3, 0) == (
        left.reason,
        left.rip,
        left.instruction_length,
        left.cpl,
    )
    made.guest.set({Field.RIP: CODE + 3})
    made.guest.set_registers(rax=(1 << 63) + 5, r15=7, cr2=0x1234, rsp=0x6000)
    left = made.run()
    assert (ExitReason.VMCALL, CODE + 6) == (left.reason, left.rip)
    assert [(1 << 63) + 6, 7, 0x1234, 0x6000] == [
        left.register(name) for name in ("rax", "r15", "cr2", "rsp")
    ]
    assert "VMCALL, at 0x8006, qualification 0x0, GPA 0x0" == str(left)


READ, FETCH = load_rax(DATA), b"\x68" + DATA.to_bytes(4, "little") + b"\xc3"
WRITE = b"\x48\xa3" + DATA.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("code", "rights", "qualification"),
    [
        # Read, write, fetch; what was granted from bit 3 on; the linear address is that accessed.
        (READ, 4, 0x1 | 0x20),
        (WRITE, 5, 0x2 | 0x28),
        (FETCH, 0x401, 0x4 | 0x48),
        (FETCH, 3, 0x4 | 0x18),
        (READ, 0, 0x1),
    ],
)
def test_a_violation_has_its_qualification(monitor, code, rights, qualification):
    entry = RAM + DATA | rights | (6 << 3 if rights else 0)
    left = Made(monitor, code, entries={DATA: entry}).run()
    assert ExitReason.EPT_VIOLATION is ExitReason(left.reason)
    assert (DATA, DATA) == (left.gpa, left.gla)
    known = 0x1FF  # Above are advanced information and, of this Bochs, bit 13.
    assert qualification | 0x180 == left.qualification & known


def test_an_entry_that_cant_be_is_a_misconfiguration(monitor):
    left = Made(monitor, READ, entries={DATA: RAM + DATA | 2}).run()
    assert (ExitReason.EPT_MISCONFIGURATION, DATA) == (left.reason, left.gpa)


def test_mode_based_control_keeps_supervisor_code_from_what_users_execute(monitor):
    users = {DATA: RAM + DATA | 6 << 3 | 0x401}
    for secondary, reason in (
        (MBEC, ExitReason.EPT_VIOLATION),
        (Secondary.EPT, ExitReason.EPT_VIOLATION),
    ):
        left = Made(monitor, FETCH, controls=Controls(secondary=secondary), entries=users).run()
        assert (reason, DATA) == (left.reason, left.gpa)
    supervisors = {DATA: RAM + DATA | 6 << 3 | 5}
    made = Made(monitor, FETCH, entries=supervisors)
    made.memory.write(DATA, VMCALL)
    assert (ExitReason.VMCALL, DATA) == ((left := made.run()).reason, left.rip)


def test_an_exception_without_a_handler_is_a_triple_fault(monitor):
    left = Made(monitor, b"\x0f\x0b").run()
    assert (ExitReason.TRIPLE_FAULT, None) == (left.reason, left.vector)


def test_an_exception_that_is_intercepted_has_its_vector(monitor):
    left = Made(monitor, load_rax(0x40_0000), fields={Field.EXCEPTION_BITMAP: 1 << 14}).run()
    assert (ExitReason.EXCEPTION, 14, 0, 0x40_0000) == (
        left.reason,
        left.vector,
        left.event_error,
        left.qualification,
    )
    assert "vector 14, error code 0x0" in str(left)


def test_cpuid_is_answered_by_the_monitor_as_it_is_told(monitor):
    plain, shown = (
        Made(
            monitor,
            b"\xb8\x01\0\0\0" + CPUID + VMCALL,
            handled=[ExitReason.CPUID],
            cpuid=rows,
        ).run()
        for rows in (
            [],
            [
                (0, 0, 0, 0, 0),
                (1 | 0xFFFF_FFFF << 32, -1 % (1 << 64), ~(1 << 5) % (1 << 64), 0, 1 << 63),
            ],
        )
    )
    names = ("rax", "rbx", "rcx", "rdx")
    before = [plain.register(name) for name in names]
    assert before[2] >> 5 & 1  # VMX.
    assert [*before[:2], before[2] & ~(1 << 5), before[3] | 1 << 31] == [
        shown.register(name) for name in names
    ]
    assert [(ExitReason.VMCALL, 1)] * 2 == [(each.reason, each.handled) for each in (plain, shown)]


def test_what_isnt_to_be_handled_comes_here(monitor):
    left = Made(monitor, CPUID).run()
    assert (ExitReason.CPUID, CODE, 0) == (left.reason, left.rip, left.handled)


def test_msrs_that_no_bitmap_has_are_the_cpus(monitor):
    controls = Controls(secondary=MBEC, primary=Primary.SECONDARY | Primary.MSR_BITMAPS)
    handled = [ExitReason.RDMSR, ExitReason.WRMSR]
    asked = {"controls": controls, "handled": handled}
    gp = {Field.EXCEPTION_BITMAP: 1 << 13}
    left = Made(monitor, ecx(MONITOR_MSR) + RDMSR + VMCALL, fields=gp, **asked).run()
    refused = left.reason == ExitReason.EXCEPTION
    # Bochs reads zeros where there is no MSR; a CPU that refuses gives the guest #GP.
    assert (1, True) == (left.handled, refused or left.register("rax") == 0)
    made = Made(monitor, ecx(0xC000_0082) + WRMSR + RDMSR + VMCALL, **asked)
    made.guest.set_registers(rax=0x1234, rdx=0x5678)
    left = made.run()
    assert (ExitReason.VMCALL, 0x1234, 0x5678, 0) == (
        left.reason,
        left.register("rax"),
        left.register("rdx"),
        left.handled,
    )
    made = Made(monitor, ecx(0xC000_0082) + WRMSR, **asked)
    monitor.perform(commands.fill(BITMAP, 512, (1 << 64) - 1))
    left = made.run()
    assert (ExitReason.WRMSR, 0xC000_0082) == (left.reason, left.register("rcx"))


def test_xsetbv_is_carried_out_and_refused_as_the_cpu_does(monitor):
    asked = {"handled": [ExitReason.XSETBV], "fields": {Field.EXCEPTION_BITMAP: 1 << 13}}
    cr4 = {Field.CR4: 0x4_2020}
    for value, reason in ((3, ExitReason.VMCALL), (2, ExitReason.EXCEPTION)):
        made = Made(monitor, ecx(0) + XSETBV + VMCALL, **asked)
        made.guest.set(cr4)
        made.guest.set_registers(rax=value)
        left = made.run()
        assert (reason, 1) == (left.reason, left.handled)


def test_a_guest_that_goes_on_for_ever_is_stopped_by_the_timer(monitor):
    controls = Controls(pin=Pin.PREEMPTION_TIMER, secondary=MBEC)
    made = Made(monitor, b"\xeb\xfe", controls=controls, fields={Field.PREEMPTION_TIMER: 1000})
    assert ExitReason.PREEMPTION_TIMER is ExitReason(made.run().reason)


def test_a_state_that_no_guest_can_have_is_an_exit(monitor):
    left = Made(monitor, VMCALL, fields={Field.RFLAGS: 0}).run()
    assert (ExitReason.ENTRY_FAILED_STATE, False) == (left.reason, left.entered)
    assert str(left).startswith("entry refused (ENTRY_FAILED_STATE), at 0x8000")
    made = Made(monitor, VMCALL, fields={Field.CR3_TARGET_COUNT: 9})
    with pytest.raises(CommandFailed, match="RUN: VM-instruction error 7"):
        made.run()


def test_fields_are_read_with_the_exit_and_after_it(monitor):
    made = Made(monitor, VMCALL)
    assert (EPTP, ROOT) == made.run(Field.EPTP, Field.CR3).more
    made.guest.set({Field.CR3: 0x2000})
    assert [0x2000, EPTP] == made.guest.get(Field.CR3, Field.EPTP)


def test_commands_are_carried_out_before_the_next_entry(monitor):
    made = Made(monitor, b"\xeb\xfe")
    made.guest.ask(commands.write(RAM + CODE, [int.from_bytes(VMCALL, "little")]))
    assert (ExitReason.VMCALL, CODE) == ((left := made.run()).reason, left.rip)


def test_the_guests_memory_is_what_the_walker_reads(monitor):
    made = Made(monitor, b"\x48\xa3" + DATA.to_bytes(8, "little") + VMCALL)
    memory = made.guest.memory(RAM, SIZE)
    context = PagingContext(cr3=ROOT)
    assert 0 == memory.word(DATA)
    assert 512 == len(list(mappings(memory, context)))
    made.guest.set_registers(rax=0x1122_3344_5566_7788)
    made.run()
    assert 0x1122_3344_5566_7788 == memory.word(DATA)
    assert bytes.fromhex("66554433") == memory.read(DATA + 2, 4)
    assert DATA + 2 == translate(memory, context, Access(DATA + 2, AccessType.READ)).pa
    memory.write(DATA + 3, b"\xaa\xbb")
    assert 0x1122_33BB_AA66_7788 == memory.word(DATA)
    memory.write(SIZE - 2, b"\xcc\xdd")
    assert b"\xcc\xdd" == memory.read(SIZE - 2, 2)
    words = memory.tables(np.array([DATA, SIZE, ROOT], np.uint64))
    assert [0x1122_33BB_AA66_7788, 0, 0x2027] == [int(row[0]) for row in words]
    assert ([(0, SIZE)], None) == (list(memory.ranges), memory.word(SIZE))
    for at, size in ((SIZE - 4, 8), (-8, 8)):
        with pytest.raises(BadInput, match="isn't memory of the guest"):
            memory.read(at, size)
        with pytest.raises(BadInput, match="isn't memory of the guest"):
            memory.write(at, bytes(size))
    with pytest.raises(BadInput, match="isn't whole frames"):
        GuestMemory(monitor, RAM + 8, SIZE)


def make_capabilities(**more):
    everything = dict.fromkeys(Capabilities.__dataclass_fields__, 4294967295 << 32)
    fixed = {
        "cr0_fixed0": 0x21,
        "cr0_fixed1": 0xFFFF_FFFF,
        "cr4_fixed0": 0x2000,
        "cr4_fixed1": 0x3F_3FFF,
    }
    return Capabilities(**{**everything, **fixed, **more})


def test_controls_are_those_wanted_and_those_forced():
    cpu = make_capabilities(pin=0xFF << 32 | 0x16)
    fields = Controls(pin=Pin.NMI_EXITING, secondary=MBEC).fields(cpu)
    assert (0x1E, int(MBEC), True) == (
        fields[Field.PIN_CONTROLS],
        fields[Field.SECONDARY_CONTROLS],
        cpu.mbec,
    )
    without = make_capabilities(secondary=int(Secondary.EPT) << 32)
    assert not without.mbec
    with pytest.raises(BadInput, match="the CPU has no mode-based execute control for EPT"):
        Controls(secondary=MBEC).fields(without)
    with pytest.raises(BadInput, match="the CPU lacks VPID of SECONDARY_CONTROLS"):
        Controls(secondary=Secondary.EPT | Secondary.VPID).fields(without)


def test_a_state_has_what_vmx_forces_behind_masks():
    context = PagingContext(cr3=0x5000, cr0=0x8001_0013, cr4=0x20)
    fields = long_mode(context, make_capabilities(), rip=1, cpl=3)
    assert (0x8001_0033, 0x20, 0x8001_0013) == tuple(
        fields[each] for each in (Field.CR0, Field.CR0_MASK, Field.CR0_SHADOW)
    )
    assert (0x2020, 0x2000, 0x20) == tuple(
        fields[each] for each in (Field.CR4, Field.CR4_MASK, Field.CR4_SHADOW)
    )
    assert (0xA0FB, 0xC0F3, 3) == (
        fields[Field.CS_RIGHTS],
        fields[Field.SS_RIGHTS],
        fields[Field.CS_SELECTOR] & 3,
    )
    with pytest.raises(BadInput, match="the CPU lacks bits of CR0 = 0x80010033 or CR4 = 0x1000020"):
        long_mode(PagingContext(cr3=0, cr4=0x100_0020), make_capabilities(), rip=1)


def test_an_exit_is_told_by_its_words():
    words = [*range(17), 4, *range(100, 117), 9]
    left = Exit.of(words)
    assert (100, 101, 116, 4, (9,)) == (
        left.reason_word,
        left.qualification,
        left.ss_rights,
        left.handled,
        left.more,
    )
    assert (0, 15, 16, left.rsp) == tuple(
        left.register(name) for name in ("rax", "r15", "cr2", "rsp")
    )
    assert "exit 99" in str(Exit.of([*range(18), 99, *range(16)]))
