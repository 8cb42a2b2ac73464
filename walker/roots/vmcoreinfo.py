"""VMCOREINFO: lines that a Linux kernel keeps in memory about itself, for whoever reads its dump.

Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst. The text is in a note of /proc/vmcore, in the
header of a compressed kdump, and at the beginning of a page of the kernel's memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.walker.memory import FRAME, PhysicalMemory, release
from crosswalk.walker.roots.passes import Progress

__all__ = ["Vmcoreinfo", "parse_vmcoreinfo", "texts_in_memory"]

_FIRST = b"OSRELEASE="
_LONGEST = 4096
"""The most bytes that Linux puts into it (VMCOREINFO_BYTES)."""
_BLOCK = 512
"""How many frames are searched at once: 2 MiB."""
_MOST = 64
"""The most texts that are taken from a memory: copies of files may hold any number of them."""

_KERNEL_IMAGE = 0xFFFF_FFFF_8000_0000
"""Where the kernel's image is mapped without KASLR (Linux' __START_KERNEL_map)."""
_32_BIT_KERNELS = (0xC000_0000, 0xB000_0000, 0x8000_0000, 0x7800_0000, 0x4000_0000)
"""Where a 32-bit kernel's mapping of RAM may begin (Linux' CONFIG_PAGE_OFFSET)."""


@dataclass(frozen=True, slots=True)
class Vmcoreinfo:
    """What VMCOREINFO says of the kernel's own table.

    `roots` are physical addresses that it may have, of which a 64-bit kernel has one; `five_levels`
    says whether the kernel uses 5 levels, `pae` whether it is a 32-bit one with PAE, None for a
    64-bit one. `encryption_mask` is AMD's C-bit where the kernel uses it, else 0.
    """

    roots: tuple[int, ...]
    five_levels: bool
    pae: bool | None
    encryption_mask: int


def parse_vmcoreinfo(text: str) -> Vmcoreinfo | None:
    """Return what a VMCOREINFO says of the kernel's root; None where it doesn't."""
    lines = (line.partition("=") for line in text.splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    table = _number(values.get("SYMBOL(swapper_pg_dir)"), 16)
    if table is None:
        table = _number(values.get("SYMBOL(init_top_pgt)"), 16)
    if table is None:
        return None
    if table < 1 << 32:
        pae = values.get("CONFIG_X86_PAE") == "y"
        roots = tuple(table - start for start in _32_BIT_KERNELS if table >= start)
        return Vmcoreinfo(roots, five_levels=False, pae=pae, encryption_mask=0)
    # KERNELOFFSET is in the symbol's value already; phys_base has the rest, and may be negative.
    base = _number(values.get("NUMBER(phys_base)"), 10) or 0
    root = table - _KERNEL_IMAGE + base
    if not 0 <= root < 1 << 52:
        return None
    levels = _number(values.get("NUMBER(pgtable_l5_enabled)"), 10)
    mask = (_number(values.get("NUMBER(sme_mask)"), 10) or 0) & 0x000F_FFFF_FFFF_F000
    return Vmcoreinfo((root,), five_levels=levels == 1, pae=None, encryption_mask=mask)


def texts_in_memory(memory: PhysicalMemory, progress: Progress | None = None) -> Iterator[str]:
    """Yield the texts in memory that begin as VMCOREINFO does, by address, each once.

    A block at a time is read. `progress` is told how many frames of how many were searched.
    """
    seen: set[str] = set()
    total = sum(size // FRAME for _, size in memory.ranges)
    done = released = since = 0
    for start, size in memory.ranges:
        first, end = -(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME
        before = b""
        for at in range(first, end, _BLOCK * FRAME):
            last = min(at + _BLOCK * FRAME, end)
            frames = np.arange(at, last, FRAME, dtype=np.uint64)
            # One byte less than the word that is looked for: it is found once.
            data = before + memory.tables(frames).tobytes()
            place = data.find(_FIRST)
            while place >= 0:
                pa = at - len(before) + place
                text = _text(memory.read(pa, min(_LONGEST, start + size - pa)))
                if text not in seen:
                    seen.add(text)
                    yield text
                if len(seen) >= _MOST:
                    return
                place = data.find(_FIRST, place + 1)
            before = data[1 - len(_FIRST) :]
            done += len(frames)
            if done - released >= _BLOCK:
                release(memory, since, last - since)
                since, released = last, done
            if progress is not None:
                progress("frames searched for VMCOREINFO", done, total)


def _text(data: bytes) -> str:
    """Return the lines of printable ASCII that `data` begins with."""
    length = next((at for at, byte in enumerate(data) if byte not in _TEXT), len(data))
    return data[:length].decode("ascii")


_TEXT = frozenset((*range(0x20, 0x7F), 0x0A))


def _number(text: str | None, base: int) -> int | None:
    """Return a number of VMCOREINFO; None where there is none."""
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None
