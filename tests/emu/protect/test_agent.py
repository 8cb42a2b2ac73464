"""Driving the guest's agent: each operation by its own instruction."""

import capstone
import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.protect.agent import LANDMARK, MARK, SWEEP, Operation, Use, spans
from crosswalk.emu.protect.attacks import EFER_VALUE
from crosswalk.emu.protect.events import Fault, describe_event
from crosswalk.guest import places
from crosswalk.guest.builder import build_image
from crosswalk.walker.architecture import EFER, MSR
from crosswalk.walker.errors import CrosswalkError

KERNEL = places.KERNEL
DIRECTLY = {
    Operation.LOAD: "mov rax, qword ptr [r8]",
    Operation.STORE: "mov qword ptr [r8], r9",
    Operation.EXECUTE: "call r8",
    Operation.SET_CR0: "mov cr0, r8",
    Operation.SET_CR3: "mov cr3, r8",
    Operation.SET_CR4: "mov cr4, r8",
    Operation.SET_MSR: "wrmsr",
    Operation.INVLPG: "invlpg byte ptr [r8]",
    Operation.HYPERCALL: "vmmcall",
    Operation.VMSAVE: "vmsave rax",
    Operation.VMLOAD: "vmload rax",
    Operation.STGI: "stgi",
    Operation.CLGI: "clgi",
    Operation.VMRUN: "vmrun rax",
    Operation.INVLPGA: "invlpga rax, ecx",
    Operation.SKINIT: "skinit eax",
}


@pytest.mark.parametrize("operation", list(DIRECTLY), ids=lambda each: each.name)
def test_an_operation_is_one_instruction_of_the_guests(operation):
    (code,) = (code for code in build_image(4).code if code.source == "agent.s")
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    begun = list(engine.disasm(code.data, code.va))
    table = begun[-1].address + begun[-1].size - code.va
    for each in begun:
        if each.mnemonic == "jmp" and each.op_str == "rdx":
            table = each.address + each.size - code.va
    entry = int.from_bytes(code.data[table + 2 * operation :][:2], "little")
    found = []
    for each in engine.disasm(code.data[entry:], code.va + entry):
        if each.mnemonic == "jmp":
            break
        found.append(f"{each.mnemonic} {each.op_str}".strip())
    assert DIRECTLY[operation] in found


def test_values_come_back(subject):
    agent = subject.agent
    assert agent.do(Operation.LOAD, KERNEL + places.RODATA).value == int.from_bytes(
        b"Crosswal", "little"
    )
    assert MARK == agent.do(Operation.EXECUTE, KERNEL + places.AGENT + LANDMARK).value
    assert agent.do(Operation.LOAD_USER, places.USER_DATA + 8).value & 0xFF == ord("i")
    agent.store([(KERNEL + places.LARGE_DATA, 5)])
    assert b"\5" == subject.guest.ram.read(places.LARGE_DATA, 1)
    agent.do(Operation.STORE_USER, places.USER_DATA + 0x100, 0, 0x77)
    assert b"\x77" == subject.guest.ram.read(places.USER_DATA_FRAME + 0x100, 1)


@pytest.mark.parametrize("value", [EFER_VALUE, EFER_VALUE | EFER.SCE])
def test_what_isnt_pinned_of_efer_may_be_written(subject, value):
    assert not subject.agent.do(Operation.SET_MSR, MSR.EFER, value).failed
    assert subject.guest.context.efer == value
    assert not subject.agent.do(Operation.STORE, KERNEL + places.DATA, 1).failed
    assert subject.agent.do(Operation.VMSAVE).event == Exit(ExitCode.VMSAVE)


def test_writing_efer_stays_an_exit(subject):
    assert not subject.agent.do(Operation.SET_MSR, MSR.EFER, EFER_VALUE | EFER.SCE).failed
    for value in (EFER_VALUE & ~EFER.NXE, EFER_VALUE & ~EFER.LME, 0):
        assert subject.agent.do(Operation.SET_MSR, MSR.EFER, value).event == Exit(ExitCode.MSR, 1)
    assert EFER_VALUE | EFER.SCE == subject.guest.context.efer


def test_the_event_comes_back(subject):
    event = subject.agent.do(Operation.LOAD, 0x10).event
    assert event == Fault(14, 0, 0x10)
    assert "vector 14, error code 0x0, at 0x10" == describe_event(event)
    assert subject.agent.do(Operation.STGI).event == Exit(ExitCode.STGI)
    event = subject.agent.do(Operation.LOAD, 1 << 63).event
    assert (13, 0) == (event.vector, event.cr2)
    with pytest.raises(CrosswalkError, match="can't store to 0x10"):
        subject.agent.store([(0x10, 1)])


def test_many_faults_in_a_row_are_each_an_event(subject):
    for _ in range(20):
        assert subject.agent.do(Operation.LOAD_USER, 0x10).event == Fault(14, 4, 0x10)
        assert subject.agent.do(Operation.STORE, 0x10).event == Fault(14, 2, 0x10)


def test_a_sweep_has_a_result_for_each_page(subject):
    subject.guest.ram.write(places.TEXT + 3 * 0x1000 + 2, b"\x2a")
    found, events = subject.agent.sweep(KERNEL + places.TEXT + 0x3000, 2, Use.READ)
    assert [0x2A, 0] == found.tolist()
    assert events == {1: Fault(14, 0, KERNEL + places.TEXT + 0x4002)}


def test_ranges_are_cut_into_sweeps():
    assert [(0x1000, SWEEP), (0x1000 * (SWEEP + 1), 1)] == list(spans(0x1000, SWEEP + 1))
