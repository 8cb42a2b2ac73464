"""A small hypervisor that runs as the guest, and what it runs."""

import struct
from dataclasses import dataclass

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Segment
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL
from crosswalk.emu.cpu.svm.vmcb import General, Vmcb
from crosswalk.emu.load.linux.loader import enter_kernel
from crosswalk.emu.pc.pc import Machine
from crosswalk.guest.assembler import assemble

HOST, GUEST, HANDLERS, IDT, GDT = (0x20_0000 + 0x1_0000 * at for at in range(5))
GUEST_TABLES, HOST_STACK = 0x26_0000, 0x27_0000
DATA, VMCB, SAVE, NESTED, LOG, STACK = (0x28_0000 + 0x1_0000 * at for at in range(6))
MAPS = 0x2E_0000
CODE, FLAT = 0x08, 0x10
VMMCALL = ".byte 0x0f, 0x01, 0xd9\n"
SKIP = "add qword ptr [r13 + 0x578], 3\n"  # VMMCALL
HANDLER = bytes.fromhex("0f01d9 f4")  # vmmcall; hlt

# VMRUN, R14 times. Each exit is noted at R15; R12 is what is done then, with its code in RCX.
SOURCE = """
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x1800
    wrmsr
    mov ecx, 0xc0010117
    mov eax, SAVE
    xor edx, edx
    wrmsr
again:
    .byte 0x0f, 0x01, 0xdd      # clgi
    mov rax, r13
    .byte 0x0f, 0x01, 0xd8      # vmrun
    mov rcx, [r13 + 0x70]
    mov [r15], rcx
    mov rdx, [r13 + 0x78]
    mov [r15 + 8], rdx
    mov rdx, [r13 + 0x80]
    mov [r15 + 16], rdx
    mov rdx, [r13 + 0x88]
    mov [r15 + 24], rdx
    mov rdx, [r13 + 0x578]
    mov [r15 + 32], rdx
    mov [r15 + 40], rax
    mov [r15 + 48], rsp
    mov [r15 + 56], rbx
    add r15, 64
    dec r14
    jz over
    call r12
    jmp again
over:
    hlt
stop:
    hlt
    jmp stop
"""


@dataclass(frozen=True)
class Noted:
    """An exit, as the host found it in the VMCB; its own RAX and RSP, the guest's RBX."""

    code: int
    info_1: int
    info_2: int
    event: int
    rip: int
    rax: int
    rsp: int
    rbx: int


class OwnHost:
    """The machine. The guest has an identity map of 8 MiB in pages of 4 KiB; so has its host.

    `each` is what the host does at an exit; unless told otherwise it goes on behind a VMMCALL.
    """

    def __init__(self, code, *, each=SKIP, runs=1, bits=64):
        self.ram = ram = Ram(0, 8 << 20)
        self.machine = Machine(ram, model=SVM_MODEL)
        self.cpu = self.machine.cpu
        each_at = HOST + 0x8000
        self.write(HOST, SOURCE, SAVE=SAVE)
        self.write(each_at, f"{each}\nret\n")
        self.write(GUEST, code, bits=bits)
        for vector in range(256):
            ram.write(HANDLERS + 16 * vector, HANDLER)
            self.gate(vector)
        ram.write(GDT, struct.pack("<3Q", 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
        for start in (GUEST_TABLES, NESTED):
            self._identity(start)
        enter_kernel(self.machine, HOST, 4)
        self.vmcb = Vmcb(ram, VMCB)
        self._fill_vmcb()
        with self.cpu.changed():
            for name, value in (
                *(("rsp", HOST_STACK), ("r12", each_at), ("r13", VMCB)),
                *(("r14", runs), ("r15", LOG), ("rbx", 0x1234)),
            ):
                self.cpu.set_general(GENERAL.index(name), value)

    def write(self, address, source, bits=64, **symbols):
        self.ram.write(
            address, assemble("test", source, bits=bits, address=address, symbols=symbols)
        )

    def gate(self, vector, ist=0):
        offset = HANDLERS + 16 * vector
        low = offset & 0xFFFF | CODE << 16 | ist << 32 | 0x8E << 40
        self.ram.words[IDT // 8 + 2 * vector] = low | (offset >> 16) << 48

    def _identity(self, start):
        words = self.ram.words
        words[start // 8] = start + 0x1000 | 7
        words[(start + 0x1000) // 8] = start + 0x2000 | 7
        for large in range(4):
            words[(start + 0x2000) // 8 + large] = start + 0x3000 + 0x1000 * large | 7
        for page in range(2048):
            words[(start + 0x3000) // 8 + page] = page << 12 | 7

    def nested(self, pa, entry):
        """Set the nested entry of a guest's page."""
        self.ram.words[(NESTED + 0x3000) // 8 + (pa >> 12)] = entry

    def mapped(self, va, entry):
        """Set the guest's own entry of a page."""
        self.ram.words[(GUEST_TABLES + 0x3000) // 8 + (va >> 12)] = entry

    def _fill_vmcb(self):
        vmcb = self.vmcb
        for name, value in {
            "general": int(General.SHUTDOWN | General.ALL_OF_SVM),
            "asid": 1,
            "nested": 1,
            "nested_cr3": NESTED,
            "efer": 0x1D00,
            "cr0": 0x8001_0033,
            "cr3": GUEST_TABLES,
            "cr4": 0x20,
            "rflags": 2,
            "rip": GUEST,
            "rsp": STACK,
            "rax": 0xA11CE,
            "pat": 0x0007_0406_0007_0406,
            "dr6": 0xFFFF_0FF0,
            "dr7": 0x400,
        }.items():
            vmcb[name] = value
        vmcb.set_segment("cs", Segment(CODE, 0, 0xFFFF_FFFF, 0x00A0_9B00))
        for name in ("ss", "ds", "es"):
            vmcb.set_segment(name, Segment(FLAT, 0, 0xFFFF_FFFF, 0x00C0_9300))
        vmcb.set_segment("gdt", Segment(0, GDT, 0x17, 0))
        vmcb.set_segment("idt", Segment(0, IDT, 0xFFF, 0))

    def run(self, seconds=20):
        """Run, and return what the host noted."""
        self.ended = self.machine.run(seconds=seconds)
        self.cpu.load()
        count = (self.cpu.general(GENERAL.index("r15")) - LOG) // 64
        return [
            Noted(*struct.unpack("<8Q", self.ram.read(LOG + 64 * at, 64))) for at in range(count)
        ]

    def msr(self, number):
        return self.machine.engine.reg_read(x86.UC_X86_REG_MSR, number)


def handler_of(rip):
    """The vector whose handler has made the VMMCALL at RIP."""
    return (rip - HANDLERS) // 16
