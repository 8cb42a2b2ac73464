"""Physical memory and the context to read it in, from any file that holds them."""

import os
from dataclasses import fields
from mmap import mmap
from typing import Any

import numpy as np

from crosswalk.walker.context import CR0, CR4, PagingContext
from crosswalk.walker.encryption import encryption_mask_hint, likely_encryption_mask
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import Case, Cpu, parse_case
from crosswalk.walker.formats.elfcore import ElfCore, read_core
from crosswalk.walker.formats.files import MappedFile, map_file
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.formats.modes import other_levels, with_mode
from crosswalk.walker.formats.registers import ASSUMED_WIDTH, NOT_GIVEN, Registers
from crosswalk.walker.formats.sources import Contents, Source, SourceKind
from crosswalk.walker.formats.unsupported import HEAD, unread_format
from crosswalk.walker.memory import FRAME, PhysicalMemory, Segments

__all__ = ["open_contents", "open_source", "read_raw", "source_of"]

_ELF = b"\x7fELF"
_386 = "386"
_PHYSICAL_BITS = 52
_NAMED = 4


def open_source(
    path: str | os.PathLike[str],
    registers: Registers = NOT_GIVEN,
    *,
    cpu: int = 0,
    base: int = 0,
    kind: SourceKind | str | None = None,
    nested: bool = False,
    width: int = ASSUMED_WIDTH,
) -> Source:
    """Return the source in the file at `path`: what `open_contents` and `source_of` do."""
    contents = open_contents(path, cpu=cpu, base=base, kind=kind)
    return source_of(contents, registers, nested=nested, width=width)


def open_contents(
    path: str | os.PathLike[str],
    *,
    cpu: int = 0,
    base: int = 0,
    kind: SourceKind | str | None = None,
) -> Contents:
    """Return what is in the file at `path`, mapped and not copied.

    `cpu` chooses among the CPUs of an ELF core, `base` is the physical address of a raw image in
    bytes. `kind` says what the file is; without it, the file's first bytes and the name's ending
    (.json) decide.

    Raises `BadInput` (`LimitExceeded` where a limit is passed) in one line that names the file:
    it can't be read, has a format that isn't read (`crosswalk.walker.formats.unsupported`) or isn't
    what it should be.
    """
    file = map_file(path)
    name = printable(file.name)
    with errors_named(file.name):
        chosen = _chosen_kind(file, kind)
        if cpu and chosen is not SourceKind.ELF:
            raise BadInput(f"no CPU {cpu}: only an ELF core has CPUs to choose from")
        if base and chosen is not SourceKind.RAW:
            raise BadInput(f"base {base:#x}: only a raw image can be placed")
    # Outside of the block above, because errors of a case name the file already.
    case = parse_case(file.data, file.name) if chosen is SourceKind.CASE else None
    with errors_named(file.name):
        if case is not None:
            return _of_case(name, case)
        if chosen is SourceKind.ELF:
            return _of_core(name, read_core(file.data, cpu))
        return Contents(
            name=name,
            kind=SourceKind.RAW,
            memory=read_raw(file.data, base),
            begins_as=_known_format(file.data[:HEAD]),
        )


def source_of(
    contents: Contents,
    registers: Registers = NOT_GIVEN,
    *,
    nested: bool = False,
    width: int = ASSUMED_WIDTH,
) -> Source:
    """Return the contents of a file with the context to read them in.

    `registers` go before what the file says. `nested` says that CR3 is guest-physical, so that
    whether it points into the memory isn't known here. `width` is the MAXPHYADDR to take where
    none is known, in bits: 52 hides no mapping.

    Raises `BadInput` in one line that names the file: CR3 isn't known, or points outside the
    memory, the registers aren't those of a CPU that pages, or they say what isn't modelled.
    """
    with errors_named(contents.name):
        if contents.kind is SourceKind.CASE:
            return _case_source(contents, registers, nested=nested)
        return _source(contents, registers, width, nested=nested)


def _chosen_kind(file: MappedFile, kind: SourceKind | str | None) -> SourceKind:
    if kind is not None:
        if kind not in tuple(SourceKind):
            raise BadInput(f"{kind!r} is no kind of source ({', '.join(SourceKind)})")
        return SourceKind(kind)
    head = file.data[:HEAD]
    if head.startswith(_ELF):
        return SourceKind.ELF
    if file.name.endswith(".json"):
        return SourceKind.CASE
    if head.lstrip().startswith(b"{") and b'"crosswalk-case' in head:
        return SourceKind.CASE
    unread = unread_format(head)
    if unread is not None:
        # A raw image is whole frames: of another size the file would be refused as one, too.
        raw = " (--kind raw takes the file as memory all the same)"
        whole = len(file.data) % FRAME == 0
        raise BadInput(f"{unread.name}: {unread.advice}{raw if whole else ''}")
    return SourceKind.RAW


def _known_format(head: bytes) -> str:
    """Return the name of the format other than a raw image's that a file has, or nothing."""
    if head.startswith(_ELF):
        return "ELF file"
    unread = unread_format(head)
    return unread.name if unread is not None else ""


