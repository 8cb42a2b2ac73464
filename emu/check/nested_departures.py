"""What emulators do otherwise than the manuals say under nested paging and EPT."""

from crosswalk.emu.check.departure import BOCHS, QEMU, UNICORN, Departure, Scope
from crosswalk.emu.check.nested_deviations import Deviation

__all__ = ["FATAL", "NESTED", "PANIC"]

_ONE_CPU = frozenset({UNICORN, QEMU})

NESTED = (
    Departure(
        "nested-leaf-not-marked",
        Scope.NESTED,
        "A and D of nested leaves aren't set, but for A of a 1-GiB page.",
        'AMD APM vol. 2, "Nested Table Walk": the processor sets A and D in nested entries as in '
        "others; walks of the guest's tables count as writes, so that the leaves beneath get D.",
        "The nested walk sets A in the entries above the leaf, and then returns.",
        deviation=Deviation.UNMARKED,
    ),
    Departure(
        "pdpte-leaf-accessed-on-fault",
        Scope.NESTED,
        "A 1-GiB leaf, the guest's or the host's, has its A bit set by an access that faults for a "
        "reserved address bit.",
        'AMD APM vol. 2, "Page-Translation-Table Entry Fields": A is set in the entries that a '
        "translation uses.",
        "Either walk sets A in a PDPTE before it looks at PS, and only then at reserved address "
        "bits.",
        deviation=Deviation.EARLY,
        judges=_ONE_CPU,
    ),
    Departure(
        "amd-pml4e-bit-8",
        Scope.NESTED,
        "Bit 8 of a PML4E, the guest's or the host's, is ignored.",
        'AMD APM vol. 2, "4-Kbyte Page Translation": bits 8:7 of a PML4E must be zero.',
        "The emulator knows Intel's format alone, whatever the CPU model.",
        deviation=Deviation.BIT_8,
        judges=_ONE_CPU,
    ),
    Departure(
        "amd-fetch-bit-without-nxe",
        Scope.NESTED,
        "A guest's fetch that faults while EFER.NXE is clear and CR4.SMEP set has I/D in its error "
        "code.",
        'AMD APM vol. 2, "Page-Fault Error Code": I/D is told with EFER.NXE and CR4.PAE alone.',
        "The emulator sets it with CR4.SMEP as well, as Intel has it, whatever the CPU model.",
        deviation=Deviation.FETCH,
        judges=_ONE_CPU,
    ),
    Departure(
        "reserved-fault-without-p",
        Scope.NESTED,
        "A fault for a reserved bit, the guest's or a nested one, has P clear in its error code.",
        'AMD APM vol. 2, "Page-Fault Error Code" and "Nested versus Guest Page Faults, Fault '
        'Ordering": P is clear if the fault was caused by an entry that is not present; reserved '
        "bits are looked at in present entries alone.",
        "Both walks are one function, which since 2022 makes the error code of RSVD alone.",
        deviation=Deviation.NOT_PRESENT,
        pair=("npt", 11),
        judges=frozenset({QEMU}),
    ),
    Departure(
        "ept-table-access-no-read",
        Scope.NESTED,
        "With EPT's A and D, an EPT violation at a guest's table has bit 1 of the exit "
        "qualification set alone, where bits 0 and 1 belong.",
        'Intel SDM vol. 3C, "Basic VM-Exit Information": with accessed and dirty flags for EPT, '
        "accesses to a guest's paging-structure entries are treated as writes; if one causes an "
        "EPT violation, the processor sets both bit 0 and bit 1.",
        "Bochs turns the access into a write, and makes the qualification of that.",
        deviation=Deviation.TABLE_WRITE,
        pair=("ept", 10),
        judges=frozenset({BOCHS}),
    ),
    Departure(
        "ept-user-execute-in-bit-13",
        Scope.NESTED,
        "Under mode-based execute control, an EPT violation of a read or a write has the user's "
        "right to execute in bit 13 of the exit qualification, and bit 6 clear.",
        'Intel SDM vol. 3C, "Basic VM-Exit Information": bit 6 is the AND of bit 10 of the EPT '
        "entries, whatever the access; bit 13 says that the access was one to a shadow stack.",
        "Bochs shifts all rights by three, XU too, which is bit 10 of an entry; that it belongs to "
        "bit 6 it heeds for fetches alone.",
        deviation=Deviation.BIT_13,
        pair=("ept-mbec", 2),
        judges=frozenset({BOCHS}),
    ),
    Departure(
        "ept-guest-marks-unchecked",
        Scope.NESTED,
        "Without EPT's A and D, a guest's A and D are set in a page that EPT makes read-only.",
        'Intel SDM vol. 3C, "EPT Violations": writes to a guest\'s paging structures that update '
        "accessed and dirty flags are data writes, and violate EPT where bit 1 is clear in an "
        "entry of their address.",
        "Bochs translates the address of a guest's entry for reading, and later writes there.",
        deviation=Deviation.UNCHECKED,
        pair=("ept", 14),
        judges=frozenset({BOCHS}),
    ),
    Departure(
        "ept-large-page-bit-12",
        Scope.NESTED,
        "Bit 12 of an EPT entry that maps a 2-MiB or 1-GiB page is ignored, where it is reserved.",
        'Intel SDM vol. 3C, "EPT Translation Mechanism": bits 20:12 of an EPT PDE that maps a '
        "2-MiB page are reserved, and bits 29:12 of a PDPTE that maps a 1-GiB page; bit 12 is PAT "
        "in the tables of linear addresses alone.",
        "Bochs masks bit 12 away, as in tables of linear addresses.",
        deviation=Deviation.BIT_12,
        pair=("ept", 481),
        judges=frozenset({BOCHS}),
    ),
)
"""Each is a deviation of the second walk in two dimensions."""

PANIC = Departure(
    "nested-write-with-wp-clear",
    Scope.NESTED,
    "A write that the guest's CR0.WP lets pass ends the machine, where D has to be set in an entry "
    "without R/W.",
    'Intel SDM vol. 3A, "Determination of Access Rights" and "Accessed and Dirty Flags": with '
    "CR0.WP clear a supervisor-mode write needs no R/W; D is set by any write.",
    "Bochs 3.0 takes it for impossible that D is to be set where R/W is clear, and panics.",
    deviation=Deviation.PANIC,
    pair=("ept", 105),
    judges=frozenset({BOCHS}),
    since="3.0",
    until="3.0",
)
FATAL = Departure(
    "nested-no-execute-table",
    Scope.NESTED,
    "A walk of a guest's table in a frame without execution by the nested tables ends the process.",
    'AMD APM vol. 2, "Nested Table Walk": walks of the guest\'s tables are writes, no fetches; '
    "execution isn't asked for.",
    "The nested walk takes the right to execute away from the page's rights, through a pointer "
    "that is null where a table is walked.",
    deviation=Deviation.FATAL,
)
"""Nothing can be observed of these two. Such accesses are foreseen, counted, and not made."""
