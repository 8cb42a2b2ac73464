"""Raw images: a file that is memory byte for byte, from one physical address on."""

from mmap import mmap

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, Segments

__all__ = ["read_raw"]

_PHYSICAL_BITS = 52


def read_raw(data: mmap | bytes, base: int = 0) -> Segments:
    """Return `data` as the physical memory that starts at `base`, without a copy.

    `base` is a physical address in bytes, a multiple of 4096. Raises `BadInput` for a base
    that isn't, and for an image that doesn't hold whole frames: physical memory does, so
    the file was cut, and what is missing would read as not present.
    """
    if base < 0 or base % FRAME:
        raise BadInput(f"raw image: base {base:#x} is not the address of a frame")
    if len(data) % FRAME:
        raise BadInput(
            f"raw image: {len(data)} bytes are not a multiple of {FRAME}; is the file truncated?"
        )
    if base + len(data) > 1 << _PHYSICAL_BITS:
        raise BadInput(f"raw image: ends at {base + len(data):#x}, beyond {_PHYSICAL_BITS} bits")
    return Segments([(base, data)])
