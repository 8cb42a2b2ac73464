"""What the host of the built-in guest asks of the machine that the guest runs on."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.load.guest import Booted
from crosswalk.emu.protect.events import GuestEvent
from crosswalk.emu.protect.permissions import FrameTables
from crosswalk.guest import places
from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["FRAMES", "GuestMachine", "Pinned", "Saved"]

FRAMES = places.RAM_SIZE // FRAME
"""How many frames of RAM the guest has."""


class Pinned(Protocol):
    """The pinned control registers of a guest; none before `begin`.

    `kept` has a value by register: of the bits set in it, those that are named in
    `crosswalk.emu.protect.pins.PINNED` can't be cleared.
    """

    kept: dict[str, int]

    def begin(self) -> None:
        """Pin the bits that are set now."""
        ...


class Saved(Protocol):
    """A state of the guest, its RAM and its CPU, that it can be put back to."""

    def read(self, pa: int, size: int) -> bytes:
        """Return what the guest's RAM was; `BadInput` unless all of it is RAM."""
        ...

    def restore(self) -> None:
        """Put RAM and CPU back to this state; nested tables and pins stay as they are."""
        ...


class GuestMachine(Protocol):
    """The CPU and RAM of a guest that has booted, under nested paging from `enter` on.

    `tables` are the nested tables: a change to them counts from `flush` on. `hypercall` is called
    with RAX, RBX and the CPL of a hypercall, and returns the guest's RAX after it.

    What else ends an operation early is in `events`, each with the guest's RDI. `left_user`:
    user code came to its end, with `user_result` in RAX; `delivered`: the handler of an INT was
    entered, and not run.
    """

    booted: Booted
    tables: FrameTables
    hypercall: Callable[[int, int, int], int] | None
    events: list[tuple[GuestEvent, int]]
    left_user: bool
    delivered: bool

    @property
    def memory(self) -> PhysicalMemory:
        """Its RAM as it is now."""
        ...

    @property
    def pins(self) -> Pinned:
        """The pinned bits of its control registers."""
        ...

    @property
    def context(self) -> PagingContext:
        """The registers that the guest's paging depends on now."""
        ...

    @property
    def user_result(self) -> int:
        """RAX, as user code left it."""
        ...

    def enter(self) -> None:
        """Make it a guest under its nested tables; what clears pinned bits is then refused."""
        ...

    def flush(self) -> None:
        """Have the CPU use the nested tables as they are now."""
        ...

    def nested_words(self) -> U64:
        """Return the nested tables as the CPU finds them, a copy."""
        ...

    def predict(self, access: Access) -> GuestEvent | None:
        """Predict an access with the nested walk: the event that ends it, None if it succeeds."""
        ...

    def departure(self, predicted: GuestEvent | None, observed: GuestEvent | None) -> str:
        """Return the machine's known departures that make this of what is predicted, by name.

        An empty text where there are none.
        """
        ...

    def run(self, rip: int, *, faults: int = 1) -> None:
        """Run kernel code at `rip` on the kernel's stack up to its HLT.

        After an event it goes on where its R15 says. Raises `CrosswalkError` where it doesn't get
        to a HLT, or has more than `faults` events.
        """
        ...

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes of the guest's RAM; `BadInput` unless all of it is RAM."""
        ...

    def words(self, addresses: Sequence[int]) -> U64:
        """Return the words at these addresses of the guest's RAM, multiples of 8: uint64[n]."""
        ...

    def write(self, pa: int, data: bytes) -> None:
        """Write bytes of the guest's RAM; `BadInput` unless all of it is RAM."""
        ...

    def patched(
        self, at: int, frames: NDArray[np.intp], data: NDArray[np.uint8]
    ) -> AbstractContextManager[None]:
        """Have `data`, uint8[n, size], at offset `at` of each of n frames, by number, meanwhile."""
        ...

    def preserved(self, pa: int, size: int) -> AbstractContextManager[None]:
        """Put this RAM back, at the end, to what it is now."""
        ...

    def save(self) -> Saved:
        """Save the state, to be restored any number of times."""
        ...
