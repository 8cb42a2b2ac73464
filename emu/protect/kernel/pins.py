"""Control registers whose bits are pinned, and the instructions that write them.

Source: Intel SDM vol. 2B, MOV (control registers); vol. 3A 2.5.
"""

from dataclasses import dataclass

__all__ = ["LONGEST", "PINNED", "CrWrite", "cleared", "parse_cr_write"]

PINNED = {
    "cr0": {"PE": 1 << 0, "WP": 1 << 16, "PG": 1 << 31},
    "cr4": {"PAE": 1 << 5, "SMEP": 1 << 20, "SMAP": 1 << 21},
    "efer": {"LME": 1 << 8, "NXE": 1 << 11},
}
"""Bits by register: those of them that are set when protection begins stay so."""

_OPCODE = b"\x0f\x22"
_REX, _REX_B, _REX_R = 0x40, 1, 4
LONGEST = 4
"""Bytes of the longest MOV to a control register."""


@dataclass(frozen=True, slots=True)
class CrWrite:
    """A MOV to control register `control` from general register `general`, of `size` bytes."""

    control: int
    general: int
    size: int


def parse_cr_write(code: bytes) -> CrWrite | None:
    """Return what the instruction at the start of `code` writes; None for another one."""
    rex = code[0] if code[:1] and code[0] & 0xF0 == _REX else 0
    at = 1 if rex else 0
    if code[at : at + 2] != _OPCODE or len(code) < at + 3:
        return None
    operands = code[at + 2]
    return CrWrite(
        control=operands >> 3 & 7 | (8 if rex & _REX_R else 0),
        general=operands & 7 | (8 if rex & _REX_B else 0),
        size=at + 3,
    )


def cleared(name: str, before: int, after: int) -> list[str]:
    """Return the pinned bits of a register that a write would clear, by name."""
    return [bit for bit, mask in PINNED[name].items() if before & mask and not after & mask]
