"""What is known of a source, for people and for machines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from crosswalk.emu.report.text import context_text, size_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.encryption import encryption_mask_hint, likely_encryption_mask
from crosswalk.walker.entry import FORMATS, LEVELS, level_of
from crosswalk.walker.formats import Contents, Registers, Source, SourceKind
from crosswalk.walker.formats.suggested_map import suggested_map
from crosswalk.walker.unfollowed import Reason, Unfollowed, UnfollowedEntry

__all__ = [
    "contents_lines",
    "contents_record",
    "encryption_lines",
    "format_text",
    "info_lines",
    "info_record",
    "lack_lines",
    "memory_text",
    "roots_text",
    "source_text",
    "spaces_text",
    "strays_count",
    "strays_text",
    "unfollowed_lines",
    "unfollowed_record",
    "width_lines",
]


_CPUS = 4
_REASONS = {
    Reason.OUTSIDE: "its table lies outside memory",
    Reason.RESERVED: "sets a reserved bit",
}


def source_text(source: Source) -> str:
    """Return the format, CPUs, ranges and control state of a source in one line."""
    return f"{memory_text(source)}; {context_text(source.context)}"


def memory_text(source: Contents) -> str:
    """Return the name, format, CPUs and ranges of a source in one line."""
    parts = [format_text(source)]
    if source.cpus:
        parts.append(_cpus_text(source))
    ranges = source.memory.ranges
    total = sum(size for _, size in ranges)
    parts.append(f"{size_text(total)} in {len(ranges):,} range{'s' if len(ranges) != 1 else ''}")
    return f"{source.name}: {', '.join(parts)}"


def format_text(source: Contents) -> str:
    """Return the format of a source in a few words, and what was unpacked to read it."""
    unpacked = f" (unpacked from {source.unpacked})" if source.unpacked else ""
    return f"{_format_text(source)}{unpacked}"


def _format_text(source: Contents) -> str:
    if source.format:
        return source.format
    if source.kind is SourceKind.CASE:
        return "case file"
    if source.kind is SourceKind.ELF:
        return f"ELF core of {'a 386' if source.machine == '386' else source.machine}"
    return "booted guest" if source.complete else "raw image"


def _missing_text(source: Contents) -> str:
    """Return how many bytes a core speaks of and doesn't hold."""
    if source.kind is SourceKind.KDUMP:
        return f"{source.missing:,} bytes of memory that belong to the dump aren't there"
    return f"{source.missing:,} bytes of segments aren't in the file"


def _excluded_text(source: Contents) -> str:
    """Return how much of the machine's RAM a dump leaves out on purpose."""
    return f"{size_text(source.excluded)} of RAM are excluded from the dump"


def _begins_text(source: Contents) -> str:
    """Return what speaks against a file's being the raw image that it is taken for."""
    return f"the file begins as a file of another kind ({source.begins_as}): is it a raw image?"


def spaces_text(source: Contents) -> str | None:
    """Return how many of a core's address spaces this one is of; None where it is the only one."""
    if source.address_spaces == 1:
        return None
    return f"1 of {source.address_spaces} address spaces (--cpu N chooses another)"


def roots_text(
    contexts: Sequence[PagingContext], known: int | None, strays: int = 0, *, of_cpus: bool = False
) -> str:
    """Return which roots are spoken of: how many of those that are `known`, if anybody looked.

    `strays` are known, too, but left out. `of_cpus` says that the known ones are those of CPUs.
    """
    count = len(contexts)
    if known is None:
        return f"root {contexts[0].root:#x}" if count == 1 else f"{count:,} roots"
    left = f", {strays_count(strays)} left out" if strays else ""
    if of_cpus:
        every = f"the CPUs' {known:,} roots" if known > 1 else "the CPUs' one root"
        return every if count == known else f"{count:,} of {every}"
    if count < known:
        return f"{count:,} of {known:,} known roots{left}"
    return f"{'the one known root' if count == 1 else f'all {count:,} known roots'}{left}"


