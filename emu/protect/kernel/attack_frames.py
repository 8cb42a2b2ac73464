"""Where attacks act: frames of each kind, found in a kernel that is up, and their addresses."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME

__all__ = ["DIRECT", "IMAGE", "Places", "find_places"]

DIRECT, IMAGE = 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8000_0000
"""Where Linux maps physical address 0 without KASLR: in the direct map, and with its image."""

_NX = 1 << 63
_SITE_PAGES = 2
_FREE = 6
_COPIES = (b"\xf3\xa4\xc3", b"\xf3\xa4\xe9")  # rep movsb, and a return or a jump to one


@dataclass(frozen=True, slots=True)
class Places:
    """Physical addresses of frames, but for `copier`, a linear address in text, and `user`.

    `site` is text that injected code replaces; `text`, `rodata` and `data` are of the image;
    `free` are zeroed frames that may be written, not of the image; `user` is a page that a user
    may execute, by its linear address, and `user_frame` what it shows. `copier` copies RCX
    bytes from RSI to RDI and returns.
    """

    site: int
    text: int
    rodata: int
    data: int
    free: tuple[int, ...]
    user: int
    user_frame: int
    copier: int
    root: int


def find_places(protection: Protection) -> Places:
    """Return where to attack the kernel, while it has a process's memory mapped.

    Raises `CrosswalkError` where the kernel has no such places.
    """
    grants, words = protection.grants, protection.machine.ram.words
    root = protection.root
    text = _numbers(grants.text)
    unwritable = grants.sealed & ~grants.text
    rodata = [
        frame
        for frame in _numbers(unwritable & ~grants.executable)
        if (leaf := find_leaf(words, root, IMAGE + frame * FRAME)) and leaf.size == FRAME
    ]
    data = _numbers(grants.writable & ~grants.executable)
    pages = words.reshape(-1, FRAME // 8)
    outside = np.flatnonzero(grants.writable & grants.executable & ~grants.tables)
    free = [frame for frame in outside[::-1].tolist() if not pages[frame].any()][:_FREE]
    user = next(_user_code(protection), None)
    if len(text) <= _SITE_PAGES or not rodata or not data or len(free) < _FREE or user is None:
        raise CrosswalkError("the kernel hasn't all the places that the attacks need")
    places = Places(
        site=text[0] * FRAME,
        text=text[_SITE_PAGES] * FRAME,
        rodata=rodata[0] * FRAME,
        data=data[-1] * FRAME,
        free=tuple(frame * FRAME for frame in free),
        user=user[0],
        user_frame=user[1],
        copier=IMAGE + _copier(protection, text),
        root=root,
    )
    for base in (DIRECT, IMAGE):
        for pa in (places.site, places.text, places.rodata, places.data):
            leaf = find_leaf(words, root, base + pa)
            if leaf is None or leaf.pa + (base + pa) % leaf.size != pa:
                raise CrosswalkError(f"{pa:#x} isn't mapped at {base + pa:#x}: KASLR?")
    return places


def _user_code(protection: Protection) -> Iterator[tuple[int, int]]:
    """Yield the addresses of pages that the process may execute, and their frames.

    With page-table isolation it may by other tables than these, whose root forbids it.
    """
    words, root = protection.machine.ram.words, protection.root
    for va in lower_leaves(words, root):
        leaf = find_leaf(words, root, va)
        if leaf is not None and leaf.user and not int(words[leaf.entry // 8]) & _NX:
            yield va, leaf.pa + va % leaf.size


def _copier(protection: Protection, text: list[int]) -> int:
    content = protection.machine.ram.read(text[0] * FRAME, (text[-1] + 1 - text[0]) * FRAME)
    found = [at for at in (content.find(code) for code in _COPIES) if at >= 0]
    if not found or not protection.grants.text[text[0] + found[0] // FRAME]:
        raise CrosswalkError("the kernel has no code that copies a string and returns")
    return text[0] * FRAME + found[0]


def _numbers(frames: np.ndarray) -> list[int]:
    found: list[int] = np.flatnonzero(frames).tolist()
    return found
