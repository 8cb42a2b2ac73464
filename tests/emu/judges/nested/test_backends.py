"""What exits of VMX and of SVM say, word by word; what a CPU lacks; without a machine."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.outcomes import Left
from crosswalk.emu.judges.nested.svm import Svm
from crosswalk.emu.judges.nested.vmx import Vmx
from crosswalk.emu.monitor.monitor import Greeting
from crosswalk.emu.monitor.svm import Vmcb
from crosswalk.emu.monitor.vmx import CAPABILITY_MSRS, ExitReason, Field, Secondary
from crosswalk.guest.monitor.commands import REGISTERS, Answer, Op, Status
from crosswalk.walker.architecture import EFER, MSR, Vector
from crosswalk.walker.context import Vendor
from crosswalk.walker.nested.context import EptCapability
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation, NestedPageFault
from tests.emu.judges.nested.grid import ept_grid, npt_grid

REGISTER_WORDS = [100 + number for number in range(len(REGISTERS))]
RAX, RSI, RIP = 100, 106, 0xFFFF_F800_0000_0004
GREETING = Greeting(0x800_0000, 0x80_0000, ())


def answer(op, words, status=Status.OK):
    return Answer(op, status, 0, np.array(words, np.uint64))


def vmx_left(reason, qualification=0, gpa=0, gla=0, event=0, error=0):
    words = [*REGISTER_WORDS, 0, reason, qualification, gpa, gla, event, error, RIP]
    return Vmx().left(answer(Op.RUN, words))


def svm_left(code, info_1=0, info_2=0):
    words = [*REGISTER_WORDS, 0, code, info_1, info_2, RIP, RAX]
    return Svm(0).left(answer(Op.RUN_VMCB, words))


OWN = Left(RIP, RAX, RSI)


def test_exits_of_vmx():
    page_fault = replace(OWN, vector=Vector.PF, error_code=6, address=0x1234)
    protection = replace(OWN, vector=Vector.GP, error_code=8)
    violation = replace(OWN, fault=EptViolation(0x181, 0x5008, 0x7000))
    without_address = replace(OWN, fault=EptViolation(0x1, 0x5008, 0))
    found = {
        "PF": (page_fault, vmx_left(0, 0x1234, event=0x80000B0E, error=6)),
        "GP": (protection, vmx_left(0, 0x1234, event=0x80000B0D, error=8)),
        "violation": (violation, vmx_left(48, 0x181, 0x5008, 0x7000)),
        "without a linear address": (without_address, vmx_left(48, 0x1, 0x5008, 0x7000)),
        "misconfiguration": (
            replace(OWN, fault=EptMisconfiguration(0x5008)),
            vmx_left(49, 9, 0x5008),
        ),
        "HLT": (OWN, vmx_left(ExitReason.HLT)),
    }
    for name, (expected, left) in found.items():
        assert expected == replace(left, what=""), name


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (1 << 31 | 33, "the guest isn't entered: ENTRY_FAILED_STATE"),
        (ExitReason.TRIPLE_FAULT, "the guest shuts down"),
    ],
)
def test_ends_of_a_guest_under_vmx(reason, text):
    assert text == vmx_left(reason).other


def test_exits_of_svm():
    page_fault = replace(OWN, vector=Vector.PF, error_code=6, address=0x1234)
    protection = replace(OWN, vector=Vector.GP, error_code=8)
    nested = replace(OWN, fault=NestedPageFault(1 << 32 | 7, 0x5008))
    found = {
        "PF": (page_fault, svm_left(ExitCode.PF, 6, 0x1234)),
        "GP": (protection, svm_left(ExitCode.GP, 8, 0x1234)),
        "NPF": (nested, svm_left(ExitCode.NPF, 1 << 32 | 7, 0x5008)),
        "HLT": (OWN, svm_left(ExitCode.HLT)),
    }
    for name, (expected, left) in found.items():
        assert expected == replace(left, what=""), name


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0xFFFF_FFFF, "VMRUN refuses the guest's state"),
        ((1 << 64) - 1, "VMRUN refuses the guest's state"),
        (ExitCode.SHUTDOWN, "the guest shuts down"),
    ],
)
def test_ends_of_a_guest_under_svm(code, text):
    assert text == svm_left(code).other


def leaves(width, edx, ecx, last):
    return answer(Op.CPUID, [width, 0, 0, ecx | edx << 32, 0, last])


def svm(*, ecx=4, nested=1 << 32):
    backend = Svm(0xC00_0000)
    backend.began(GREETING)
    backend.learn([leaves(44, 0, ecx, nested)])
    return backend


def vmx(*, vmx=1 << 5, secondary=0xFFFF_FFFF << 32, ept=(1 << 64) - 1):
    backend = Vmx()
    msrs = dict.fromkeys(CAPABILITY_MSRS, ((1 << 32) - 1) << 32) | {
        "cr0_fixed0": 0, "cr0_fixed1": (1 << 32) - 1, "cr4_fixed0": 0x2000,
        "cr4_fixed1": (1 << 32) - 1, "secondary": secondary, "ept_vpid": ept,
    }  # fmt: skip
    answers = [leaves(44, 1 << 26, 0, vmx), answer(Op.VMX_ON, [0, 0])]
    answers += [answer(Op.READ_MSR, [*msrs.values()]), answer(Op.WRITE_MSR, [])]
    backend.learn(answers)
    return backend


def test_contexts_have_the_features_of_the_cpu():
    amd = svm().met(npt_grid().context)
    for side in (amd.guest, amd.npt):
        assert (44, False, Vendor.AMD) == (side.maxphyaddr, side.page1gb, side.vendor)
    intel = vmx(ept=int(EptCapability.EXECUTE_ONLY | EptCapability.LENGTH_4 | EptCapability.WB))
    met = intel.met(ept_grid().context)
    assert (44, True, 44) == (met.guest.maxphyaddr, met.guest.page1gb, met.ept.maxphyaddr)
    assert EptCapability.ADVANCED not in met.ept.capabilities
    assert met.guest.cr4 & 0x80


@pytest.mark.parametrize(
    ("backend", "question", "text"),
    [
        (svm(ecx=0), npt_grid(), "the CPU has no SVM"),
        (svm(nested=0), npt_grid(), "the CPU has no nested paging"),
        (svm(), ept_grid(), "the CPU has nested paging, not EPT"),
        (vmx(vmx=0), ept_grid(), "the CPU has no VMX"),
        (
            vmx(secondary=int(Secondary.EPT) << 32),
            ept_grid(mbec=True),
            "the CPU has no mode-based execute control for EPT",
        ),
        (
            vmx(ept=0),
            ept_grid(accessed_dirty=True),
            "the CPU's EPT has no accessed and dirty flags",
        ),
        (vmx(), npt_grid(), "the CPU has EPT, not AMD's nested paging"),
        (svm(), npt_grid(), None),
        (vmx(), ept_grid(mbec=True, accessed_dirty=True), None),
    ],
)
def test_what_a_cpu_lacks_is_refused(backend, question, text):
    expected = None if text is None else Reason(Unjudged.NOT_SHOWN, text)
    assert expected == backend.refuses(question.context)


def fields(commands, op):
    """The pairs of numbers that a command of this kind writes."""
    (command,) = [each for each in commands if each.op is op]
    words = [int(word) for word in command.payload]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_a_guest_under_vmx_has_the_context_and_nothing_passes():
    context = ept_grid(mbec=True).context
    written = fields(vmx().enter(context), Op.WRITE_FIELDS)
    assert context.ept.eptp == written[Field.EPTP]
    assert 0xFFFF_FFFF == written[Field.EXCEPTION_BITMAP]
    assert written[Field.SECONDARY_CONTROLS] & Secondary.MODE_BASED_EXECUTE
    without = fields(vmx().enter(ept_grid().context), Op.WRITE_FIELDS)
    assert not without[Field.SECONDARY_CONTROLS] & Secondary.MODE_BASED_EXECUTE


def test_a_guest_under_svm_has_the_context_and_the_hosts_nxe():
    for host_nxe in (False, True):
        context = npt_grid(host_nxe=host_nxe).context
        commands = svm().enter(context)
        efer = fields(commands, Op.WRITE_MSR)[MSR.EFER]
        assert host_nxe == bool(efer & EFER.NXE)
        written = fields(commands, Op.STORE)
        assert context.npt.cr3 == written[0xC00_0000 + Vmcb.NESTED_CR3]
        assert (1 << 64) - 1 == written[0xC00_0000 + Vmcb.EXCEPTION_INTERCEPTS]


@pytest.mark.parametrize("backend", [svm(), vmx()])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_guest_begins_under_the_tables_that_it_is_told(backend, quiet):
    is_svm = isinstance(backend, Svm)
    context = (npt_grid() if is_svm else ept_grid()).context
    backend.enter(context)
    commands = backend.run(0x1234, 3, quiet=quiet, rflags=0x102, registers={"rbx": 7})
    written = fields(commands, Op.STORE if is_svm else Op.WRITE_FIELDS)
    base = 0xC00_0000 if is_svm else 0
    cr3, rip = (Vmcb.CR3, Vmcb.RIP) if is_svm else (Field.CR3, Field.RIP)
    assert (1 << 39 if quiet else context.guest.cr3) == written[base + cr3]
    assert 0x1234 == written[base + rip]
    (registers,) = [each for each in commands if each.op is Op.SET_REGISTERS]
    assert 7 == registers.payload[REGISTERS.index("rbx")]
