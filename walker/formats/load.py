"""Physical memory and the context to read it in, from any file that holds them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from crosswalk.walker.context import CR0, CR4, PagingContext
from crosswalk.walker.encryption import encryption_mask_hint, likely_encryption_mask
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.kcore import is_kcore, read_kcore
from crosswalk.walker.formats.live import names_live_guest, released_on_error, settle
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.formats.memory_map import Piece
from crosswalk.walker.formats.modes import other_levels, with_mode
from crosswalk.walker.formats.readers import READERS, Asked, kind_of, read_file_of, require_apt
from crosswalk.walker.formats.registers import ASSUMED_WIDTH, NOT_GIVEN, Registers
from crosswalk.walker.formats.sources import Contents, Source, SourceKind
from crosswalk.walker.formats.suggested_map import map_with
from crosswalk.walker.formats.unpack import UNPACK_LIMIT, compression_of, unpack, without_ending
from crosswalk.walker.memory import FRAME, PhysicalMemory

if TYPE_CHECKING:
    from crosswalk.walker.roots import Roots
    from crosswalk.walker.roots.passes import Progress

__all__ = ["open_contents", "open_source", "source_of"]

_GIVE = "give --cr3 (and --cr4, --cr0, --efer where they matter)"
_386 = "386"
_NAMED = 4


class Reading(TypedDict, total=False):
    """How a file is read: the arguments of `open_contents` by name."""

    cpu: int
    base: int
    kind: SourceKind | str | None
    memory_map: Sequence[str | Piece]
    unpack_to: str | os.PathLike[str] | None
    unpack_limit: int
    notice: Callable[[str], None] | None


def open_source(
    path: str | os.PathLike[str],
    registers: Registers = NOT_GIVEN,
    *,
    nested: bool = False,
    width: int = ASSUMED_WIDTH,
    **reading: Unpack[Reading],
) -> Source:
    """Return the source in the file at `path`: what `open_contents` and `source_of` do.

    A live guest goes on as soon as its tables have been read; with `nested`, when its memory is
    released.
    """
    contents = open_contents(path, **reading)
    with released_on_error(contents.memory):
        source = source_of(contents, registers, nested=nested, width=width)
        if not nested:
            settle(source.memory, [source.context])
    return source


def open_contents(
    path: str | os.PathLike[str],
    *,
    cpu: int = 0,
    base: int = 0,
    kind: SourceKind | str | None = None,
    memory_map: Sequence[str | Piece] = (),
    unpack_to: str | os.PathLike[str] | None = None,
    unpack_limit: int = UNPACK_LIMIT,
    notice: Callable[[str], None] | None = None,
) -> Contents:
    """Return what is in the file at `path`, mapped and not copied where its format allows that.

    A path that begins with gdb: is the address of a live guest, which is paused from then on:
    `crosswalk.walker.formats.gdb` says how it is let go.

    A compressed file is unpacked first, to a temporary file in the folder `unpack_to`, as
    `crosswalk.walker.formats.unpack.unpack` does; `unpack_limit` is the most bytes it may then
    have, and with 0 nothing is unpacked. What it holds may not be compressed once more.

    `cpu` chooses among the CPUs of an ELF core or a guest, `base` is where a raw image begins, in
    bytes, and `memory_map` says where its parts lie: pieces, or texts as
    `crosswalk.walker.formats.memory_map.pieces_of` takes them. `kind` says what the file is;
    without it, the file's first bytes and the name's ending (.json) decide. `notice` takes lines
    for people about what takes its time, as unpacking.

    Raises `BadInput` (`LimitExceeded` where a limit is passed) in one line that names the file:
    it can't be read, has a format that isn't read (`crosswalk.walker.formats.unsupported`) or isn't
    what it should be.
    """
    if names_live_guest(path):
        if kind is not None or base or memory_map:
            raise BadInput(f"{path}: a kind, a base and a memory map are for files")
        # Its import would be a part of every other command's start.
        from crosswalk.walker.formats.gdb import open_live  # noqa: PLC0415

        return open_live(str(path), cpu=cpu, notice=notice)
    name, asked = os.fspath(path), Asked(cpu, base, memory_map, notice)
    if kind == SourceKind.KCORE or (kind is None and is_kcore(name)):
        with errors_named(name):
            require_apt(SourceKind.KCORE, asked)
        return read_kcore(name, notice)
    file = map_file(path)
    with errors_named(file.name):
        if kind is not None and kind not in READERS:
            raise BadInput(f"{kind!r} is no kind of source ({', '.join(READERS)})")
        inner, unpacked = file.name, ""
        if unpack_limit and compression_of(file.data) is not None:
            inner = without_ending(file.name)
            file, unpacked = unpack(
                file,
                folder=unpack_to,
                limit=unpack_limit,
                notice=notice,
                accept=partial(kind_of, inner) if kind is None else None,
            )
        chosen = kind_of(inner, file.data) if kind is None else SourceKind(kind)
    contents = read_file_of(chosen, file, asked)
    return replace(contents, unpacked=unpacked)


def source_of(
    contents: Contents,
    registers: Registers = NOT_GIVEN,
    *,
    nested: bool = False,
    width: int = ASSUMED_WIDTH,
    roots: "Roots | None" = None,
    progress: "Progress | None" = None,
) -> Source:
    """Return the contents of a file with the context to read them in.

    `registers` go before what the file says. Where neither has CR3, it's the best of `roots`; where
    these aren't given, the memory is searched, as `crosswalk.walker.roots.find_roots` does, which
    reports to `progress`. A remark says which root it is and why. `nested` says that CR3 is
    guest-physical, so that whether it points into the memory isn't known here. `width` is the
    MAXPHYADDR to take where none is known, in bits: 52 hides no mapping.

    Raises `BadInput` in one line that names the file: no root is known or found, CR3 points outside
    the memory, the registers aren't those of a CPU that pages, or they say what isn't modelled.
    """
    with errors_named(contents.name):
        if contents.kind is SourceKind.CASE:
            return _case_source(contents, registers, nested=nested)
        if nested or registers.over(contents.registers).cr3 is not None:
            return _source(contents, registers, width, nested=nested)
        if roots is None:
            roots = _searched(contents, registers, width, progress)
        return _with_root(contents, registers, roots)


def _case_source(contents: Contents, registers: Registers, *, nested: bool) -> Source:
    context = registers.over(contents.registers).context()
    _check_root(contents, context, nested=nested)
    return Source(**_shared(contents), context=context)


def _source(contents: Contents, registers: Registers, width: int, *, nested: bool) -> Source:
    memory = contents.memory
    known = registers.over(contents.registers)
    if known.cr3 is None:
        raise BadInput(f"{_rootless(contents)}: {_GIVE}")
    everything, why = with_mode(memory, known, is_386=contents.machine == _386)
    _require_paging(everything, contents)
    context = everything.context(width=width)
    _check_width(memory, context.maxphyaddr, assumed=everything.maxphyaddr is None)
    _check_root(contents, context, nested=nested)
    hint = other_levels(memory, context) if everything.cr4 is None and not nested else None
    return Source(
        **_shared(contents),
        context=context,
        assumed=everything.assumed(width=width),
        width_known=everything.maxphyaddr is not None,
        remarks=(*_mode_remark(everything, why or contents.why), *([hint] if hint else [])),
    )


def _searched(
    contents: Contents,
    registers: Registers,
    width: int,
    progress: "Progress | None",
) -> "Roots":
    # Most sources have a CR3, and need no search.
    from crosswalk.walker.roots import find_roots  # noqa: PLC0415

    known = registers.over(contents.registers)
    _check_width(contents.memory, known.maxphyaddr or width, assumed=known.maxphyaddr is None)
    return find_roots(
        contents,
        registers,
        scan=contents.kind is not SourceKind.LIVE,
        until_one=True,
        width=width,
        progress=progress,
    )


def _with_root(contents: Contents, registers: Registers, roots: "Roots") -> Source:
    if not roots:
        why = "; ".join([*roots.remarks, "no root was found in its memory"])
        raise BadInput(f"{_rootless(contents)}: {why}: {_GIVE}")
    context = roots[0].context
    known = replace(registers.over(contents.registers), cr3=context.cr3)
    return Source(
        **_shared(contents),
        context=context,
        assumed=known.assumed(context),
        width_known=known.maxphyaddr is not None,
        remarks=(roots.why, *roots.remarks),
    )


def _shared(contents: Contents) -> dict[str, Any]:
    return {field.name: getattr(contents, field.name) for field in fields(Contents)}


def _rootless(contents: Contents) -> str:
    if contents.kind is SourceKind.RAW:
        return "raw image"
    if contents.format:
        return contents.format
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


def _check_width(memory: PhysicalMemory, width: int, *, assumed: bool) -> None:
    end = max((start + size for start, size in memory.ranges), default=0)
    if assumed and end > 1 << width:
        raise BadInput(
            f"memory ends at {end:#x}, beyond the MAXPHYADDR of {width} bits "
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
    placed = contents.kind is SourceKind.RAW and map_with(memory, context.root & -FRAME)
    if placed:
        advice += f"; with --memory-map {placed} (the RAM below a PC's hole) it would point into it"
    raise BadInput(
        f"CR3 {context.cr3:#x} points outside the image "
        f"(ranges {', '.join(shown + more) or 'none'}){advice}"
    )
