"""Forged tables: all of RAM, with all rights, by stores of the guest's own."""

from collections.abc import Iterator
from contextlib import contextmanager

from crosswalk.emu.protect.agent import Agent, Operation
from crosswalk.guest import places
from crosswalk.guest.layout import Bit, index_of, span_of
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME

__all__ = ["FORGED", "FORGED_FRAMES", "forge", "forged"]

FORGED = places.POOL + (places.POOL_FRAMES - 3) * FRAME
"""Where they lie: in the pool's last three frames, which the guest has no use for."""
FORGED_FRAMES = 3

_ALL = Bit.P | Bit.RW
_LARGE = span_of(2)


def forge(agent: Agent) -> None:
    """Have the guest write tables that show RAM at 0 and at the kernel's base, rwx.

    They are written through the direct map, which the guest's tables have writable there.
    """
    direct = places.DIRECT_MAP[4]
    root, pointers, directory = (FORGED + at * FRAME for at in range(3))
    stores = [
        (root, pointers | _ALL),
        (root + 8 * index_of(places.KERNEL, 4), pointers | _ALL),
        (pointers, directory | _ALL),
        (pointers + 8 * index_of(places.KERNEL, 3), directory | _ALL),
    ]
    stores += [
        (directory + 8 * at, at * _LARGE | _ALL | Bit.PS) for at in range(places.RAM_SIZE // _LARGE)
    ]
    agent.store((direct + pa, word) for pa, word in stores)


@contextmanager
def forged(agent: Agent) -> Iterator[None]:
    """Have the guest run on forged tables meanwhile; CR3 is its own to write."""
    before = agent.guest.context.cr3
    for root, check in ((FORGED, True), (before, False)):
        if agent.do(Operation.SET_CR3, root).failed:
            raise CrosswalkError(f"the guest can't load CR3 with {root:#x}")
        if check:
            yield
