"""Which composites have an outcome, reported before they are made."""

from crosswalk.emu.probe.composite import CompositeProber
from tests.emu.composites import answers, composite
from tests.tables import KIB4, PageTables, context

VA = 0x40_0000
NEXT = VA + KIB4


def test_what_is_possible_is_reported_beforehand():
    builder = PageTables(ram=((0, 1 << 26),)).map(VA, 0x8000).map(NEXT, 0x9000)
    builder.map(NEXT + KIB4, 0x1000).map(NEXT + 2 * KIB4, 0xA000)
    builder.map(NEXT + 3 * KIB4, 1 << 30)
    prober = CompositeProber(builder.memory, context())
    reported = []
    for page in range(-1, 5):
        # Into the first page, within RAM, into a table, out of it, to where no RAM is, from there.
        crossing = composite("cross:write", NEXT - 4 + page * KIB4)
        reported += prober.possible(crossing).tolist()
        if reported[-1]:
            assert answers(prober.probe(crossing))[0][0][0] == int(page < 0)
    assert [True, True, False, False, False, False] == reported
