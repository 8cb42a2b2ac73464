"""Task switches by JMP, CALL and IRET, which Unicorn does by itself, and by a task gate.

Intel SDM vol. 3A, "Task-State Segment (TSS)".
"""

import struct

import pytest

from crosswalk.emu.cpu.delivery import Event, Kind, deliver
from crosswalk.emu.cpu.events import NotEmulated
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import RFlags
from tests.emu.cpu.legacy_machine import (
    CODE,
    CODE0,
    DATA0,
    GDT,
    ROOT,
    SPARE,
    TASK,
    TASK_GATE,
    TSS,
    Legacy,
)

OTHER, OTHER_ROOT, OTHER_STACK, TS = 0x8800, 0x4000, 0x7F00, 8
ENTRY, BUSY, AVAILABLE = CODE + 0x200, 0x8B, 0x89
# Of a 32-bit TSS, as numbers of 4-byte words.
LINK, CR3, EIP, EFLAGS, EAX, ESP, ES = 0, 7, 8, 9, 10, 14, 18


def descriptor(base, kind):
    return 0x67 | (base & 0xFF_FFFF) << 16 | kind << 40 | base >> 24 << 56


@pytest.fixture
def two():
    """A machine with a second task, in an address space of its own, which can be switched to."""
    machine = Legacy("32-bit")
    machine.describe(TASK, descriptor(TSS, BUSY))
    machine.describe(SPARE, descriptor(OTHER, AVAILABLE))
    machine.ram.write(OTHER_ROOT, machine.ram.read(ROOT, 4))
    # A switch saves no CR3: what an old task comes back to was always in its TSS.
    machine.ram.write(TSS + 4 * CR3, struct.pack("<I", ROOT))
    words = [0] * 26
    words[CR3], words[EIP], words[EFLAGS], words[EAX] = OTHER_ROOT, ENTRY, 2, 0x1111
    words[ESP], words[ES : ES + 6] = OTHER_STACK, [DATA0, CODE0, DATA0, DATA0, 0, 0]
    machine.ram.write(OTHER, struct.pack("<26I", *words))
    return machine


def words_of(machine, tss):
    return struct.unpack("<26I", machine.ram.read(tss, 104))


def kinds(machine):
    return [machine.ram.read(GDT + selector + 5, 1)[0] for selector in (TASK, SPARE)]


def test_a_jump_to_a_task_loads_its_registers_and_keeps_the_old_ones(two):
    two.write(ENTRY, "mov ebx, cr3\ncli\nhlt")
    assert Stop.HALTED is two.start(f"mov eax, 5\nljmp {SPARE}:0").stop
    cpu = two.cpu
    assert (0x1111, OTHER_ROOT, OTHER_STACK) == (cpu.general(0), cpu.general(3), cpu.rsp)
    assert (OTHER_ROOT, SPARE, OTHER) == (cpu.cr3, cpu.segment("tr").selector, cpu.table("tr")[0])
    assert TS == cpu.cr0 & TS
    assert 5 == words_of(two, TSS)[EAX]
    assert [AVAILABLE, BUSY] == kinds(two)


def test_a_call_of_a_task_links_back_and_iret_returns(two):
    two.write(ENTRY, "pushfd\npop ebx\nmov [0x5000], ebx\nstr word ptr [0x5010]\niretd")
    source = f"mov eax, 5\nmov ebx, 6\nlcall {SPARE}:0\ncli\nhlt"
    assert Stop.HALTED is two.start(source).stop
    cpu = two.cpu
    assert (5, 6, ROOT) == (cpu.general(0), cpu.general(3), cpu.cr3)
    assert TASK == cpu.segment("tr").selector
    flags, task = (int.from_bytes(two.ram.read(at, 4), "little") for at in (0x5000, 0x5010))
    assert (RFlags.NT, SPARE) == (flags & RFlags.NT, task)
    assert TASK == words_of(two, OTHER)[LINK]
    assert [BUSY, AVAILABLE] == kinds(two)


def test_a_jump_to_a_busy_task_is_a_general_protection_fault(two):
    two.describe(SPARE, descriptor(OTHER, BUSY))
    two.start(f"ljmp {SPARE}:0")
    assert 13 == two.halted()
    assert [SPARE, CODE] == two.frame(2)


def test_a_task_gate_is_refused_with_the_cpu_as_it_was(two):
    two.gate(8, kind=TASK_GATE, selector=SPARE)
    with two.cpu.changed():
        two.cpu.enter(two.segment(CODE0), 0, two.segment(DATA0))
        two.cpu.rip, two.cpu.rsp = CODE, 0xE000
    before = two.cpu.snapshot()
    with pytest.raises(NotEmulated, match=r"^a task switch, by the task gate of vector 8$"):
        deliver(two.cpu, Event(8, Kind.EXCEPTION))
    two.cpu.load()
    assert before == two.cpu.snapshot()
    assert [BUSY, AVAILABLE] == kinds(two)
