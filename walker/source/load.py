"""Physical memory and the context to read it in, from any file that holds them."""

import os
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np

from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, PhysicalMemory
from walker.source.case import Case, parse_case
from walker.source.casetypes import Cpu
from walker.source.elfcore import read_core
from walker.source.files import MappedFile, map_file
from walker.source.naming import errors_named
from walker.source.raw import read_raw
from walker.source.registers import NOT_GIVEN, Registers

__all__ = ["Source", "SourceKind", "open_source"]


class SourceKind(StrEnum):
    """The kinds of file that memory can come from."""

    CASE = "case"
    ELF = "elf"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Physical memory and the context to read it in.

    `name` is the path as it was given. `case` is the case as it stands in the file, without
    the registers given besides; None for other kinds. `assumed` lists what neither the file
    nor the caller said, as texts like "efer = 0xd00".
    """

    name: str
    kind: SourceKind
    memory: PhysicalMemory
    context: PagingContext
    case: Case | None = None
    assumed: tuple[str, ...] = ()


def open_source(
    path: str | os.PathLike[str],
    registers: Registers = NOT_GIVEN,
    *,
    cpu: int = 0,
    base: int = 0,
    kind: SourceKind | str | None = None,
    nested: bool = False,
) -> Source:
    """Return the source in the file at `path`, mapped and not copied.

    `registers` go before what the file says. `cpu` chooses among the CPUs of an ELF core,
    `base` is the physical address of a raw image in bytes. `kind` says what the file is;
    without it, the file's first bytes and the name's ending (.json) decide. `nested` says that
    CR3 is guest-physical, so that whether it points into the memory isn't known here.

    Raises `BadInput` (`LimitExceeded` where a limit is passed) in one line that names the file:
    it can't be read or isn't what it should be, CR3 isn't known, or points outside the memory.
    """
    file = map_file(path)
    with errors_named(file.name):
        chosen = _chosen_kind(file, kind)
        if cpu and chosen is not SourceKind.ELF:
            raise BadInput(f"no CPU {cpu}: only an ELF core has CPUs to choose from")
        if base and chosen is not SourceKind.RAW:
            raise BadInput(f"base {base:#x}: only a raw image can be placed")
    # Outside of the block above, because errors of a case name the file already.
    case = parse_case(file.data, file.name) if chosen is SourceKind.CASE else None
    with errors_named(file.name):
        memory, known = _contents(file, case, chosen, cpu, base)
        everything = registers.over(known)
        if everything.cr3 is None:
            what = "raw image" if chosen is SourceKind.RAW else "ELF core without a QEMU note"
            raise BadInput(f"{what}: give --cr3 (and --cr4, --cr0, --efer where they matter)")
        context = everything.context()
        _check_width(memory, context, assumed=everything.maxphyaddr is None)
        if not nested:
            _check_root(memory, context)
    return Source(
        name=file.name,
        kind=chosen,
        memory=memory,
        context=context,
        case=case,
        assumed=() if case else everything.assumed(),
    )


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"KDUMP   ": "kdump",
    b"makedumpfile\0": "kdump",
}


def _chosen_kind(file: MappedFile, kind: SourceKind | str | None) -> SourceKind:
    if kind is not None:
        if kind not in tuple(SourceKind):
            raise BadInput(f"{kind!r} is no kind of source ({', '.join(SourceKind)})")
        return SourceKind(kind)
    head = file.data[:FRAME]
    if head.startswith(b"\x7fELF"):
        return SourceKind.ELF
    if file.name.endswith(".json"):
        return SourceKind.CASE
    if head.lstrip().startswith(b"{") and b'"crosswalk-case' in head:
        return SourceKind.CASE
    for magic, method in _COMPRESSED.items():
        if head.startswith(magic):
            raise BadInput(f"compressed ({method}): unpack it first")
    return SourceKind.RAW


def _contents(
    file: MappedFile, case: Case | None, kind: SourceKind, cpu: int, base: int
) -> tuple[PhysicalMemory, Registers]:
    if case is not None:
        cpu_values = {item.name: getattr(case.cpu, item.name) for item in fields(Cpu)}
        return case.memory(), Registers(**cpu_values)
    if kind is SourceKind.ELF:
        core = read_core(file.data, cpu)
        return core.memory, core.registers
    return read_raw(file.data, base), NOT_GIVEN


def _check_width(memory: PhysicalMemory, context: PagingContext, *, assumed: bool) -> None:
    end = max((start + size for start, size in memory.ranges), default=0)
    if assumed and end > 1 << context.maxphyaddr:
        raise BadInput(
            f"memory ends at {end:#x}, beyond the MAXPHYADDR of {context.maxphyaddr} bits "
            "that is assumed: give --maxphyaddr"
        )


def _check_root(memory: PhysicalMemory, context: PagingContext) -> None:
    if not memory.backed(np.array([context.root & -FRAME], dtype=np.uint64))[0]:
        shown = [f"{start:#x}–{start + size:#x}" for start, size in memory.ranges[:4]]
        more = ["…"] if len(memory.ranges) > 4 else []
        raise BadInput(
            f"CR3 {context.cr3:#x} points outside the image "
            f"(ranges {', '.join(shown + more) or 'none'})"
        )
