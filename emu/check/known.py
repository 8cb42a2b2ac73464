"""Where the emulator is known to depart from the manuals.

Each entry of the registry says what differs, where the manual has it, why the emulator does it,
and recognises its own divergences by as narrow a test as possible. Its case file, under
tests/cases/known, must still show it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from emu.check.compare import Divergence
from walker.access import Access, AccessType
from walker.context import PagingContext, PagingMode, Vendor
from walker.entry import PSE36_DISTANCE, Entry, is_leaf, reserved_bits
from walker.memory import FRAME
from walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault
from walker.translate import StepKind

__all__ = ["KNOWN", "KnownDivergence", "known_divergence"]

_EMULATED_MAXPHYADDR = 40


@dataclass(frozen=True, slots=True)
class KnownDivergence:
    """One departure of the emulator: `explains` tells whether a divergence is an instance."""

    id: str
    differs: str
    manual: str
    reason: str
    case: str
    explains: Callable[[PagingContext, Divergence], bool]


def known_divergence(context: PagingContext, divergence: Divergence) -> Divergence:
    """Return the divergence, marked with the id of the first entry that explains it, if any."""
    for entry in KNOWN:
        if entry.explains(context, divergence):
            return replace(divergence, known=entry.id)
    return divergence


def _accessed_leaf(_context: PagingContext, divergence: Divergence) -> bool:
    predicted, observed = divergence.predicted, divergence.observed
    if not isinstance(predicted, PageFault) or not isinstance(observed, PageFault):
        return False
    last = divergence.walk.steps[-1]
    leaf = (last.pa, last.entry | Entry.A)
    return (
        last.level == 3
        and bool(last.entry & Entry.P)
        and bool(last.entry & Entry.PS)
        and (predicted.error_code, predicted.cr2) == (observed.error_code, observed.cr2)
        and set(observed.entries) - set(predicted.entries) == {leaf}
    )


def _physical_width(context: PagingContext, divergence: Divergence) -> bool:
    if context.maxphyaddr < _EMULATED_MAXPHYADDR:
        # Bits that the manual reserves, and the emulator takes for an address.
        return _not_refused(context, divergence, _too_high(context))
    between = _bits(_EMULATED_MAXPHYADDR, context.maxphyaddr)
    observed = divergence.observed
    return (
        not _reserved(divergence.predicted)
        and not isinstance(divergence.predicted, GeneralProtection)
        and isinstance(observed, PageFault)
        and observed.error_code == _cause(context, divergence.access) | ErrorCode.P | ErrorCode.RSVD
        and observed.cr2 == divergence.access.va
        and any(step.entry & Entry.P and step.entry & between for step in divergence.walk.steps)
    )


def _large_pdpte(context: PagingContext, divergence: Divergence) -> bool:
    return (
        not context.page1gb
        and divergence.walk.steps[-1:] != ()
        and divergence.walk.steps[-1].level == 3
        and _not_refused(context, divergence, Entry.PS)
    )


def _not_loaded(context: PagingContext, divergence: Divergence) -> bool:
    steps = divergence.walk.steps
    return (
        context.mode is PagingMode.PAE
        and isinstance(divergence.predicted, GeneralProtection)
        and steps != ()
        and not steps[-1].restricts
        and steps[-1].kind is StepKind.RESERVED
        and _answers(context, divergence)
    )


def _bit_8(context: PagingContext, divergence: Divergence) -> bool:
    return context.vendor is Vendor.AMD and _not_refused(context, divergence, Entry.G)


def _not_refused(context: PagingContext, divergence: Divergence, cause: int) -> bool:
    """Return whether the walk was to end at an entry for reserved bits in `cause`.

    For no others but such as the emulator ignores as well; and what was observed instead has to
    be an answer to this access: one that the entries further down may give, reserved bits
    there included.
    """
    if not _reserved(divergence.predicted) or not divergence.walk.steps:
        return False
    last = divergence.walk.steps[-1]
    leaf = is_leaf(context, last.level, last.entry)
    reserved = last.entry & reserved_bits(context, last.level, leaf=leaf)
    if not reserved & cause or reserved & ~_ignored(context, last.level):
        return False
    return _answers(context, divergence)


def _answers(context: PagingContext, divergence: Divergence) -> bool:
    """Return whether what was observed may be an answer to this access, by what it says of it."""
    observed = divergence.observed
    if isinstance(observed, GeneralProtection):
        return False
    if isinstance(observed, PageFault):
        about = ErrorCode.WR | ErrorCode.US | ErrorCode.ID
        said = observed.error_code & about
        return (said, observed.cr2) == (_cause(context, divergence.access), divergence.access.va)
    return observed.pa % FRAME == divergence.access.va % FRAME


def _ignored(context: PagingContext, level: int) -> int:
    """Return the bits of an entry that this context reserves and the emulator doesn't."""
    ignored = _too_high(context)
    if level == 3 and not context.page1gb:
        ignored |= Entry.PS
    if level > 3 and context.vendor is Vendor.AMD:
        ignored |= Entry.G
    return ignored


