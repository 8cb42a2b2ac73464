"""All that is known of a source, for people and for machines."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from crosswalk.emu.report.source import (
    begins_text,
    format_text,
    missing_text,
    spaces_text,
    unfollowed_lines,
    unfollowed_record,
)
from crosswalk.emu.report.text import context_text, size_text
from crosswalk.walker.entry import level_of
from crosswalk.walker.formats import Contents, Registers, Source
from crosswalk.walker.unfollowed import Unfollowed

__all__ = ["contents_lines", "contents_record", "info_lines", "info_record"]

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
    if contents.missing:
        yield missing_text(contents)
    if contents.begins_as:
        yield begins_text(contents)


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
