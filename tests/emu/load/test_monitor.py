"""The monitor, made for SVM in QEMU, as a guest: its guests' exits are the emulated CPU's work."""

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL
from crosswalk.emu.load.formats import open_image
from crosswalk.emu.monitor.svm import SvmExit, Vmcb
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Stop
from crosswalk.guest.monitor.commands import REGISTERS, Op, Status, decoded
from crosswalk.guest.monitor.image import size_of
from tests.emu.load.monitor_guest import BASE, CODE, DATA, NESTED, ROOM, commands_for, image_of

MEMORY = 32 << 20
VMMCALL, UD, NPF = 0x81, 0x46, 0x400
SETS, STORES = bytes.fromhex("4889cd 4997 0f01d9"), bytes.fromhex("48890b 0f01d9")


def ran(code, changed=(), **registers):
    """The exit of a guest that runs this code, under the monitor in an emulated machine."""
    commands = commands_for(code, changed, **registers)
    ram = Ram(0, MEMORY)
    machine = Machine(ram, model=SVM_MODEL)
    guest = open_image(image_of(commands))
    guest.place(ram)
    guest.enter(machine)
    assert Stop.OFF is machine.run(seconds=30).stop
    first = BASE + size_of(commands, ROOM) - ROOM
    answers = []
    for answer in decoded(np.frombuffer(ram.read(first, ROOM), "<u8").astype(np.uint64), 0):
        answers.append(answer)
        if answer.op is Op.DONE:
            break
    assert {Status.OK} == {each.status for each in answers}
    return SvmExit.of(next(each for each in answers if each.op is Op.RUN_VMCB).words)


def test_a_guest_gets_its_registers_and_leaves_them():
    found = ran(SETS, rcx=0x1234, r15=0x5678, rax=1)
    assert (VMMCALL, CODE + 5, 0x5678) == (found.code, found.rip, found.rax)
    registers = dict(zip(REGISTERS, found.registers, strict=True))
    assert (0x1234, 7, 0x5678) == (registers["rbp"], registers["r15"], registers["rax"])


def test_an_intercepted_exception_has_its_vector():
    found = ran(b"\x0f\x0b")
    assert (UD, CODE) == (found.code, found.rip)


def test_a_state_that_no_guest_can_have_is_an_exit():
    assert not ran(b"", {Vmcb.EFER: 0}.items()).entered


@pytest.mark.parametrize(
    ("address", "code", "info"), [(DATA, NPF, 1 << 32 | 7), (DATA + (2 << 20), VMMCALL, 0)]
)
def test_nested_tables_refuse_a_store(address, code, info):
    nested = {Vmcb.NESTED: 1, Vmcb.NESTED_CR3: NESTED}
    found = ran(STORES, nested.items(), rbx=address)
    assert (code, info) == (found.code, found.info_1)
    assert code != NPF or found.info_2 == address
