"""A machine with paging, descriptors and handlers, and nothing that runs on it yet."""

import struct

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Segment
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Stop
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import RFlags

ROOT, GDT, IDT, TSS, HANDLERS, CODE = 0x1000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000
USER, USER_STACK, STACK = 0xB000, 0xD000, 0xF000
RSP0, IST1 = 0x20000, 0x22000
UNMAPPED, READ_ONLY = 0x30000, 0x31000
CODE0, DATA0, CODE32, DATA3, CODE3, TASK = 0x08, 0x10, 0x1B, 0x23, 0x2B, 0x30
INTERRUPT_GATE, TRAP_GATE = 14, 15

DESCRIPTORS = (
    *(0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_FB00_0000_FFFF),
    *(0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF),
)
HANDLER_SIZE = 4


class Bare:
    """The machine. Each vector's handler halts; where it is tells the vector.

    `options` are the machine's. Code runs at CPL 0 in `CODE`, or at CPL 3 in `USER`, with
    interrupts on.
    """

    def __init__(self, **options):
        self.ram = Ram(0, 0x100000)
        self.machine = Machine(self.ram, **options)
        self.engine, self.cpu = self.machine.engine, self.machine.cpu
        for level in range(3):
            self.ram.words[(ROOT + 0x1000 * level) // 8] = ROOT + 0x1000 * (level + 1) | 7
        for page in range(0, 0x100000, 0x1000):
            self.map(page, 7 if page in (USER, USER_STACK - 0x1000) else 3)
        self.map(UNMAPPED, 0)
        self.map(READ_ONLY, 1)
        self.ram.write(GDT, struct.pack("<6Q", *DESCRIPTORS))
        for vector in range(256):
            self.gate(vector)
            self.ram.write(self.handler(vector), b"\xfa\xf4")  # cli; hlt
        self.ram.write(TSS + 4, struct.pack("<Q", RSP0))
        self.ram.write(TSS + 36, struct.pack("<Q", IST1))
        write = self.engine.reg_write
        write(x86.UC_X86_REG_CR4, 0x20)
        write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD01))
        write(x86.UC_X86_REG_CR0, 0x8001_0033)
        write(x86.UC_X86_REG_CR3, ROOT)
        write(x86.UC_X86_REG_GDTR, (0, GDT, 0x3F, 0))
        write(x86.UC_X86_REG_IDTR, (0, IDT, 0xFFF, 0))
        write(x86.UC_X86_REG_TR, (TASK, TSS, 0x67, 0x8B00))

    def map(self, page, flags):
        self.ram.words[(ROOT + 0x3000) // 8 + page // 0x1000] = page | flags if flags else 0

    @staticmethod
    def handler(vector):
        return HANDLERS + HANDLER_SIZE * vector

    def gate(
        self, vector, *, kind=INTERRUPT_GATE, ist=0, dpl=0, present=True, selector=CODE0, at=None
    ):
        """Write a gate; its handler is the vector's own unless `at` says another."""
        offset = self.handler(vector) if at is None else at
        flags = kind | dpl << 5 | present << 7
        low = offset & 0xFFFF | selector << 16 | ist << 32 | flags << 40
        self.ram.words[IDT // 8 + 2 * vector] = low | (offset >> 16 & 0xFFFF) << 48
        self.ram.words[IDT // 8 + 2 * vector + 1] = offset >> 32

    def write(self, address, source, bits=64):
        code = assemble("test", source, bits=bits, address=address, symbols={})
        self.ram.write(address, code)
        return code

    def start(self, source, *, user=False, rflags=2 | RFlags.IF, rsp=None, **registers):
        """Run a source until a handler halts; how it ended."""
        rip = USER if user else CODE
        self.write(rip, source)
        with self.cpu.changed():
            self.cpu.enter(self.segment(CODE3 if user else CODE0), 3 if user else 0)
            self.cpu.set_segment("ss", self.segment(DATA3 if user else DATA0))
            self.cpu.rip = rip
            self.cpu.rsp = (USER_STACK if user else STACK) - 8 if rsp is None else rsp
            for name, value in registers.items():
                self.cpu.set_general(GENERAL.index(name), value)
        self.cpu.rflags = rflags
        ended = self.machine.run(seconds=20)
        self.cpu.load()
        return ended

    def segment(self, selector):
        flags = DESCRIPTORS[selector >> 3] >> 32
        return Segment(selector, 0, 0xFFFF_FFFF, flags & 0x00F0_FF00)

    @property
    def vector(self):
        """The vector whose handler has halted."""
        assert Stop.HALTED is self.machine.run(seconds=1).stop
        self.cpu.load()
        return (self.cpu.rip - HANDLERS) // HANDLER_SIZE

    def frame(self, words):
        """The topmost words of the stack, the last one pushed first."""
        return list(struct.unpack(f"<{words}Q", self.ram.read(self.cpu.rsp, 8 * words)))