def strays_count(count: int) -> str:
    """Return a number of strays in words."""
    return f"{count:,} stray{'s' if count != 1 else ''}"


def strays_text(count: int) -> str:
    """Return that so many roots, strays, are left out, and how to have them."""
    roots = "1 root of other tables" if count == 1 else f"{count:,} roots of other tables"
    them = "it" if count == 1 else "them"
    return f"{roots} (stale, or another system's) left out: --roots LIST takes {them}"


def unfollowed_lines(
    source: Source, found: Unfollowed, named: Callable[[int], str] = lambda _: ""
) -> Iterator[str]:
    """Yield what can't be followed, the first few entries by name; nothing where all can be.

    `named` is what is said behind an entry of the linear address that it is for.
    """
    if found.outside:
        yield f"{_entries(found.outside, 'refer')} to tables outside SOURCE's memory"
    if found.reserved:
        yield f"{_entries(found.reserved, 'set')} reserved bits, or PS where no page can be"
    for each in found.first:
        yield f"  {_entry_text(each)}{named(each.va)}"
    if len(found) > len(found.first):
        yield f"  … and {len(found) - len(found.first):,} more"
    if found.implausible:
        yield (
            "most entries of the root, or of all tables, make no sense: "
            "are CR3 and the paging mode right?"
        )
        yield from encryption_lines(source)
    yield from _map_lines(source, found)
    if not source.width_known:
        yield from width_lines(found)


def width_lines(found: Unfollowed) -> Iterator[str]:
    """Yield how many entries need a wide physical address, where it isn't known how wide it is."""
    if found.beyond_40:
        yield (
            f"{_entries(found.beyond_40, 'need')} more than 40 bits of physical address, "
            f"{found.beyond_46:,} of them more than 46: give --maxphyaddr if the CPU has fewer"
        )


