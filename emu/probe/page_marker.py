"""Pages that say where they are when they are read, written or executed.

A marker fills one aligned slot of 16 bytes, and is the same code for 32 and 64 bits:

    B8 frame:4     mov eax, frame      the number of the frame that the slot lies in
    FF E5          jmp ebp (rbp)
    slot:1                             the number of the slot in the frame
    frame:4 slot:1 C5 5C CA            both once more

Executed, it returns the frame in EAX; read, it shows frame and slot twice, so that a store of one
byte leaves one of them whole.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import FRAME, U64

__all__ = ["SLOT", "byte_of", "decode", "marker", "markers"]

SLOT = 16
"""Bytes of a marker."""

_MOV_EAX = 0xB8
_JMP_EBP = 0xE5FF
_REST = b"\xc5\x5c\xca"
_BYTES = struct.Struct("<BIHB" + "IB3s")
_WORDS = struct.Struct("<QQ")


def marker(pa: int) -> tuple[int, int]:
    """Return the two words of the marker at a physical address: a multiple of 16, below 2^44."""
    frame, number = pa // FRAME, pa % FRAME // SLOT
    content = _BYTES.pack(_MOV_EAX, frame, _JMP_EBP, number, frame, number, _REST)
    low, high = _WORDS.unpack(content)
    return int(low), int(high)


def decode(low: int, high: int, *, va: int, stored: int | None = None) -> int | None:
    """Return the physical address that a slot's two words, read through `va`, name, or None.

    `stored` is the value of the byte that was written at `va` before: it has to be seen there,
    and what it hides of one copy of the address is taken from the other.
    """
    content = _WORDS.pack(low, high)
    _, first, _, number, second, again, _ = _BYTES.unpack(content)
    at = va % SLOT
    if stored is not None and content[at] != stored:
        return None
    for frame, slot in ((first, number), (second, again)):
        candidate = frame * FRAME + slot * SLOT
        whole = _WORDS.pack(*marker(candidate))
        if stored is not None:
            whole = whole[:at] + bytes([stored]) + whole[at + 1 :]
        if whole == content:
            return int(candidate) | at
    return None


def markers(pa: U64) -> tuple[U64, U64]:
    """Return the two words of the markers at n physical addresses, uint64[n] each, as `marker`."""
    frame = pa >> np.uint64(12)
    number = pa >> np.uint64(4) & np.uint64(0xFF)
    low = frame << np.uint64(8) | np.uint64(_MOV_EAX | _JMP_EBP << 40) | number << np.uint64(56)
    rest = np.uint64(int.from_bytes(_REST, "little") << 40)
    return low, frame | number << np.uint64(32) | rest


def byte_of(pa: U64) -> NDArray[np.uint8]:
    """Return the byte that a marker has at each physical address, uint8[n]."""
    low, high = markers(pa & ~np.uint64(SLOT - 1))
    word = np.where((pa & np.uint64(8)) != 0, high, low)
    found: NDArray[np.uint8] = (word >> ((pa & np.uint64(7)) << np.uint64(3))).astype(np.uint8)
    return found
