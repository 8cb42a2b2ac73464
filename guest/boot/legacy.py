"""The runner's pages for 32-bit and PAE paging, which `runner_legacy.s` works in.

LEGACY      its code, which CPL 3 sees once more at LEGACY_USER
+ 0x1000    variables, descriptors, tasks and the stack
+ 0x2000    PT and PD of 32-bit paging; PT, PD and PDPT of PAE paging

In these tables every entry of a PD or PDPT leads to the same: whichever slot is lent, and wherever
the runner lies in physical memory, its first page is at the slot's first address.
"""

import struct
from collections.abc import Mapping
from importlib import resources

from crosswalk.guest.assembler import assemble
from crosswalk.guest.boot import places
from crosswalk.guest.boot.places import PAGE
from crosswalk.guest.errors import AssemblyError
from crosswalk.walker.context import PagingMode

__all__ = ["legacy_pages", "legacy_symbols", "lent_entry"]

_SOURCE = "asm/runner_legacy.s"

_CODE = places.LEGACY
_DATA, _PT32, _PD32, _PT, _PD, _PDPT, _END = range(_CODE + PAGE, places.LEGACY_USER, PAGE)

_DOUBLE_FAULT, _IDT = _CODE + 8, _CODE + 16

_NAMES = (
    "L_RUN_EFER",
    "L_RUN_CR4",
    "L_RUN_CR0",
    "L_RUN_CR3",
    "L_ROOT",
    "L_OWN_EFER",
    "L_OWN_CR4",
    "L_OWN_CR0",
    "L_OWN_CR3",
    "L_OWN_RETURN",
    "L_OWN_BASE",
    "L_ALIAS",
    "L_OP",
    "L_CPL",
    "L_FLAGS",
    "L_VA",
    "L_VALUE",
    "L_STAGE",
    "L_VECTOR",
    "L_ERROR",
    "L_FAULT_CR2",
    "L_SEEN",
    "L_SEEN_HIGH",
    "L_FIRST",
    "L_AT",
    "L_AT_CS",
    "L_FOUND",
    "L_FOUND_CS",
    "L_PADDING",
    "L_RSP",
    "L_RSP_HIGH",
)
# Descriptors of CODE and DATA, and what LGDT and LIDT load, in physical memory and at the alias.
_HERE, _THERE = _DATA + 0x80, _DATA + 0x90
_HERE_GDTR, _HERE_IDTR, _THERE_GDTR, _THERE_IDTR = range(_DATA + 0xA0, _DATA + 0xE0, 0x10)
_GDT, _TSS, _FAULT_TSS = _DATA + 0x100, _DATA + 0x180, _DATA + 0x200
_FAULT_STACK_TOP, _STACK_TOP = _DATA + 0x800, _DATA + 0x1000

_CODE_SELECTOR, _DATA_SELECTOR, _FLAT_DATA_SELECTOR = 0x10, 0x18, 0x28
_CODE32, _DATA32, _TASK32 = 0x00CF9B00_0000FFFF, 0x00CF9300_0000FFFF, 0x00008900_00000067
_GDT_SIZE, _IDT_SIZE, _TSS_SIZE = 0x50, 8 * 0x21, 104

_PRESENT, _WRITABLE, _USER, _ACCESSED, _DIRTY = 1, 2, 4, 0x20, 0x40
_TABLE = _PRESENT | _WRITABLE | _USER | _ACCESSED


def legacy_pages(base: int) -> bytes:
    """Return the pages from LEGACY on, for a runner that lies at this physical address."""
    code = assemble(
        "runner_legacy.s",
        resources.files("crosswalk.guest").joinpath(_SOURCE).read_text(encoding="utf-8"),
        bits=32,
        address=_CODE,
        symbols=legacy_symbols(),
    )
    if len(code) > PAGE:
        raise AssemblyError(f"{len(code)} bytes of the runner don't fit into {PAGE}")
    pages = bytearray(_END - _CODE)
    for at, content in {_CODE: code, **_data(base), **_tables(base)}.items():
        pages[at - _CODE : at - _CODE + len(content)] = content
    return bytes(pages)


def lent_entry(base: int, mode: PagingMode) -> int:
    """Return the PDE (32-bit paging) or PDPTE (PAE) that shows the runner's pages.

    Reserved bits of the PDPTE are clear: among them the place of A in other entries.
    """
    return base + _PD | _PRESENT if mode is PagingMode.PAE else base + _PT32 | _TABLE


