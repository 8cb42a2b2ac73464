"""The readers of files that hold memory, by kind, and what files of a kind begin with.

A reader that needs a library which isn't always installed imports it when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from mmap import mmap
from typing import Any

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import Cpu, parse_case
from crosswalk.walker.formats.elfcore import CoreCpu, Note, read_core
from crosswalk.walker.formats.files import MappedFile
from crosswalk.walker.formats.kcore import read_kcore
from crosswalk.walker.formats.layers import LAYERS, is_xen_core, read_layer, state_beside
from crosswalk.walker.formats.lime import LIME_MAGIC, read_lime
from crosswalk.walker.formats.located_errors import errors_named, one_line, printable
from crosswalk.walker.formats.memory_map import Piece, placed
from crosswalk.walker.formats.raw import read_raw
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.formats.sources import Contents, SourceKind
from crosswalk.walker.formats.unsupported import HEAD, unread_format
from crosswalk.walker.memory import FRAME

__all__ = ["READERS", "Asked", "Reader", "kind_of", "read_file_of", "require_apt"]

_ELF = b"\x7fELF"
_LIME = "LiME image"
_AVML = "AVML image"
_LAYER = "saved state or crash dump"
_KDUMPS = ((0, b"KDUMP   "), (0, b"makedumpfile\0"))


@dataclass(frozen=True, slots=True)
class Asked:
    """How a file is to be read: `cpu`, `base` and `memory_map` as in `open_contents`.

    `notice` takes lines for people while the file is being read.
    """

    cpu: int = 0
    base: int = 0
    memory_map: Sequence[str | Piece] = ()
    notice: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files of a kind.

    `magics` are (offset, bytes) pairs of which such a file has one, and `name` is what it is called
    then; a kind without any isn't recognised by its content. `cpus` says that a CPU can be chosen,
    `placed` that a
    base can, or a memory map.
    """

    read: Callable[[MappedFile, Asked], Contents]
    magics: tuple[tuple[int, bytes], ...] = ()
    name: str = ""
    cpus: bool = False
    placed: bool = False


def _read_case(file: MappedFile, asked: Asked) -> Contents:
    del asked
    # Errors of a case name the file already.
    case = parse_case(file.data, file.name)
    known = Registers(**{item.name: getattr(case.cpu, item.name) for item in fields(Cpu)})
    with errors_named(file.name):
        memory = case.memory()
    return Contents(
        name=printable(file.name),
        kind=SourceKind.CASE,
        memory=memory,
        registers=known,
        case=case,
        complete=True,
    )


def _read_core(file: MappedFile, asked: Asked) -> Contents:
    with errors_named(file.name):
        core = read_core(file.data, asked.cpu)
    if core.virtual and asked.notice is not None:
        asked.notice(f"{core.virtual:,} segments have no physical address, and are left aside")
    return Contents(
        name=printable(file.name),
        kind=SourceKind.ELF,
        memory=core.memory,
        missing=core.missing,
        excluded=core.excluded,
        vmcoreinfo=core.vmcoreinfo,
        **_by_notes(core.notes, core.cpus, core.chosen, is_386=core.is_386),
    )


def _by_notes(
    notes: Sequence[Note], cpus: Sequence[CoreCpu], cpu: int, *, is_386: bool
) -> dict[str, Any]:
    """Return the fields of `Contents` that notes say; `cpu` is the number of the chosen CPU."""
    chosen = cpus[cpu] if cpus else CoreCpu(NOT_GIVEN)
    return {
        "registers": chosen.registers,
        "machine": "386" if is_386 else "x86-64",
        "notes": tuple((note.name, note.kind, len(note.content)) for note in notes),
        "cpus": tuple(each.registers for each in cpus),
        "cpu": cpu,
        "why": chosen.why,
    }


def _read_kcore(file: MappedFile, asked: Asked) -> Contents:
    return read_kcore(file.name, asked.notice)


def _read_raw(file: MappedFile, asked: Asked) -> Contents:
    state = state_beside(file.name)
    if state is not None and not asked.memory_map and asked.notice is not None:
        asked.notice(f"{one_line(state)} says where the parts of this file belong: give that")
    with errors_named(file.name):
        if not asked.memory_map:
            memory = read_raw(file.data, asked.base)
        elif asked.base:
            raise BadInput("a base and a memory map: either places the image")
        else:
            memory = placed(file.data, asked.memory_map)
        return Contents(
            name=printable(file.name),
            kind=SourceKind.RAW,
            memory=memory,
            format="raw image by a memory map" if asked.memory_map else "",
            begins_as=_known_format(file.data[:HEAD]),
        )


def _read_lime(file: MappedFile, asked: Asked) -> Contents:
    del asked
    with errors_named(file.name):
        return Contents(
            name=printable(file.name),
            kind=SourceKind.LIME,
            memory=read_lime(file.data),
            format=_LIME,
        )


