"""Memory types: as the options ask for them, as a column, a selection, and as verdicts."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.names import address_text
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.listings import Coded, Column, Mapped
from crosswalk.emu.report.text import count_text, mapping_text, size_text
from crosswalk.walker.blocks import LEVEL_OF_SHIFT
from crosswalk.walker.chosen import Condition
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.mtrr_texts import mtrrs_from
from crosswalk.walker.frames import Frames
from crosswalk.walker.mappings import Kind
from crosswalk.walker.memory_types import MemoryTypes, Pat
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.symbols import Names
from crosswalk.walker.type_conflicts import TypeConflict, TypedFrames

__all__ = [
    "LINUX_PAT",
    "chosen_types",
    "conflict_lines",
    "frame_types_column",
    "of_types",
    "type_column",
    "type_kind",
    "typed_spaces",
]

LINUX_PAT = 0x0407_0506_0007_0106
"""IA32_PAT as Linux 6.1 programs it: WB, WC, UC-, UC, WB, WP, UC-, WT."""

_ASKING = ("types", "memory_type", "one_type")


def typed_spaces(options: argparse.Namespace, spaces: Spaces) -> tuple[Spaces, MemoryTypes | None]:
    """Return address spaces with what is assumed for memory types, and what decides those.

    As `chosen_types` does, and reports; None where no option asks for memory types, and `BadInput`
    for --pat or --mtrr then.
    """
    if any(getattr(options, name, None) for name in _ASKING):
        types, source = chosen_types(options, spaces.source)
        return replace(spaces, source=source), types
    for name in ("pat", "mtrr"):
        if getattr(options, name) is not None:
            raise BadInput(f"--{name} is about memory types, and no option asks for them")
    return spaces, None


def chosen_types(options: argparse.Namespace, source: Source) -> tuple[MemoryTypes, Source]:
    """Return what decides memory types, and the source with what is assumed for that.

    IA32_PAT is that of --pat, that of the source, or else the value after reset, which is assumed.
    What people should know of that is said on standard error.
    """
    pat = source.registers.pat if options.pat is None else options.pat
    mtrrs = None if options.mtrr is None else mtrrs_from(options.mtrr)
    types = MemoryTypes.of(source.context, None if pat is None else Pat(pat), mtrrs)
    assumed = []
    if pat is None:
        assumed.append(f"pat = {types.pat}")
        linux = f"; Linux 6.1 has {LINUX_PAT:#x}: give --pat" if source.vmcoreinfo else ""
        remark(f"assumed: pat = {types.pat}, the value after reset{linux}")
    if mtrrs is None:
        remark("memory types are the pages' own: MTRRs are not known (--mtrr)")
    return types, replace(source, assumed=(*source.assumed, *assumed))


def _kinds_of(types: MemoryTypes, rows: Mapped) -> NDArray[np.uint8]:
    """Return the `MemoryType` of each mapping, or of the first page of each range, uint8[n]."""
    size = np.uint64(1) << rows.shift.astype(np.uint64)
    return types.of_pages(rows.pa, size, LEVEL_OF_SHIFT.take(rows.shift), rows.flags)


def type_column(types: MemoryTypes) -> Column:
    """Return the extra column with the memory type."""

    def values(rows: Mapped, _: PagingContext) -> Coded:
        return Coded(_kinds_of(types, rows).astype(np.intp), _NAMES)

    meaning = "memory type, as --pat and --mtrr have it"
    return Column("memory_type", "TYPE", max(map(len, _NAMES)), values, meaning)


_NAMES = [""] * (max(MemoryType) + 1)
for _kind in MemoryType:
    _NAMES[_kind] = _kind.text


def of_types(types: MemoryTypes, wanted: Sequence[str]) -> Condition[PagingContext]:
    """Return the condition that mappings have one of these memory types, by their names."""
    chosen = np.array([name in wanted for name in _NAMES])
    return lambda pages, _: chosen[_kinds_of(types, pages)]


def type_kind(types: MemoryTypes) -> Kind:
    """Return what keeps ranges from going on from one memory type into another."""
    return lambda rows: _kinds_of(types, rows)


def frame_types_column(typed: TypedFrames) -> Column:
    """Return the extra column with the memory types that physical ranges are mapped with."""
    masks, codes = np.unique(typed.types, return_inverse=True)
    texts = [" ".join(_type_names(mask)) for mask in masks.tolist()]

    def values(rows: Frames, _: PagingContext) -> Coded:
        return Coded(codes[np.searchsorted(typed.frames.start, rows.start)], texts)

    width = max(map(len, texts), default=0)
    return Column("memory_types", "TYPES", width, values, "memory types of all mappings of it")


def _type_names(mask: int) -> list[str]:
    """Return the names of memory types, of which bit n is `MemoryType` n."""
    return [name for at, name in enumerate(_NAMES) if mask >> at & 1]


def conflict_lines(found: Sequence[TypeConflict], names: Names) -> Iterator[str]:
    """Yield ranges in conflict as lines, each with its mappings, and what their addresses are."""
    total = size_text(sum(each.size for each in found))
    are = "is" if len(found) == 1 else "are"
    yield f"{count_text(len(found), 'range')}, {total}, {are} mapped with several memory types:"
    for each in found:
        last, kinds = each.pa + each.size - 1, " ".join(kind.text for kind in each.types)
        yield f"{each.pa:013x}-{last:013x} {size_text(each.size):>12} {kinds}"
        for kind, mappings in each.mappings:
            for mapping in mappings:
                called = address_text(names, mapping.va)
                yield f"  {kind.text:<9} through {mapping_text(mapping)}{called}"
