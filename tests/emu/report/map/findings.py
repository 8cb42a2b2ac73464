"""A finding to draw."""

from crosswalk.emu.report.finding import EntryJson, FindingJson


def entry(name, text, **more):
    return EntryJson(name=name, pa="0x1ff8", entry="0x2005", text=text, **more)


WALK = [
    entry(
        "PML4E[511]",
        "PML4E[511]   at 0x00000001ff8 = 0x0000000000002005  table  US A",
        blame="R/W clear",
    ),
    entry("PDPTE[1]", "PDPTE[1]     at 0x00000001ff8 = 0x0000000000002001  reserved bit set"),
]


def finding(**more):
    return FindingJson(
        id="x",
        cause="R/W above the leaf: says allowed, it is refused",
        signature="s",
        rule="R/W of a PML4E",
        witness="peer:w",
        said="allowed",
        truth="#PF",
        manual=[],
        access="write of 0x0 at CPL 0",
        answer="allowed",
        predicted="#PF",
        observed="#PF",
        context="4-level paging, CR3 0x1000",
        walk=WALK,
        **more,
    )
