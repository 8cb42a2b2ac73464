"""Roots that somebody names: options, the registers of CPUs, headers, VMCOREINFO."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.walker.context import CR0, CR4, EFER, PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.modes import with_mode
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.formats.sources import Contents, SourceKind
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.roots.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo
from crosswalk.walker.unfollowed import unfollowed

__all__ = ["SCAN", "VMCOREINFO", "Named", "named_by_registers", "named_by_vmcoreinfo"]

SCAN, VMCOREINFO = "scan", "vmcoreinfo"


@dataclass(frozen=True, slots=True)
class Named:
    """A root as somebody names it: by whom, in which context, and how good that is (0 is best)."""

    source: str
    context: PagingContext
    rank: int


def named_by_registers(
    contents: Contents, given: Registers, width: int
) -> tuple[list[Named], list[str]]:
    """Return the roots that registers name, and why others that they name are none.

    Those of `given` first, then those of the chosen CPU. `width` is the MAXPHYADDR to take where
    none is known.
    """
    found: list[Named] = []
    remarks: list[str] = []
    for source, known in _registers(contents, given):
        if known.cr3 is None or not _pages(known):
            continue
        try:
            everything, _ = with_mode(contents.memory, known, is_386=contents.machine == "386")
            context = everything.context(width=width)
        except BadInput as error:
            remarks.append(f"{source}: {error}")
            continue
        if not contents.memory.backed(np.array([context.root & -FRAME], np.uint64))[0]:
            remarks.append(f"{source}: CR3 {context.cr3:#x} points outside the image")
            continue
        found.append(Named(source, context, len(found)))
    return found, remarks


def _registers(contents: Contents, given: Registers) -> Iterator[tuple[str, Registers]]:
    if given.cr3 is not None:
        yield "given", given.over(contents.registers)
    # What is given is said of every CPU, but for the root.
    given = replace(given, cr3=None)
    numbers = sorted(range(len(contents.cpus)), key=lambda at: (at != contents.cpu, at))
    for number in numbers:
        yield f"cpu {number}", given.over(contents.cpus[number])
    if not contents.cpus:
        name = "case" if contents.kind is SourceKind.CASE else "header"
        yield name, given.over(contents.registers)


def _pages(registers: Registers) -> bool:
    return registers.cr0 is None or bool(registers.cr0 & CR0.PG)


def named_by_vmcoreinfo(
    memory: PhysicalMemory,
    texts: Iterable[str],
    known: Registers,
    width: int,
    rank: int,
    *,
    stated: bool = False,
) -> Iterator[Named]:
    """Yield the roots that texts of VMCOREINFO name and that make sense, all of one rank.

    `known` are registers that go before what VMCOREINFO says of the mode; its CR3 is left out.
    `stated` says that the dump itself gives the text: the one root in it then has to map
    something, and may refer to any number of tables that were left out, as zero-filled ones are.
    """
    for info in map(parse_vmcoreinfo, texts):
        if info is None:
            continue
        for root in info.roots:
            registers = _registers_of(info, replace(known, cr3=root))
            sure = stated and len(info.roots) == 1
            context = _context(memory, registers, width, sure=sure)
            if context is not None:
                yield Named(VMCOREINFO, context, rank)


def _context(
    memory: PhysicalMemory, registers: Registers, width: int, *, sure: bool
) -> PagingContext | None:
    """Return the context of these registers if the tables make sense in it, else None.

    Tables of a root that is `sure` need not.
    """
    try:
        context = registers.context(width=width)
    except BadInput:
        return None
    if not memory.backed(np.array([context.root & -FRAME], np.uint64))[0]:
        return None
    # Not before: most sources have registers.
    from crosswalk.walker.roots.units import TABLES, sense_of  # noqa: PLC0415

    if sure:
        return context if unfollowed(memory, context, tables=TABLES).leaves else None
    return context if sense_of(memory, context) is not None else None


def _registers_of(info: Vmcoreinfo, known: Registers) -> Registers:
    if info.encryption_mask and known.encryption_mask is None:
        known = replace(known, encryption_mask=info.encryption_mask)
    if info.pae is None:
        levels = CR4.PAE | (CR4.LA57 if info.five_levels else 0)
        efer = None
    else:
        levels = CR4.PSE | (CR4.PAE if info.pae else 0)
        efer = int(EFER.NXE) if info.pae else 0
    cr4 = int(levels) if known.cr4 is None else known.cr4
    return replace(known, cr4=cr4, efer=efer if known.efer is None else known.efer)
