"""How far a kernel runs from the addresses that it was linked to (KASLR), and whose symbols fit it.

Source: Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst, "KERNELOFFSET"; arch/x86/mm/init.c:
what lies before and behind the image isn't mapped once Linux is up (cleanup_highmap).
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.pages import pages
from crosswalk.walker.rights import Rights
from crosswalk.walker.symbols.linux import IMAGE, all_addresses_of
from crosswalk.walker.symbols.spans import Spans

__all__ = ["Offset", "symbols_offset", "vmcoreinfo_values"]

_ALIGNED = 1 << 21
_END = IMAGE + (1 << 30)
_32_BIT_IMAGES = (0x4000_0000, 1 << 32)
_TABLE = ("swapper_pg_dir", "init_top_pgt", "init_level4_pgt")
_TEXT = ("_text", "_stext")
_SYMBOL = "SYMBOL("
_FIRST = {
    "__start_rodata": Rights.SUPERVISOR_READ,
    "_sdata": Rights.SUPERVISOR_READ | Rights.SUPERVISOR_WRITE,
}
"""The rights of the page that begins with a symbol, once Linux has restricted them."""
_LAST = {"_etext", "__end_rodata"}
"""What is behind the page that a part ends with, which is mapped, has other rights than that."""
_GIVE = "--symbols-offset says how far they are to be moved"


@dataclass(frozen=True, slots=True)
class Offset:
    """How far symbols are to be moved, in bytes; `remark` says why, "" where they stay."""

    value: int
    remark: str = ""


def vmcoreinfo_values(text: str) -> dict[str, str]:
    """Return the values of a VMCOREINFO by key."""
    lines = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if key.strip()}


def symbols_offset(
    symbols: Spans,
    info: dict[str, str],
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    identified: bool = False,
) -> Offset:
    """Return how far the symbols of a kernel's file are from where that kernel runs.

    By the addresses of `info`, the values of its VMCOREINFO, all of which have to fit; where there
    are none, by the first page that is mapped where the image may be, if all of the kernel's text
    is executable from there, and text, read-only data and data begin and end where their rights
    do. Symbols of what isn't Linux stay where they are. `identified` says that they are known to be
    this kernel's by something else. Raises `BadInput` in one line for symbols that can't be those
    of this kernel.
    """
    first, end = (IMAGE, _END) if context.mode.long else _32_BIT_IMAGES
    stated = _stated(info, first, end)
    every = all_addresses_of(symbols, {*stated, *_TEXT, *_TABLE, *_FIRST, *_LAST})
    # A program of user mode may have some of these names.
    image = {name: [at for at in held if first <= at < end] for name, held in every.items()}
    found = {name: held for name, held in image.items() if held}
    known = {name: addresses[0] for name, addresses in found.items()}
    text = next((known[name] for name in _TEXT if name in known), None)
    if stated:
        inside = bool(((symbols.start >= first) & (symbols.start < end)).any())
        return _by_addresses(found, stated, info, inside=inside, identified=identified)
    # A 32-bit kernel's image lies in the mapping of all RAM, of which it isn't the first page.
    if text is None or not context.mode.long:
        return Offset(0)
    return _by_tables(known, text, memory, context)


def _stated(info: dict[str, str], first: int, end: int) -> dict[str, int]:
    """Return the addresses of symbols in a VMCOREINFO; what isn't in the image is a pointer."""
    found = {}
    for key, value in info.items():
        if key.startswith(_SYMBOL) and key.endswith(")") and _is_hex(value):
            address = int(value, 16)
            if first <= address < end:
                found[key[len(_SYMBOL) : -1]] = address
    return found


