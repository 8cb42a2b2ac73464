"""All that is known of a source, for people and for machines."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from emu.report.source import format_text, spaces_text, unfollowed_lines, unfollowed_record
from emu.report.text import context_text, size_text
from walker.entry import level_of
from walker.source import Registers, Source
from walker.unfollowed import Unfollowed

__all__ = ["info_lines", "info_record"]

_RANGES = 8
_NOTES = 16
_DECIMAL = {"maxphyaddr"}


def info_lines(source: Source, levels: Mapping[int, int], found: Unfollowed) -> Iterator[str]:
    """Yield what is known of a source; `levels` is the number of leaves by level."""
    yield f"{source.name}: {format_text(source)}"
    yield f"context: {context_text(source.context)}"
    yield f"assumed: {', '.join(source.assumed) or 'nothing'}"
    for number, registers in enumerate(source.cpus):
        chosen = ", chosen" if number == source.cpu and len(source.cpus) > 1 else ""
        values = ", ".join(
            f"{name} = {value}".lower() for name, value in _registers(registers).items()
        )
        yield f"CPU {number}{chosen}: {values}"
    spaces = spaces_text(source)
    if spaces is not None:
        yield f"this is {spaces}"
    if source.notes:
        names = [f"{name} (type {kind:#x}, {size:,} bytes)" for name, kind, size in source.notes]
        yield f"notes: {_some(names, _NOTES)}"
    ranges = source.memory.ranges
    total = sum(size for _, size in ranges)
    yield f"memory: {size_text(total)} in {_some([_range(*each) for each in ranges], _RANGES)}"
    holes = _holes(source)
    if holes:
        yield f"holes: {_some([_range(*each) for each in holes], _RANGES)}"
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
    yield from source.remarks


def info_record(source: Source, levels: Mapping[int, int], found: Unfollowed) -> dict[str, Any]:
    """Return the same as `info --json` prints it."""
    context = source.context
    return {
        "source": source.name,
        "kind": source.kind.value,
        "format": format_text(source),
        "context": {
            "mode": context.mode.value,
            **{
                field.name: _value(field.name, getattr(context, field.name))
                for field in fields(context)
            },
        },
        "assumed": list(source.assumed),
        "cpus": [_registers(each) for each in source.cpus],
        "cpu": source.cpu if source.cpus else None,
        "address_spaces": source.address_spaces,
        "notes": [{"name": name, "type": kind, "size": size} for name, kind, size in source.notes],
        "memory": {
            "size": sum(size for _, size in source.memory.ranges),
            "ranges": [[hex(start), hex(size)] for start, size in source.memory.ranges],
            "holes": [[hex(start), hex(size)] for start, size in _holes(source)],
            "missing": source.missing,
            "complete": source.complete,
        },
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
        "mostly_senseless": found.mostly,
        "beyond_40_bits": found.beyond_40,
        "beyond_46_bits": found.beyond_46,
        "remarks": list(source.remarks),
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


def _holes(source: Source) -> list[tuple[int, int]]:
    """Return what lies between the ranges of memory and below the first, as (start, size)."""
    holes = []
    at = 0
    for start, size in source.memory.ranges:
        if start > at:
            holes.append((at, start - at))
        at = start + size
    return holes


def _range(start: int, size: int) -> str:
    return f"{start:#x}–{start + size:#x}"


def _some(texts: list[str], most: int) -> str:
    more = f" … and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
