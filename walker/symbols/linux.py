"""Regions of a Linux kernel's address space on x86-64, with 4 and 5 levels.

Source: Linux, Documentation/arch/x86/x86_64/mm.rst, "Complete virtual memory map with 4-level page
tables" and "… with 5-level page tables". Where memory is randomised (CONFIG_RANDOMIZE_MEMORY), the
direct map, vmalloc and vmemmap begin where the variables page_offset_base, vmalloc_base and
vmemmap_base say. The parts of the kernel's image lie between symbols of its linker script
(arch/x86/kernel/vmlinux.lds.S).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.symbols.linear_memory import LinearMemory
from crosswalk.walker.symbols.spans import Span, SpanKind, Spans

__all__ = ["IMAGE", "LinuxRegions", "addresses_of", "all_addresses_of", "linux_regions"]

IMAGE = 0xFFFF_FFFF_8000_0000
"""Where the kernel's image may be mapped from on (__START_KERNEL_map)."""

_GIB, _TIB = 1 << 30, 1 << 40
_SMALL_IMAGE, _LARGE_IMAGE = 512 << 20, 1 << 30
_MODULES_END = 0xFFFF_FFFF_FF00_0000
_VSYSCALL = 0xFFFF_FFFF_FF60_0000
_ENTRY_AREA = 0xFFFF_FE00_0000_0000
_HALF_TIB = _TIB // 2


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where regions are with a number of levels, as [start, end); the direct map's greatest size.

    The first three are where they are without randomisation.
    """

    user: int
    hypervisor: tuple[int, int]
    ldt: tuple[int, int]
    direct_map: tuple[int, int]
    vmalloc: tuple[int, int]
    vmemmap: tuple[int, int]
    kasan: tuple[int, int]


_LAYOUTS = {
    PagingMode.LEVEL4: _Layout(
        user=1 << 47,
        hypervisor=(0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000),
        ldt=(0xFFFF_8800_0000_0000, 0xFFFF_8880_0000_0000),
        direct_map=(0xFFFF_8880_0000_0000, 0xFFFF_C880_0000_0000),
        vmalloc=(0xFFFF_C900_0000_0000, 0xFFFF_E900_0000_0000),
        vmemmap=(0xFFFF_EA00_0000_0000, 0xFFFF_EB00_0000_0000),
        kasan=(0xFFFF_EC00_0000_0000, 0xFFFF_FC00_0000_0000),
    ),
    PagingMode.LEVEL5: _Layout(
        user=1 << 56,
        hypervisor=(0xFF00_0000_0000_0000, 0xFF10_0000_0000_0000),
        ldt=(0xFF10_0000_0000_0000, 0xFF11_0000_0000_0000),
        direct_map=(0xFF11_0000_0000_0000, 0xFF91_0000_0000_0000),
        vmalloc=(0xFFA0_0000_0000_0000, 0xFFD2_0000_0000_0000),
        vmemmap=(0xFFD4_0000_0000_0000, 0xFFD6_0000_0000_0000),
        kasan=(0xFFDF_0000_0000_0000, 0xFFFF_FC00_0000_0000),
    ),
}

_BASES = ("page_offset_base", "vmalloc_base", "vmemmap_base")
_PARTS = (
    ("text", ("_text", "_stext"), ("_etext",)),
    ("rodata", ("__start_rodata",), ("__end_rodata",)),
    ("data", ("_sdata",), ("_edata",)),
    ("init", ("__init_begin",), ("__init_end",)),
    ("bss", ("__bss_start",), ("__bss_stop",)),
    ("brk", ("__brk_base",), ("__brk_limit", "_end")),
)
"""The parts of the image: the symbols, of which the first known one counts, that bound each."""
_MARKS = (*_BASES, "kernel_randomize_memory", "module_load_offset", "_end")
_WANTED = (*_MARKS, *(name for _, starts, ends in _PARTS for name in (*starts, *ends)))
_RANDOMISED = ("kernel_randomize_memory", "module_load_offset")
_MOST_LEAVES = 10_000_000


@dataclass(frozen=True, slots=True)
class LinuxRegions:
    """The regions, and those that hold others; `remarks` are sentences about what isn't known."""

    regions: Spans
    wider: tuple[Span, ...]
    remarks: tuple[str, ...] = ()


