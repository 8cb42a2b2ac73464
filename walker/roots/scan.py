"""A search of all memory for roots, which knows no system."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.roots.groups import of_one_kernel
from crosswalk.walker.roots.legacy import roots_of_32bit, roots_of_pae
from crosswalk.walker.roots.levels import tables_by_level
from crosswalk.walker.roots.passes import Progress
from crosswalk.walker.roots.sieve import Form, Sieved, sieve
from crosswalk.walker.roots.units import likely_roots

__all__ = ["scan"]

_LEFT = "{:,} more frames could be roots, or tables below others: too many to tell them apart"
_UNLIKE = (
    "{:,} frames could be page directories or page tables, which look alike in 32-bit paging: only "
    "those with the kernel's mappings of a root that is known are taken for roots"
)
_BARRED = (
    "{:,} places could be roots of PAE paging, but set a reserved bit in a PDPTE, so that none of "
    "them can be entered (QEMU without KVM leaves A there)"
)


def scan(
    memory: PhysicalMemory,
    known: Registers,
    named: Sequence[PagingContext],
    width: int,
    progress: Progress | None = None,
) -> tuple[list[PagingContext], list[str]]:
    """Return the contexts of the roots that all memory holds, and sentences about others.

    `named` are the contexts of roots that are known: others are of the first one's mode, and the
    tables below them are no roots; in 32-bit paging, others have the kernel's mappings of one of
    them. Else the `known` registers decide on the mode, and without them
    what makes sense: 5 levels or 4; where no two of these roots are alike, PAE paging; and where
    there are none at all, 32-bit paging. `width` is the MAXPHYADDR to take where none is known, in
    bits.

    Raises `BadInput` where the registers are those of no mode, and `LimitExceeded` where more
    frames could be tables, or roots, than are looked at.
    """
    templates = list(_templates(known, named, width))
    no_xd = known.efer is not None and not known.efer & EFER.NXE
    form = Form(known.encryption_mask or 0, known.maxphyaddr, xd=not no_xd)
    search = _Search(memory, form, progress)
    # Frames that are roots already, or tables below one: of another mode, they are no roots.
    gone = np.zeros(0, np.uint64)
    found: list[PagingContext] = []
    remarks: list[str] = []
    most = 0
    for template in templates:
        mode = template.mode
        if (most > 1 and not mode.long) or (found and mode is PagingMode.BIT32):
            break
        candidates = np.setdiff1d(search.candidates(mode), gone)
        some = [context for context in named if context.mode is mode]
        if some and mode is PagingMode.BIT32:
            known_roots = np.array([context.root for context in some], np.uint64)
            alike = of_one_kernel(memory, template, known_roots, candidates)
            if unlike := len(np.setdiff1d(candidates, np.union1d(alike, known_roots))):
                remarks.append(_UNLIKE.format(unlike))
            candidates = alike
        roots = likely_roots(
            memory, template, some, candidates, alone=len(templates) == 1, progress=progress
        )
        found += [replace(template, cr3=root) for root in roots.found.tolist()]
        most = max(most, roots.most)
        gone = np.union1d(gone, np.union1d(roots.found, roots.below))
        if roots.left:
            remarks.append(_LEFT.format(roots.left))
        if roots.barred:
            remarks.append(_BARRED.format(roots.barred))
            break
    return found, remarks


class _Search:
    """What could be a root in each mode; what all memory is read for once is kept."""

    def __init__(self, memory: PhysicalMemory, form: Form, progress: Progress | None) -> None:
        self._memory, self._form, self._progress = memory, form, progress
        self._known: tuple[Sieved, dict[int, U64]] | None = None

    def candidates(self, mode: PagingMode) -> U64:
        """Return the addresses of what could be roots in a mode, ascending."""
        if mode is PagingMode.BIT32:
            return roots_of_32bit(self._memory, self._progress)
        if self._known is None:
            sieved = sieve(self._memory, self._form, self._progress)
            self._known = sieved, tables_by_level(self._memory, self._form, sieved, self._progress)
        sieved, levels = self._known
        if mode is PagingMode.PAE:
            return roots_of_pae(self._memory, self._form, sieved, levels[2], self._progress)
        return levels[5 if mode is PagingMode.LEVEL5 else 4]


def _templates(
    known: Registers, named: Sequence[PagingContext], width: int
) -> Iterator[PagingContext]:
    """Yield the contexts, but for CR3, in which roots are looked for, in that order.

    Raises `BadInput` where the known registers are those of no mode.
    """
    if named:
        yield replace(named[0], cr3=0)
        return
    none = BadInput("the registers are those of no paging mode")
    count = 0
    # Tables of 4 levels hardly ever make sense with 5, those of 5 do with 4.
    for levels, long_mode in (
        (CR4.PAE | CR4.LA57, True),
        (CR4.PAE, True),
        (CR4.PAE, False),
        (CR4.PSE, False),
    ):
        registers = replace(known, cr3=0)
        if known.cr4 is None:
            registers = replace(registers, cr4=int(levels))
        elif (known.cr4 ^ levels) & (CR4.PAE | CR4.LA57):
            continue
        if known.efer is None:
            registers = replace(registers, long_mode=long_mode)
        elif bool(known.efer & EFER.LMA) is not long_mode:
            continue
        try:
            context = registers.context(width=width)
        except BadInput as error:
            # As an encryption mask, which 32-bit paging hasn't.
            none = error
            continue
        count += 1
        yield context
    if not count:
        raise none
