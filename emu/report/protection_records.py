"""What the policy would make of an image, for machines."""

from collections.abc import Sequence
from typing import Any

from crosswalk.emu.report.records import frame_record, mapping_record
from crosswalk.walker.frames import Frames
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

__all__ = ["protection_record", "protection_summary_record"]


def protection_record(
    frames: Frames, ram: Sequence[tuple[int, int]], kind: TableKind
) -> dict[str, Any]:
    """Return the protection list as `protect --format json` prints it.

    `ranges` are what is granted, neighbours differ in `granted`; for each kind of table,
    `inexpressible` are the ranges in which it grants more than the policy allows.
    """
    return {
        "format": "crosswalk-protection/1",
        "kind": str(kind),
        "ram": [[hex(start), hex(size)] for start, size in ram],
        "unmapped": _uses(UNMAPPED),
        "ranges": [
            {
                "pa": hex(start),
                "size": size,
                "permission": rwx(permission_of(use)),
                "granted": _uses(use),
            }
            for start, size, use in protect(frames, ram, kind).uses()
        ],
        "collective": [frame_record(start, size, rights) for start, size, rights in frames],
        "inexpressible": {
            str(each): [
                {
                    "pa": hex(found.pa),
                    "size": found.size,
                    "wanted": _uses(found.wanted),
                    "beyond": _uses(found.beyond),
                }
                for found in inexpressible(protect(frames, ram, each))
            ]
            for each in TableKind
        },
    }


def protection_summary_record(summary: Summary, seconds: float) -> dict[str, Any]:
    """Return the summary as `protect SOURCE --json` prints it; nothing is probed for it."""
    return {
        "probes": 0,
        "agreements": 0,
        "divergences": 0,
        "known_divergences": 0,
        "seconds": round(seconds, 3),
        "predicted_only": {},
        "not_asked": {},
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
