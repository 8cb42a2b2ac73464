"""What a source has, and what of it can't be followed: for people and for machines."""

from collections.abc import Iterator
from typing import Any

from crosswalk.emu.report.text import context_text, size_text
from crosswalk.walker.encryption import encryption_mask_hint, likely_encryption_mask
from crosswalk.walker.entry import level_of
from crosswalk.walker.formats import Contents, Source, SourceKind
from crosswalk.walker.unfollowed import Reason, Unfollowed, UnfollowedEntry

__all__ = [
    "begins_text",
    "encryption_lines",
    "format_text",
    "missing_text",
    "source_text",
    "spaces_text",
    "unfollowed_lines",
    "unfollowed_record",
]

_CPUS = 4
_REASONS = {
    Reason.OUTSIDE: "its table lies outside memory",
    Reason.RESERVED: "sets a reserved bit",
}


def source_text(source: Source) -> str:
    """Return the format, CPUs, ranges and control state of a source in one line."""
    parts = [format_text(source)]
    if source.cpus:
        parts.append(_cpus_text(source))
    ranges = source.memory.ranges
    total = sum(size for _, size in ranges)
    parts.append(f"{size_text(total)} in {len(ranges):,} range{'s' if len(ranges) != 1 else ''}")
    return f"{source.name}: {', '.join(parts)}; {context_text(source.context)}"


def format_text(source: Contents) -> str:
    """Return the format of a source in a few words."""
    if source.kind is SourceKind.CASE:
        return "case file"
    if source.kind is SourceKind.ELF:
        return f"ELF core of {'a 386' if source.machine == '386' else source.machine}"
    return "booted guest" if source.complete else "raw image"


def missing_text(source: Contents) -> str:
    """Return how many bytes a core speaks of and doesn't hold."""
    return f"{source.missing:,} bytes of segments aren't in the file"


def begins_text(source: Contents) -> str:
    """Return what speaks against a file's being the raw image that it is taken for."""
    return f"the file begins as a file of another kind ({source.begins_as}): is it a raw image?"


def spaces_text(source: Contents) -> str | None:
    """Return how many of a core's address spaces this one is of; None where it is the only one."""
    if source.address_spaces == 1:
        return None
    return f"1 of {source.address_spaces} address spaces (--cpu N chooses another)"


def unfollowed_lines(source: Source, found: Unfollowed) -> Iterator[str]:
    """Yield what can't be followed, the first few entries by name; nothing where all can be."""
    if found.outside:
        yield f"{_entries(found.outside, 'refer')} to tables outside SOURCE's memory"
    if found.reserved:
        yield f"{_entries(found.reserved, 'set')} reserved bits, or PS where no page can be"
    for each in found.first:
        yield f"  {_entry_text(source, each)}"
    if len(found) > len(found.first):
        yield f"  … and {len(found) - len(found.first):,} more"
    if found.implausible:
        yield (
            "most entries of the root, or of all tables, make no sense: "
            "are CR3 and the paging mode right?"
        )
        yield from encryption_lines(source)
    if found.beyond_40 and not source.width_known:
        yield (
            f"{_entries(found.beyond_40, 'need')} more than 40 bits of physical address, "
            f"{found.beyond_46:,} of them more than 46: give --maxphyaddr if the CPU has fewer"
        )


def encryption_lines(source: Source) -> Iterator[str]:
    """Yield the encryption mask that the root suggests, as it is stated; nothing without one."""
    mask = likely_encryption_mask(source.memory, source.context)
    if mask:
        hint = encryption_mask_hint(mask, case=source.case is not None)
        yield f"the root's entries share bits that may be no address: {hint}?"


def unfollowed_record(found: Unfollowed) -> dict[str, Any]:
    """Return what can't be followed as the summaries have it."""
    return {"outside": found.outside, "reserved": found.reserved}


def _entries(count: int, verb: str) -> str:
    return f"1 entry {verb}s" if count == 1 else f"{count:,} entries {verb}"


def _entry_text(source: Source, each: UnfollowedEntry) -> str:
    name = level_of(source.context, each.level).entry
    return f"{name} at {each.pa:#x} = {each.entry:#x}, va {each.va:#x}: {_REASONS[each.reason]}"


def _cpus_text(source: Source) -> str:
    roots = [f"{each.cr3:#x}" for each in source.cpus[:_CPUS] if each.cr3 is not None]
    if len(source.cpus) > _CPUS:
        roots.append("…")
    if len(source.cpus) == 1:
        return f"1 CPU (CR3 {roots[0]})"
    return f"CPU {source.cpu} of {len(source.cpus)} (CR3 {', '.join(roots)})"
