"""Code that uses the local APIC, and lets interrupts come."""

from tests.emu.cpu.machine import CODE, ROOT, UNMAPPED

HANDLER = CODE + 0x800
LAPIC = 0xFEE0_0000
KEY = 0x40

# The end of an interrupt of the local APIC, whose page is at R15.
END = "mov dword ptr [r15 + 0xb0], 0"

# A jump to what follows: a block of code ends, and an interrupt can come.
BLOCK = ".byte 0xeb, 0"


def map_lapic(bare):
    bare.ram.words[(ROOT + 0x3000) // 8 + UNMAPPED // 0x1000] = LAPIC | 3
