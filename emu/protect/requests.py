"""What the guest asks for: a page list of its own making, from what it meant to map."""

import struct
from collections.abc import Iterable

import numpy as np

from crosswalk.emu.protect.agent import Agent, Operation, Result
from crosswalk.emu.protect.grants import Permissions, stretches
from crosswalk.emu.protect.guest import FRAMES
from crosswalk.emu.protect.hypervisor import Hypercall
from crosswalk.guest import places
from crosswalk.guest.image import GuestImage
from crosswalk.guest.status import Status
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import PageEntry, Permission, encode

__all__ = ["LIST", "ask", "meant", "page_entries", "place", "update"]

LIST = places.LARGE_DATA + 0x10_0000
"""Where the guest has its page lists: in its large data."""

_IMMUTABLE = ("boot text", "boot records", "text", "rodata", "large text")


def meant(image: GuestImage, status: Status) -> Permissions:
    """Return what the guest means all mappings of a frame to allow together; 0 for unmapped."""
    found = np.zeros(FRAMES, np.uint8)
    for each in image.resolve_intended(status):
        rights = {*each.supervisor, *each.user}
        permission = sum(1 << at for at, name in enumerate("rwx") if name in rights)
        found[each.pa // FRAME : (each.pa + each.size * each.count) // FRAME] |= np.uint8(
            permission
        )
    return found


def page_entries(image: GuestImage, status: Status) -> list[PageEntry]:
    """Return the request: all that is meant to be mapped; text and rodata for ever."""
    immutable = np.zeros(FRAMES, np.bool_)
    for region in image.intended:
        if region.name in _IMMUTABLE:
            end = region.pa + region.size * region.count
            immutable[region.pa // FRAME : end // FRAME] = True
    wanted = meant(image, status)
    both = wanted | np.uint8(8) * immutable
    return [
        PageEntry(start, start + size, Permission(value & 7), bool(value & 8))
        for start, size, value in stretches(both)
        if value
    ]


def place(agent: Agent, pa: int, data: bytes) -> None:
    """Have the guest write `data`, whole words, into its large data at physical address `pa`."""
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    agent.store((places.KERNEL + pa + 8 * at, word) for at, word in enumerate(words))


def ask(agent: Agent, entries: Iterable[PageEntry]) -> Result:
    """Have the guest write a page list, and ask for its protection."""
    data = encode(entries, LIST)
    used = [data[at : at + FRAME].rstrip(b"\0") for at in range(0, len(data), FRAME)]
    for number, part in enumerate(used):
        place(agent, LIST + number * FRAME, part + bytes(-len(part) % 8))
    return agent.do(Operation.HYPERCALL, Hypercall.PROTECT_MEMORY, LIST)


def update(agent: Agent, entries: Iterable[int]) -> Result:
    """Have the guest tell the host which table entries, by physical address, have changed."""
    addresses = list(entries)
    place(agent, LIST, struct.pack(f"<{1 + len(addresses)}Q", len(addresses), *addresses))
    return agent.do(Operation.HYPERCALL, Hypercall.UPDATE, LIST)
