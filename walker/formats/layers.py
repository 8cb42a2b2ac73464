"""Memory in files that volatility3's layers read: QEMU's, VMware's, Windows' and Xen's.

A layer says where in its file the pages lie. What they hold is read from the file itself, so that
a frame costs no call of the layer, which takes 30 to 60 µs.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from crosswalk.walker.context import CR4
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.fetched import FetchedMemory
from crosswalk.walker.formats.extras import required
from crosswalk.walker.formats.files import MappedFile, map_file
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.formats.qemu_cpus import cpus_in
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory, Segments

__all__ = ["LAYERS", "Layer", "is_xen_core", "read_layer", "state_beside"]

_LIBRARY = "volatility3"
_PHYSICAL_BITS = 52
_MOST_PARTS = 1 << 20
_LOW_MEMORY = 1 << 31  # QEMU's machines have a hole above it, and further RAM above 4 GiB.


@dataclass(frozen=True, slots=True)
class Layer:
    """The memory that a file holds, the format in words, and the registers as far as known.

    `cpus` are those of each CPU; empty where there are those of one at most, `registers`.
    """

    memory: PhysicalMemory
    format: str
    registers: Registers = NOT_GIVEN
    cpus: tuple[Registers, ...] = ()


def read_layer(file: MappedFile) -> Layer:
    """Return the memory of a file in a format of `LAYERS`.

    Raises `BadInput` in one line where it has none of these formats, where volatility3 isn't
    installed or doesn't read it, and where the file is cut off.
    """
    what, reader = _format_of(file.data)
    required(f"{_LIBRARY}.framework", _LIBRARY, what)
    import logging  # noqa: PLC0415  # Nothing else needs it.

    # Its warnings are for those who debug it; without a handler they go to standard error.
    logging.getLogger(_LIBRARY).addHandler(logging.NullHandler())
    try:
        return reader(file, what)
    except (CrosswalkError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # Of a damaged file it raises whatever it meets.
        reason = one_line(str(error)) or "no reason given"
        raise BadInput(f"{what}: volatility3 says {type(error).__name__}: {reason}") from None


def state_beside(name: str) -> str | None:
    """Return the name of the VMware state beside a .vmem file, which says where its parts belong.

    None for other files, and where there is none.
    """
    path = Path(name)
    if path.suffix != ".vmem":
        return None
    states = (path.with_suffix(ending) for ending in (".vmss", ".vmsn"))
    return next((str(each) for each in states if each.is_file()), None)


def _format_of(data: mmap) -> tuple[str, Callable[[MappedFile, str], Layer]]:
    for magic, known in LAYERS.items():
        if data[: len(magic)] == magic:
            return known
    if is_xen_core(data):
        return "Xen core", _xen
    raise BadInput("none of the formats that volatility3's layers read")


def is_xen_core(data: mmap | bytes) -> bool:
    """Return whether a file is an ELF file without segments, as Xen's `xl dump-core` writes."""
    if len(data) < 64 or data[:5] != b"\x7fELF\x02":
        return False
    count, sections = struct.unpack_from("<H2xH", data, 56)
    return bool(count == 0 and sections > 0)


class _Bytes:
    """A file's bytes from an offset on, without some gaps, as a buffer that a layer can slice.

    `gaps` are (place, size), in places of what is left, ascending. `last` is where was read last.
    The byte at `zero`, read alone, is 0.
    """

    def __init__(
        self,
        data: mmap,
        offset: int = 0,
        gaps: Sequence[tuple[int, int]] = (),
        zero: int | None = None,
    ) -> None:
        self._data, self._offset, self._gaps, self._zero = data, offset, tuple(gaps), zero
        self.last = 0

    def __len__(self) -> int:
        return len(self._data) - self._offset - sum(size for _, size in self._gaps)

    def __getitem__(self, place: slice) -> bytes:
        start, stop, found = place.start, place.stop, b""
        self.last = start
        if start == self._zero and stop == start + 1:
            return b"\0"
        for gap, _ in self._gaps:
            if start < gap < stop:
                found += self._data[self.there(start) : self.there(start) + gap - start]
                start = gap
        at = self.there(start)
        return found + self._data[at : at + stop - start]

    def all_there(self, places: U64) -> U64:
        """Return what `there` does for many places."""
        found = places + np.uint64(self._offset)
        for gap, size in self._gaps:
            found[places >= gap] += np.uint64(size)
        return found

    def there(self, place: int) -> int:
        """Return the place in the file of what is at a place here."""
        return place + self._offset + sum(size for gap, size in self._gaps if place >= gap)


