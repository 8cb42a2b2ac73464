"""A small kernel's address space with names, to be judged as it is and with one thing changed."""

from dataclasses import dataclass

from crosswalk.walker.expectations import Subject, judge, parse_expectations
from crosswalk.walker.symbols import Names, Span, SpanKind, Spans
from tests.tables import KIB4, MIB2, OPEN, RW, US, XD, A, P, PageTables, context

TEXT = 0xFFFF_FFFF_8100_0000
RODATA = TEXT + MIB2
DATA = TEXT + 2 * MIB2
STACK = 0xFFFF_C900_0000_1000
DIRECT = 0xFFFF_8880_0000_0000
UTEXT, UDATA = 0x40_0000, 0x60_0000
TEXT_PA, RODATA_PA, DATA_PA, STACK_PA = 0x10_0000, 0x11_0000, 0x12_0000, 0x13_0000
EMPTY = 0xFFFF_A000_0000_0000
TABLES = 24
RAM = ((0, 1 << 24),)
UPPER = P | RW | A
REGISTERS = context(4, smep=True, smap=True)

SECTIONS = {
    ".text": (TEXT, TEXT + 2 * KIB4),
    ".rodata": (RODATA, RODATA + KIB4),
    ".data": (DATA, DATA + KIB4),
    ".init": (0xFFFF_FFFF_A000_0000, 0xFFFF_FFFF_A000_1000),
}
REGIONS = {"direct map": (DIRECT, DIRECT + (1 << 30)), "stacks": (STACK, STACK + 2 * KIB4)}
SYMBOLS = {"start": (TEXT, TEXT + 16), "handler": (TEXT + KIB4 + 8, TEXT + 2 * KIB4)}


def spans(kind, named):
    return Spans.of(kind, [Span(name, *edges, kind) for name, edges in named.items()])


NAMES = Names(
    spans(SpanKind.REGION, REGIONS),
    spans(SpanKind.SECTION, SECTIONS),
    spans(SpanKind.SYMBOL, SYMBOLS),
)


def kernel():
    """Its tables: sections, a stack of two pages, a direct map of the tables, a program."""
    tables = PageTables(ram=RAM)
    for at in range(2):
        tables.map(TEXT + at * KIB4, TEXT_PA + at * KIB4, P | A, upper=UPPER)
        tables.map(STACK + at * KIB4, STACK_PA + at * KIB4, P | A | RW | XD, upper=UPPER)
    tables.map(RODATA, RODATA_PA, P | A | XD, upper=UPPER)
    tables.map(DATA, DATA_PA, P | A | RW | XD, upper=UPPER)
    for frame in range(1, 1 + TABLES):
        tables.map(DIRECT + frame * KIB4, frame * KIB4, P | A | RW | XD, upper=UPPER)
    tables.map(UTEXT, 0x14_0000, P | A | US)
    tables.map(UDATA, 0x15_0000, OPEN | A | XD)
    assert tables._free <= (1 + TABLES) * KIB4
    return tables


def verdicts(tables, text, *, every=False, **about):
    """What the sentences of a text come to in an address space."""
    contexts = about.pop("contexts", REGISTERS)
    subject = Subject(tables.memory, contexts, about.pop("names", NAMES), **about)
    return judge(subject, parse_expectations(text, "test"), every=every)


def verdict(tables, text, **about):
    """What one sentence comes to."""
    (found,) = verdicts(tables, text, **about)
    return found


@dataclass(frozen=True)
class Plant:
    """A change of the tables that breaks a sentence, and the mapping that is to be named."""

    change: object
    va: int | None = None


def entry(va, *, add=0, drop=0, named=True):
    """Bits of the entry that maps an address, set or cleared."""
    return Plant(lambda tables: tables.change(va, add=add, drop=drop), va if named else None)


def page(va, pa, flags=P | A | RW | XD):
    """One page more."""
    return Plant(lambda tables: tables.map(va, pa, flags, upper=UPPER if va >> 63 else OPEN), va)
