"""Symbols that a Linux kernel has in itself: kallsyms, as lines like those of /proc/kallsyms.

drgn reads them out of the kernel's memory, vmlinux-to-elf out of its image, where these are
installed; both run in processes of their own. Source: Linux,
Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/kallsyms.c.
"""

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crosswalk.emu.load.linux.image import unpack_bzimage
from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.emu.workers.temporary import temporary_files_together
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Source
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.symbols.kaslr import vmcoreinfo_values
from crosswalk.walker.symbols.linear_memory import LinearMemory

__all__ = ["INSTALL", "kallsyms_of_image", "kallsyms_of_memory"]

INSTALL = "pip install 'crosswalk-x86[symbols]'"
"""The command that installs both."""

_SECONDS = 120.0
_FINDER = "kallsyms-finder"
_LIMITS = Limits(seconds=_SECONDS, output=1 << 28)
_UPPER_HALF = 1 << 63


def kallsyms_of_memory(source: Source, info: str) -> bytes:
    """Return the symbols of a kernel by its memory; `info` is the text of its VMCOREINFO.

    They are where the kernel runs. Raises `BadInput` with the reason where there are none: drgn
    isn't installed, the kernel doesn't say where they are (before 6.0), their memory isn't there.
    """
    if find_spec("drgn") is None:
        raise BadInput(f"drgn isn't installed: {INSTALL}")
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


def _read_by_drgn(source: Source, info: str) -> bytes:
    """Return the symbols that drgn finds, in a process that may crash."""
    import drgn  # noqa: PLC0415  # Not always installed.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms  # noqa: PLC0415

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


def kallsyms_of_image(content: bytes) -> bytes:
    """Return the symbols of a bzImage, at the addresses that the kernel is linked to.

    Raises `BadInput` with the reason where there are none: vmlinux-to-elf isn't installed, or
    finds none.
    """
    beside = Path(sys.executable).with_name(_FINDER)
    finder = str(beside) if beside.exists() else shutil.which(_FINDER)
    if finder is None:
        raise BadInput(f"a bzImage has symbols that vmlinux-to-elf finds: {INSTALL}")
    kernel = unpack_bzimage(content)
    with temporary_files_together(), tempfile.NamedTemporaryFile() as file:
        file.write(kernel)
        file.flush()
        ran = run_command([finder, "--bit-size", "64", file.name], _LIMITS)
    # What it reports about itself begins otherwise.
    lines = [line for line in ran.output.splitlines(keepends=True) if line[:1].isalnum()]
    if ran.ended is not None or not lines:
        how = ran.ended or "finds none"
        raise BadInput(f"vmlinux-to-elf {how}{f': {ran.said}' if ran.said else ''}")
    return b"".join(lines)
