"""KVM's memory attributes that withhold access: a list of `struct kvm_memory_attributes`.

Each entry has four little-endian words of 8 bytes: address, size, attributes, flags (0). Which
attributes there are depends on the series of patches; mainline's KVM has PRIVATE (bit 3) alone:

- HEKI, of Linux Heki RFC v2, "KVM: x86: Implement per-guest-page permissions": READ, WRITE, EXEC
  and IMMUTABLE in bits 4 to 7; set means allowed. KVM itself sets them, on behalf of the hypercall
  KVM_HC_PROTECT_MEMORY. No attribute at all means everything. EXEC is the supervisor's right: with
  mode-based execute control KVM clears X in the EPT where it is missing, and leaves XU set, as
  the user's execution is left to the guest; without that control it withholds no execution.
  Reading is not withheld from anything either.
- DENY, of "KVM: Introduce RWX memory attributes" (RFC for Hyper-V's VSM, June 2024): NR, NW, NX in
  bits 0 to 2; set means refused. A VMM sets them with the ioctl KVM_SET_MEMORY_ATTRIBUTES. NX holds
  for all privilege levels; what may be written or executed must be readable.
"""

from collections.abc import Iterator
from enum import StrEnum
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.policy import Protection, TableKind, Use, rounded

__all__ = ["AttributeSet", "decode_attributes", "encode_attributes", "kvm_grants"]


class AttributeSet(StrEnum):
    """A set of attributes, by the series of patches that defines them."""

    HEKI = "heki"
    DENY = "deny"


_ENTRY = Struct("<4Q")
_EXECUTE = Use.SUPERVISOR_EXECUTE | Use.USER_EXECUTE
_HEKI_READ, _HEKI_WRITE, _HEKI_EXEC, _HEKI_IMMUTABLE = (1 << at for at in range(4, 8))
_DENIED = {Use.READ: 1 << 0, Use.WRITE: 1 << 1, Use.SUPERVISOR_EXECUTE: 1 << 2}
_KNOWN = {
    AttributeSet.HEKI: _HEKI_READ | _HEKI_WRITE | _HEKI_EXEC | _HEKI_IMMUTABLE,
    AttributeSet.DENY: sum(_DENIED.values()),
}


def kvm_grants(attributes: AttributeSet) -> NDArray[np.uint8]:
    """Return for each `Use` wanted what KVM grants by the attributes for it: uint8[16].

    With HEKI that is on processors with mode-based execute control.
    """
    if attributes is AttributeSet.HEKI:
        return rounded(TableKind.EPT_MBEC) | np.uint8(Use.READ | Use.USER_EXECUTE)
    return rounded(TableKind.EPT, execute_only=False)


def encode_attributes(protection: Protection, attributes: AttributeSet) -> bytes:
    """Return the list that has KVM grant what the policy allows: 32 bytes an entry, by address.

    Neighbours of equal attributes are one entry.
    """
    values = _ATTRIBUTES[attributes][protection.wanted]
    rows = protection.runs_of(values)
    found = [(start, size, int(values[row]), 0) for start, size, row in rows]
    return b"".join(_ENTRY.pack(*each) for each in found)


def decode_attributes(data: bytes, attributes: AttributeSet) -> Iterator[tuple[int, int, Use]]:
    """Yield (start, size, what KVM grants) of each entry of a list, in its order.

    `BadInput` for what KVM refuses, with the number of the entry: an address or size that isn't
    of whole pages, a size of 0 or past the end of the address space, attributes that don't belong
    to the set, flags; for DENY also writing or executing without reading. And for bytes that are
    no whole entries.
    """
    if len(data) % _ENTRY.size:
        raise BadInput(f"a list of {len(data):,} bytes: entries have {_ENTRY.size}")
    for number, (start, size, value, flags) in enumerate(_ENTRY.iter_unpack(data)):
        wrong = _wrong(start, size, value, flags, attributes)
        if wrong:
            raise BadInput(f"entry {number:,} of the list, at {start:#x}: {wrong}")
        yield start, size, _use_of(value, attributes)


def _wrong(start: int, size: int, value: int, flags: int, attributes: AttributeSet) -> str | None:
    if start % FRAME or size % FRAME:
        return f"size {size:#x}: not of whole pages"
    if not size or start + size >= 1 << 64:
        return f"size {size:#x}: no range of addresses"
    if flags:
        return f"flags {flags:#x}: there are none"
    if value & ~_KNOWN[attributes]:
        return f"attributes {value:#x}: unknown ones"
    if attributes is AttributeSet.DENY and value & 1 and value != _KNOWN[attributes]:
        return f"attributes {value:#x}: what may be written or executed must be readable"
    return None


def _use_of(value: int, attributes: AttributeSet) -> Use:
    """Return what KVM grants for attributes."""
    if attributes is AttributeSet.DENY:
        granted = sum(use for use, bit in _DENIED.items() if not value & bit)
        return Use(granted | (Use.USER_EXECUTE if granted & Use.SUPERVISOR_EXECUTE else 0))
    if not value:
        return Use.READ | Use.WRITE | _EXECUTE
    found = Use.READ | Use.USER_EXECUTE
    if value & _HEKI_WRITE:
        found |= Use.WRITE
    if value & _HEKI_EXEC:
        found |= Use.SUPERVISOR_EXECUTE
    return found


def _attributes_of(use: int, attributes: AttributeSet) -> int:
    """Return the attributes by which KVM grants the least that includes a use."""
    if attributes is AttributeSet.HEKI:
        return (
            _HEKI_READ
            | (_HEKI_WRITE if use & Use.WRITE else 0)
            | (_HEKI_EXEC if use & Use.SUPERVISOR_EXECUTE else 0)
        )
    granted = int(kvm_grants(attributes)[use])
    return sum(bit for each, bit in _DENIED.items() if not granted & each)


_ATTRIBUTES = {
    each: np.array([_attributes_of(use, each) for use in range(16)], np.uint64)
    for each in AttributeSet
}
