"""Find the roots of a memory: what is named first, then what a search of the memory finds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.formats.registers import ASSUMED_WIDTH, NOT_GIVEN, Registers
from crosswalk.walker.formats.sources import Contents, SourceKind
from crosswalk.walker.formats.suggested_map import hole_maps
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.roots.named import (
    SCAN,
    VMCOREINFO,
    Named,
    named_by_registers,
    named_by_vmcoreinfo,
)
from crosswalk.walker.roots.passes import Progress
from crosswalk.walker.roots.root import Roots
from crosswalk.walker.roots.vmcoreinfo import texts_in_memory

__all__ = ["find_roots"]

_NOT_ASKED = "that wasn't asked for"


def find_roots(
    contents: Contents,
    registers: Registers = NOT_GIVEN,
    *,
    scan: bool = True,
    until_one: bool = False,
    width: int = ASSUMED_WIDTH,
    progress: Progress | None = None,
) -> Roots:
    """Return the roots of a memory, best first: of the same memory the same, in the same order.

    Those that somebody names come first: `registers` if they have CR3, the chosen CPU, the others,
    a header, VMCOREINFO in a note or header. With `scan` all memory is searched as well: for
    VMCOREINFO where none was there, then for tables. With `until_one`, the ways after the first
    that finds a root are left out. Other values of `registers` go before what the contents say;
    `width` is the MAXPHYADDR to take where none is known, in bits. `progress` is told
    of each pass by name: how many frames, or candidates, of how many were looked at.

    A memory that can't be searched, since too much in it looks like tables, has a remark.
    """
    # With what it takes to know a source alone, commands start quicker.
    from crosswalk.walker.roots.describe import described  # noqa: PLC0415
    from crosswalk.walker.roots.scan import scan as scan_memory  # noqa: PLC0415

    memory = contents.memory
    named, remarks = named_by_registers(contents, registers, width)
    known = replace(registers.over(contents.registers), cr3=None)
    rank = len(named)

    def go_on() -> bool:
        return not (until_one and named)

    if go_on():
        said = [contents.vmcoreinfo]
        named += named_by_vmcoreinfo(memory, said, known, width, rank, stated=True)
    if scan and go_on() and not any(each.source == VMCOREINFO for each in named):
        texts = tuple(texts_in_memory(memory, progress))
        found = list(named_by_vmcoreinfo(memory, texts, known, width, rank + 1))
        named += found
        if not found and contents.kind is SourceKind.RAW:
            remarks += _by_a_map(memory, texts, known, width)
    unsearched = _NOT_ASKED
    if scan and go_on():
        contexts = [each.context for each in named]
        try:
            roots, others = scan_memory(memory, known, contexts, width, progress)
        except LimitExceeded as error:
            unsearched = str(error)
            remarks.append(unsearched)
        else:
            unsearched = ""
            named += [Named(SCAN, context, rank + 2) for context in roots]
            remarks += others
    return Roots(described(memory, named), tuple(remarks), unsearched)


def _by_a_map(
    memory: PhysicalMemory, texts: Sequence[str], known: Registers, width: int
) -> Iterator[str]:
    """Yield by which memory map of a raw image a root of VMCOREINFO makes sense, if by any."""
    for text, moved in hole_maps(memory) if texts else ():
        for each in named_by_vmcoreinfo(moved, texts, known, width, 0):
            yield (
                f"VMCOREINFO names root {each.context.root:#x}, which makes sense with "
                f"--memory-map {text} (the RAM below a PC's hole)"
            )
            return
