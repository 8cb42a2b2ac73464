"""Which layout of a campaign is of which paging mode, and which has physical addresses of 2^40."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from crosswalk.walker.context import PagingMode

__all__ = ["Share", "share_of"]

_LENGTH = 16
"""After so many layouts the shares repeat."""


@dataclass(frozen=True, slots=True)
class Share:
    """Layouts of one kind: their mode, None for 4- or 5-level paging, whichever is drawn.

    Those that are `wide` have a MAXPHYADDR above 40, and tables and pages at such addresses.
    """

    mode: PagingMode | None = None
    wide: bool = False

    @property
    def stream(self) -> tuple[int, ...]:
        """Numbers that tell the random draws of this share from those of others."""
        if self == Share():
            return ()
        modes = list(PagingMode)
        return (4, 0 if self.mode is None else 1 + modes.index(self.mode), int(self.wide))

    @property
    def steered(self) -> bool:
        """Whether coverage steers these layouts, and composites are made in them."""
        return not self.wide and (self.mode is None or self.mode.long)


_LONG, _WIDE = Share(), Share(wide=True)
_DEFAULT = {
    3: Share(PagingMode.BIT32),
    5: _WIDE,
    7: Share(PagingMode.PAE),
    11: Share(PagingMode.BIT32),
    15: Share(PagingMode.PAE),
}


def share_of(index: int, modes: Sequence[PagingMode] = ()) -> tuple[Share, int]:
    """Return the share that the layout of this index is of, and its number there, from 0.

    By default one layout of eight is in 32-bit paging, one in PAE paging, and one of sixteen is
    wide. Of given modes each has an equal share; every eighth turn of one is wide, but for 32-bit
    paging, whose tables lie below 2^32.
    """
    cycle = _cycle(tuple(modes))
    rounds, at = divmod(index, len(cycle))
    share = cycle[at]
    return share, rounds * cycle.count(share) + cycle[:at].count(share)


@lru_cache(16)
def _cycle(modes: tuple[PagingMode, ...]) -> tuple[Share, ...]:
    if not modes:
        return tuple(_DEFAULT.get(at, _LONG) for at in range(_LENGTH))
    return tuple(
        Share(mode, wide=turn == 5 and mode is not PagingMode.BIT32)
        for turn in range(8)
        for mode in modes
    )
