"""A sequence of steps on an address space, and what the steps do to the control state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from crosswalk.walker.access import Access
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.errors import BadInput

__all__ = [
    "NO_FLUSH",
    "PCIDE",
    "TCE",
    "Halted",
    "Invlpg",
    "Invpcid",
    "MovCr0",
    "MovCr3",
    "MovCr4",
    "Sequence",
    "Step",
    "Store",
    "Wrpkru",
    "after",
    "pcid_of",
]

PCIDE = 1 << 17
"""CR4.PCIDE: CR3 bits 11:0 are the PCID ("Process-Context Identifiers (PCIDs)")."""

TCE = 1 << 15
"""EFER.TCE: INVLPG leaves cached upper entries that don't lead to its address.

Source: AMD APM vol. 2, "Extended Feature Enable Register (EFER)".
"""

NO_FLUSH = 1 << 63
"""Bit 63 of what is moved to CR3 with PCIDE set: nothing has to be invalidated."""

_PCIDS = 1 << 12


@dataclass(frozen=True, slots=True)
class Store:
    """The 8-byte word at `pa`, in a paging structure, becomes `value`."""

    pa: int
    value: int


@dataclass(frozen=True, slots=True)
class Invlpg:
    """INVLPG of a linear address."""

    va: int


@dataclass(frozen=True, slots=True)
class Invpcid:
    """INVPCID: 0 one address of one PCID, 1 one PCID, 2 everything, 3 all but global pages."""

    type: int
    pcid: int = 0
    va: int = 0


@dataclass(frozen=True, slots=True)
class MovCr0:
    """MOV to CR0."""

    value: int


@dataclass(frozen=True, slots=True)
class MovCr3:
    """MOV to CR3 of this source operand; bit 63 is `NO_FLUSH`."""

    value: int


@dataclass(frozen=True, slots=True)
class MovCr4:
    """MOV to CR4."""

    value: int


@dataclass(frozen=True, slots=True)
class Wrpkru:
    """WRPKRU."""

    value: int


@dataclass(frozen=True, slots=True)
class Halted:
    """A processor's answer to a sequence: it stopped at step `at`, which is no access."""

    at: int
    why: str


Step = Store | Invlpg | Invpcid | MovCr0 | MovCr3 | MovCr4 | Wrpkru | Access


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Steps in order, from a state with nothing cached.

    `ram` are backed ranges (start, size) in bytes, `entries` the non-zero words of the paging
    structures by physical address; treat it as read-only. `BadInput` for a step that the
    processor refuses, or that isn't modelled, and outside IA-32e mode; LAM, LASS, UAI, PKS and an
    encryption mask aren't modelled in sequences.
    """

    context: PagingContext
    ram: tuple[tuple[int, int], ...]
    entries: Mapping[int, int]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.context.mode.long:
            mode = self.context.mode.value
            raise BadInput(f"sequences are of 4- and 5-level paging, not {mode} paging")
        for _ in self.contexts():
            pass

    def contexts(self) -> Iterator[PagingContext]:
        """Yield the control state before each step, and the one after the last."""
        context = self.context
        _require_plain(context)
        yield context
        for at, step in enumerate(self.steps):
            try:
                context = after(context, step)
                _require_plain(context)
            except BadInput as error:
                raise BadInput(f"$.steps[{at}]: {error}") from None
            yield context

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The steps that are accesses."""
        return tuple(step for step in self.steps if isinstance(step, Access))


def pcid_of(context: PagingContext) -> int:
    """Return the current PCID: 0 while CR4.PCIDE is clear."""
    return context.cr3 % _PCIDS if context.cr4 & PCIDE else 0


@lru_cache(1 << 12)
def after(context: PagingContext, step: Step) -> PagingContext:
    """Return the control state after a step; `BadInput` for what raises #GP or #UD.

    Intel SDM vol. 2B, "MOV—Move to/from Control Registers"; vol. 2A, "INVPCID—Invalidate
    Process-Context Identifier"; vol. 2D, "WRPKRU—Write Data to User Page Key Register".
    """
    match step:
        case MovCr0(value):
            return replace(context, cr0=value)
        case MovCr3(value):
            if value & NO_FLUSH and not context.cr4 & PCIDE:
                raise BadInput("bit 63 of CR3 with CR4.PCIDE clear")
            return replace(context, cr3=value & ~NO_FLUSH)
        case MovCr4(value):
            return _with_cr4(context, value)
        case Wrpkru(value):
            if not context.pke:
                raise BadInput("WRPKRU with CR4.PKE clear")
            return replace(context, pkru=value)
        case Invpcid():
            _check_invpcid(context, step)
    return context


def _require_plain(context: PagingContext) -> None:
    for name in (*context.address_features, *(["PKS"] if context.pks else [])):
        raise BadInput(f"sequences are not modelled with {name}")


def _with_cr4(context: PagingContext, value: int) -> PagingContext:
    if (value ^ context.cr4) & CR4.LA57:
        raise BadInput("CR4.LA57 can't change in long mode")
    if value & ~context.cr4 & PCIDE and context.cr3 % _PCIDS:
        raise BadInput("CR4.PCIDE set while CR3 bits 11:0 aren't 0")
    return replace(context, cr4=value)


def _check_invpcid(context: PagingContext, step: Invpcid) -> None:
    pcids = bool(context.cr4 & PCIDE)
    if not 0 <= step.type <= 3:
        raise BadInput(f"INVPCID type {step.type} is not within 0..3")
    if not 0 <= step.pcid < _PCIDS or (step.pcid and step.type < 2 and not pcids):
        raise BadInput(f"INVPCID of PCID {step.pcid:#x} with CR4.PCIDE = {int(pcids)}")
    if step.type == 0 and not context.canonical(step.va):
        raise BadInput(f"INVPCID of {step.va:#x}, which is not canonical")
