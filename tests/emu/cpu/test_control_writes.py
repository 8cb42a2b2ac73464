"""Writes to control registers that a processor refuses, each beside one that it takes.

Intel SDM vol. 2B, "MOV—Move to/from Control Registers"; vol. 3A, "Initializing IA-32e Mode".
"""

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.control_writes import writable
from crosswalk.emu.cpu.engine import MODEL
from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import CR0, CR4, EFER
from tests.emu.cpu.legacy_machine import CODE as CODE_32
from tests.emu.cpu.legacy_machine import CODE0 as CODE0_32
from tests.emu.cpu.legacy_machine import GDT as GDT_32
from tests.emu.cpu.legacy_machine import ROOT as ROOT_32
from tests.emu.cpu.legacy_machine import SPARE, TSS_16, Legacy
from tests.emu.cpu.machine import CODE0, READ_ONLY

NW, CD, NE = 1 << 29, 1 << 30, 1 << 5


def changing(register, *, set_bits=0, clear_bits=0, wide=True):
    """Instructions that read a register, change bits, write it, and read it back to RDX."""
    rax, rbx, rdx = ("rax", "rbx", "rdx") if wide else ("eax", "ebx", "edx")
    mask = (1 << (64 if wide else 32)) - 1
    return (
        f"mov {rax}, {register}\nmov {rbx}, {set_bits:#x}\nor {rax}, {rbx}\n"
        f"mov {rbx}, {~clear_bits & mask:#x}\nand {rax}, {rbx}\n"
        f"mov {register}, {rax}\nmov {rdx}, {register}\nud2"
    )


def refused(machine, vector=13):
    """Whether the run ended in the handler of #GP, and not behind the write, of #UD."""
    halted = (machine.cpu.rip - 2 - machine.handler(0)) // 4
    assert halted in (6, vector)
    return halted == vector


# Of 64-bit mode: the register, the bits set and cleared, whether a processor refuses that.
LONG = {
    "CR0.NW without CD": ("cr0", NW, 0, True),
    "CR0.NW with CD": ("cr0", NW | CD, 0, False),
    "CR0.CD": ("cr0", CD, 0, False),
    "bits 63:32 of CR0": ("cr0", 1 << 32, 0, True),
    "CR0.PG cleared": ("cr0", 0, int(CR0.PG), True),
    "CR0.WP cleared": ("cr0", 0, int(CR0.WP), False),
    "a reserved bit of CR4": ("cr4", 1 << 31, 0, True),
    "bits 63:32 of CR4": ("cr4", 1 << 40, 0, True),
    "CR4.PCIDE of a CPU without PCIDs": ("cr4", int(CR4.PCIDE), 0, True),
    "CR4.VMXE of a CPU without VMX": ("cr4", 1 << 13, 0, True),
    "CR4.LA57 in IA-32e mode": ("cr4", int(CR4.LA57), 0, True),
    "CR4.PAE cleared in IA-32e mode": ("cr4", 0, int(CR4.PAE), True),
    "CR4.SMEP": ("cr4", int(CR4.SMEP), 0, False),
    "CR4.PGE": ("cr4", int(CR4.PGE), 0, False),
    "CR4.PKE": ("cr4", int(CR4.PKE), 0, False),
}


@pytest.mark.parametrize("case", LONG)
def test_a_write_in_64_bit_mode_is_refused_where_the_manual_says_so(bare, case):
    register, set_bits, clear_bits, due = LONG[case]
    read = getattr(x86, f"UC_X86_REG_{register.upper()}")
    before = bare.engine.reg_read(read)
    bare.start(changing(register, set_bits=set_bits, clear_bits=clear_bits))
    assert due == refused(bare)
    after = before if due else (before | set_bits) & ~clear_bits
    assert after == bare.engine.reg_read(read)
    if due:
        assert [0, CODE0] == bare.frame(3)[::2]  # The error code, and CS.
        assert "mov" in code_at(bare, bare.frame(2)[1])
    else:
        assert after == bare.cpu.general(2)


def code_at(machine, rip):
    """The instruction at RIP, as text: a MOV to a control register is 0F 22."""
    return "mov" if machine.ram.read(rip, 2) == b"\x0f\x22" else ""


EFERS = {
    "LME cleared while paging is on": (0, int(EFER.LME), True),
    "a reserved bit": (1 << 9, 0, True),
    "SVME of a CPU without SVM": (int(EFER.SVME), 0, True),
    "NXE cleared": (0, int(EFER.NXE), False),
    "SCE cleared": (0, int(EFER.SCE), False),
    "LMA cleared, which is ignored": (0, int(EFER.LMA), False),
}


