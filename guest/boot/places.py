"""Where what is in the runner's pages: offsets from its base, which the assembly has as symbols."""

__all__ = [
    "ACCESS",
    "CODE",
    "CODE_PAGES",
    "DATA",
    "DIRECT2",
    "DIRECT3",
    "DIRECT4",
    "ENTRY",
    "FIXED",
    "GDT",
    "HEAD",
    "IDT",
    "LEGACY",
    "LEGACY_USER",
    "OP_SIZE",
    "OWN4",
    "OWN5",
    "PAGE",
    "POOL",
    "POOL_PAGES",
    "RAM",
    "STACK_TOP",
    "TRAP_STACK_TOP",
    "TSS",
    "USER1",
    "USER2",
    "USER3",
    "USER4",
    "WITHOUT_PAGING",
]

PAGE = 0x1000

HEAD = 0
"""The multiboot header, what the image says of itself, and the first instructions."""

ENTRY, WITHOUT_PAGING = 0x100, 0x108
"""32-bit code: for the loader, and for where paging has to be off."""

ACCESS = 0x1000
"""Code that makes the accesses: supervisor code through the alias, user code at `Run.user`."""

OP_SIZE = 32
"""Code of an `Op` is at op * OP_SIZE in that page."""

CODE = 0x2000
CODE_PAGES = 4

DATA = 0x6000
"""Variables; no code on their page: emulators would translate it again after each write."""

GDT, TSS, IDT = 0x7000, 0x7100, 0x7200
RAM = 0x8000
"""RAM by the firmware's map: start and end of a range each, less the runner's."""

TRAP_STACK_TOP, STACK_TOP = 0xA000, 0xB000

OWN4, OWN5 = 0xB000, 0xC000
"""The roots of the runner's own tables: the direct map at 0, and during a run at its alias."""

DIRECT4, DIRECT3, DIRECT2 = 0xD000, 0xE000, 0xF000
"""Tables of the direct map; four of the last, for 4 GiB."""

USER4, USER3, USER2, USER1 = 0x13000, 0x14000, 0x15000, 0x16000
"""Tables that lead to the page ACCESS as a user page."""

POOL, POOL_PAGES = 0x17000, 16
"""Page directories of the direct map above 4 GiB, where the CPU has no 1-GiB pages."""

LEGACY = 0x27000
"""Pages of PAE and 32-bit paging's own: see legacy.py."""
LEGACY_USER = 0x2F000
"""Where the first of them shows to CPL 3, in these modes."""

FIXED = 0x40000
"""The size of all this; the runs, scratch words and results are behind it."""
