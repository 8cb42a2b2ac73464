"""The built-in guests, by the names that stand for a file."""

from crosswalk.emu.load.guest import Booted, boot
from crosswalk.guest.builder import build_image
from crosswalk.walker.errors import BadInput

__all__ = ["GUESTS", "booted_guest", "names_guest"]

GUESTS = {"4level": 4, "5level": 5}
"""The levels of paging of each."""

_PREFIX = "guest:"


def names_guest(source: str) -> bool:
    """Return whether a source is a guest and not a file."""
    return source.startswith(_PREFIX)


def booted_guest(source: str) -> Booted:
    """Boot the guest of this name; `BadInput` if there is none."""
    variant = source.removeprefix(_PREFIX)
    if variant not in GUESTS:
        raise BadInput(f"{source}: no such guest ({', '.join(_PREFIX + each for each in GUESTS)})")
    return boot(build_image(GUESTS[variant]))