@pytest.mark.parametrize("case", EFERS)
def test_a_write_to_efer_is_refused_where_the_manual_says_so(bare, case):
    set_bits, clear_bits, due = EFERS[case]
    before = bare.cpu.msr(0xC000_0080)
    bare.start(
        f"mov ecx, 0xC0000080\nrdmsr\nor eax, {set_bits:#x}\n"
        f"and eax, {~clear_bits & 0xFFFF_FFFF:#x}\nwrmsr\nrdmsr\nud2"
    )
    assert due == refused(bare)
    after = before if due else (before | set_bits) & ~clear_bits | EFER.LMA
    assert after == bare.cpu.msr(0xC000_0080)


def test_the_instruction_is_carried_out_once_and_registers_keep_their_values(bare):
    source = "\n".join(["mov rax, cr4\nbtc rax, 7\nmov cr4, rax\ninc r12"] * 200)
    bare.start(f"{source}\nud2", r12=5, r13=7)
    assert (6, 205, 7) == (
        (bare.cpu.rip - 2 - bare.handler(0)) // 4,
        bare.cpu.general(12),
        bare.cpu.general(13),
    )


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("clts", {3: 0}),
        ("mov eax, 8\nlmsw ax", {3: 1, 1: 0}),
        ("mov rbx, 0xF000\nmov word ptr [rbx], 2\nlmsw word ptr [rbx]", {3: 0, 1: 1}),
        ("mov r9, cr0\nor r9, 8\nmov cr0, r9", {3: 1}),
    ],
)
def test_other_writes_to_cr0_are_carried_out_as_well(bare, source, changed):
    bare.start(f"{source}\nmov rdx, cr0\nud2")
    assert not refused(bare)
    value = bare.cpu.general(2)
    assert changed == {bit: value >> bit & 1 for bit in changed}
    assert CR0.PE | CR0.PG == value & (CR0.PE | CR0.PG)  # LMSW doesn't clear PE.


@pytest.mark.parametrize(("bit", "due"), [(16, False), (18, True)])
def test_wp_counts_from_the_next_instruction_on(bare, bit, due):
    bare.start(
        f"mov rax, cr0\nbtr rax, {bit}\nmov cr0, rax\nmov byte ptr [rbx], al\nud2", rbx=READ_ONLY
    )
    assert due == refused(bare, 14)


def test_user_code_may_write_none(bare):
    bare.start("mov rax, 0x80010033\nmov cr0, rax", user=True)
    assert refused(bare)


LEGACY = {
    "PG without PE": ("cr0", int(CR0.PG), int(CR0.PE), True),
    "NW without CD": ("cr0", NW, 0, True),
    "NE": ("cr0", NE, 0, False),
    "PG": ("cr0", int(CR0.PG), 0, False),
    "PCIDE outside IA-32e mode": ("cr4", int(CR4.PCIDE), 0, True),
    "LA57 outside IA-32e mode": ("cr4", int(CR4.LA57), 0, False),
    "PSE": ("cr4", int(CR4.PSE), 0, False),
}


@pytest.mark.parametrize("case", LEGACY)
def test_a_write_in_protected_mode_is_refused_where_the_manual_says_so(case):
    register, set_bits, clear_bits, due = LEGACY[case]
    machine = Legacy()
    machine.engine.reg_write(x86.UC_X86_REG_CR3, ROOT_32)
    machine.start(changing(register, set_bits=set_bits, clear_bits=clear_bits, wide=False))
    assert due == refused(machine)
    if due:
        assert [0, CODE0_32] == machine.frame(3)[::2]