def _layer(module: str, name: str, **bases: _Bytes) -> Any:
    """Return a layer of volatility3's over these bases, made as its own automagic makes it."""
    framework = f"{_LIBRARY}.framework"
    contexts = required(f"{framework}.contexts", _LIBRARY, name)
    physical = required(f"{framework}.layers.physical", _LIBRARY, name)
    session = contexts.Context()
    for base, content in bases.items():
        session.add_layer(physical.BufferDataLayer(session, base, base, content))
        session.config[f"layer.{base}"] = base
    layers = required(f"{framework}.layers.{module}", _LIBRARY, name)
    return getattr(layers, name)(session, "layer", "layer")


def _segments(layer: Any, data: mmap, what: str) -> Segments:
    """Return the memory of a layer whose segments lie in the file as they are, without a copy."""
    found = _runs(layer._segments)  # noqa: SLF001  # There is no other way to them.
    if len(found) > _MOST_PARTS:
        raise LimitExceeded(f"{what}: more than {_MOST_PARTS:,} runs of pages")
    return Segments(_parts(found, data, what))


def _runs(segments: Iterable[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    """Return segments as (address, place, size), those that follow each other in both as one."""
    found: list[tuple[int, int, int]] = []
    for segment in sorted(segments):
        start, at, size = map(int, segment[:3])
        if found and (start, at) == (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]):
            found[-1] = *found[-1][:2], found[-1][2] + size
        elif size:
            found.append((start, at, size))
    return found


def _parts(
    found: Iterable[tuple[int, int, int]], data: mmap, what: str
) -> Iterable[tuple[int, memoryview]]:
    for start, at, size in found:
        if at + size > len(data):
            raise BadInput(
                f"truncated {what}: the pages from {start:#x} on end at byte {at + size:,}, "
                f"the file at {len(data):,}"
            )
        if start + size > 1 << _PHYSICAL_BITS:
            raise BadInput(f"{what}: pages at {start:#x} end beyond {_PHYSICAL_BITS} bits")
        yield start, memoryview(data)[at : at + size]


@dataclass(frozen=True, slots=True)
class _DumpHeader:
    """Of a Windows dump's header: its size in frames, and for how many runs of pages it has room.

    `runs` and `kind` are where the number of these runs and the type of the dump stand, in bytes.
    """

    frames: int
    runs: int
    kind: int
    room: int


_DUMPS = {64: _DumpHeader(2, 136, 3992, 42), 32: _DumpHeader(1, 100, 3976, 86)}
_BITMAP = 5
_MOST_PAGES = 1 << 26


def _windows(file: MappedFile, what: str) -> Layer:
    """Read a complete dump or one with a bitmap; its header has the root of the kernel's tables."""
    width = 64 if file.data[4:8] == b"DU64" else 32
    _check_counts(file.data, what, _DUMPS[width])
    layer = _layer("crash", f"WindowsCrashDump{width}Layer", base_layer=_Bytes(file.data))
    registers = Registers(cr3=int(layer.dtb))
    if width == 32:
        pae = layer.get_header().PaeEnabled == 1
        registers = Registers(cr3=int(layer.dtb), cr4=int(CR4.PAE if pae else CR4.PSE), efer=0)
    return Layer(_segments(layer, file.data, what), what, registers)


def _check_counts(data: mmap, what: str, header: _DumpHeader) -> None:
    """Raise `BadInput` for counts that the layer would go by for hours."""
    begins = header.frames * FRAME
    if len(data) < begins + 56:
        raise BadInput(f"truncated {what}: its header ends after byte {len(data):,}")
    (runs,) = struct.unpack_from("<I", data, header.runs)
    if struct.unpack_from("<I", data, header.kind)[0] != _BITMAP:
        if runs > header.room:
            raise BadInput(f"damaged {what}: {runs:,} runs of pages, and room for {header.room}")
        return
    (pages,) = struct.unpack_from("<Q", data, begins + 48)
    if pages > _MOST_PAGES:
        raise LimitExceeded(f"{what}: a bitmap of {pages:,} pages; at most {_MOST_PAGES:,}")


def _vmware(file: MappedFile, what: str) -> Layer:
    """Read the .vmem file beside a .vmss or .vmsn one, which says where its parts belong."""
    path = Path(file.name)
    beside = path.with_suffix(".vmem")
    if beside == path:
        raise BadInput(f"{what}: memory is in the .vmem file of the same name; this is one by name")
    if not beside.exists():
        raise BadInput(f"{what}: its memory is in a file {one_line(beside.name)}, not there")
    memory = map_file(beside).data
    layer = _layer("vmware", "VmwareLayer", base_layer=_Bytes(memory), meta_layer=_Bytes(file.data))
    return Layer(_segments(layer, memory, f"{what}'s .vmem"), what)


def _xen(file: MappedFile, what: str) -> Layer:
    """Read a core of a guest with hardware virtualisation, whose tables hold its own addresses."""
    if b".xen_p2m\0" in _names(file.data, what):
        raise BadInput(f"{what}: of a paravirtualised guest, whose tables hold machine addresses")
    layer = _layer("xen", "XenCoreDumpLayer", base_layer=_Bytes(file.data))
    return Layer(_segments(layer, file.data, what), what)


def _names(data: mmap, what: str) -> bytes:
    """Return the names of an ELF file's sections; `BadInput` for more of them than Xen writes."""
    (first,) = struct.unpack_from("<Q", data, 40)
    stride, count, names = struct.unpack_from("<HHH", data, 58)
    if count > _MOST_SECTIONS or names >= count or first + count * stride > len(data):
        raise BadInput(f"damaged {what}: {count:,} sections, their names in number {names:,}")
    at, size = struct.unpack_from("<QQ", data, first + names * stride + 24)
    return data[at : at + min(size, FRAME)]


_MOST_SECTIONS = 64


_LIBVIRT = struct.Struct("<16s4I")
_LIBVIRT_SIZE = 92
_LIBVIRT_FORMATS = {1: "gzip", 2: "bzip2", 3: "xz", 4: "lzop", 5: "zstd"}


def _libvirt(file: MappedFile, what: str) -> Layer:
    """Read libvirt's save file: a header, the domain's XML, and QEMU's stream."""
    if len(file.data) < _LIBVIRT_SIZE:
        raise BadInput(f"truncated {what}: its header ends after byte {len(file.data):,}")
    _, version, length, _, packed = _LIBVIRT.unpack_from(file.data)
    if packed:
        how = _LIBVIRT_FORMATS.get(packed, f"format {packed}")
        raise BadInput(
            f'{what}: its stream is compressed ({how}); save with save_image_format = "raw"'
        )
    begins = _LIBVIRT_SIZE + length
    if version < 1 or file.data[begins : begins + 4] != b"QEVM":
        raise BadInput(f"damaged {what}: no stream of QEMU's at byte {begins:,}")
    return _qemu(file, what, begins)


def _qemu(file: MappedFile, what: str, offset: int = 0) -> Layer:
    """Read QEMU's migration stream: pages in any order, of which the last one of a frame counts."""
    content, layer = _stream(file.data, offset)
    machine = str(layer._architecture or "")  # noqa: SLF001  # As the next: there is no other way.
    found = layer._segments  # noqa: SLF001
    columns = np.array(found, np.uint64).reshape(-1, 4)
    del layer, found
    if not len(columns):
        raise BadInput(f"{what}: no pages of pc.ram, the memory of QEMU's PCs")
    if (columns[:, 0] % FRAME).any() or not np.isin(columns[:, 3], (1, FRAME)).all():
        raise BadInput(f"{what}: its pages aren't of {FRAME:,} bytes")
    # np.unique finds the first of equals: the last one, from the end.
    pas, last = np.unique(columns[::-1, 0], return_index=True)
    _, places, _, stored = columns[::-1][last].T
    places = content.all_there(places)
    if int(pas[-1]) >= _LOW_MEMORY and not _known_machine(machine):
        raise BadInput(
            f"{what}: where a machine {one_line(machine) or 'without a name'} has its memory "
            "above 4 GiB isn't known to volatility3"
        )
    if int((places + stored).max()) > len(file.data):
        raise BadInput(f"truncated {what}: the file ends at byte {len(file.data):,}")
    if int(pas[-1]) >= 1 << _PHYSICAL_BITS:
        raise BadInput(f"{what}: a page at {int(pas[-1]):#x}, beyond {_PHYSICAL_BITS} bits")
    pages = _Pages(file, pas, places, stored)
    cpus = cpus_in(file.data, content.there(int((columns[:, 1] + columns[:, 3]).max())))
    return Layer(FetchedMemory(_ranges(pas), pages.fetch), what, cpus=cpus)


def _stream(data: mmap, offset: int) -> tuple[_Bytes, Any]:
    """Return the layer of a stream, and the bytes that it reads: all that it knows.

    It stops at what QEMU puts between the sections for the side that receives (migration/savevm.c,
    `qemu_savevm_command_send`: byte 8, uint16 command, uint16 length, the data), which is left out,
    and in the state of the first device, behind all pages, unless that begins with a 0 byte, which
    it takes for the end of the stream: that is what it gets.
    """
    gaps: list[tuple[int, int]] = []
    zero = None
    while True:
        content = _Bytes(data, offset, gaps, zero)
        try:
            return content, _layer("qemu", "QemuSuspendLayer", base_layer=content)
        except Exception as error:
            at = content.there(content.last)
            if _UNKNOWN not in str(error) or zero is not None or len(gaps) == _MOST_COMMANDS:
                raise
            if _is_device(data, at):
                zero = content.last
            elif data[at] == _COMMAND:
                gaps.append((content.last, 5 + int.from_bytes(data[at + 3 : at + 5], "big")))
            else:
                raise


_UNKNOWN = "unknown section encountered"
_COMMAND = 8
_MOST_COMMANDS = 8


def _is_device(data: mmap, at: int) -> bool:
    """Return whether the state of a device begins at a byte: after its name, instance and version.

    Before the name come a byte 4, the section as a uint32, and the name's length.
    """
    begins = ((at - 14 - size, size) for size in range(1, 256))
    return any(
        begin > 0 and data[begin] == _WHOLE and data[begin + 5] == size for begin, size in begins
    )


_WHOLE = 4


def _known_machine(machine: str) -> bool:
    layers = required(f"{_LIBRARY}.framework.layers.qemu", _LIBRARY, "QEMU")
    return any(each.match(machine) for each in layers.QemuSuspendLayer.pci_hole_table)


def _ranges(pas: U64) -> list[tuple[int, int]]:
    """Return the ranges of frames, ascending and distinct, as (start, size)."""
    begins = np.flatnonzero(np.concatenate([[True], np.diff(pas) != FRAME]))
    counts = np.diff(np.append(begins, len(pas))) * FRAME
    return list(zip(pas[begins].tolist(), counts.tolist(), strict=True))


class _Pages:
    """Pages by address: whole ones, and those that one byte stands for."""

    def __init__(self, file: MappedFile, pas: U64, places: U64, stored: U64) -> None:
        self._data, self._pas, self._places, self._stored = file.data, pas, places, stored

    def fetch(self, frames: U64) -> U64:
        words = np.empty((len(frames), WORDS), np.uint64)
        rows = np.searchsorted(self._pas, frames)
        places, stored = self._places[rows].tolist(), self._stored[rows].tolist()
        for row, (at, size) in enumerate(zip(places, stored, strict=True)):
            content = self._data[at : at + size]
            words[row] = np.frombuffer(content * (FRAME // size), np.uint64)
        return words


_VMWARE = "VMware suspended state"

LAYERS: dict[bytes, tuple[str, Callable[[MappedFile, str], Layer]]] = {
    b"QEVM": ("QEMU migration stream (savevm)", _qemu),
    b"LibvirtQemudSave": ("libvirt save file", _libvirt),
    b"PAGEDU64": ("Windows crash dump", _windows),
    b"PAGEDUMP": ("Windows crash dump, 32 bits", _windows),
    b"\xd0\xbe\xd2\xbe": (_VMWARE, _vmware),
    b"\xd1\xba\xd1\xba": (_VMWARE, _vmware),
    b"\xd2\xbe\xd2\xbe": (_VMWARE, _vmware),
    b"\xd3\xbe\xd3\xbe": (_VMWARE, _vmware),
}
"""What files in these formats begin with: the format's name, and how it is read."""
