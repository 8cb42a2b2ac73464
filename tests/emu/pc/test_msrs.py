"""MSRs that Unicorn doesn't have, and the machine's own."""

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MODEL, open_engine
from crosswalk.emu.pc.msrs import KNOWN_MSRS
from crosswalk.emu.pc.results import Stop
from crosswalk.emu.pc.unanswered import Asked, Question, Target
from tests.emu.cpu.machine import CODE

RAX, RCX, RDX, RBX = 0, 1, 2, 3
GP = 13
PARTS = (0, 0xC000_0000, 0xC001_0000)


def read(bare, number):
    assert Stop.HALTED is bare.start(f"mov ecx, {number}\nrdmsr\ncli\nhlt", rax=~0 & 0xFFFF).stop
    return bare.cpu.general(RDX) << 32 | bare.cpu.general(RAX)


@pytest.mark.parametrize("number", [0x3A, 0x122, 0xC000_0105, 0xC001_1029, 0x4000_0000])
def test_an_msr_that_isnt_there_reads_as_0_and_is_named_with_the_code_that_asked(bare, number):
    assert 0 == read(bare, number)
    (asked,) = bare.machine.unanswered
    assert Asked(Question(Target.MSR, number, write=False, size=8), CODE + 5, 1) == asked


def test_a_write_to_an_msr_that_isnt_there_is_ignored_and_named(bare):
    bare.start(
        "mov ecx, 0x3a\nmov eax, 5\nxor edx, edx\nwrmsr\nwrmsr\nrdmsr\nmov ebx, eax\ncli\nhlt"
    )
    written, asked = bare.machine.unanswered
    assert (0, 2, True) == (bare.cpu.general(RBX), written.count, written.question.write)
    assert (1, False) == (asked.count, asked.question.write)


def test_an_instruction_with_prefixes_is_as_long_as_it_is(bare):
    bare.start("mov ecx, 0x3a\n.byte 0x2e, 0x48, 0x0f, 0x32\nmov ebx, 7\ncli\nhlt")
    assert (7, 1) == (bare.cpu.general(RBX), len(bare.machine.unanswered))


@pytest.mark.parametrize("number", [0x277, 0x2FF, 0x174, 0xC000_0081, 0xC000_0102])
def test_an_msr_that_unicorn_has_keeps_what_is_written_and_nobody_is_asked(bare, number):
    bare.start(f"mov ecx, {number}\nmov eax, 6\nxor edx, edx\nwrmsr\nmov eax, 9\nrdmsr\ncli\nhlt")
    assert (6, 0) == (bare.cpu.general(RAX), len(bare.machine.unanswered))


def test_efer_is_still_checked(bare):
    # LME can't change while paging is on.
    bare.start("mov ecx, 0xc0000080\nrdmsr\nand eax, 0xfffffeff\nwrmsr\ncli\nhlt")
    assert GP == bare.machine.events[-1].event.vector


def test_the_known_ones_are_those_that_unicorn_has_and_no_others():
    found = set()
    for first in PARTS:
        engine = open_engine(model=MODEL)
        for number in range(first, first + 0x2000):
            for value in (None, 1, 0x1000, 6):
                if value is not None:
                    engine.reg_write(x86.UC_X86_REG_MSR, (number, value))
                if engine.reg_read(x86.UC_X86_REG_MSR, number):
                    found.add(number)
                    break
    # LME and the like can't be written so.
    assert set(KNOWN_MSRS) == found | {0xC000_0080}


def test_the_base_of_the_local_apic_says_that_it_is_on_and_can_be_switched_off(bare):
    bare.start("mov ecx, 0x1b\nrdmsr\nmov ebx, eax\nand ah, 0xf7\nwrmsr\nrdmsr\ncli\nhlt")
    assert (0xFEE0_0900, 0xFEE0_0100) == (bare.cpu.general(RBX), bare.cpu.general(RAX))
    assert None is bare.machine._board.read_memory(0xFEE0_0020, 4)


def test_x2apic_mode_is_refused(bare):
    bare.start("mov ecx, 0x1b\nrdmsr\nor ah, 4\nwrmsr\ncli\nhlt")
    assert GP == bare.machine.events[-1].event.vector


def test_a_local_apic_that_moves_is_named_and_ends_the_run(bare):
    ended = bare.start("mov ecx, 0x1b\nmov eax, 0xd0000900\nxor edx, edx\nwrmsr\ncli\nhlt")
    assert (Stop.NOT_EMULATED, "the local APIC moved to 0xd0000000") == (ended.stop, ended.detail)


def test_the_time_stamp_counter_can_be_read_and_set(bare):
    stamp = "rdtsc\nshl rdx, 32\nor rax, rdx\nmov rbx, rax"
    bare.start(f"mov ecx, 0x10\nmov eax, 0x1000\nmov edx, 5\nwrmsr\n{stamp}\nrdmsr\ncli\nhlt")
    first = bare.cpu.general(RBX)
    second = bare.cpu.general(RDX) << 32 | bare.cpu.general(RAX)
    assert 5 << 32 | 0x1000 < first < second < 5 << 32 | 0x10000


@pytest.mark.parametrize("instruction", ["rdmsr", "wrmsr", "mov cr0, rbx"])
def test_what_the_cpu_executes_and_cant_read_ends_the_run_by_name(bare, instruction):
    bare.map(CODE, 7)  # A user page: with SMAP the supervisor may execute it, but not read it.
    smap_on = "mov rax, cr4\nor eax, 1 << 21\nmov cr4, rax"
    ended = bare.start(f"mov rbx, cr0\nmov ecx, 0x3a\n{smap_on}\n{instruction}\nhlt")
    assert Stop.NOT_EMULATED is ended.stop
    assert ended.detail.endswith("that it can't read")
