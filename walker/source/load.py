"""Physical memory and the context to read it in, from any file that holds them."""

import os
from dataclasses import fields, replace

import numpy as np

from walker.context import CR0, CR4, PagingContext
from walker.errors import BadInput
from walker.memory import FRAME, PhysicalMemory
from walker.source.case import Case, parse_case
from walker.source.casetypes import Cpu
from walker.source.elfcore import ElfCore, read_core
from walker.source.files import MappedFile, map_file
from walker.source.modes import other_levels, with_mode
from walker.source.naming import errors_named
from walker.source.raw import read_raw
from walker.source.registers import ASSUMED_WIDTH, NOT_GIVEN, Registers
from walker.source.sources import Source, SourceKind
from walker.source.unread import HEAD, unread_format

__all__ = ["open_source"]

_NAMED = 4
_4_GIB = 1 << 32


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
    """Return the source in the file at `path`, mapped and not copied.

    `registers` go before what the file says. `cpu` chooses among the CPUs of an ELF core,
    `base` is the physical address of a raw image in bytes. `kind` says what the file is;
    without it, the file's first bytes and the name's ending (.json) decide. `nested` says that
    CR3 is guest-physical, so that whether it points into the memory isn't known here. `width`
    is the MAXPHYADDR to take where none is known, in bits: 52 hides no mapping.

    Raises `BadInput` (`LimitExceeded` where a limit is passed) in one line that names the file:
    it can't be read, has a format that isn't read (`walker.source.unread`) or isn't what it
    should be, CR3 isn't known, or points outside the memory.
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
        if case is not None:
            return _of_case(file.name, case, registers, nested=nested)
        if chosen is SourceKind.ELF:
            return _of_core(file.name, read_core(file.data, cpu), registers, width, nested=nested)
        return _of_raw(file, base, registers, width, nested=nested)


def _chosen_kind(file: MappedFile, kind: SourceKind | str | None) -> SourceKind:
    if kind is not None:
        if kind not in tuple(SourceKind):
            raise BadInput(f"{kind!r} is no kind of source ({', '.join(SourceKind)})")
        return SourceKind(kind)
    head = file.data[:HEAD]
    if head.startswith(b"\x7fELF"):
        return SourceKind.ELF
    if file.name.endswith(".json"):
        return SourceKind.CASE
    if head.lstrip().startswith(b"{") and b'"crosswalk-case' in head:
        return SourceKind.CASE
    unread = unread_format(head)
    if unread is not None:
        raise BadInput(
            f"{unread.name}: {unread.advice} (--kind raw takes the file as memory all the same)"
        )
    return SourceKind.RAW


def _of_case(name: str, case: Case, registers: Registers, *, nested: bool) -> Source:
    known = Registers(**{item.name: getattr(case.cpu, item.name) for item in fields(Cpu)})
    context = registers.over(known).context()
    memory = case.memory()
    _check_root(memory, context, nested=nested)
    return Source(
        name=name,
        kind=SourceKind.CASE,
        memory=memory,
        context=context,
        case=case,
        complete=True,
    )


def _of_core(name: str, core: ElfCore, registers: Registers, width: int, *, nested: bool) -> Source:
    if registers.over(core.registers).cr3 is None:
        names = ", ".join(sorted({note.name for note in core.notes})) or "none"
        raise BadInput(
            f"ELF core without a QEMU note (its notes: {names}): give --cr3 (and --cr4, --cr0, "
            "--efer where they matter)"
        )
    everything, why = with_mode(core.memory, registers.over(core.registers), is_386=core.is_386)
    _require_paging(everything, core)
    source = _source(name, SourceKind.ELF, core.memory, everything, width, nested=nested)
    missing = (f"{core.missing:,} bytes of segments aren't in the file",) if core.missing else ()
    cpus = tuple(each.registers for each in core.cpus)
    return replace(
        source,
        cpus=cpus,
        cpu=core.chosen,
        notes=tuple((note.name, note.kind, len(note.content)) for note in core.notes),
        machine="386" if core.is_386 else "x86-64",
        missing=core.missing,
        remarks=_mode_told(everything, why or core.why) + missing + source.remarks,
    )


def _require_paging(registers: Registers, core: ElfCore) -> None:
    """Raise `BadInput` where the chosen CPU doesn't page, and name those that do."""
    others = [number for number, each in enumerate(core.cpus) if _pages(each.registers)]
    if not _pages(registers) and others:
        cr0, names = registers.cr0, ", ".join(map(str, others[:_NAMED]))
        raise BadInput(f"paging is off on CPU {core.chosen}: CR0 = {cr0:#x}; CPU {names} pages")


def _pages(registers: Registers) -> bool:
    return registers.cr0 is None or bool(registers.cr0 & CR0.PG)


def _of_raw(
    file: MappedFile, base: int, registers: Registers, width: int, *, nested: bool
) -> Source:
    memory = read_raw(file.data, base)
    if registers.cr3 is None:
        raise BadInput("raw image: give --cr3 (and --cr4, --cr0, --efer where they matter)")
    everything, why = with_mode(memory, registers)
    source = _source(file.name, SourceKind.RAW, memory, everything, width, nested=nested)
    return replace(source, remarks=_mode_told(everything, why) + source.remarks)


def _source(
    name: str,
    kind: SourceKind,
    memory: PhysicalMemory,
    registers: Registers,
    width: int,
    *,
    nested: bool,
) -> Source:
    context = registers.context(width=width)
    _check_width(memory, context, assumed=registers.maxphyaddr is None)
    _check_root(memory, context, nested=nested)
    hint = other_levels(memory, context) if registers.cr4 is None and not nested else None
    return Source(
        name=name,
        kind=kind,
        memory=memory,
        context=context,
        assumed=registers.assumed(width=width),
        width_known=registers.maxphyaddr is not None,
        remarks=(hint,) if hint else (),
    )


def _mode_told(registers: Registers, why: str) -> tuple[str, ...]:
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


def _check_root(memory: PhysicalMemory, context: PagingContext, *, nested: bool) -> None:
    if nested or memory.backed(np.array([context.root & -FRAME], dtype=np.uint64))[0]:
        return
    shown = [f"{start:#x}–{start + size:#x}" for start, size in memory.ranges[:4]]
    more = ["…"] if len(memory.ranges) > 4 else []
    raise BadInput(
        f"CR3 {context.cr3:#x} points outside the image "
        f"(ranges {', '.join(shown + more) or 'none'}){_masked(memory, context)}"
    )


def _masked(memory: PhysicalMemory, context: PagingContext) -> str:
    """Return the advice to take one bit of CR3 for an encryption mask, if it helps; else nothing.

    The highest one, above 4 GiB: where addresses are; SME, SEV and TDX have one such bit.
    """
    bit = 1 << context.root.bit_length() - 1 if context.root else 0
    inside = np.array([(context.root ^ bit) & -FRAME], dtype=np.uint64)
    if bit < _4_GIB or not memory.backed(inside)[0]:
        return ""
    return f"; without its bit {bit.bit_length() - 1} it doesn't: --encryption-mask {bit:#x}?"