def _is_hex(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdefABCDEF" for char in text)


def _by_addresses(
    found: dict[str, list[int]],
    stated: dict[str, int],
    info: dict[str, str],
    *,
    inside: bool,
    identified: bool,
) -> Offset:
    """Return the one distance from where symbols are to where VMCOREINFO has all of them.

    Of several of one name, which are static ones, any may be meant. `inside` says whether any
    symbols are where an image may be.
    """
    same = {"_stext": _TEXT[::-1], **dict.fromkeys(_TABLE, _TABLE)}
    apart: dict[str, set[int]] = {}
    for name, address in stated.items():
        meant = next((each for each in (name, *same.get(name, ())) if each in found), None)
        if meant is not None:
            apart[name] = {address - each for each in found[meant]}
    if not apart:
        if not inside:
            return Offset(0)
        stands = info.get("KERNELOFFSET", "")
        says = f" (KERNELOFFSET is 0x{stands})" if _is_hex(stands) else ""
        return Offset(0, f"whether KASLR has moved the kernel isn't known{says}: {_GIVE}")
    counts = Counter(value for values in apart.values() for value in values)
    value = min(counts, key=lambda each: (each % _ALIGNED != 0, -counts[each], abs(each)))
    others = [name for name in apart if value not in apart[name]]
    if others or value % _ALIGNED:
        fit = [name for name in apart if name not in others][:1]
        listed = ", ".join(
            f"{name} {_signed(min(apart[name], key=lambda each: abs(each - value)))}"
            for name in (*fit, *others[:1])
        )
        raise BadInput(
            f"symbols of another kernel: from there to VMCOREINFO's it is {listed}; "
            f"{len(apart) - len(others)} of {len(apart)} fit"
        )
    remark = f"KASLR: symbols are moved by {_signed(value)} (VMCOREINFO)" * bool(value)
    if len(apart) == 1 and not identified:
        (name,) = apart
        alone = f"VMCOREINFO has {name} alone of them: whether they are this kernel's isn't known"
        remark = f"{remark}; {alone}" if remark else alone
    return Offset(value, remark)


def _by_tables(
    known: dict[str, int], text: int, memory: PhysicalMemory, context: PagingContext
) -> Offset:
    unknown = Offset(
        0, f"symbols don't fit the image that the tables map: another kernel's, or {_GIVE}"
    )
    end = known.get("_etext")
    first = next((int(block.va[0]) for block in pages(memory, context, IMAGE, _END)), None)
    if first is None or end is None or end <= text:
        return unknown
    value = first - text & -_ALIGNED
    reached = text + value
    for block in pages(memory, context, reached, end + value):
        runs = (block.rights & np.uint8(Rights.SUPERVISOR_EXECUTE)) != 0
        starts = block.va
        if not runs.all() or int(starts[0]) > reached or (np.diff(starts) > block.size[:-1]).any():
            return unknown
        reached = int(starts[-1]) + int(block.size[-1])
    if reached < end + value or not _fit(known, value, memory, context):
        return unknown
    where = "the first page that is mapped of the image's part"
    return Offset(value, f"KASLR: symbols are moved by {_signed(value)} ({where})" * bool(value))


def _fit(
    known: dict[str, int], offset: int, memory: PhysicalMemory, context: PagingContext
) -> bool:
    """Return whether data begins, and text and read-only data end, where these symbols say.

    That is by the supervisor's rights; a kernel that hasn't restricted them yet fits.
    """

    def rights(va: int) -> int:
        block = next(pages(memory, context, va + offset, va + offset + 1), None)
        return 0 if block is None else int(block.rights[0]) & _SUPERVISOR

    begins = all(
        rights(known[name]) in (_FIRST[name], _SUPERVISOR) for name in _FIRST.keys() & known.keys()
    )
    if not begins:
        return False
    for name in _LAST & known.keys():
        inside, behind = rights(known[name] - 1), rights(-(-known[name] // FRAME) * FRAME)
        if not inside or inside == behind != _SUPERVISOR:
            return False
    return True


_SUPERVISOR = 7


def _signed(value: int) -> str:
    return f"{'-' if value < 0 else ''}{abs(value):#x}"
