"""What a machine is: something that boots an image, and hands over what that printed."""

from dataclasses import dataclass
from typing import Protocol

from crosswalk.guest.boot.image import Output
from crosswalk.walker.control import Vendor

__all__ = ["ANY_CPU", "CpuWish", "Machine", "Printed"]


@dataclass(frozen=True, slots=True)
class CpuWish:
    """The CPU that questions want. A machine does what it can; the log says what CPU it was.

    None leaves it to the machine. `features` are named as those of `CpuFacts`: what can be switched
    on is ("pks", "la57", "lass", "pcid"…); all that every CPU has needn't be named.
    """

    maxphyaddr: int | None = None
    vendor: Vendor | None = None
    page1gb: bool | None = None
    features: frozenset[str] = frozenset()
    ram: int | None = None


ANY_CPU = CpuWish()


@dataclass(frozen=True, slots=True)
class Printed:
    """What an image answered, printed or in memory, and how the machine ended.

    `ended` is None where the image came to its end. It goes on after a subject, and names no path
    and no time: "died of SIGABRT", "hangs", "floods". With `by_others` it was killed by somebody
    else: that is no result. `said` is the last line of what the machine said otherwise, printable.
    """

    data: bytes
    ended: str | None = None
    by_others: bool = False
    said: str = ""


class Machine(Protocol):
    """Boots images. `name` is what the command line calls it.

    `output` is where it wants the results of an image: `Output.MEMORY` where it can read them from
    the machine's memory. From the physical address `nothing_from` up it has RAM or nothing, where
    reads and writes do no harm, and which a page walk reads as zeros; None where that isn't known.
    To load an image takes it less than `loads_in` seconds of CPU time. `version` is what it says of
    itself, free of paths ("QEMU 7.2.22, TCG").
    """

    name: str
    output: Output
    nothing_from: int | None
    loads_in: float

    @property
    def version(self) -> str:
        """What it is, as it says."""
        ...

    def heeded(self, wish: CpuWish) -> CpuWish:
        """Return what of a wish it heeds: wishes that come to the same are one machine."""
        ...

    def boot(self, image: bytes, *, seconds: float, wish: CpuWish = ANY_CPU) -> Printed:
        """Return what an image answered until it came to its end, or until it ended otherwise.

        `seconds` of CPU time are no hang. Raises `BadInput` where the machine can't be had, or
        can't be started at all.
        """
        ...

    def close(self) -> None:
        """Give back what it took."""
        ...
