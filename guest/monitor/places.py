"""Where what is in the monitor's pages: offsets from its base, symbols of the assembly."""

__all__ = [
    "CODE",
    "CODE_PAGES",
    "CPUID_ROWS",
    "DATA",
    "DOORBELL",
    "ENTRY",
    "FIXED",
    "GDT",
    "HEAD",
    "HOST_SAVE",
    "HOST_VMCB",
    "IDT",
    "MOST_RAM",
    "MOST_ROWS",
    "PAGE",
    "PD",
    "PDPT",
    "PML4",
    "RAM",
    "STACK_TOP",
    "TRAP_STACK_TOP",
    "TSS",
    "VMCS",
    "VMXON",
]

PAGE = 0x1000

HEAD = 0
"""The multiboot header, what the image says of itself, and the first instructions."""

ENTRY = 0x100
"""32-bit code, for the loader."""

CODE, CODE_PAGES = 0x1000, 4

DATA = 0x5000
"""Variables; no code on their page: emulators would translate it again after each write."""

GDT, TSS, IDT = 0x6000, 0x6100, 0x6200

CPUID_ROWS, MOST_ROWS = 0x7000, 100
"""What guests are to see of CPUID: rows of five words."""

RAM, MOST_RAM = 0x8000, 256
"""RAM by the loader's map: start and end of a range each."""

TRAP_STACK_TOP, STACK_TOP = 0xA000, 0xB000

PML4, PDPT, PD = 0xB000, 0xC000, 0xE000
"""The identity map: two PDPTs, of 1 TiB; four page directories, for the first 4 GiB."""

VMXON, VMCS = 0x12000, 0x13000
"""The regions that VMX takes."""

HOST_SAVE, HOST_VMCB = 0x14000, 0x15000
"""The same of SVM: the host's state that VMRUN saves, and what VMSAVE does."""

DOORBELL = 0x16000
"""The mailbox's first sector, as it was read last."""

FIXED = 0x17000
"""The size of all this; commands and answers are behind it."""
