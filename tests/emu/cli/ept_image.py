"""The image of docs/examples/second-level/ept.json: a host with an EPT and a guest of 8 MiB."""

from crosswalk.walker.entry import Entry
from crosswalk.walker.formats import Case, Cpu, dump_case
from crosswalk.walker.nested import EptEntry
from tests.tables import A, D, PageTables, context

EPT, GUEST = 0x10_0000, 0x200_0000
"""Where the EPT's first table lies, and where the guest's memory begins, in the host's."""
EPTP = 0x10_005E
"""4 levels in WB memory, A and D used."""
WB, UC = 6 << 3, 0
R, W, X, XU = EptEntry.R, EptEntry.W, EptEntry.X, EptEntry.XU
LARGE, USED, DIRTY = EptEntry.PS, EptEntry.A, EptEntry.D
ALL = int(R | W | X | XU | USED)
P, RW, US, PS, G, XD = Entry.P, Entry.RW, Entry.US, Entry.PS, Entry.G, Entry.XD
MIB2 = 1 << 21


def ept():
    """The EPT: what the guest's kernel may execute its user may not, and the other way round."""
    tables = PageTables(root=EPT)

    def grant(gpa, flags, *, level=1, host=None):
        host = gpa + GUEST if host is None else host
        tables.map(gpa, host, int(flags), level=level, upper=ALL)

    grant(0, R | W | WB | LARGE | USED | DIRTY, level=2)
    grant(MIB2, R | X | WB | LARGE | USED, level=2)
    grant(0x40_0000, R | WB | USED)
    grant(0x40_1000, R | XU | WB | USED)
    grant(0x40_2000, R | XU | WB)
    grant(0x40_3000, R | W | WB | USED | DIRTY)
    grant(0x40_4000, R | W | WB)
    # Writable and executable without being readable: how KVM marks what it emulates.
    grant(0xFEB0_0000, W | X, host=0xFEB0_0000)
    grant(0xFEE0_0000, R | W | UC | EptEntry.IPAT, host=0xFEE0_0000)
    return tables


def guest():
    """The guest's own tables; the last page is one that an attacker in its kernel has made."""
    tables = PageTables(root=0x1000)
    tables.map(0xFFFF_FFFF_8100_0000, MIB2, P | PS | G | A, level=2)
    tables.map(0xFFFF_FFFF_8200_0000, 0x40_0000, P | G | A | XD)
    tables.map(0x40_0000, 0x40_1000, P | US | A)
    tables.map(0x40_1000, 0x40_2000, P | US)
    tables.map(0x60_0000, 0x40_3000, P | RW | US | A | D | XD)
    tables.map(0xFFFF_8880_0000_0000, 0, P | RW | PS | G | A | D | XD, level=2)
    tables.map(0xFFFF_FFFF_C000_0000, 0x40_1000, P | RW)
    return tables


def image():
    """The case: CR3 is the guest's, a guest-physical address."""
    own = {pa + GUEST: int(word) for pa, word in guest().entries.items()}
    host = {pa: int(word) for pa, word in ept().entries.items()}
    return Case(
        cpu=Cpu.from_context(context(root=0x1000, smep=True)),
        ram=((0, 0x400_0000),),
        entries=host | own,
    )


def data():
    """The bytes of the file."""
    return dump_case(image())
