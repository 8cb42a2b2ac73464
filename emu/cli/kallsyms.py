"""Symbols that a Linux kernel has in itself: kallsyms, as lines like those of /proc/kallsyms.

The reader `crosswalk.walker.symbols.kallsyms` finds them, in an image and in a kernel's memory.
Where their form isn't known to it, or not all of them are in memory, drgn is asked, which is told
where they are, and vmlinux-to-elf. Where these are installed, both run in processes of their own.
Source: Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/kallsyms.c.
"""

import resource
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from crosswalk.emu.load.linux.image import release_of, unpack_bzimage
from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded, ProcessLost
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.emu.workers.temporary import temporary_files_together
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.memory import FRAME
from crosswalk.walker.pages import pages
from crosswalk.walker.symbols.identity import Identity, build_id_in
from crosswalk.walker.symbols.kallsyms import kallsyms_in, kallsyms_of_elf
from crosswalk.walker.symbols.kaslr import vmcoreinfo_values
from crosswalk.walker.symbols.linear_memory import LinearMemory
from crosswalk.walker.symbols.linux import IMAGE

__all__ = ["kallsyms_of_image", "kallsyms_of_memory"]

_INSTALL = "pip install 'crosswalk-x86[symbols]'"
"""The command that installs both."""

_SECONDS = 120.0
_MEMORY = 4 << 30
"""The most memory of its own that the process with drgn may have, in bytes."""
_FINDER = "kallsyms-finder"
_LIMITS = Limits(seconds=_SECONDS, output=1 << 28)
_UPPER_HALF = 1 << 63
_CLASS, _32_BITS = 4, b"\x01"  # Of an ELF file's identification.
_LARGEST_IMAGE = 128 << 20
"""How far from its beginning a kernel's image is looked at, in bytes."""


def kallsyms_of_memory(source: Source, info: str) -> tuple[bytes, str]:
    """Return the symbols of a kernel by its memory, and by what they were found.

    `info` is the text of its VMCOREINFO. They are where the kernel runs. The project's own reader
    is asked first, then drgn, then vmlinux-to-elf. Raises `BadInput` with the reasons where none
    has any: it isn't installed, the kernel doesn't say where they are (before 6.0, to drgn), their
    memory isn't there.
    """
    own = _by_own_reader(source, info)
    if own:
        return own, "Crosswalk's own reader of kallsyms"
    reasons = []
    for name, way in (("drgn", _by_drgn), ("vmlinux-to-elf", _by_vmlinux_to_elf)):
        try:
            return way(source, info), name
        except BadInput as error:
            reasons.append(str(error))
    install = f": {_INSTALL}" if any(_MISSING in each for each in reasons) else ""
    raise BadInput(f"{'; '.join(reasons)}{install}")


_MISSING = "isn't installed"


def _by_own_reader(source: Source, info: str) -> bytes:
    """Return the symbols in what is mapped of the image; nothing where their form isn't known."""
    image, start = bytearray(), 0
    for va, data in _mapped(source, info):
        start = start if image else va
        image.extend(bytes(va - start - len(image)))
        image.extend(data)
    return kallsyms_in(bytes(image), start, _bits(source)) if image else b""


def _bits(source: Source) -> int:
    return 64 if source.context.mode.long else 32


def _by_drgn(source: Source, info: str) -> bytes:
    if not source.context.mode.long:
        raise BadInput("drgn is asked about 64-bit kernels alone")
    if find_spec("drgn") is None:
        raise BadInput(f"drgn {_MISSING}")
    if "SYMBOL(kallsyms_names)" not in vmcoreinfo_values(info):
        raise BadInput("VMCOREINFO doesn't say where they are, as that of Linux 6.0 and later does")
    pool: Pool[None, bytes] = Pool(
        lambda _: _read_by_drgn(source, info), seconds=_SECONDS, sure=1, who="drgn"
    )
    with pool:
        try:
            return pool.submit(None)()
        except ProcessEnded as ended:
            raise BadInput(f"drgn {ended}") from None
        except ProcessLost as lost:
            raise BadInput(str(lost)) from None


