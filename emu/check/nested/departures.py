"""Where the emulator is known to depart from the manuals under nested paging.

A divergence is an instance only if the walker predicts what the manual says, by a second
statement of it, and what was observed is exactly what the departures make of that.
"""

from dataclasses import dataclass, replace
from itertools import combinations

from crosswalk.emu.check.nested.compare import NestedDivergence, agrees, restates
from crosswalk.emu.check.nested.emulated import MANUAL, Departure, emulated
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.nested.context import NestedContext

__all__ = ["FATAL", "NESTED_KNOWN", "NestedKnown", "known_nested"]


@dataclass(frozen=True, slots=True)
class NestedKnown:
    """One departure of the emulator: what differs, where the manual has it, and why."""

    id: str
    departure: Departure
    differs: str
    manual: str
    reason: str


def known_nested(
    memory: PhysicalMemory, context: NestedContext, divergence: NestedDivergence
) -> NestedDivergence:
    """Return the divergence, marked with the fewest departures that explain it, if any do."""

    def with_departures(departures: Departure) -> bool:
        expected = emulated(memory, context, divergence.access, departures)
        return (
            expected is not None
            and expected.entries == divergence.observed.entries
            and agrees(memory, expected, divergence.observed)
        )

    by_manual = emulated(memory, context, divergence.access, MANUAL)
    if by_manual is None or not restates(memory, divergence.predicted, by_manual):
        return divergence
    for count in range(1, len(NESTED_KNOWN) + 1):
        for entries in combinations(NESTED_KNOWN, count):
            departures = MANUAL
            for entry in entries:
                departures |= entry.departure
            if with_departures(departures):
                return replace(divergence, known=tuple(entry.id for entry in entries))
    return divergence


NESTED_KNOWN = (
    NestedKnown(
        "nested-leaf-not-marked",
        Departure.UNMARKED,
        "A and D of nested leaves aren't set, but for A of a 1-GiB page.",
        'AMD APM vol. 2, "Nested Table Walk": the processor sets A and D in nested entries as in '
        "others; walks of the guest's tables count as writes, so that the leaves beneath get D.",
        "The nested walk sets A in the entries above the leaf, and then returns.",
    ),
    NestedKnown(
        "pdpte-leaf-accessed-on-fault",
        Departure.EARLY,
        "A 1-GiB leaf, the guest's or the host's, has its A bit set by an access that faults for a "
        "reserved address bit.",
        'AMD APM vol. 2, "Page-Translation-Table Entry Fields": A is set in the entries that a '
        "translation uses.",
        "Either walk sets A in a PDPTE before it looks at PS, and only then at reserved address "
        "bits.",
    ),
    NestedKnown(
        "amd-pml4e-bit-8",
        Departure.BIT_8,
        "Bit 8 of a PML4E, the guest's or the host's, is ignored.",
        'AMD APM vol. 2, "4-Kbyte Page Translation": bits 8:7 of a PML4E must be zero.',
        "The emulator knows Intel's format alone, whatever the CPU model.",
    ),
    NestedKnown(
        "amd-fetch-bit-without-nxe",
        Departure.FETCH,
        "A guest's fetch that faults while EFER.NXE is clear and CR4.SMEP set has I/D in its error "
        "code.",
        'AMD APM vol. 2, "Page-Fault Error Code": I/D is told with EFER.NXE and CR4.PAE alone.',
        "The emulator sets it with CR4.SMEP as well, as Intel has it, whatever the CPU model.",
    ),
)

FATAL = NestedKnown(
    "nested-no-execute-table",
    Departure.FATAL,
    "A walk of a guest's table in a frame without execution by the nested tables ends the process.",
    'AMD APM vol. 2, "Nested Table Walk": walks of the guest\'s tables are writes, no fetches; '
    "execution isn't asked for.",
    "The nested walk takes the right to execute away from the page's rights, through a pointer "
    "that is null where a table is walked.",
)
"""No divergence: nothing can be observed. Such accesses are foreseen, counted, and not made."""