def addresses_of(symbols: Spans, wanted: Iterable[str]) -> dict[str, int]:
    """Return the addresses of these symbols that there are, the first of each name."""
    return {name: found[0] for name, found in all_addresses_of(symbols, wanted).items()}


def all_addresses_of(symbols: Spans, wanted: Iterable[str]) -> dict[str, list[int]]:
    """Return the addresses of these symbols that there are; several may have one name."""
    sought = {name.encode("utf-8", "surrogateescape") for name in wanted}
    found: dict[str, list[int]] = {}
    for row, name in enumerate(symbols.names.held):
        if name in sought:
            text = name.decode("utf-8", "surrogateescape")
            found.setdefault(text, []).append(int(symbols.start[row]))
    return found


def linux_regions(
    memory: PhysicalMemory,
    context: PagingContext,
    symbols: Spans,
    info: dict[str, str],
) -> LinuxRegions:
    """Return the regions of a Linux kernel's address space.

    `symbols` are the kernel's, at the addresses that it runs at, or none; `info` are the values of
    its VMCOREINFO by key, or none. Regions that can't be told without symbols are left out: under
    KASLR, all between the direct map and the CPU entry areas; the direct map is then where tables
    map most memory at one distance, a multiple of 1 GiB. Of a 32-bit kernel they are the parts of
    its image that symbols bound, for the rest is where its configuration says.
    """
    known = addresses_of(symbols, _WANTED)
    wider: tuple[Span, ...] = ()
    if "_text" in known and known["_text"] < known.get("_end", 0):
        wider = (Span("kernel", known["_text"], known["_end"], SpanKind.REGION),)
    if context.mode not in _LAYOUTS:
        image = [Span(*part, SpanKind.REGION) for part in _parts(known, 0, 1 << 32)]
        return LinuxRegions(Spans.of(SpanKind.REGION, image), wider)
    layout = _LAYOUTS[context.mode]
    found = [
        ("user", 0, layout.user),
        ("hypervisor", *layout.hypervisor),
        ("ldt-remap", *layout.ldt),
        ("cpu-entry-area", _ENTRY_AREA, _ENTRY_AREA + _HALF_TIB),
        ("espfix", _ENTRY_AREA + _TIB, _ENTRY_AREA + _TIB + _HALF_TIB),
        ("efi", 0xFFFF_FFEF_0000_0000, 0xFFFF_FFFF_0000_0000),
        ("fixmap", _MODULES_END, _VSYSCALL),
        ("vsyscall", _VSYSCALL, _VSYSCALL + 0x1000),
    ]
    randomised, remarks = _randomised(memory, context, layout, known, info)
    found += randomised
    image_end = IMAGE + _image_size(known, info)
    parts = list(_parts(known, IMAGE, image_end))
    found += _between(parts, IMAGE, image_end, "kernel")
    found += parts
    found.append(("modules", image_end, _MODULES_END))
    spans = [Span(name, start, end, SpanKind.REGION) for name, start, end in found]
    return LinuxRegions(Spans.of(SpanKind.REGION, spans), wider, tuple(remarks))


def _image_size(known: dict[str, int], info: dict[str, str]) -> int:
    """Return the size of the part for the image (KERNEL_IMAGE_SIZE), behind which modules are."""
    stated = info.get("NUMBER(KERNEL_IMAGE_SIZE)", "")
    for size in (_SMALL_IMAGE, _LARGE_IMAGE):
        if stated == str(size):
            return size
    randomised = any(name in known for name in _RANDOMISED) or "KERNELOFFSET" in info
    return _LARGE_IMAGE if randomised or not known else _SMALL_IMAGE


