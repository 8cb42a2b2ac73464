"""What a machine is: something that boots an image, and hands over what that printed."""

from dataclasses import dataclass
from typing import Protocol

from crosswalk.walker.control import Vendor

__all__ = ["CpuWish", "Machine", "Printed"]


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


@dataclass(frozen=True, slots=True)
class Printed:
    """What an image printed, and how the machine ended before it was through, None if it wasn't.

    `ended` goes on after a subject, and names no path and no time: "died of SIGABRT", "hangs",
    "floods". With `by_others` it was killed by somebody else: that is no result.
    `said` is the last line of what the machine said otherwise, printable.
    """

    data: bytes
    ended: str | None = None
    by_others: bool = False
    said: str = ""


class Machine(Protocol):
    """Boots images. `name` is what the command line calls it.

    `shares_memory` tells that it can read a log out of the machine's memory; `version` is what it
    says of itself, free of paths ("QEMU 7.2.22, TCG").
    """

    name: str
    shares_memory: bool

    @property
    def version(self) -> str:
        """What it is, as it says."""
        ...

    def boot(
        self,
        image: bytes,
        *,
        seconds: float,
        wish: CpuWish = CpuWish(),
        log_at: tuple[int, int] | None = None,
    ) -> Printed:
        """Return what an image printed until it came to its end, or until it ended otherwise.

        `seconds` of CPU time are no hang. `log_at` is the range of physical addresses [start, size]
        to which the image writes its log (`Output.MEMORY`): then that is the data; None where it
        prints it. Raises `BadInput` where the machine can't be had or started at all.
        """
        ...

    def close(self) -> None:
        """Give back what it took."""
        ...
