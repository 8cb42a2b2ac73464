"""Pages that say where they are, to whoever reads, writes or executes them.

A signature fills one aligned slot of 16 bytes: `mov rax, imm64; jmp rbp` with the slot's own
physical address, then its frame number once more. Executed, it returns the address in RAX;
read, it shows the address twice, so that a store of one byte leaves one of them whole.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import FRAME, U64

__all__ = ["SLOT", "byte_of", "decode", "signature", "signatures"]

SLOT = 16
_MOV_RAX = 0xB848  # 48 B8: mov rax, imm64
_JMP_RBP = 0xE5FF  # FF E5: jmp rbp
_BYTES = struct.Struct("<HQHI")
_WORDS = struct.Struct("<QQ")


def signature(slot: int) -> tuple[int, int]:
    """Return the two words of the signature of a slot: a multiple of 16, below 2^44."""
    content = _BYTES.pack(_MOV_RAX, slot, _JMP_RBP, slot >> 12)
    low, high = _WORDS.unpack(content)
    return int(low), int(high)


def decode(low: int, high: int, *, va: int, stored: int | None = None) -> int | None:
    """Return the physical address that a slot's two words, read through `va`, name, or None.

    `stored` is the value of the byte that was written at `va` before: it has to be seen there,
    and what it hides of one copy of the address is taken from the other, of which the place in
    the page is not part: that is the same in `va`.
    """
    content = _WORDS.pack(low, high)
    _, address, _, frame = _BYTES.unpack(content)
    at = va % SLOT
    if stored is not None and content[at] != stored:
        return None
    for candidate in (address, frame << 12 | va & (FRAME - SLOT)):
        if candidate >> 44 or candidate % SLOT:
            continue
        whole = _WORDS.pack(*signature(candidate))
        if stored is not None:
            whole = whole[:at] + bytes([stored]) + whole[at + 1 :]
        if whole == content:
            return int(candidate) | at
    return None


def signatures(slots: U64) -> tuple[U64, U64]:
    """Return the two words of the signatures of n slots, uint64[n] each, as `signature` does."""
    low = slots << np.uint64(16) | np.uint64(_MOV_RAX)
    high = slots >> np.uint64(48) | np.uint64(_JMP_RBP << 16)
    return low, high | slots >> np.uint64(12) << np.uint64(32)


def byte_of(pa: U64) -> NDArray[np.uint8]:
    """Return the byte that a signed slot has at each physical address, uint8[n]."""
    low, high = signatures(pa & ~np.uint64(SLOT - 1))
    word = np.where((pa & np.uint64(8)) != 0, high, low)
    found: NDArray[np.uint8] = (word >> ((pa & np.uint64(7)) << np.uint64(3))).astype(np.uint8)
    return found
