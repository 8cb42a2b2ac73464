"""A small Linux: its tables, variables, VMCOREINFO and kallsyms, as the formats have them.

Written out from the kernel's sources and documents, and not from what reads them here.
"""

import struct
from dataclasses import dataclass, field

from crosswalk.walker.memory import Segments
from tests.tables import MIB2, PS, RW, XD, G, P, PageTables, context

IMAGE = 0xFFFF_FFFF_8000_0000
LINKED = 0xFFFF_FFFF_8100_0000
RAM = 4 << 20
BASES = {
    "page_offset_base": 0xFFFF_9A40_0000_0000,
    "vmalloc_base": 0xFFFF_B000_4000_0000,
    "vmemmap_base": 0xFFFF_EA80_0000_0000,
}
FIXED_BASES = {
    "page_offset_base": 0xFFFF_8880_0000_0000,
    "vmalloc_base": 0xFFFF_C900_0000_0000,
    "vmemmap_base": 0xFFFF_EA00_0000_0000,
}
SYMBOLS = {
    "_text": ("T", 0),
    "_stext": ("T", 0),
    "run_init_process": ("t", 0x1040),
    "schedule": ("T", 0x2080),
    "_etext": ("T", 0x3800),
    "__start_rodata": ("R", 0x20_0000),
    "page_offset_base": ("R", 0x20_0100),
    "vmalloc_base": ("R", 0x20_0108),
    "vmemmap_base": ("R", 0x20_0110),
    "__end_rodata": ("R", 0x20_8000),
    "_sdata": ("D", 0x40_0000),
    "init_top_pgt": ("D", 0x40_0000),
    "_edata": ("D", 0x40_1800),
    "__bss_start": ("B", 0x40_2000),
    "__bss_stop": ("B", 0x40_3000),
    "_end": ("B", 0x40_4000),
    "kernel_randomize_memory": ("T", 0x3000),
}
"""By name: the type, and the distance from where the image is linked to."""

PARTS = {"text": (0, 4, P), "rodata": (0x20_0000, 8, P | XD), "data": (0x40_0000, 4, P | RW | XD)}
"""Parts of the image that are mapped: where, how many pages, the flags of their entries."""

_TEXT_AT, _RODATA_AT, _DATA_AT, _INFO_AT, _TABLES = (
    0x10_0000,
    0x11_0000,
    0x12_0000,
    0x13_0000,
    0x1000,
)
_NAMES_AT = 0x1000  # In rodata.


@dataclass
class SmallLinux:
    """A kernel that KASLR has moved by `offset`."""

    offset: int = 0x240_0000
    bases: dict = field(default_factory=lambda: BASES)
    kallsyms: bool = True

    @property
    def tables(self):
        tables = PageTables(4, root=_TABLES, ram=((0, RAM),))
        for (start, pages, flags), pa in zip(
            PARTS.values(), (_TEXT_AT, _RODATA_AT, _DATA_AT), strict=True
        ):
            for page in range(pages):
                at = page << 12
                tables.map(LINKED + self.offset + start + at, pa + at, flags | G)
        for at in range(0, RAM, MIB2):
            tables.map(self.bases["page_offset_base"] + at, at, P | RW | XD | PS, level=2)
        tables.map(self.bases["vmalloc_base"] + 0x5000, 0x20_0000, P | RW | XD)
        tables.map(self.bases["vmemmap_base"], 0x21_0000, P | RW | XD)
        tables.map(0xFFFF_FE00_0000_0000, 0x22_0000, P | XD)
        tables.map(0xFFFF_FF10_0000_0000, 0x22_1000, P | RW | XD)
        tables.map(0xFFFF_FFFF_C000_1000, 0x22_2000, P)
        tables.map(0xFFFF_FFFF_FF5F_C000, 0x22_3000, P | RW | XD)
        tables.map(0xFFFF_FFFF_FF60_0000, 0x22_4000, P | XD)
        return tables.map(0x40_0000, 0x22_5000, P | 4)

    @property
    def context(self):
        return context(4, root=_TABLES)

    @property
    def addresses(self):
        """Where each symbol runs."""
        return {name: LINKED + self.offset + at for name, (_, at) in SYMBOLS.items()}

    @property
    def system_map(self):
        """System.map: the addresses that the kernel is linked to."""
        per_cpu = "0000000000000000 A fixed_percpu_data\n"
        return per_cpu + "".join(
            f"{LINKED + at:016x} {kind} {name}\n" for name, (kind, at) in SYMBOLS.items()
        )

    @property
    def vmcoreinfo(self):
        rodata = self.addresses["__start_rodata"]
        table = self.addresses["init_top_pgt"]
        lines = [
            "OSRELEASE=6.1.0-small",
            f"SYMBOL(swapper_pg_dir)={table:x}",
            f"SYMBOL(_stext)={self.addresses['_stext']:x}",
            f"NUMBER(phys_base)={_TABLES - (table - IMAGE)}",
            "NUMBER(pgtable_l5_enabled)=0",
            f"KERNELOFFSET={self.offset:x}",
            "NUMBER(KERNEL_IMAGE_SIZE)=1073741824",
        ]
        if self.kallsyms:
            lines += [
                f"SYMBOL(kallsyms_{name})={rodata + at:x}" for name, at in self._kallsyms[1].items()
            ]
        return "\n".join(lines) + "\n"

    @property
    def _kallsyms(self):
        """Return the bytes of kallsyms, and where each of its tables is in rodata.

        Linux, kernel/kallsyms.c and scripts/kallsyms.c: each name is its length and its tokens,
        the first letter of which is the type; here, each token is a letter. Offsets are below
        `relative_base` by one more than what they are, as CONFIG_KALLSYMS_ABSOLUTE_PERCPU has it.
        """
        base = self.addresses["_text"]
        ordered = sorted(SYMBOLS.items(), key=lambda each: each[1][1])
        names = b"".join(
            bytes([len(name) + 1]) + kind.encode() + name.encode() for name, (kind, _) in ordered
        )
        tokens = [bytes([each]) if 0x20 < each < 0x7F else b"?" for each in range(256)]
        index = [2 * at for at in range(256)]
        parts = {
            "num_syms": struct.pack("<I", len(ordered)),
            "names": names,
            "token_table": b"".join(token + b"\0" for token in tokens),
            "token_index": struct.pack("<256H", *index),
            "offsets": struct.pack(f"<{len(ordered)}i", *(-at - 1 for _, (_, at) in ordered)),
            "relative_base": struct.pack("<Q", base),
        }
        found, places = b"", {}
        for name, data in parts.items():
            found += bytes(-len(found) % 8)
            places[name] = _NAMES_AT + len(found)
            found += data
        return found, places

    @property
    def content(self):
        """All RAM."""
        ram = bytearray(RAM)
        for pa, word in self.tables.words.items():
            ram[pa : pa + 8] = word.to_bytes(8, "little")
        for name, value in self.bases.items():
            at = _RODATA_AT + SYMBOLS[name][1] - SYMBOLS["__start_rodata"][1]
            ram[at : at + 8] = value.to_bytes(8, "little")
        if self.kallsyms:
            held = self._kallsyms[0]
            ram[_RODATA_AT + _NAMES_AT : _RODATA_AT + _NAMES_AT + len(held)] = held
        info = self.vmcoreinfo.encode()
        ram[_INFO_AT : _INFO_AT + len(info)] = info
        return bytes(ram)

    @property
    def memory(self):
        return Segments([(0, self.content)])
