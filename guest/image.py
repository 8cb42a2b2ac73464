"""A guest, ready to be put into RAM, and what its memory is meant to be."""

from dataclasses import dataclass

from crosswalk.guest.layout import MemoryMap, span_of
from crosswalk.guest.recursive import recursive_views
from crosswalk.guest.status import Status
from crosswalk.guest.traps import Attempt
from crosswalk.guest.views import Faulting, Intended

__all__ = ["Code", "GuestImage"]


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of assembled code: its source, its code size in bits, where it runs and lies."""

    source: str
    bits: int
    va: int
    pa: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """What a machine needs to boot a guest, and the third witness against it.

    `segments` are (physical address, bytes), those of `code` included; all other RAM is zero.
    The guest starts in real mode with CS 0 and IP `entry`, and leaves its account in
    `status_size` bytes at `status_pa`.
    `proof` is the value it can report only if its world works; `attempts` are the accesses it
    makes in order to fault.
    """

    name: str
    memory_map: MemoryMap
    code: tuple[Code, ...]
    segments: tuple[tuple[int, bytes], ...]
    entry: int
    status_pa: int
    status_size: int
    proof: int
    attempts: tuple[Attempt, ...]

    @property
    def levels(self) -> int:
        """The number of paging levels, 4 or 5."""
        return self.memory_map.levels

    @property
    def ram_size(self) -> int:
        """The size of RAM in bytes; it begins at physical address 0."""
        return self.memory_map.ram_size

    @property
    def intended(self) -> tuple[Intended, ...]:
        """What the guest is meant to map, but for what shows up below the recursive slot."""
        return tuple(
            Intended(
                name=region.name,
                va=region.va,
                pa=region.pa,
                size=span_of(region.level),
                count=region.count,
                supervisor=region.supervisor,
                user=region.user,
            )
            for region in self.memory_map.regions
        )

    @property
    def faulting(self) -> tuple[Faulting, ...]:
        """Ranges where every access is meant to fault; everything unmentioned is one, too."""
        holes = (Faulting(name, va, size) for name, va, size in self.memory_map.holes)
        raws = (
            Faulting(raw.name, raw.va, span_of(raw.level), raw.reserved)
            for raw in self.memory_map.raws
        )
        return (*holes, *raws)

    def resolve_intended(self, status: Status) -> tuple[Intended, ...]:
        """Return all that is meant to be mapped, the recursive slot included.

        Together with everything else faulting, this is the whole address space. `status` tells
        where the guest has put its tables, which is for the guest alone to decide.
        """
        return (*self.intended, *recursive_views(self.memory_map, status.tables))
