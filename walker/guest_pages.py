"""Guest-physical pages and ranges as columns: what a host's tables map.

Apart from `crosswalk.walker.nested.second_level`, which makes them, so that what lists any pages
needs no more than this.
"""

from dataclasses import dataclass

from crosswalk.walker.pages import Pages
from crosswalk.walker.ranges import Ranges

__all__ = ["EptPages", "GuestPages", "GuestRanges"]


@dataclass(frozen=True, slots=True)
class GuestPages(Pages):
    """n pages of guest-physical addresses, as `Pages`: `va` are guest-physical, `pa` the host's."""


@dataclass(frozen=True, slots=True)
class EptPages(GuestPages):
    """The same of an EPT: `flags` are those of its entries, the memory type among them."""


@dataclass(frozen=True, slots=True)
class GuestRanges(Ranges):
    """n ranges of guest-physical addresses, as `Ranges`: `va` are guest-physical."""
