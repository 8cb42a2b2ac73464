"""Pages that say where they are, to 32-bit code.

A signature fills one aligned slot of 16 bytes: `mov eax, imm32; jmp ebp` with the number of the
frame it lies in, then that of the slot in the frame, and both once more. Executed, it returns the
frame in EAX; read, it shows both twice, so that a store of one byte leaves one of them whole.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.page_marker import SLOT
from crosswalk.walker.memory import FRAME, U64

__all__ = ["byte_of", "decode", "signature", "signatures"]

_MOV_EAX = 0xB8  # B8: mov eax, imm32
_JMP_EBP = 0xE5FF  # FF E5: jmp ebp
_REST = b"\xc5\x5c\xca"
_BYTES = struct.Struct("<BIHB" + "IB3s")
_WORDS = struct.Struct("<QQ")


def signature(slot: int) -> tuple[int, int]:
    """Return the two words of the signature of a slot: a multiple of 16, below 2^44."""
    frame, number = slot // FRAME, slot % FRAME // SLOT
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
        whole = _WORDS.pack(*signature(candidate))
        if stored is not None:
            whole = whole[:at] + bytes([stored]) + whole[at + 1 :]
        if whole == content:
            return int(candidate) | at
    return None


def signatures(slots: U64) -> tuple[U64, U64]:
    """Return the two words of the signatures of n slots, uint64[n] each, as `signature` does."""
    frame = slots >> np.uint64(12)
    number = slots >> np.uint64(4) & np.uint64(0xFF)
    low = frame << np.uint64(8) | np.uint64(_MOV_EAX | _JMP_EBP << 40) | number << np.uint64(56)
    rest = np.uint64(int.from_bytes(_REST, "little") << 40)
    return low, frame | number << np.uint64(32) | rest


def byte_of(pa: U64) -> NDArray[np.uint8]:
    """Return the byte that a signed slot has at each physical address, uint8[n]."""
    low, high = signatures(pa & ~np.uint64(SLOT - 1))
    word = np.where((pa & np.uint64(8)) != 0, high, low)
    found: NDArray[np.uint8] = (word >> ((pa & np.uint64(7)) << np.uint64(3))).astype(np.uint8)
    return found
