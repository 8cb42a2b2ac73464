"""The registry of what emulators do otherwise than the manuals say, Unicorn before all.

One table for accesses, composites, sequences and nested paging; each entry names the judges that
show it (`crosswalk.emu.judges`). An entry about accesses or
composites is a change of the `Rules` by which the second walk goes
(`crosswalk.emu.check.emulated`), so that any number of them together have one exact answer; one
about nested paging is a `Deviation` of the second walk in two dimensions
(`crosswalk.emu.check.nested_deviations`); one about sequences recognises what the emulator's TLB
does. Each but the nested ones has its smallest case, which must still show it.

Unicorn is one version, and has all of its departures at once. Of other judges there are versions
and models that have some of theirs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

from crosswalk.emu.check.departure import (
    BOCHS,
    KVM,
    MTTCG,
    QEMU,
    UNICORN,
    X86ISA,
    Departure,
    Scope,
    SequenceTest,
)
from crosswalk.emu.check.emulated_rules import Keys, Rules, rules_of
from crosswalk.emu.check.nested_departures import FATAL, NESTED, PANIC
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.tlb import Invpcid, MovCr3, Rule, Sequence
from crosswalk.walker.tlb.steps import NO_FLUSH

__all__ = [
    "BOCHS",
    "DEPARTURES",
    "FATAL",
    "PANIC",
    "QEMU",
    "UNICORN",
    "X86ISA",
    "Departure",
    "Scope",
    "departures",
    "differs",
    "emulated_rules",
    "is_name",
    "named",
    "subsets",
]

_QEMU = frozenset({QEMU, MTTCG})
_ONE_CPU = frozenset({UNICORN, QEMU})
_TCG = _QEMU | {UNICORN}
_EMULATORS = _TCG | {BOCHS}

_WIDTH = 40
"""The emulator's MAXPHYADDR in bits."""


def departures(*scopes: Scope, who: str | None = UNICORN) -> tuple[Departure, ...]:
    """Return what a judge shows of the departures of these scopes, in the table's order.

    Of all scopes, if none is named; of all judges, if `who` is None. `who` may have a version.
    """
    return tuple(
        each
        for each in DEPARTURES
        if (not scopes or each.scope in scopes) and (who is None or each.shown_by(who))
    )


def emulated_rules(context: PagingContext, which: Iterable[Departure], who: str = UNICORN) -> Rules:
    """Return the rules of a processor under these registers that departs so from the manuals.

    Unicorn's hasn't LAM, UAI or LASS: accesses to which these make a difference aren't asked of it.
    """
    rules = rules_of(context)
    if who == UNICORN:
        rules = replace(rules, lam_user=0, lam_supervisor=0, uai=False, lass=False)
    for each in which:
        rules = each.change(rules)
    return rules


def subsets(
    context: PagingContext, *scopes: Scope, who: str = UNICORN
) -> Iterator[tuple[Departure, ...]]:
    """Yield the sets of a judge's departures that change something under these registers.

    The smaller ones first, those of one size in the table's order; the empty set is left out.
    """
    manual = rules_of(context)
    some = [each for each in departures(*scopes, who=who) if each.change(manual) != manual]
    for count in range(1, len(some) + 1):
        yield from combinations(some, count)


def named(which: Iterable[Departure]) -> str:
    """Return the name under which divergences by these departures together are counted.

    Their ids in the table's order, joined by `+`.
    """
    return "+".join(each.id for each in which)


def is_name(name: str) -> bool:
    """Return whether divergences may be counted under this name."""
    return {each.id for each in DEPARTURES}.issuperset(name.split("+"))


def differs(name: str) -> str:
    """Return what differs, in words, by a name as `named` returns it; of nested paging none."""
    by_id = {each.id: each for each in DEPARTURES if each.scope is not Scope.NESTED}
    return " ".join(by_id[each].differs for each in name.split("+"))


def _loads_nothing(rules: Rules) -> Rules:
    return replace(rules, loads_pdptes=False, pdpte_low=0)


def _loads_all(rules: Rules) -> Rules:
    return replace(rules, loads_pdptes=rules.levels == 3)


def _violation_of(rule: Rule) -> SequenceTest:
    """Return a test for violations of one rule of caching, whatever the step."""
    return lambda _sequence, _at, cause: cause == rule


def _invpcid(sequence: Sequence, at: int, cause: str) -> bool:
    return isinstance(sequence.steps[at], Invpcid) and cause.endswith("raises #UD")


