"""Protection reports: lines of text and JSON records."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from crosswalk.emu.report.records import frame_record, mapping_record
from crosswalk.emu.report.text import frame_text, mapping_text, size_text
from crosswalk.walker.formats.documents import Count, Document, Hex64
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.policy import (
    UNMAPPED,
    TableKind,
    Use,
    inexpressible,
    permission_of,
    protect,
)
from crosswalk.walker.protection.regions import LinearRegion
from crosswalk.walker.protection.summary import Exposed, Summary
from crosswalk.walker.rights import Rights, rwx

__all__ = [
    "NO_FRAME",
    "ProtectionJson",
    "nobody_asked",
    "protection_record",
    "protection_summary_record",
    "summary_lines",
    "use_text",
]


class GrantedJson(Document, frozen=True):
    """A range of RAM, and what is granted in it."""

    pa: Hex64
    size: Count
    permission: str
    granted: list[str]


class CollectiveJson(Document, frozen=True):
    """A range of physical memory, and the union of what its mappings grant."""

    pa: Hex64
    size: Count
    supervisor: str
    user: str


class InexpressibleJson(Document, frozen=True):
    """A range in which a table grants uses `beyond` those that the policy allows."""

    pa: Hex64
    size: Count
    wanted: list[str]
    beyond: list[str]


class ProtectionJson(Document, frozen=True):
    """A document of the format crosswalk-protection/1.

    Neighbours in `ranges` differ in `granted`; `inexpressible` is by kind of table.
    """

    format: Literal["crosswalk-protection/1"]
    kind: str
    ram: list[tuple[Hex64, Hex64]]
    unmapped: list[str]
    ranges: list[GrantedJson]
    collective: list[CollectiveJson]
    inexpressible: dict[str, list[InexpressibleJson]]


def protection_record(
    frames: Frames, ram: Sequence[tuple[int, int]], kind: TableKind
) -> ProtectionJson:
    """Return the protection list as `protect --format json` prints it."""
    return ProtectionJson(
        "crosswalk-protection/1",
        str(kind),
        [(hex(start), hex(size)) for start, size in ram],
        _uses(UNMAPPED),
        [
            GrantedJson(hex(start), size, rwx(permission_of(use)), _uses(use))
            for start, size, use in protect(frames, ram, kind).uses()
        ],
        [
            CollectiveJson(hex(start), size, rights.supervisor, rights.user)
            for start, size, rights in frames
        ],
        {
            str(each): [
                InexpressibleJson(hex(one.pa), one.size, _uses(one.wanted), _uses(one.beyond))
                for one in inexpressible(protect(frames, ram, each))
            ]
            for each in TableKind
        },
    )


def protection_summary_record(summary: Summary, seconds: float) -> dict[str, Any]:
    """Return the summary as `protect SOURCE --json` prints it; nothing is probed for it."""
    return {
        **nobody_asked(seconds),
        "kind": str(summary.kind),
        "ram": summary.ram,
        "unmapped": summary.unmapped,
        "outside": summary.outside,
        "granted": {rwx(permission): size for permission, size in summary.granted.items()},
        "read_only": summary.read_only,
        "no_execute": summary.no_execute,
        "both": summary.both,
        "neither": summary.neither,
        "rights": [
            {"supervisor": rights.supervisor, "user": rights.user, "size": size}
            for rights, size in summary.rights.items()
        ],
        "paging_structures": {"size": summary.tables, "read_only": summary.locked},
        "writable_executable": _exposed(summary.exposed),
        "regions": [_region(each) for each in summary.regions],
        "regions_unlisted": summary.unlisted,
        "inexpressible": {
            str(kind): [
                {"wanted": _uses(wanted), "beyond": _uses(more), "size": size}
                for (wanted, more), size in beyond.items()
            ]
            for kind, beyond in summary.beyond.items()
        },
    }


def nobody_asked(seconds: float) -> dict[str, Any]:
    """Return what each summary for machines begins with, where nothing was probed for it."""
    return {
        "probes": 0,
        "agreements": 0,
        "divergences": 0,
        "known_divergences": 0,
        "seconds": round(seconds, 3),
        "predicted_only": {},
        "not_asked": {},
    }


def _uses(use: Use) -> list[str]:
    return [str(each.name).lower() for each in use]


def _exposed(exposed: Exposed) -> dict[str, Any]:
    return {
        "ranges": exposed.ranges,
        "within_one_privilege": exposed.strict,
        "size": exposed.size,
        "largest": [
            {
                **frame_record(each.pa, each.size, Rights(each.rights)),
                "writers": [mapping_record(mapping) for mapping in each.writers],
                "executors": [mapping_record(mapping) for mapping in each.executors],
            }
            for each in exposed.largest
        ],
    }


def _region(region: LinearRegion) -> dict[str, Any]:
    return {
        "offset": hex(region.offset),
        "va": hex(region.va),
        "end": hex(region.end),
        "mappings": region.mappings,
        "ram": region.ram,
        "alone": region.alone,
        "non_writable_without": region.writes,
        "non_executable_without": region.executes,
        "w_xor_x_without": region.both,
        "largest": [
            {
                **frame_record(pa, size, now),
                "without": {"supervisor": then.supervisor, "user": then.user},
            }
            for pa, size, now, then in region.largest
        ],
    }


NO_FRAME = "no frame is both writable and executable"
"""What is said of W^X where nothing is found."""

_MIB = 1 << 20


def use_text(use: Use) -> str:
    """Return the names of what a second-level table can tell apart."""
    return ", ".join(str(each.name).lower().replace("_", " ") for each in use)


def summary_lines(
    summary: Summary, nothing: str = NO_FRAME, others: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the summary, to be read in a minute.

    `nothing` is what to say of W^X where no frame is both writable and executable, `others` what to
    say of it besides where some are.
    """
    yield (
        f"RAM: {size_text(summary.ram)}, of which nothing maps {size_text(summary.unmapped)} "
        f"(granted: {use_text(UNMAPPED)}); mapped and not RAM, left alone: "
        f"{size_text(summary.outside)}"
    )
    yield f"granted, in tables of kind {summary.kind}:"
    for permission, size in summary.granted.items():
        yield f"  {rwx(permission)}                 {_share(size, summary.ram)}"
    for title, size in (
        ("read-only", summary.read_only),
        ("no-execute", summary.no_execute),
        ("both of these", summary.both),
        ("neither", summary.neither),
    ):
        yield f"  {title:<18}  {_share(size, summary.ram)}"
    yield "by collective rights, of the supervisor and of the user:"
    for rights, size in summary.rights.items():
        what = f"{rights.supervisor} {rights.user}" if rights else "not mapped"
        yield f"  {what:<18}  {_share(size, summary.ram)}"
    yield (
        f"paging structures: {summary.tables // FRAME:,} frames, {summary.locked // FRAME:,} of "
        "them read-only: each A or D bit set there would be a nested fault"
    )
    yield from _exposed_lines(summary.exposed, nothing)
    if summary.exposed.ranges:
        yield from (f"W^X: {each}" for each in others)
    yield "linear regions, all mappings with one va − pa, those that map most RAM first:"
    if summary.unlisted:
        yield f"  not listed: {summary.unlisted}"
    for number, region in enumerate(summary.regions):
        yield from _region_lines(region, direct=not number)
    yield "what a kind of table can't withhold:"
    for kind, beyond in summary.beyond.items():
        if not beyond:
            yield f"  {kind}: nothing, it grants just what the policy allows"
        for (wanted, more), size in beyond.items():
            yield f"  {kind}: {size_text(size)} for {use_text(wanted)} get {use_text(more)} besides"
    yield "  any kind: who it is that reads or writes, the supervisor or the user"