def _parts(known: dict[str, int], begin: int, limit: int) -> Iterator[tuple[str, int, int]]:
    """Yield the parts of the image in [begin, limit) that symbols bound, in order and apart."""
    found = []
    for name, starts, ends in _PARTS:
        start = next((known[each] for each in starts if each in known), None)
        end = next((known[each] for each in ends if each in known), None)
        if start is not None and end is not None and begin <= start < end <= limit:
            found.append((start, end, name))
    reached = begin
    for start, end, name in sorted(found):
        if start >= reached:
            yield name, start, end
            reached = end


def _between(
    parts: list[tuple[str, int, int]], start: int, end: int, name: str
) -> Iterator[tuple[str, int, int]]:
    """Yield what parts in order leave of [start, end), under this name."""
    for _, begins, ends in parts:
        if start < begins:
            yield name, start, begins
        start = ends
    if start < end:
        yield name, start, end


def _randomised(
    memory: PhysicalMemory,
    context: PagingContext,
    layout: _Layout,
    known: dict[str, int],
    info: dict[str, str],
) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Return the direct map, vmalloc and vmemmap, as far as they are known, and remarks."""
    fixed = (layout.direct_map[0], layout.vmalloc[0], layout.vmemmap[0])
    bases = _read_bases(memory, context, layout, known)
    variables = any(name in known for name in _BASES)
    why = "the variables that say so can't be read" if variables else "no symbols say so"
    base = None if bases is not None else _likely_direct_map(memory, context, layout)
    if base == fixed[0]:
        bases = fixed  # By chance that is one of thousands of places.
    moved = info.get("KERNELOFFSET", "0").strip("0")
    if bases is None and base is None and known and not variables and not moved:
        bases = fixed  # A kernel without variables for them, which are there to be randomised.
    if bases is not None:
        size = tuple(
            end - start for start, end in (layout.direct_map, layout.vmalloc, layout.vmemmap)
        )
        limit = layout.kasan[0] if bases == fixed else _ENTRY_AREA
        ends = (*bases[1:], limit)
        found = [
            (name, start, min(start + length, end))
            for name, start, length, end in zip(
                ("direct-map", "vmalloc", "vmemmap"), bases, size, ends, strict=True
            )
        ]
        return found + ([("kasan-shadow", *layout.kasan)] if bases == fixed else []), []
    if base is None:
        return [], [f"where the direct map, vmalloc and vmemmap are isn't known: {why}"]
    highest = max((start + size for start, size in memory.ranges), default=0)
    end = min(base + -(-highest // _GIB) * _GIB, _ENTRY_AREA)
    remark = (
        f"the direct map is at {base:#x} by the tables; where vmalloc and vmemmap are isn't known: "
        f"{why}"
    )
    return [("direct-map", base, end)], [remark]


def _read_bases(
    memory: PhysicalMemory, context: PagingContext, layout: _Layout, known: dict[str, int]
) -> tuple[int, ...] | None:
    """Return the values of the variables; None where they aren't there or make no sense."""
    if not all(name in known for name in _BASES):
        return None
    linear = LinearMemory(memory, context)
    try:
        found = tuple(linear.word(known[name]) for name in _BASES)
    except BadInput:
        return None
    in_order = layout.ldt[1] <= found[0] < found[1] < found[2] < _ENTRY_AREA
    return found if in_order and not any(each % _GIB for each in found) else None


def _likely_direct_map(
    memory: PhysicalMemory, context: PagingContext, layout: _Layout
) -> int | None:
    """Return the distance, a multiple of 1 GiB, at which tables map most memory; None for none."""
    totals: dict[int, int] = {}
    seen = 0
    for leaves in walk_leaves(memory, context, layout.ldt[1], _ENTRY_AREA):
        seen += len(leaves)
        if seen > _MOST_LEAVES:
            return None
        offset: U64 = leaves.va - leaves.pa
        fits = np.flatnonzero((offset % np.uint64(_GIB) == 0) & (offset >= layout.ldt[1]))
        values, row = np.unique(offset[fits], return_inverse=True)
        sums = np.zeros(len(values), np.uint64)
        np.add.at(sums, row, leaves.size[fits])
        for value, total in zip(values.tolist(), sums.tolist(), strict=True):
            totals[value] = totals.get(value, 0) + total
    return max(totals, key=lambda each: (totals[each], -each), default=None)
