"""`protect SOURCE --format`: what is granted, written as a document, a list or tables."""

import argparse
import json
from collections.abc import Callable

import msgspec

from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.report.protection import protection_record
from crosswalk.emu.report.text import size_text
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.files import write_file
from crosswalk.walker.frames import Frames
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.image import tables_image
from crosswalk.walker.protection.attributes import AttributeSet, encode_attributes
from crosswalk.walker.protection.pagelist import Permission, encode
from crosswalk.walker.protection.policy import TableKind, inexpressible, protect

__all__ = ["require_format", "write_list"]

_AT = 0x10_0000
_BOTH = Permission.WRITE | Permission.EXECUTE
_ATTRIBUTES = {"kvm": AttributeSet.HEKI, "kvm-deny": AttributeSet.DENY}
_PLACED = ("pages", "ept")
_REACH = 1 << 48


def require_format(options: argparse.Namespace) -> None:
    """Raise `BadInput` for options that don't go with --format, or are missing with it."""
    wanted = options.format
    if wanted is None:
        return
    if options.json:
        raise BadInput("--json prints the summary, --format the list: choose one of them")
    if wanted != "json" and options.output is None:
        raise BadInput(f"--format {wanted} needs --output: bytes are not for a terminal")
    if wanted not in _PLACED and options.at is not None:
        raise BadInput(f"--at is for --format {' and '.join(_PLACED)}")
    if wanted != "ept" and options.offset is not None:
        raise BadInput("--offset is for --format ept")
    if wanted == "ept" and options.at is None:
        raise BadInput("--format ept needs --at: where the tables are to lie")
    if wanted == "ept" and options.tables == "npt":
        raise BadInput("--format ept: --tables is ept or ept-mbec")
    if wanted in _ATTRIBUTES and options.tables is not None:
        raise BadInput(f"--format {wanted}: which tables KVM has is its own matter, not --tables")


def write_list(options: argparse.Namespace, frames: Frames, source: Source) -> None:
    """Write what is granted as --format has it; `require_format` comes first."""
    _WRITERS[options.format](options, frames, source)


def _kind(options: argparse.Namespace, default: TableKind) -> TableKind:
    return TableKind(options.tables or default)


def _write_document(options: argparse.Namespace, frames: Frames, source: Source) -> None:
    record = protection_record(frames, source.memory.ranges, _kind(options, TableKind.NPT))
    document = msgspec.to_builtins(record)
    if options.output is None:
        emit(document)
    else:
        write_file(options.output, f"{json.dumps(document, indent=1)}\n".encode())
        remark(f"wrote {options.output}: {_several(len(record.ranges), 'range')}")


def _write_pages(options: argparse.Namespace, frames: Frames, source: Source) -> None:
    pa, memory = _AT if options.at is None else options.at, source.memory
    entries = list(protect(frames, memory.ranges, _kind(options, TableKind.NPT)))
    pages = encode(entries, pa)
    if not any(start <= pa and pa + len(pages) <= start + size for start, size in memory.ranges):
        raise BadInput(f"--at {pa:#x}: {len(pages):,} bytes from there are not all RAM")
    write_file(options.output, pages)
    size = f"{_several(len(entries), 'entry')} in {_several(len(pages) // FRAME, 'page')}"
    remark(f"wrote {options.output}: {size}")
    both = sum(each.permission & _BOTH == _BOTH for each in entries)
    if both:
        allow, them = ("allows", "it") if both == 1 else ("allow", "them")
        who = _several(both, "entry")
        remark(f"{who} {allow} writing and executing: a strict hypervisor refuses {them}")


def _write_ept(options: argparse.Namespace, frames: Frames, source: Source) -> None:
    kind, offset, memory = _kind(options, TableKind.EPT), options.offset or 0, source.memory
    top = max((start + size for start, size in memory.ranges), default=0)
    if top > _REACH:
        raise BadInput(f"RAM ends at {top:#x}: an EPT of 4 levels ends at {_REACH:#x}")
    protection = protect(frames, memory.ranges, kind)
    data, tables = tables_image(protection.for_tables(kind), options.at, kind=kind, offset=offset)
    end = options.at + len(data)
    for start, size in memory.ranges:
        if start + offset < end and options.at < start + offset + size:
            raise BadInput(
                f"--at {options.at:#x}: {len(data):,} bytes from there are the guest's own memory, "
                "which could write its tables"
            )
    write_file(options.output, data)
    with_flags = tables.eptp(accessed_dirty=True)
    remark(f"wrote {options.output}: {_several(tables.tables, 'table')} of kind {kind}")
    remark(f"EPTP {tables.eptp():#x}; {with_flags:#x} for accessed and dirty flags")
    width = source.context.maxphyaddr
    if max(end, top + offset) > 1 << width:
        remark(
            f"the tables, or what they lead to, end behind {1 << width:#x}: not for a processor "
            f"with MAXPHYADDR {width}, as the guest's has"
        )
    beyond = sum(each.size for each in inexpressible(protection))
    if beyond:
        remark(f"{size_text(beyond)} are granted execution beyond the policy: see --beyond")
    outside = int(frames.size.sum()) - int(protection.size[protection.rights != 0].sum())
    if outside:
        remark(f"{size_text(outside)} are mapped and not RAM: an access there is an EPT violation")


def _write_attributes(options: argparse.Namespace, frames: Frames, source: Source) -> None:
    data = encode_attributes(protect(frames, source.memory.ranges), _ATTRIBUTES[options.format])
    write_file(options.output, data)
    remark(f"wrote {options.output}: {_several(len(data) // 32, 'entry')} of 32 bytes")


def _several(count: int, name: str) -> str:
    """Return how many of something there are, in words."""
    if count == 1:
        return f"1 {name}"
    return f"{count:,} {name.removesuffix('y')}ies" if name.endswith("y") else f"{count:,} {name}s"


_WRITERS: dict[str, Callable[[argparse.Namespace, Frames, Source], None]] = {
    "json": _write_document,
    "pages": _write_pages,
    "ept": _write_ept,
    "kvm": _write_attributes,
    "kvm-deny": _write_attributes,
}
