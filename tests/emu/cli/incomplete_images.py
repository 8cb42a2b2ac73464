"""Small images that lack some of their tables, and the listings that are made of them."""

from tests.tables import OPEN, RW, XD, P, PageTables

ROOT = ("--cr3", "0x1000")
RAM = ((0, 0x10000),)
OUTSIDE = 0x1234_0000


def clean():
    """Two pages, none of them both writable and executable."""
    return PageTables(ram=RAM).map(0x40_0000, 0x8000, P | RW | XD).map(0x40_1000, 0x9000, P)


def lacking():
    """The same, with a page directory and two page tables outside memory, and a reserved bit."""
    tables = clean()
    tables.words[tables.entry_pa(0x8000_0000, 3)] = OUTSIDE | OPEN
    tables.words[tables.entry_pa(0x60_0000, 2)] = OUTSIDE | 0x1000 | OPEN
    tables.words[tables.entry_pa(0x20_0000, 2)] = OUTSIDE | 0x2000 | OPEN
    tables.words[tables.entry_pa(0x40_2000, 1)] = 0xA000 | P | XD
    return tables


def commands(source, *options):
    """The listings, which end with 0, of what may lack tables."""
    return [
        ("walk", source, *options),
        ("frames", source, *options),
        ("translate", source, "0x401000", *options),
        ("info", source, *options),
    ]
