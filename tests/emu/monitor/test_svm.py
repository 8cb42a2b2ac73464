"""Guests of the monitor under SVM, in QEMU: VMRUN, what it takes and what it leaves."""

import pytest

from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.monitor.machines import QemuHost
from crosswalk.emu.monitor.monitor import CommandFailed, Monitor
from crosswalk.emu.monitor.svm import SvmExit, Vmcb, VmcbSegment, svm_on, vmcb_words
from crosswalk.guest.monitor import places
from crosswalk.guest.monitor.commands import REGISTERS, Status, run_vmcb, set_registers, write
from crosswalk.walker.architecture import EFER
from crosswalk.walker.control import Vendor

VMCB, CODE, STACK = 0x20_0000, 0x20_1000, 0x20_3000
_VMMCALL, _UD, _STATE_SAVE = 0x81, 0x46, 0x400


@pytest.fixture(scope="module")
def monitor(qemu):
    """A monitor in QEMU."""
    path = qemu.partition(":")[2] or "qemu-system-x86_64"
    wish = CpuWish(maxphyaddr=40, vendor=Vendor.AMD)
    with Monitor(QemuHost(path, wish=wish)) as monitor:
        yield monitor


def state(base):
    """A guest at CODE under the monitor's own tables, without nested paging."""
    words = {
        Vmcb.EXCEPTION_INTERCEPTS: 0xFFFF_FFFF,
        Vmcb.SVM_INTERCEPTS: 3,
        Vmcb.ASID: 1,
        Vmcb.EFER: int(EFER.LME | EFER.LMA | EFER.SVME),
        Vmcb.CR0: 0x8001_0033,
        Vmcb.CR3: base + places.PML4,
        Vmcb.CR4: 0x20,
        Vmcb.RFLAGS: 2,
        Vmcb.RIP: CODE,
        Vmcb.RSP: STACK,
        Vmcb.RAX: 7,
    }
    words |= dict(VmcbSegment(0x10, 0xA9B).words(Vmcb.CS))
    for at in (Vmcb.SS, Vmcb.DS, Vmcb.ES):
        words |= dict(VmcbSegment(0x18, 0xC93).words(at))
    return words


def run(monitor, code, changed=(), **registers):
    """The exit of a guest that runs this code."""
    base = monitor.greeting.base
    padded = code.ljust(16, b"\xcc")
    words = [int.from_bytes(padded[at : at + 8], "little") for at in (0, 8)]
    *_, ran = monitor.perform(
        write(VMCB, [0] * 512),
        svm_on(base, nxe=True),
        vmcb_words(VMCB, {**state(base), **dict(changed)}.items()),
        write(CODE, words),
        set_registers([registers.get(name, 0) for name in REGISTERS]),
        run_vmcb(VMCB, SvmExit.FIELDS),
    )
    return SvmExit.of(ran.words)


def test_vmrun_without_svm_is_an_exception_of_the_monitor(qemu):
    path = qemu.partition(":")[2] or "qemu-system-x86_64"
    with Monitor(QemuHost(path)) as fresh, pytest.raises(CommandFailed, match="RUN_VMCB: #UD"):
        fresh.perform(run_vmcb(VMCB, ()))


def test_a_state_that_no_guest_can_have_is_an_exit(monitor):
    assert not run(monitor, b"", {Vmcb.EFER: 0}.items()).entered
    assert run(monitor, b"\x0f\x0b").entered


def test_a_guest_gets_its_registers_and_leaves_them(monitor):
    # mov rbp, rcx; xchg rax, r15; vmmcall
    code = bytes.fromhex("4889cd 4997 0f01d9")
    found = run(monitor, code, rcx=0x1234, r15=0x5678, rax=1)
    assert (_VMMCALL, CODE + 5, 0x5678) == (found.code, found.rip, found.rax)
    registers = dict(zip(REGISTERS, found.registers, strict=True))
    assert (0x1234, 7, 0x5678) == (registers["rbp"], registers["r15"], registers["rax"])


def test_an_intercepted_exception_has_its_vector(monitor):
    found = run(monitor, b"\x0f\x0b")
    assert (_UD, CODE) == (found.code, found.rip)


def test_the_monitor_goes_on_behind_an_exit(monitor):
    run(monitor, b"\x0f\x0b")
    (answer,) = monitor.perform(write(CODE, [1]))
    assert Status.OK is answer.status


def test_places_of_the_state_are_those_of_the_manual():
    # AMD APM vol. 2, "Layout of VMCB": offsets from the start of the state-save area.
    own = {
        "CS": 0x10, "SS": 0x20, "TR": 0x90, "CPL": 0xC8, "EFER": 0xD0, "CR4": 0x148, "CR3": 0x150,
        "CR0": 0x158, "DR7": 0x160, "RFLAGS": 0x170, "RIP": 0x178, "RSP": 0x1D8, "RAX": 0x1F8,
        "CR2": 0x240, "PAT": 0x268,
    }  # fmt: skip
    assert own == {name: getattr(Vmcb, name) - _STATE_SAVE for name in own}