def _read_kdump(file: MappedFile, asked: Asked) -> Contents:
    # Imported where it is needed: other files take no longer for it.
    from crosswalk.walker.formats.kdump import read_kdump  # noqa: PLC0415

    with errors_named(file.name):
        dump = read_kdump(file)
        if asked.cpu and not asked.cpu < len(dump.cpus):
            raise BadInput(f"no CPU {asked.cpu}; the file has the registers of {len(dump.cpus)}")
    if asked.notice is not None and len(dump.parts) > 1:
        asked.notice(f"parts of one dump: {', '.join(map(one_line, dump.parts))}")
    return Contents(
        name=printable(file.name),
        kind=SourceKind.KDUMP,
        memory=dump.memory,
        format=dump.format,
        missing=dump.missing,
        excluded=dump.excluded,
        vmcoreinfo=dump.vmcoreinfo,
        **_by_notes(dump.notes, dump.cpus, asked.cpu, is_386=dump.narrow),
    )


def _read_avml(file: MappedFile, asked: Asked) -> Contents:
    # As that of kdump files.
    from crosswalk.walker.formats.avml import read_avml  # noqa: PLC0415

    del asked
    with errors_named(file.name):
        return Contents(
            name=printable(file.name),
            kind=SourceKind.AVML,
            memory=read_avml(file),
            format=_AVML,
        )


def _read_layer(file: MappedFile, asked: Asked) -> Contents:
    with errors_named(file.name):
        layer = read_layer(file)
        if asked.cpu and not asked.cpu < len(layer.cpus):
            raise BadInput(f"no CPU {asked.cpu}; the file has the registers of {len(layer.cpus)}")
    return Contents(
        name=printable(file.name),
        kind=SourceKind.LAYER,
        memory=layer.memory,
        registers=layer.cpus[asked.cpu] if layer.cpus else layer.registers,
        format=layer.format,
        cpus=layer.cpus,
        cpu=asked.cpu,
    )


READERS = {
    SourceKind.CASE: Reader(_read_case),
    SourceKind.ELF: Reader(_read_core, ((0, _ELF),), "ELF file", cpus=True),
    SourceKind.RAW: Reader(_read_raw, placed=True),
    SourceKind.LIME: Reader(_read_lime, ((0, LIME_MAGIC),), _LIME),
    SourceKind.KDUMP: Reader(_read_kdump, _KDUMPS, "kdump-compressed file", cpus=True),
    SourceKind.AVML: Reader(_read_avml, ((0, b"AVML"),), _AVML),
    SourceKind.LAYER: Reader(_read_layer, tuple((0, magic) for magic in LAYERS), _LAYER, cpus=True),
    SourceKind.KCORE: Reader(_read_kcore),
}
"""The reader of each kind of file."""


def kind_of(name: str, data: mmap | bytes) -> SourceKind:
    """Return the kind of a file: by its first bytes, then by the ending of its name (.json).

    Whatever nothing is known of is a raw image. Raises `BadInput` for a format that isn't read.
    """
    head = data[:HEAD]
    known = _kind_by_magic(head)
    if known is SourceKind.ELF and is_xen_core(data):
        return SourceKind.LAYER
    if known is not None:
        return known
    if name.endswith(".json"):
        return SourceKind.CASE
    if head.lstrip().startswith(b"{") and b'"crosswalk-case' in head:
        return SourceKind.CASE
    unread = unread_format(head)
    if unread is not None:
        # A raw image is whole frames: of another size the file would be refused as one, too.
        raw = " (--kind raw takes the file as memory all the same)"
        whole = len(data) % FRAME == 0
        raise BadInput(f"{unread.name}: {unread.advice}{raw if whole else ''}")
    return SourceKind.RAW


def read_file_of(kind: SourceKind, file: MappedFile, asked: Asked) -> Contents:
    """Return what a file of this kind holds; `BadInput` as `open_contents`."""
    with errors_named(file.name):
        require_apt(kind, asked)
    return READERS[kind].read(file, asked)


def require_apt(kind: SourceKind, asked: Asked) -> None:
    """Raise `BadInput` where what is asked for doesn't go with a file of this kind."""
    reader = READERS[kind]
    if asked.cpu and not reader.cpus:
        raise BadInput(f"no CPU {asked.cpu}: only an ELF core has CPUs to choose from")
    if asked.base and not reader.placed:
        raise BadInput(f"base {asked.base:#x}: only a raw image can be placed")
    if asked.memory_map and not reader.placed:
        raise BadInput("a memory map: only a raw image can be placed")


def _known_format(head: bytes) -> str:
    """Return the name of the format other than a raw image's that a file has, or nothing."""
    known = _kind_by_magic(head)
    if known is not None:
        return READERS[known].name
    unread = unread_format(head)
    return unread.name if unread is not None else ""


def _kind_by_magic(head: bytes) -> SourceKind | None:
    for kind, reader in READERS.items():
        if any(head[at : at + len(magic)] == magic for at, magic in reader.magics):
            return kind
    return None