def _read_by_drgn(source: Source, info: str) -> bytes:
    """Return the symbols that drgn finds, in a process that may crash, or need too much memory."""
    import drgn  # noqa: PLC0415  # Not always installed.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms  # noqa: PLC0415

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or most > _MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, most))
    linear = LinearMemory(source.memory, source.context)

    def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:  # noqa: FBT001
        try:
            return linear.read(address, size)
        except CrosswalkError as error:
            raise drgn.FaultError(str(error), address) from None

    def find(program: Any, name: str, _flags: Any, _file: Any) -> Any:
        if name != "VMCOREINFO":
            return None
        text = info.encode() + b"\0"
        kind = program.array_type(program.int_type("char", 1, True), len(text))
        return drgn.Object(program, kind, value=list(text))

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    program.add_memory_segment(_UPPER_HALF, _UPPER_HALF, read, False)
    program.register_object_finder("vmcoreinfo", find, enable_index=0)
    try:
        symbols = load_vmlinux_kallsyms(program)(program, None, None, False)
    except (drgn.FaultError, drgn.BadDataError, LookupError, ValueError, OverflowError) as error:
        raise BadInput(f"drgn: {one_line(str(error))}") from None
    letters = {drgn.SymbolBinding.GLOBAL: "T", drgn.SymbolBinding.WEAK: "W"}
    lines = (
        f"{each.address:016x} {letters.get(each.binding, 't')} {each.name}\n"
        for each in sorted(symbols, key=lambda each: each.address)
    )
    return "".join(lines).encode("utf-8", "surrogateescape")


def kallsyms_of_image(content: bytes) -> tuple[bytes, Identity]:
    """Return the symbols of a bzImage, where the kernel is linked to, and which build it is.

    Raises `BadInput` with the reason where there are none of a known form, and vmlinux-to-elf isn't
    installed, or finds none.
    """
    try:
        vmlinux = unpack_bzimage(content)
        identity = Identity(build_id_in(vmlinux), release_of(content))
        bits = 32 if vmlinux[_CLASS : _CLASS + 1] == _32_BITS else 64
        return kallsyms_of_elf(vmlinux) or _found([(0, vmlinux)], bits), identity
    except BadInput as error:
        install = f": {_INSTALL}" if _MISSING in str(error) else ""
        why = f"a bzImage, in which no symbols of a known form are: {error}{install}"
        raise BadInput(why) from None


def _by_vmlinux_to_elf(source: Source, info: str) -> bytes:
    _finder()
    return _found(_image(source, info), _bits(source))


def _image(source: Source, info: str) -> Iterator[tuple[int, bytes]]:
    """Yield what is mapped of a kernel's image: the distance from its beginning, and the bytes."""
    start = None
    for va, data in _mapped(source, info):
        start = va if start is None else start
        yield va - start, data


def _mapped(source: Source, info: str) -> Iterator[tuple[int, bytes]]:
    """Yield what is mapped of a kernel's image, a frame at a time: its address, and the bytes.

    Up to 128 MiB from its beginning; nothing of what isn't in memory. A 32-bit kernel's is in the
    mapping of all RAM: it begins where VMCOREINFO has `_stext`.
    """
    memory, start = source.memory, None
    first, end = IMAGE, IMAGE + (1 << 30)
    if not source.context.mode.long:
        first, end = _32_bit_text(info) & -FRAME, 1 << 32
    for block in pages(memory, source.context, first, end):
        for page in block:
            start = page.va if start is None else start
            size = min(page.size, start + _LARGEST_IMAGE - page.va)
            if size <= 0:
                return
            frames = np.arange(page.pa, page.pa + size, FRAME, dtype=np.uint64)
            for pa in frames[memory.backed(frames)].tolist():
                yield page.va + pa - page.pa, memory.read(pa, FRAME)


def _32_bit_text(info: str) -> int:
    """Return where a 32-bit kernel's text begins; `BadInput` where its VMCOREINFO doesn't say."""
    stated = vmcoreinfo_values(info).get("SYMBOL(_stext)", "")
    try:
        return int(stated, 16) % (1 << 32)
    except ValueError:
        raise BadInput("VMCOREINFO doesn't say where the kernel's text is") from None


def _finder() -> str:
    """Return the command of vmlinux-to-elf; `BadInput` where it isn't installed."""
    beside = Path(sys.executable).with_name(_FINDER)
    finder = str(beside) if beside.exists() else shutil.which(_FINDER)
    if finder is None:
        raise BadInput(f"vmlinux-to-elf {_MISSING}")
    return finder


def _found(parts: Iterable[tuple[int, bytes]], bits: int) -> bytes:
    """Return the symbols that vmlinux-to-elf finds in a file of these parts, by their places."""
    finder = _finder()
    with temporary_files_together(), tempfile.NamedTemporaryFile() as file:
        for at, data in parts:
            file.seek(at)
            file.write(data)
        file.flush()
        ran = run_command([finder, "--bit-size", str(bits), file.name], _LIMITS)
    # What it reports about itself begins otherwise.
    lines = [line for line in ran.output.splitlines(keepends=True) if line[:1].isalnum()]
    if ran.ended is not None or not lines:
        how = ran.ended or "finds none"
        raise BadInput(f"vmlinux-to-elf {how}{f': {ran.said}' if ran.said else ''}")
    return b"".join(lines)