def _too_high(context: PagingContext) -> int:
    """Return the bits that hold an address beyond MAXPHYADDR, as far as the emulator takes one."""
    bits = _bits(context.maxphyaddr, max(context.maxphyaddr, _EMULATED_MAXPHYADDR))
    # Of a 4-MiB page they lie further down (PSE-36).
    return bits >> PSE36_DISTANCE if context.mode is PagingMode.BIT32 else bits


def _bits(low: int, high: int) -> int:
    return (1 << high) - (1 << low)


def _cause(context: PagingContext, access: Access) -> int:
    fetch = access.type is AccessType.EXECUTE and (context.nxe or context.smep)
    return (
        (ErrorCode.WR if access.type is AccessType.WRITE else 0)
        | (ErrorCode.US if access.cpl == 3 else 0)
        | (ErrorCode.ID if fetch else 0)
    )


def _reserved(outcome: Outcome) -> bool:
    return isinstance(outcome, PageFault) and bool(outcome.error_code & ErrorCode.RSVD)


KNOWN = (
    KnownDivergence(
        "pdpte-leaf-accessed-on-fault",
        "A 1-GiB leaf has its A bit set by an access that faults, for want of rights or for a "
        "reserved address bit.",
        "Intel SDM vol. 3A 4.8: A is set in the entries that a translation uses. The leaf of a "
        "4-KiB or 2-MiB page is left alone by the same faults.",
        "The page walk sets A in a PDPTE before it looks at PS, and only then at reserved "
        "address bits and rights.",
        "pdpte-leaf-accessed-on-fault.json",
        _accessed_leaf,
    ),
    KnownDivergence(
        "maxphyaddr-40",
        "Entry bits 40 and up are reserved, bits below are not, whatever MAXPHYADDR is said to be.",
        "Intel SDM vol. 3A 4.1.4 and 4.5: the bits from MAXPHYADDR up are reserved. In PAE paging "
        "too (4.4.2), and of a 4-MiB page in 32-bit paging those of bits 20:13 that would be "
        "address bits from there up (4.3).",
        "The physical address width is fixed at 40 bits for every CPU model.",
        "maxphyaddr-40.json",
        _physical_width,
    ),
    KnownDivergence(
        "pdpte-ps-always-leaf",
        "PS in a PDPTE makes a 1-GiB page of it, on a processor that is said to have none.",
        "Intel SDM vol. 3A 4.5.4: without CPUID.80000001H:EDX.Page1GB, PS of a PDPTE is reserved.",
        "The CPU model that enforces everything else has 1-GiB pages, and no way to hide them.",
        "pdpte-ps-always-leaf.json",
        _large_pdpte,
    ),
    KnownDivergence(
        "amd-pml4e-bit-8",
        "Bit 8 of a PML4E or PML5E is ignored, where AMD has it reserved.",
        "AMD APM vol. 2 5.3.3: bits 8:7 of a PML4E must be zero; Intel ignores bit 8.",
        "The emulated CPU is an Intel one.",
        "amd-pml4e-bit-8.json",
        _bit_8,
    ),
    KnownDivergence(
        "pae-pdpte-read-when-used",
        "In PAE paging a MOV to CR3 takes PDPTEs with reserved bits: bits 8:5 and 2:1 are then "
        "ignored, and the higher ones refuse the accesses that go through them.",
        "Intel SDM vol. 3A 4.4.1: MOV to CR3 raises #GP(0) if a present PDPTE sets a reserved bit, "
        "and loads none of the four.",
        "There are no PDPTE registers: every walk reads its PDPTE from memory, and looks at bits "
        "63 down to MAXPHYADDR alone.",
        "pae-pdpte-read-when-used.json",
        _not_loaded,
    ),
)
