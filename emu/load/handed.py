"""What a loader hands a guest beside its own file, whatever the format."""

from collections.abc import Sequence
from dataclasses import dataclass

from crosswalk.emu.load.placing import Module, Placement
from crosswalk.walker.architecture import MIB
from crosswalk.walker.errors import BadInput

__all__ = ["LOADER", "HandedOn", "as_text", "memory_sizes"]

LOADER = "Crosswalk"
"""The name by which a guest knows its loader."""

_MAX_TEXT = 16 << 10


@dataclass(frozen=True, slots=True)
class HandedOn:
    """Modules, arguments, and the name of the guest's own file, without folders."""

    name: str = "guest"
    arguments: str = ""
    modules: tuple[Module, ...] = ()

    @property
    def command_line(self) -> str:
        """The name, then the arguments, as Multiboot loaders give it."""
        return f"{self.name} {self.arguments}".rstrip()


def as_text(placement: Placement, text: str, what: str) -> int:
    """Give away memory for a text that ends in a zero byte, and return its address.

    Raises `BadInput` for one that has a zero byte already, or is longer than 16 KiB.
    """
    content = text.encode("utf-8", "surrogateescape")
    if b"\0" in content:
        raise BadInput(f"{what} has a zero byte in it")
    if len(content) >= _MAX_TEXT:
        raise BadInput(f"{what} of {len(content):,} bytes: at most {_MAX_TEXT - 1:,} are handed on")
    return placement.add(content + b"\0", what)


def memory_sizes(ranges: Sequence[tuple[int, int, bool]]) -> tuple[int, int]:
    """Return the KiB of usable memory from 0 and from 1 MiB on, in one piece each."""
    sizes = {start: size >> 10 for start, size, usable in ranges if usable}
    return sizes.get(0, 0), sizes.get(MIB, 0)
