"""A small 32-bit Linux: its tables, VMCOREINFO and kallsyms, as the formats have them."""

from dataclasses import dataclass

from tests.tables import KIB4, RW, P, PageTables, context
from tests.walker.symbols.kallsyms_tables import LINKED_32, symbols, tables

RAM = 4 << 20
SPLIT = 0xC000_0000
SYMBOLS = symbols(base=LINKED_32)
_IMAGE_AT, _ROOT, _OTHER_ROOT, _INFO_AT = 0x10_0000, 0x4000, 0x3000, 0x20_0000
_MODES = {"PAE": 3, "32-bit": 2}


@dataclass
class SmallLinux32:
    """A kernel in a mode of paging, that KASLR has moved by `offset`."""

    mode: str
    offset: int = 0
    stext: bool = True

    @property
    def symbols(self):
        """Where each symbol runs."""
        return [(letter, name, at + self.offset) for letter, name, at in SYMBOLS]

    @property
    def image(self):
        return tables(self.symbols, "6.4", bits=32, address=LINKED_32 + self.offset)

    @property
    def tables(self):
        made = PageTables(self.mode, root=_ROOT, ram=((0, RAM),))
        for at in range(0, len(self.image), KIB4):
            made.map(LINKED_32 + self.offset + at, _IMAGE_AT + at, P)
        made.map(SPLIT, 0, P | RW)
        return made.map(0xFFFF_F000, 0x1000, P | RW)

    @property
    def context(self):
        return context(self.mode, root=_ROOT)

    def vmcoreinfo(self, *, root=_ROOT, mode=None, release="6.1.0-small"):
        stext = f"SYMBOL(_stext)={LINKED_32 + self.offset:x}\n" if self.stext else ""
        pae = "CONFIG_X86_PAE=y\n" if (mode or self.mode) == "PAE" else ""
        table = f"SYMBOL(swapper_pg_dir)={SPLIT + root:x}\n"
        return f"OSRELEASE={release}\n{table}{stext}{pae}"

    @property
    def content(self):
        """All RAM; before the kernel's own VMCOREINFO there are two that aren't this kernel's."""
        ram = bytearray(RAM)
        ram[_IMAGE_AT : _IMAGE_AT + len(self.image)] = self.image
        for pa, word in self.tables.words.items():
            ram[pa : pa + 8] = word.to_bytes(8, "little")
        (other,) = (mode for mode in _MODES if mode != self.mode)
        infos = (
            self.vmcoreinfo(mode=other, release="5.0.0-mode"),
            self.vmcoreinfo(root=_OTHER_ROOT, release="5.0.0-root"),
            self.vmcoreinfo(),
        )
        for row, info in enumerate(infos):
            at = _INFO_AT + row * KIB4
            ram[at : at + len(info)] = info.encode()
        return bytes(ram)