def _of_case(name: str, case: Case) -> Contents:
    known = Registers(**{item.name: getattr(case.cpu, item.name) for item in fields(Cpu)})
    memory = case.memory()
    return Contents(
        name=name,
        kind=SourceKind.CASE,
        memory=memory,
        registers=known,
        case=case,
        complete=True,
    )


def _of_core(name: str, core: ElfCore) -> Contents:
    return Contents(
        name=name,
        kind=SourceKind.ELF,
        memory=core.memory,
        registers=core.registers,
        machine=_386 if core.is_386 else "x86-64",
        notes=tuple((note.name, note.kind, len(note.content)) for note in core.notes),
        missing=core.missing,
        cpus=tuple(each.registers for each in core.cpus),
        cpu=core.chosen,
        why=core.why,
    )


def _case_source(contents: Contents, registers: Registers, *, nested: bool) -> Source:
    context = registers.over(contents.registers).context()
    _check_root(contents, context, nested=nested)
    return Source(**_shared(contents), context=context)


def _source(contents: Contents, registers: Registers, width: int, *, nested: bool) -> Source:
    memory = contents.memory
    known = registers.over(contents.registers)
    if known.cr3 is None:
        raise BadInput(
            f"{_rootless(contents)}: give --cr3 (and --cr4, --cr0, --efer where they matter)"
        )
    everything, why = with_mode(memory, known, is_386=contents.machine == _386)
    _require_paging(everything, contents)
    context = everything.context(width=width)
    _check_width(memory, context, assumed=everything.maxphyaddr is None)
    _check_root(contents, context, nested=nested)
    hint = other_levels(memory, context) if everything.cr4 is None and not nested else None
    return Source(
        **_shared(contents),
        context=context,
        assumed=everything.assumed(width=width),
        width_known=everything.maxphyaddr is not None,
        remarks=(*_mode_remark(everything, why or contents.why), *([hint] if hint else [])),
    )


def _shared(contents: Contents) -> dict[str, Any]:
    return {field.name: getattr(contents, field.name) for field in fields(Contents)}


def _rootless(contents: Contents) -> str:
    if contents.kind is SourceKind.RAW:
        return "raw image"
    names = ", ".join(sorted({name for name, _, _ in contents.notes})) or "none"
    return f"ELF core without a QEMU note (its notes: {names})"


def _require_paging(registers: Registers, contents: Contents) -> None:
    """Raise `BadInput` where the chosen CPU doesn't page, and name those that do."""
    others = [
        number
        for number, each in enumerate(contents.cpus)
        if number != contents.cpu and _pages(each)
    ]
    if not _pages(registers) and others:
        cr0, names = registers.cr0, ", ".join(map(str, others[:_NAMED]))
        raise BadInput(f"paging is off on CPU {contents.cpu}: CR0 = {cr0:#x}; CPU {names} pages")


def _pages(registers: Registers) -> bool:
    return registers.cr0 is None or bool(registers.cr0 & CR0.PG)


def _mode_remark(registers: Registers, why: str) -> tuple[str, ...]:
    mode = "IA-32e mode" if registers.long_mode else "no IA-32e mode"
    asked = registers.efer is None and (registers.cr4 is None or registers.cr4 & CR4.PAE)
    return (f"EFER isn't known; {mode}, since {why}",) if why and asked else ()


def _check_width(memory: PhysicalMemory, context: PagingContext, *, assumed: bool) -> None:
    end = max((start + size for start, size in memory.ranges), default=0)
    if assumed and end > 1 << context.maxphyaddr:
        raise BadInput(
            f"memory ends at {end:#x}, beyond the MAXPHYADDR of {context.maxphyaddr} bits "
            "that is assumed: give --maxphyaddr"
        )


def _check_root(contents: Contents, context: PagingContext, *, nested: bool) -> None:
    memory = contents.memory
    if nested or memory.backed(np.array([context.root & -FRAME], dtype=np.uint64))[0]:
        return
    shown = [f"{start:#x}–{start + size:#x}" for start, size in memory.ranges[:4]]
    more = ["…"] if len(memory.ranges) > 4 else []
    mask = likely_encryption_mask(memory, context)
    hint = encryption_mask_hint(mask, case=contents.kind is SourceKind.CASE)
    advice = f"; {hint} would make sense" if mask else ""
    raise BadInput(
        f"CR3 {context.cr3:#x} points outside the image "
        f"(ranges {', '.join(shown + more) or 'none'}){advice}"
    )


def read_raw(data: mmap | bytes, base: int = 0) -> Segments:
    """Return `data` as the physical memory that starts at `base`, without a copy.

    `base` is a physical address in bytes, a multiple of 4096. Raises `BadInput` for a base
    that isn't, and for an image that doesn't hold whole frames: physical memory does, so
    the file was cut, and what is missing would read as not present.
    """
    if base < 0 or base % FRAME:
        raise BadInput(f"raw image: base {base:#x} is not the address of a frame")
    if len(data) % FRAME:
        raise BadInput(
            f"raw image: {len(data)} bytes are not a multiple of {FRAME}; is the file truncated?"
        )
    if base + len(data) > 1 << _PHYSICAL_BITS:
        raise BadInput(f"raw image: ends at {base + len(data):#x}, beyond {_PHYSICAL_BITS} bits")
    return Segments([(base, data)])
