"""Summary of the policy for an image: how much is protected, and what keeps the rest from it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.aliases import WritableExecutable, writable_and_executable
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import Frames
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission
from crosswalk.walker.protection.policy import TableKind, Use, inexpressible, protect
from crosswalk.walker.protection.regions import LinearRegion, linear_regions
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.spaces import Contexts

__all__ = ["Exposed", "Summary", "exposed", "summarise"]


@dataclass(frozen=True, slots=True)
class Exposed:
    """RAM that is both writable and executable.

    `ranges` is the number of ranges, `strict` of those where one privilege level has both rights;
    `size` in bytes; `largest` are the largest ranges, with mappings that grant either right.
    """

    ranges: int
    strict: int
    size: int
    largest: tuple[WritableExecutable, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The policy applied to RAM in tables of a kind; sizes in bytes.

    `unmapped` is RAM that nothing maps; `outside` is mapped, isn't RAM, and is left out. `granted`
    is RAM by the permission granted, `rights` by collective rights (0: unmapped). `tables` is the
    size of the frames of paging structures, `locked` of those that would be non-writable: setting
    an A or D bit there would take a nested fault. `beyond` has for each kind of table how much RAM
    it grants more than the policy allows, by what is wanted and what is added. `unlisted` is the
    reason why there are no linear regions, or empty.
    """

    kind: TableKind
    ram: int
    unmapped: int
    outside: int
    granted: dict[Permission, int]
    rights: dict[Rights, int]
    tables: int
    locked: int
    beyond: dict[TableKind, dict[tuple[Use, Use], int]]
    exposed: Exposed
    regions: tuple[LinearRegion, ...]
    unlisted: str = ""

    @property
    def read_only(self) -> int:
        """The bytes that could not be written, whether executed or not."""
        return self._without(Permission.WRITE)

    @property
    def no_execute(self) -> int:
        """The bytes that could not be executed, whether written or not."""
        return self._without(Permission.EXECUTE)

    @property
    def both(self) -> int:
        """The bytes that could be neither written nor executed."""
        return self._without(Permission.WRITE | Permission.EXECUTE)

    @property
    def neither(self) -> int:
        """The bytes that could be both written and executed."""
        return self.ram - self.read_only - self.no_execute + self.both

    def _without(self, bits: Permission) -> int:
        return sum(size for permission, size in self.granted.items() if not permission & bits)


def summarise(
    memory: PhysicalMemory,
    context: Contexts,
    frames: Frames,
    kind: TableKind = TableKind.NPT,
    *,
    regions: int = 4,
    ranges: int = 3,
    aliases: int = 2,
) -> Summary:
    """Return the summary of the policy for the memory.

    `frames` are the `collective_rights` of the address spaces. `regions`, `ranges` and `aliases`
    limit how many linear regions, exposed ranges, and aliases of each kind per range are named.
    Without regions where there are too many mappings for `linear_regions`.
    """
    found: tuple[LinearRegion, ...] = ()
    unlisted = ""
    try:
        found = tuple(linear_regions(memory, context, frames, regions))
    except LimitExceeded as error:
        unlisted = str(error)
    protection = protect(frames, memory.ranges, kind)
    ram = int(protection.size.sum())
    rights = {
        Rights(value): int(protection.size[protection.rights == value].sum())
        for value in np.unique(protection.rights).tolist()
    }
    granted: dict[Permission, int] = {}
    for entry in protection:
        granted[entry.permission] = granted.get(entry.permission, 0) + entry.epa - entry.pa
    unmapped = rights.get(Rights(0), 0)
    tables = table_frames(memory, context)
    holder = np.searchsorted(protection.start, tables, "right") - 1
    locked = protection.granted[holder] & np.uint8(Use.WRITE) == 0
    return Summary(
        kind=kind,
        ram=ram,
        unmapped=unmapped,
        outside=int(frames.size.sum()) - (ram - unmapped),
        granted=dict(sorted(granted.items())),
        rights=rights,
        tables=len(tables) * FRAME,
        locked=int(locked.sum()) * FRAME,
        beyond={each: _beyond(frames, memory, each) for each in TableKind},
        exposed=exposed(memory, context, frames, ranges=ranges, aliases=aliases),
        regions=found,
        unlisted=unlisted,
    )


def exposed(
    memory: PhysicalMemory,
    context: Contexts,
    frames: Frames,
    *,
    ranges: int = 0,
    aliases: int = 0,
) -> Exposed:
    """Return all that is both writable and executable, RAM or not; up to `ranges` are named."""
    both = (frames.rights & WRITES != 0) & (frames.rights & EXECUTES != 0)
    strict = _both_at(frames.rights, 0) | _both_at(frames.rights, 3)
    order = np.argsort(-frames.size[both].astype(np.int64), kind="stable")[:ranges]
    chosen = np.sort(np.flatnonzero(both)[order])
    some = Frames(frames.start[chosen], frames.size[chosen], frames.rights[chosen])
    largest = writable_and_executable(memory, context, some, aliases=aliases)
    return Exposed(
        ranges=int(both.sum()),
        strict=int(strict.sum()),
        size=int(frames.size[both].sum()),
        largest=tuple(largest),
    )


def _both_at(rights: NDArray[np.uint8], shift: int) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = rights >> np.uint8(shift) & 6 == 6
    return both


def _beyond(frames: Frames, memory: PhysicalMemory, kind: TableKind) -> dict[tuple[Use, Use], int]:
    total: dict[tuple[Use, Use], int] = {}
    for each in inexpressible(protect(frames, memory.ranges, kind)):
        total[each.wanted, each.beyond] = total.get((each.wanted, each.beyond), 0) + each.size
    return dict(sorted(total.items()))