def legacy_symbols() -> Mapping[str, int]:
    """Return the constants that the sources of this part use, by name."""
    return {
        **{name: _DATA + 4 * at for at, name in enumerate(_NAMES)},
        "L_HERE": _HERE,
        "L_THERE": _THERE,
        "L_HERE_GDTR": _HERE_GDTR,
        "L_HERE_IDTR": _HERE_IDTR,
        "L_THERE_GDTR": _THERE_GDTR,
        "L_THERE_IDTR": _THERE_IDTR,
        "L_GDT": _GDT,
        "L_GDT_CODE": _GDT + _CODE_SELECTOR,
        "L_GDT_DATA": _GDT + _DATA_SELECTOR,
        "L_GDT_TASK": _GDT + 0x40,
        "L_GDT_FAULT_TASK": _GDT + 0x48,
        "L_TSS": _TSS,
        "L_TSS_EIP": _TSS + 32,
        "L_TSS_CS": _TSS + 76,
        "L_FAULT_TSS": _FAULT_TSS,
        "L_FAULT_TSS_CR3": _FAULT_TSS + 28,
        "L_STACK_TOP": _STACK_TOP,
        "L_IDT": _IDT,
        "L_ROOT_32": _PD32,
        "L_ROOT_PAE": _PDPT,
        "P_LEGACY": places.LEGACY,
        "P_LEGACY_USER": places.LEGACY_USER,
    }


def _data(base: int) -> dict[int, bytes]:
    here = struct.pack("<2Q", _based(_CODE32, base), _based(_DATA32, base))
    tss, fault = bytearray(_TSS_SIZE), bytearray(_TSS_SIZE)
    struct.pack_into("<2I", tss, 4, _STACK_TOP, _DATA_SELECTOR)
    struct.pack_into("<2I", fault, 32, _DOUBLE_FAULT, 2)
    struct.pack_into("<I", fault, 56, _FAULT_STACK_TOP)
    segments = (_FLAT_DATA_SELECTOR, _CODE_SELECTOR, _DATA_SELECTOR, _DATA_SELECTOR)
    struct.pack_into("<4I", fault, 72, *segments)
    for task in (tss, fault):
        struct.pack_into("<H", task, 102, _TSS_SIZE)  # no I/O permission map
    gdt = (
        0,
        0x00AF9B00_0000FFFF,  # 0x08: code of 64 bits
        *struct.unpack("<2Q", here),
        0x00CF9B00_0000FFFF,  # 0x20: flat code
        0x00CF9300_0000FFFF,  # 0x28: flat data
        0x00CFFB00_0000FFFF,  # 0x30: flat code of CPL 3
        0x00CFF300_0000FFFF,  # 0x38: flat data of CPL 3
        # 0x40, 0x48: the tasks, at the alias
    )
    return {
        _HERE: here,
        _HERE_GDTR: struct.pack("<HQ", _GDT_SIZE - 1, base + _GDT),
        _HERE_IDTR: struct.pack("<HI", _IDT_SIZE - 1, base + _IDT),
        _THERE_GDTR: struct.pack("<H", _GDT_SIZE - 1),
        _THERE_IDTR: struct.pack("<H", _IDT_SIZE - 1),
        _GDT: struct.pack("<8Q", *gdt),
        _TSS: bytes(tss),
        _FAULT_TSS: bytes(fault),
    }


def _based(descriptor: int, base: int) -> int:
    """Return a segment's descriptor with this base."""
    return descriptor | (base & 0xFF_FFFF) << 16 | base >> 24 << 56


def _tables(base: int) -> dict[int, bytes]:
    leaf = _PRESENT | _ACCESSED | _DIRTY
    pages = {
        _CODE: base + _CODE | leaf,
        _DATA: base + _DATA | leaf | _WRITABLE,
        places.LEGACY_USER: base + _CODE | leaf | _USER,
    }
    table = [pages.get(at * PAGE, 0) for at in range(512)]
    return {
        # A runner at an odd multiple of 2 MiB is seen in the upper half of a table of 4 MiB.
        _PT32: struct.pack("<1024I", *table, *table),
        _PD32: struct.pack("<1024I", *[base + _PT32 | _TABLE] * 1024),
        _PT: struct.pack("<512Q", *table),
        _PD: struct.pack("<512Q", *[base + _PT | _TABLE] * 512),
        _PDPT: struct.pack("<4Q", *[base + _PD | _PRESENT] * 4),
    }