def _share(size: int, ram: int) -> str:
    part = 100 * size / ram if ram else 0
    return f"{size // FRAME:>11,} frames {size / _MIB:>12,.2f} MiB {part:>6.2f} %"


def _exposed_lines(exposed: Exposed, nothing: str) -> Iterator[str]:
    if not exposed.ranges:
        yield f"W^X: {nothing}"
        return
    yield (
        f"W^X: {exposed.ranges:,} ranges, {size_text(exposed.size)}, are both writable and "
        f"executable, {exposed.strict:,} of them within one privilege"
    )
    for each in exposed.largest:
        yield f"  {frame_text(each.pa, each.size, each.rights)}"
        for how, through in (("written", each.writers), ("executed", each.executors)):
            for mapping in through:
                yield f"    {how:<8} through {mapping_text(mapping)}"
    if exposed.ranges > len(exposed.largest):
        yield f"  … and {exposed.ranges - len(exposed.largest):,} smaller ones"


def _region_lines(region: LinearRegion, *, direct: bool) -> Iterator[str]:
    yield (
        f"  va = pa + {region.offset:#x}{' (the direct map)' if direct else ''}: "
        f"{region.va:016x}-{region.end - 1:016x}, {region.mappings:,} mappings, "
        f"{size_text(region.ram)} of RAM, {size_text(region.alone)} of it mapped by nothing else"
    )
    yield (
        f"    without it, of what others map: {size_text(region.writes)} would become "
        f"non-writable, {size_text(region.executes)} non-executable; W^X ends for "
        f"{size_text(region.both)}"
    )
    for pa, size, now, then in region.largest:
        yield f"    {frame_text(pa, size, now)} would be {then.supervisor} {then.user}"
