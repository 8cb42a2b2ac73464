"""A host's tables as text: how they are read, what of them can't be followed, single mappings."""

from collections.abc import Iterator, Sequence

from crosswalk.emu.report.ept import ept_context_text, ept_flags_text
from crosswalk.emu.report.text import flags_text, rights_text, size_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.nested.ept import (
    EPT_MEMORY_TYPES,
    EPT_TYPE_MASK,
    EPT_TYPE_SHIFT,
    misconfigured,
)
from crosswalk.walker.nested.second_level import EptTables, NptTables
from crosswalk.walker.unfollowed import Reason, Unfollowed, UnfollowedEntry

__all__ = [
    "TYPE_NAMES",
    "doubt_text",
    "guest_mapping_text",
    "host_context_text",
    "host_unfollowed_lines",
    "pointer_name",
]

TYPE_NAMES: Sequence[str] = [EPT_MEMORY_TYPES.get(number, "").upper() for number in range(8)]
"""The memory types of an EPT's leaves, by number."""


def pointer_name(tables: EptTables | NptTables) -> str:
    """Return what the register is called that refers to the first table."""
    return "EPTP" if isinstance(tables, EptTables) else "nCR3"


def doubt_text(tables: EptTables | NptTables) -> str:
    """Return the question whether the register is the one that was meant."""
    return "is the EPTP right?" if isinstance(tables, EptTables) else "is nCR3 right?"


def host_context_text(tables: EptTables | NptTables) -> str:
    """Return how a host's tables are read, in one line."""
    if isinstance(tables, EptTables):
        return ept_context_text(tables.context)
    return _npt_context_text(tables.context, gmet=tables.gmet)


def _npt_context_text(host: PagingContext, *, gmet: bool = False) -> str:
    """Return how AMD's nested tables are read, in one line."""
    mask = host.encryption_mask
    encrypted = f", encryption mask {mask:#x}" if mask else ""
    return (
        f"{host.levels}-level nested tables, nCR3 {host.cr3:#x}, NXE {int(host.nxe)}, "
        f"MAXPHYADDR {host.maxphyaddr}{'' if host.page1gb else ', no 1-GiB pages'}{encrypted}"
        f"{', GMET' if gmet else ''}"
    )


def host_unfollowed_lines(tables: EptTables | NptTables, found: Unfollowed) -> Iterator[str]:
    """Yield what can't be followed, the first few entries by name; nothing where all can be."""
    if found.outside:
        one = found.outside == 1
        refer = "1 entry refers" if one else f"{found.outside:,} entries refer"
        yield f"{refer} to tables outside SOURCE's memory"
    if found.reserved:
        one = found.reserved == 1
        wrong = "is misconfigured" if one else "are misconfigured"
        if isinstance(tables, NptTables):
            wrong = f"{'sets' if one else 'set'} reserved bits, or PS where no page can be"
        yield f"{'1 entry' if one else f'{found.reserved:,} entries'} {wrong}"
    for each in found.first:
        yield f"  {_entry_text(tables, each)}"
    if len(found) > len(found.first):
        yield f"  … and {len(found) - len(found.first):,} more"
    if found.implausible:
        yield f"most entries of the root, or of all tables, make no sense: {doubt_text(tables)}"


def _entry_text(tables: EptTables | NptTables, each: UnfollowedEntry) -> str:
    why = "its table lies outside memory"
    if each.reason is Reason.RESERVED:
        why = "sets a reserved bit"
        if isinstance(tables, EptTables):
            why = str(misconfigured(tables.context, each.level, each.entry))
    name = tables.formats[each.level].entry
    return f"{name} at {each.pa:#x} = {each.entry:#x}, gpa {each.va:#x}: {why}"


def guest_mapping_text(tables: EptTables | NptTables, mapping: Mapping) -> str:
    """Return one page of guest-physical addresses as a line, with its memory type if it has one."""
    flags, kind = flags_text(mapping.level, mapping.flags), ""
    if isinstance(tables, EptTables):
        flags = ept_flags_text(mapping.flags, mapping.level)
        kind = f"  {TYPE_NAMES[(mapping.flags & EPT_TYPE_MASK) >> EPT_TYPE_SHIFT]}"
    return (
        f"{mapping.va:013x} {mapping.pa:013x} {size_text(mapping.size):>7} "
        f"{rights_text(mapping.rights)}  {flags}{kind}"
    )
