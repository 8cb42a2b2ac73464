"""What lies where in a guest's RAM before its first instruction."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.image import GuestImage
from crosswalk.walker.architecture import MIB, PAGE_BYTES
from crosswalk.walker.errors import BadInput

__all__ = ["LOW", "Module", "Placement", "place_modules"]

LOW = 0x1_0000
"""From here up to the end of low memory lies what a loader hands on, if it fits there."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file that is loaded beside the guest; `name` is the file's, without folders."""

    name: str
    content: bytes
    arguments: str = ""

    @property
    def text(self) -> str:
        """What a guest is told of it: its name, then its arguments."""
        return f"{self.name} {self.arguments}".rstrip()


@dataclass(frozen=True, slots=True)
class _Taken:
    start: int
    size: int
    what: str

    @property
    def end(self) -> int:
        return self.start + self.size


class Placement:
    """Pieces of memory given away one by one, inside the `usable` (start, size) ranges.

    Nothing is written before `write`, so that what doesn't fit is refused as a whole.
    """

    def __init__(self, usable: Sequence[tuple[int, int]]) -> None:
        self._usable = sorted(usable)
        self._taken: list[_Taken] = []  # By address: no two of them overlap.
        self._contents: list[tuple[int, bytes]] = []

    def put(self, start: int, content: bytes, size: int, what: str) -> None:
        """Give away `size` bytes at `start`, which begin with `content`.

        Raises `BadInput` where they aren't all usable, or something has some of them.
        """
        if not any(low <= start and start + size <= low + room for low, room in self._usable):
            raise BadInput(
                f"{what} at {start:#x}, {size:,} bytes, doesn't lie in RAM that is usable: "
                f"{self._usable_text} (--ram)"
            )
        wanted = _Taken(start, size, what)
        for each in self._taken:
            if wanted.start < each.end and each.start < wanted.end:
                raise BadInput(f"{what} at {start:#x} overlaps {each.what} at {each.start:#x}")
        self._take(wanted)
        self._contents.append((start, content))

    def put_image(self, image: GuestImage) -> None:
        """Give away what the segments of an image need; `BadInput` as in `put`."""
        for number, (start, content, size) in enumerate(image.segments):
            self.put(start, content, size, f"segment {number}")

    def allocate(
        self, size: int, what: str, *, align: int = 16, floor: int = LOW, below: int = 1 << 32
    ) -> int:
        """Give away the first `size` bytes that are free from `floor` on, and return their address.

        They are zero until `fill` says otherwise. Raises `BadInput` where there are none that end
        at `below` or before.
        """
        for low, room in self._usable:
            at = _aligned(max(floor, low), align)
            for each in self._taken:
                if each.start >= at + size:
                    break
                if each.end > at:
                    at = _aligned(each.end, align)
            if at + size <= min(low + room, below):
                self._take(_Taken(at, size, what))
                return at
        raise BadInput(f"{what} of {size:,} bytes doesn't fit in RAM: {self._usable_text} (--ram)")

    def add(self, content: bytes, what: str, *, align: int = 16, floor: int = LOW) -> int:
        """Give away memory for `content` as `allocate` does, and return its address."""
        at = self.allocate(max(len(content), 1), what, align=align, floor=floor)
        self.fill(at, content)
        return at

    def fill(self, at: int, content: bytes) -> None:
        """Say what lies in memory that was allocated."""
        self._contents.append((at, content))

    def write(self, ram: Ram) -> None:
        """Write all of it to RAM, which is zero."""
        for start, content in self._contents:
            ram.write(start, content)

    def _take(self, taken: _Taken) -> None:
        insort(self._taken, taken, key=attrgetter("start"))

    @property
    def _usable_text(self) -> str:
        return ", ".join(f"{low:#x}-{low + room - 1:#x}" for low, room in self._usable)


def _aligned(address: int, align: int) -> int:
    return -(-address // align) * align


def place_modules(
    placement: Placement, modules: Sequence[Module], image: GuestImage
) -> list[tuple[int, int]]:
    """Give away whole pages behind the guest for modules; return (address, size) of each."""
    floor = max(MIB, image.end)
    return [
        (
            placement.add(each.content, f"module {each.name}", align=PAGE_BYTES, floor=floor),
            len(each.content),
        )
        for each in modules
    ]
