"""The image of a guest, ready for RAM, and what the guest is intended to map."""

from dataclasses import dataclass

from crosswalk.guest.intended import Faulting, Intended, recursive_views
from crosswalk.guest.layout import MemoryMap, span_of
from crosswalk.guest.status import Status
from crosswalk.guest.traps import Attempt

__all__ = ["Code", "GuestImage"]


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of machine code: its source, its code size in bits, its addresses, its bytes."""

    source: str
    bits: int
    va: int
    pa: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """All that it takes to boot a guest, and what the guest is intended to map.

    `segments` are (physical address, bytes), those of `code` included; all other RAM is zero.
    The guest starts in real mode with CS 0 and IP `entry`, and leaves its status block in
    `status_size` bytes at `status_pa`. `proof` is a value that it can report only if its own data
    and the user's can be read as they are mapped; `attempts` are the accesses that it makes in
    order to fault.
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
        """The pages that the guest is intended to map, without those below the recursive slot."""
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
        """Ranges where every access should fault; so it should wherever no page is intended."""
        holes = (Faulting(name, va, size) for name, va, size in self.memory_map.holes)
        raws = (
            Faulting(raw.name, raw.va, span_of(raw.level), raw.reserved)
            for raw in self.memory_map.raws
        )
        return (*holes, *raws)

    def resolve_intended(self, status: Status) -> tuple[Intended, ...]:
        """Return all pages that are intended to be mapped, those below the recursive slot included.

        An access to any other address should fault. `status` has the addresses of the tables,
        which the guest chooses.
        """
        return (*self.intended, *recursive_views(self.memory_map, status.tables))