def entering_long_mode(*, cr4=CR4.PAE, lme=True, long=False, tss=0x8B00):
    """A machine at the write that sets CR0.PG, with long mode asked for."""
    machine = Legacy()
    words = machine.ram.words
    for level in range(3):
        words[(0x40000 + 0x1000 * level) // 8] = 0x40000 + 0x1000 * (level + 1) | 3
    for page in range(256):
        words[0x43000 // 8 + page] = page << 12 | 3
    flags = 0x00AF_9B00_0000_FFFF if long else 0x00CF_9B00_0000_FFFF
    machine.describe(SPARE, flags)
    machine.task(tss, 0x67)
    efer = int(EFER.LME) if lme else 0
    # Outside IA-32e mode, a code segment with L and without D is one of 16 bits.
    enter = "mov eax, cr0\nbts eax, 31\nmov cr0, eax\nud2"
    machine.write(CODE_32 + 0x100, enter, bits=16 if long else 32)
    machine.start(
        f"mov eax, {int(cr4):#x}\nmov cr4, eax\nmov eax, 0x40000\nmov cr3, eax\n"
        f"mov ecx, 0xC0000080\nmov eax, {efer:#x}\nxor edx, edx\nwrmsr\n"
        f"ljmp {SPARE}:{CODE_32 + 0x100:#x}"
    )
    return machine


@pytest.mark.parametrize(
    "how", [{"cr4": 0}, {"long": True}, {"tss": TSS_16}], ids=["no PAE", "CS.L", "16-bit TSS"]
)
def test_long_mode_is_not_entered_where_the_manual_refuses(how):
    machine = entering_long_mode(**how)
    assert refused(machine)
    assert 0 == machine.cpu.cr0 & CR0.PG
    assert EFER.LME == machine.cpu.efer


def test_long_mode_is_entered_with_what_it_needs_and_left_by_clearing_pg():
    machine = entering_long_mode()
    # #UD came in compatibility mode, through a gate of 8 bytes: nothing that can be delivered.
    assert EFER.LME | EFER.LMA == machine.cpu.efer & (EFER.LME | EFER.LMA)
    again = Legacy()
    again.cpu.set_mode(
        32, cr0=int(CR0.PE | CR0.PG), cr3=0x40000, cr4=int(CR4.PAE), efer=int(EFER.LME)
    )
    again.cpu.load()
    assert again.cpu.long_mode
    assert 32 == again.cpu.bits


def test_clearing_pg_in_compatibility_mode_leaves_long_mode_and_clears_lma():
    machine = Legacy()
    words = machine.ram.words
    for level in range(3):
        words[(0x40000 + 0x1000 * level) // 8] = 0x40000 + 0x1000 * (level + 1) | 3
    for page in range(256):
        words[0x43000 // 8 + page] = page << 12 | 3
    machine.cpu.set_mode(
        32,
        cr0=int(CR0.PE | CR0.PG),
        cr3=0x40000,
        cr4=int(CR4.PAE),
        efer=int(EFER.LME),
        code=CODE0_32,
    )
    source = "mov eax, cr0\nbtr eax, 31\nmov cr0, eax\nmov ecx, 0xC0000080\nrdmsr\ncli\nhlt"
    machine.write(CODE_32, source)
    with machine.cpu.changed():
        machine.cpu.rip = CODE_32
    assert Stop.HALTED is machine.machine.run(seconds=10).stop
    machine.cpu.load()
    assert (EFER.LME, EFER.LME) == (machine.cpu.general(0), machine.cpu.efer)
    assert not machine.cpu.long_mode


@pytest.mark.parametrize(("entry", "due"), [(1, False), (0, False), (3, True), (1 | 1 << 45, True)])
def test_pdptes_with_reserved_bits_keep_pae_paging_from_being_entered(entry, due):
    machine = Legacy("PAE")
    machine.cpu.set_mode(32, cr0=int(CR0.PE), cr3=ROOT_32, cr4=int(CR4.PAE), code=CODE0_32)
    machine.engine.reg_write(x86.UC_X86_REG_GDTR, (0, GDT_32, 0x3F, 0))
    machine.ram.words[ROOT_32 // 8 + 3] = entry | (0x5000 if entry else 0)
    machine.start("mov eax, cr0\nbts eax, 31\nmov cr0, eax\nud2")
    assert due == refused(machine)


def test_what_may_be_set_is_what_cpuid_reports():
    cr4, efer = writable(MODEL)
    both = CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.LA57 | CR4.FSGSBASE
    assert both == cr4 & both
    assert 0 == cr4 & (CR4.PCIDE | CR4.PKS | CR4.LASS | CR4.LAM_SUP | 1 << 31)
    assert EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE == efer
    cr4, efer = writable(SVM_MODEL)
    assert 0 == cr4 & (CR4.LA57 | CR4.PKE)
    assert EFER.SVME == efer & EFER.SVME


def test_et_stays_set_whatever_is_written(bare):
    bare.start(changing("cr0", clear_bits=int(CR0.ET)))
    assert not refused(bare)
    assert CR0.ET == bare.cpu.general(2) & CR0.ET