def _large(sequence: Sequence, at: int, cause: str) -> bool:
    step = sequence.steps[at]
    fetch = isinstance(step, Access) and step.type is AccessType.EXECUTE
    return fetch and cause == Rule.INVLPG_LARGE


def _other_tlb(sequence: Sequence, at: int, cause: str) -> bool:
    """Whether an access before was of the other kind, to other 4 KiB, or a fetch at another CPL."""

    def used(access: Access) -> tuple[bool, int, int]:
        fetch = access.type is AccessType.EXECUTE
        return fetch, access.va >> 12, access.cpl if fetch else 0

    step = sequence.steps[at]
    before = [each for each in sequence.steps[:at] if isinstance(each, Access)]
    other = isinstance(step, Access) and any(used(each) != used(step) for each in before)
    return other and cause == Rule.FAULT


def _bit_63(sequence: Sequence, at: int, cause: str) -> bool:
    step = sequence.steps[at]
    return (
        isinstance(step, MovCr3)
        and bool(step.value & NO_FLUSH)
        and sequence.context.levels == 5
        and cause.endswith("raises #PF")
    )


DEPARTURES = (
    Departure(
        "pdpte-leaf-accessed-on-fault",
        Scope.ACCESS,
        "A 1-GiB leaf has its A bit set by an access that faults for a reserved address bit.",
        'Intel SDM vol. 3A, "Accessed and Dirty Flags": A is set in the entries that a '
        "translation uses, and an entry with a reserved bit translates nothing. The leaf of a "
        "2-MiB page is left alone by the same fault.",
        "The page walk sets A in a PDPTE before it looks at PS, and only then at the address "
        "bits below the page's size.",
        lambda rules: replace(rules, early=True),
        judges=_TCG,
    ),
    Departure(
        "maxphyaddr-40",
        Scope.ACCESS,
        "Entry bits 40 and up are reserved, bits below are not, whatever MAXPHYADDR is said to be.",
        'Intel SDM vol. 3A, "Enumeration of Paging Features by CPUID" and "4-Level Paging and '
        '5-Level Paging": the bits from MAXPHYADDR up are reserved. In PAE paging too, and of a '
        "4-MiB page in 32-bit paging those of bits 20:13 that would be address bits from there "
        "up.",
        "The physical address width is fixed at 40 bits for every CPU model. QEMU's TCG takes the "
        "width that it is told, and is asked about others.",
        lambda rules: replace(rules, width=_WIDTH),
    ),
    Departure(
        "pdpte-ps-always-leaf",
        Scope.ACCESS,
        "PS in a PDPTE makes a 1-GiB page of it, on a processor that is said to have none.",
        'Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging": without '
        "CPUID.80000001H:EDX.Page1GB, PS of a PDPTE is reserved.",
        "The CPU model that enforces everything else has 1-GiB pages, and no way to hide them.",
        lambda rules: replace(rules, page1gb=True),
        judges=_TCG,
    ),
    Departure(
        "amd-pml4e-bit-8",
        Scope.ACCESS,
        "Bit 8 of a PML4E or PML5E is ignored, where AMD has it reserved.",
        'AMD APM vol. 2, "Long-Mode Page Translation": bits 8:7 of a PML4E must be zero; Intel '
        "ignores bit 8.",
        "The emulated CPU is an Intel one.",
        lambda rules: replace(rules, high_bit_8=False),
        judges=_EMULATORS,
    ),
    Departure(
        "amd-fetch-bit-without-nxe",
        Scope.ACCESS,
        "A fetch that faults while EFER.NXE is clear and CR4.SMEP set has I/D in its error code, "
        "where AMD has it clear.",
        'AMD APM vol. 2, "Page-Fault Error Code": I/D is set only if no-execute is enabled '
        "(EFER.NXE and CR4.PAE set); Intel has it set with CR4.SMEP, too.",
        "The emulated CPU is an Intel one. KVM's walk looks at EFER.NXE and CR4.SMEP, whoever made "
        "the CPU.",
        lambda rules: replace(rules, fetch_bit=rules.nxe or rules.smep),
        judges=_EMULATORS | {KVM},
    ),
    Departure(
        "pae-pdpte-read-when-used",
        Scope.ACCESS,
        "In PAE paging a MOV to CR3 takes PDPTEs with reserved bits: bits 8:5 and 2:1 are then "
        "ignored, and the higher ones refuse the accesses that go through them.",
        'Intel SDM vol. 3A, "PDPTE Registers": MOV to CR3 raises #GP(0) if a present PDPTE sets '
        "a reserved bit, and loads none of the four. An AMD processor reads the PDPTE that it "
        'uses (APM vol. 2, "TLB Management"), and faults for bits 8:5 and 2:1 as for the others.',
        "There are no PDPTE registers: every walk reads its PDPTE from memory, and looks at bits "
        "63 down to MAXPHYADDR alone.",
        _loads_nothing,
        judges=_TCG,
    ),
    Departure(
        "reserved-fault-without-p",
        Scope.ACCESS,
        "A fault for a reserved bit has P clear in its error code.",
        'Intel SDM vol. 3A, "Page-Fault Exceptions": P is clear if there is no translation because '
        "P was clear in one of the entries; RSVD is set if a reserved bit was set in one of them, "
        "which is looked at in present entries alone, so that P is set as well.",
        "The page walk of QEMU since 2022 makes the error code of RSVD alone.",
        lambda rules: replace(rules, reserved_present=False),
        judges=_QEMU,
    ),
    Departure(
        "pae-pdpte-accessed",
        Scope.ACCESS,
        "In PAE paging a walk sets bit 5 of the PDPTE that it uses, as if that were A.",
        'Intel SDM vol. 3A, "PDPTE Registers" and "Accessed and Dirty Flags": a PDPTE of PAE '
        "paging has no A; its bits 8:5 and 2:1 are reserved, and MOV to CR3 raises #GP(0) if one "
        "that is present sets any of them. A guest that loads CR3 again would be refused.",
        "The page walk of QEMU since 2022 sets A on each of its levels in the same way.",
        lambda rules: replace(rules, pdpte_accessed=True),
        judges=_QEMU,
    ),
    Departure(
        "pse36-above-maxphyaddr",
        Scope.ACCESS,
        "Bits 20:13 of a 4-MiB page's entry are never reserved, those from MAXPHYADDR up included.",
        'Intel SDM vol. 3A, "32-Bit Paging": with PSE-36, and M the minimum of 40 and MAXPHYADDR, '
        "bits (M-20):13 of an entry that maps a 4-MiB page are bits (M-1):32 of its address, and "
        "bits 21:(M-19) are reserved.",
        "QEMU has bit 21 alone for reserved, and goes to an address that the CPU doesn't have.",
        lambda rules: replace(rules, pse36_all=True),
        judges=_QEMU,
    ),
    Departure(
        "amd-pdptes-loaded",
        Scope.ACCESS,
        "In PAE paging a MOV to CR3 refuses PDPTEs with reserved bits, where AMD looks at the one "
        "that an access goes through.",
        'AMD APM vol. 2, "TLB Management": a PDPTE is read when it is used; Intel loads all four, '
        "and raises #GP(0).",
        "Bochs loads PDPTEs as Intel has it, whatever the CPU model.",
        _loads_all,
        judges=frozenset({BOCHS}),
    ),
    Departure(
        "no-pk-for-user-accesses",
        Scope.ACCESS,
        "A data access at CPL 3 to a supervisor page whose key PKRS denies faults without PK.",
        'Intel SDM vol. 3A, "Interrupt 14—Page-Fault Exception (#PF)" and "Protection Keys": PK is '
        "set if the access was to an address with a key for which the rights registers disallow "
        "it; which register that is goes by the address, and nothing exempts accesses at CPL 3. "
        "So it is read here, by Bochs 3.1, and by Intel's patches of KVM for PKS; no processor has "
        "been asked.",
        "QEMU refuses CPL 3 a supervisor page before it looks at the key.",
        lambda rules: replace(rules, pk_of_user_accesses=False),
        judges=_QEMU,
    ),
    Departure(
        "keys-of-supervisor-pages",
        Scope.ACCESS,
        "PKRU restricts accesses to a page that only its own entry makes a supervisor's.",
        'Intel SDM vol. 3A, "Protection Keys" and "Determination of Access Rights": PKRU is for '
        "user-mode addresses, those for which U/S is set in every entry; PK of a fault's error "
        "code likewise.",
        "Bochs 3.1 takes U/S of the entries above the page's own for that of the page.",
        lambda rules: replace(rules, user_keys=Keys.TABLES),
        judges=frozenset({BOCHS}),
        since="3.1",
    ),
    Departure(
        "keys-by-privilege",
        Scope.ACCESS,
        "PKRU's AD restricts accesses at CPL 3 alone, and AD and WD those to any page.",
        'Intel SDM vol. 3A, "Determination of Access Rights": AD forbids all data accesses to '
        "user-mode addresses, at any CPL, and neither AD nor WD forbids any to supervisor-mode "
        "addresses.",
        "Bochs before 3.1 goes by the privilege of the access, not by that of the page.",
        lambda rules: replace(rules, user_keys=Keys.ACCESSES),
        judges=frozenset({BOCHS}),
        until="3.0",
    ),
    Departure(
        "pkrs-by-upper-levels",
        Scope.ACCESS,
        "PKRS doesn't restrict accesses to a page that only its own entry makes a supervisor's.",
        'Intel SDM vol. 3A, "Protection Keys" and "Determination of Access Rights": IA32_PKRS is '
        "for supervisor-mode addresses, those for which U/S is clear in any entry.",
        "Bochs 3.1 takes U/S of the entries above the page's own for that of the page, as with "
        "PKRU.",
        lambda rules: replace(rules, supervisor_keys=Keys.TABLES),
        judges=frozenset({BOCHS}),
        since="3.1",
    ),
    Departure(
        "pkrs-by-privilege",
        Scope.ACCESS,
        "PKRS restricts accesses at CPL 0 alone, and those to any page.",
        'Intel SDM vol. 3A, "Protection Keys" and "Determination of Access Rights": IA32_PKRS is '
        "for supervisor-mode addresses, whatever the CPL, and restricts no access to user-mode "
        "addresses.",
        "Bochs 3.0 goes by the privilege of the access, not by that of the page.",
        lambda rules: replace(rules, supervisor_keys=Keys.ACCESSES),
        judges=frozenset({BOCHS}),
        until="3.0",
    ),
    Departure(
        "xd-needed-in-every-entry",
        Scope.ACCESS,
        "A fetch is refused where all entries of its walk have XD set, not where one has.",
        'Intel SDM vol. 3A, "Determination of Access Rights": instructions may be fetched if XD is '
        "0 in every paging-structure entry that controls the translation.",
        "The model hands XD down its walk as it does R/W and U/S: ANDed.",
        lambda rules: replace(rules, xd_everywhere=True),
        judges=frozenset({X86ISA}),
    ),
    Departure(
        "rights-level-by-level",
        Scope.ACCESS,
        "Each entry is judged by the rights of those above it and its own, before the next one is "
        "read: SMAP and SMEP refuse a page that only a lower entry makes a supervisor's, and a "
        "lower entry that isn't present, or sets a reserved bit, has no say.",
        'Intel SDM vol. 3A, "Determination of Access Rights": a user-mode address is one for which '
        'U/S is 1 in every paging-structure entry; "Page-Fault Exceptions": P is 0 if P was 0 in '
        "one of the entries, and RSVD is set if one of them set a reserved bit.",
        "The model has one function for what an entry allows, and calls it at each level.",
        lambda rules: replace(rules, level_by_level=True),
        judges=frozenset({X86ISA}),
    ),
    Departure(
        "locked-rmw-reads-first",
        Scope.COMPOSITE,
        "A locked read-modify-write faults as a read where the page can't be read: W/R is clear "
        "in the error code.",
        'Intel SDM vol. 3A, "Bus Locking" and "Page-Fault Exceptions": the read and the write '
        "are one locked operation, which needs the right to write; W/R tells that the access was "
        "a write.",
        "With one processor a locked instruction is made of a load and a store, each with its own "
        "page walk.",
        lambda rules: replace(rules, rmw_reads_first=True),
        judges=_ONE_CPU,
    ),
    Departure(
        "implicit-access-honours-ac",
        Scope.COMPOSITE,
        "With CR4.SMAP set, RFLAGS.AC lets CPL 0 read a segment descriptor from a user page.",
        'Intel SDM vol. 3A, "Determination of Access Rights": AC concerns explicit '
        "supervisor-mode accesses; data may not be read from a user-mode address by an implicit "
        "one while CR4.SMAP is set.",
        "Implicit accesses go by AC when they come from CPL 0; from CPL 3 they don't.",
        lambda rules: replace(rules, implicit_heeds_ac=True),
        judges=_EMULATORS,
    ),
    Departure(
        "pcide-cleared-keeps-tlb",
        Scope.SEQUENCE,
        "Clearing CR4.PCIDE leaves the TLB as it is: a translation from before is used after it.",
        'Intel SDM vol. 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": MOV to '
        "CR4 that changes PCIDE from 1 to 0 invalidates all TLB entries and all entries of the "
        "paging-structure caches, for all PCIDs.",
        "MOV to CR4 empties the TLB for changes of other bits alone; PCIDE, which CPUID says "
        "there isn't, can be set and cleared, and means nothing.",
        explains=_violation_of(Rule.PCIDE),
    ),
    Departure(
        "pke-change-keeps-rights",
        Scope.SEQUENCE,
        "After a change of CR4.PKE, a page that is in the TLB still has the rights from before.",
        'Intel SDM vol. 3A, "Protection Keys" and "Caching Translations in TLBs": the key is '
        "cached with a translation; what it allows is for CR4.PKE and PKRU to say at each access.",
        "A TLB entry holds the rights that a walk found under PKE and PKRU; WRPKRU empties the "
        "TLB, MOV to CR4 doesn't when PKE changes.",
        explains=_violation_of(Rule.PKE),
        judges=_TCG,
    ),
    Departure(
        "invpcid-undefined",
        Scope.SEQUENCE,
        "INVPCID raises #UD, so that none of its types can be tried.",
        'Intel SDM vol. 2A, "INVPCID—Invalidate Process-Context Identifier", and vol. 3A, '
        '"Operations that Invalidate TLBs and Paging-Structure Caches": what each of the four '
        "types invalidates. A processor without it, by CPUID.07H:EBX.INVPCID, raises #UD.",
        "The instruction isn't implemented, and CPUID doesn't claim it; real processors of this "
        "model have it.",
        explains=_invpcid,
    ),
    Departure(
        "fault-keeps-tlb",
        Scope.SEQUENCE,
        "A page fault leaves a translation of its page in the TLB, for other accesses.",
        'Intel SDM vol. 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": a page '
        "fault invalidates the TLB entries for the page number of its address, and the "
        "paging-structure-cache entries that it would use.",
        "CPL 0 and 3 have TLBs of their own, in which an entry holds an address for each type of "
        "access. Where one is missing, a walk looks for it; if that faults, the others stay as "
        "they are. Of a large page, each 4 KiB is an entry of its own.",
        explains=_violation_of(Rule.FAULT),
        judges=_TCG,
    ),
    Departure(
        "fault-keeps-other-tlb",
        Scope.SEQUENCE,
        "A page fault of a fetch leaves in the TLB what data accesses have there of its page, and "
        "the other way round, and what fetches at the other CPL have; of a large page it leaves "
        "what is cached of its other 4-KiB parts.",
        'Intel SDM vol. 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": a page '
        "fault invalidates the TLB entries for the page number of its address, whatever the access "
        "was; the page number of a large page is the same for all of its addresses.",
        "Bochs has a TLB for data and one for fetches, with an entry for each 4 KiB. A fault of a "
        "data access clears the one entry that it would have used.",
        explains=_other_tlb,
        judges=frozenset({BOCHS}),
    ),
    Departure(
        "invlpg-large-keeps-fetch",
        Scope.SEQUENCE,
        "INVLPG of one address in a large page lets fetches from others in it go on as before.",
        'Intel SDM vol. 3A, "Details of TLB Use" and "Operations that Invalidate TLBs and '
        'Paging-Structure Caches": INVLPG invalidates what is cached of all of a large page, '
        "however it is cached.",
        "INVLPG empties the TLB if the address lies in a large page, but of the table that leads "
        "from an address to translated code it clears that page of 4 KiB and the one before.",
        explains=_large,
        judges=_TCG,
    ),
    Departure(
        "cr3-bit-63-under-la57",
        Scope.SEQUENCE,
        "With five levels, MOV to CR3 with bit 63 set makes every translation fault.",
        'Intel SDM vol. 2B, "MOV—Move to/from Control Registers": with CR4.PCIDE set, bit 63 of '
        "the source says what to invalidate, and isn't loaded into CR3.",
        "CR3 keeps bit 63. A walk of four levels masks it out of the root's address, one of five "
        "doesn't, and finds no memory there.",
        explains=_bit_63,
    ),
    *NESTED,
)
"""All of them. The order is that of ids in a joined name."""
