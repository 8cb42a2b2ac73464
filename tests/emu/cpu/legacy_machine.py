"""A machine in protected mode, with descriptors and handlers, and nothing that runs on it yet."""

import struct

from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.cpu.descriptors import Segment
from crosswalk.emu.cpu.engine import MODEL
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.pc.pc import Machine
from crosswalk.guest.assembler import assemble
from crosswalk.walker.architecture import CR0, CR4, RFlags

ROOT, TABLE, DIRECTORY = 0x1000, 0x2000, 0x3000
GDT, IDT, TSS, HANDLERS, CODE = 0x6000, 0x7000, 0x8000, 0x9000, 0xA000
USER, USER_STACK, STACK, ESP0 = 0xB000, 0xD000, 0xF000, 0x20000
UNMAPPED, READ_ONLY = 0x30000, 0x31000
CODE0, DATA0, CODE3, DATA3, TASK, SPARE = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x30
INTERRUPT, TRAP, INTERRUPT_16, TRAP_16, TASK_GATE = 0x0E, 0x0F, 0x06, 0x07, 0x05
TSS_32, TSS_16 = 0x8B00, 0x8300
DESCRIPTORS = (
    *(0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF),
    *(0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF),
)
HANDLER_SIZE = 4
CODE_16 = 0x0000_9B00_0000_FFFF
FLAGS = 2 | RFlags.IF

PAGING = {
    "unpaged": {"cr0": CR0.PE},
    "32-bit": {"cr0": CR0.PE | CR0.PG | CR0.WP, "cr3": ROOT, "cr4": 0},
    "PAE": {"cr0": CR0.PE | CR0.PG | CR0.WP, "cr3": ROOT, "cr4": int(CR4.PAE)},
}


class Legacy:
    """The machine. Each vector's handler halts; where it is tells the vector.

    `paging` is a key of `PAGING`. Code runs at CPL 0 in `CODE`, or at CPL 3 in `USER`.
    """

    def __init__(self, paging="unpaged", model=MODEL):
        self.ram = Ram(0, 0x100000)
        self.machine = Machine(self.ram, model=model)
        self.engine, self.cpu = self.machine.engine, self.machine.cpu
        self.paging = paging
        self._write_tables()
        self.ram.write(GDT, struct.pack("<5Q", *DESCRIPTORS))
        for vector in range(256):
            self.gate(vector)
            self.ram.write(self.handler(vector), b"\xfa\xf4")  # cli; hlt
        self.ram.write(TSS + 4, struct.pack("<II", ESP0, DATA0))
        self.cpu.set_mode(32, code=CODE0, data=DATA0, **PAGING[paging])
        write = self.engine.reg_write
        write(x86.UC_X86_REG_GDTR, (0, GDT, 0x3F, 0))
        write(x86.UC_X86_REG_IDTR, (0, IDT, 0x7FF, 0))
        self.task(TSS_32, 0x67)

    def task(self, kind, limit):
        with self.cpu.changed():
            self.cpu.set_segment("tr", Segment(TASK, TSS, limit, kind))

    def _write_tables(self):
        if self.paging == "PAE":
            self.ram.words[ROOT // 8] = DIRECTORY | 1
            self.ram.words[DIRECTORY // 8] = TABLE | 7
        else:
            self.ram.write(ROOT, struct.pack("<I", TABLE | 7))
        for page in range(0, 0x100000, 0x1000):
            self.map(page, 7 if page in (USER, USER_STACK - 0x1000) else 3)
        self.map(UNMAPPED, 0)
        self.map(READ_ONLY, 1)

    def map(self, page, flags):
        size = 8 if self.paging == "PAE" else 4
        entry = page | flags if flags else 0
        self.ram.write(TABLE + page // 0x1000 * size, entry.to_bytes(size, "little"))

    @staticmethod
    def handler(vector):
        return HANDLERS + HANDLER_SIZE * vector

    def gate(self, vector, *, kind=INTERRUPT, dpl=0, present=True, selector=CODE0, at=None):
        """Write a gate; its handler is the vector's own unless `at` says another."""
        offset = self.handler(vector) if at is None else at
        flags = kind | dpl << 5 | present << 7
        gate = struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, flags, offset >> 16)
        self.ram.write(IDT + 8 * vector, gate)

    def describe(self, selector, descriptor):
        self.ram.words[(GDT + (selector & ~7)) // 8] = descriptor

    def write(self, address, source, bits=32):
        code = assemble("test", source, bits=bits, address=address, symbols={})
        self.ram.write(address, code)
        return code

    def start(self, source, *, user=False, rflags=FLAGS, esp=None, **registers):
        """Run a source until a handler halts; how it ended."""
        eip = USER if user else CODE
        self.write(eip, source)
        with self.cpu.changed():
            self.cpu.set_segment("ds", self.segment(DATA3 if user else DATA0))
            self.cpu.set_segment("es", self.segment(DATA3 if user else DATA0))
            self.cpu.enter(
                self.segment(CODE3 if user else CODE0),
                3 if user else 0,
                self.segment(DATA3 if user else DATA0),
            )
            self.cpu.rip = eip
            self.cpu.rsp = (USER_STACK if user else STACK) - 8 if esp is None else esp
            for name, value in registers.items():
                self.cpu.set_general(GENERAL.index("r" + name[1:]), value)
        self.cpu.rflags = rflags
        ended = self.machine.run(seconds=20)
        self.cpu.load()
        return ended

    @staticmethod
    def segment(selector):
        return Segment(selector, 0, 0xFFFF_FFFF, DESCRIPTORS[selector >> 3] >> 32 & 0x00F0_FF00)

    def halted(self):
        """The vector whose handler halted."""
        return (self.cpu.rip - 2 - HANDLERS) // HANDLER_SIZE

    def frame(self, words, size=4):
        """The topmost words of the stack, the last one pushed first."""
        at = self.cpu.segment("ss").base + self.cpu.rsp
        data = self.ram.read(at, size * words)
        return [int.from_bytes(data[n : n + size], "little") for n in range(0, size * words, size)]