def _map_lines(source: Source, found: Unfollowed) -> Iterator[str]:
    sensible = found.entries and not len(found)
    if source.kind is not SourceKind.RAW or source.complete or sensible:
        return
    suggested = suggested_map(source.memory, source.context)
    if suggested is not None:
        text, without, left = suggested
        yield (
            f"with --memory-map {text} (the RAM below a PC's hole) {left.entries:,} entries of "
            f"tables would be found, {len(left):,} of which can't be followed; without it "
            f"{without.entries:,} and {len(without):,}"
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


def _entry_text(each: UnfollowedEntry) -> str:
    name = (LEVELS if each.mode is None else FORMATS[each.mode])[each.level].entry
    return f"{name} at {each.pa:#x} = {each.entry:#x}, va {each.va:#x}: {_REASONS[each.reason]}"


def _cpus_text(source: Contents) -> str:
    roots = [f"{each.cr3:#x}" for each in source.cpus[:_CPUS] if each.cr3 is not None]
    if len(source.cpus) > _CPUS:
        roots.append("…")
    if len(source.cpus) == 1:
        return f"1 CPU (CR3 {roots[0]})"
    return f"CPU {source.cpu} of {len(source.cpus)} (CR3 {', '.join(roots)})"


_RANGES = 8
_NOTES = 16
_DECIMAL = {"maxphyaddr"}


def contents_lines(contents: Contents) -> Iterator[str]:
    """Yield what a file has, whether or not it's known where its tables begin."""
    yield f"{contents.name}: {format_text(contents)}"
    for number, registers in enumerate(contents.cpus):
        chosen = ", chosen" if number == contents.cpu and len(contents.cpus) > 1 else ""
        values = ", ".join(f"{name} = {value}" for name, value in _registers(registers).items())
        yield f"CPU {number}{chosen}: {values.lower()}"
    spaces = spaces_text(contents)
    if spaces is not None:
        yield f"this is {spaces}"
    if contents.notes:
        names = [f"{name} (type {kind:#x}, {size:,} bytes)" for name, kind, size in contents.notes]
        yield f"notes: {_some(names, _NOTES)}"
    ranges = contents.memory.ranges
    total = sum(size for _, size in ranges)
    yield f"memory: {size_text(total)} in {_some([_range(*each) for each in ranges], _RANGES)}"
    holes = _holes(contents)
    if holes:
        yield f"holes: {_some([_range(*each) for each in holes], _RANGES)}"
    yield from lack_lines(contents)


def lack_lines(contents: Contents) -> Iterator[str]:
    """Yield what a file lacks, and whether it begins as another format does."""
    if contents.missing:
        yield _missing_text(contents)
    if contents.excluded:
        yield _excluded_text(contents)
    if contents.begins_as:
        yield _begins_text(contents)


def info_lines(source: Source, levels: Mapping[int, int], found: Unfollowed) -> Iterator[str]:
    """Yield what is known of a source; `levels` is the number of leaves by level."""
    yield from contents_lines(source)
    yield f"context: {context_text(source.context)}"
    yield f"assumed: {', '.join(source.assumed) or 'nothing'}"
    yield from source.remarks
    counts = ", ".join(
        f"{count:,} by a {level_of(source.context, level).entry}"
        for level, count in levels.items()
        if count
    )
    yield f"mappings: {sum(levels.values()):,}{f' ({counts})' if counts else ''}"
    yield (
        f"present entries: {found.entries:,}, of which {len(found):,} can't be followed and "
        f"{found.leaves_outside:,} map what is not in memory"
    )
    yield from unfollowed_lines(source, found)


def contents_record(contents: Contents) -> dict[str, Any]:
    """Return the lines of `contents_lines` as `info --json` prints them."""
    ranges = contents.memory.ranges
    return {
        "source": contents.name,
        "kind": contents.kind.value,
        "format": format_text(contents),
        "begins_as": contents.begins_as,
        "unpacked": contents.unpacked,
        "cpus": [_registers(each) for each in contents.cpus],
        "cpu": contents.cpu if contents.cpus else None,
        "address_spaces": contents.address_spaces,
        "notes": [
            {"name": name, "type": kind, "size": size} for name, kind, size in contents.notes
        ],
        "memory": {
            "size": sum(size for _, size in ranges),
            "ranges": [[hex(start), hex(size)] for start, size in ranges],
            "holes": [[hex(start), hex(size)] for start, size in _holes(contents)],
            "missing": contents.missing,
            "excluded": contents.excluded,
            "complete": contents.complete,
        },
    }


def info_record(source: Source, levels: Mapping[int, int], found: Unfollowed) -> dict[str, Any]:
    """Return the lines of `info_lines` as `info --json` prints them."""
    context = source.context
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    return {
        **contents_record(source),
        "context": {
            "mode": context.mode.value,
            **{name: _value(name, value) for name, value in values.items()},
        },
        "assumed": list(source.assumed),
        "remarks": list(source.remarks),
        "mappings": sum(levels.values()),
        "mappings_by_level": {str(level): count for level, count in levels.items()},
        "unfollowed": unfollowed_record(found),
        "first_unfollowed": [
            {
                "level": each.level,
                "pa": hex(each.pa),
                "entry": hex(each.entry),
                "va": hex(each.va),
                "reason": each.reason.value,
            }
            for each in found.first
        ],
        "present_entries": found.entries,
        "mapped_outside": found.leaves_outside,
        "mostly_senseless": found.implausible,
        "beyond_40_bits": found.beyond_40,
        "beyond_46_bits": found.beyond_46,
    }


def _registers(registers: Registers) -> dict[str, Any]:
    return {
        name: _value(name, value)
        for name, value in registers.given().items()
        if name != "long_mode"  # Told, not read; a remark says from what.
    }


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value) if isinstance(value, str) else value
    return value if name in _DECIMAL else hex(value)


def _holes(contents: Contents) -> list[tuple[int, int]]:
    """Return what lies between the ranges of memory and below the first, as (start, size)."""
    holes = []
    at = 0
    for start, size in contents.memory.ranges:
        if start > at:
            holes.append((at, start - at))
        at = start + size
    return holes


def _range(start: int, size: int) -> str:
    return f"{start:#x}–{start + size:#x}"


def _some(texts: list[str], most: int) -> str:
    more = f" … and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
