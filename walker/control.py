"""Bits of the control registers: what each does to an ordinary access, or why it does nothing.

An ordinary access is a read, a write or a fetch of one byte in 64-bit mode, or in protected mode
outside IA-32e mode. Every bit is modelled, listed here as changing no such access, or refused
by its name: an unknown bit might change any outcome.

Sources: Intel SDM vol. 3A, "Control Registers" and "Extended Feature Enable Register"; AMD APM
vol. 2, "System-Control Registers".
"""

from collections.abc import Mapping
from enum import StrEnum

from crosswalk.walker.architecture import CR0, CR3, CR4, EFER
from crosswalk.walker.errors import BadInput

__all__ = ["ACCEPTED", "CR0", "CR3", "CR4", "EFER", "REFUSED", "Vendor", "refuse_unmodelled"]


class Vendor(StrEnum):
    """The vendor whose manual decides where Intel's and AMD's differ."""

    INTEL = "intel"
    AMD = "amd"


Bits = Mapping[int, tuple[str, str]]

_FLOATING = "decides about floating-point instructions"
_CACHING = "decides how memory is cached, not which"
_INSTRUCTIONS = "allows instructions"

ACCEPTED: Mapping[str, Bits] = {
    "CR0": {
        1: ("MP", _FLOATING),
        2: ("EM", _FLOATING),
        3: ("TS", _FLOATING),
        4: ("ET", _FLOATING),
        5: ("NE", _FLOATING),
        18: ("AM", "checks the alignment of an operand, and one byte is always aligned"),
        29: ("NW", _CACHING),
        30: ("CD", _CACHING),
    },
    "CR4": {
        0: ("VME", "is about virtual-8086 mode"),
        1: ("PVI", "is about virtual interrupts"),
        2: ("TSD", "restricts RDTSC"),
        3: ("DE", "is about debug registers"),
        6: ("MCE", "allows machine checks"),
        8: ("PCE", "allows RDPMC"),
        9: ("OSFXSR", _FLOATING),
        10: ("OSXMMEXCPT", _FLOATING),
        11: ("UMIP", "restricts instructions"),
        13: ("VMXE", _INSTRUCTIONS),
        14: ("SMXE", _INSTRUCTIONS),
        16: ("FSGSBASE", _INSTRUCTIONS),
        17: ("PCIDE", "names what is cached of translations; `crosswalk.walker.tlb` knows it"),
        18: ("OSXSAVE", _INSTRUCTIONS),
        19: ("KL", _INSTRUCTIONS),
        23: ("CET", "is about shadow-stack accesses and branches"),
        25: ("UINTR", "allows user interrupts"),
        32: ("FRED", "is about the delivery of events"),
    },
    "EFER": {
        0: ("SCE", _INSTRUCTIONS),
        12: ("SVME", _INSTRUCTIONS),
        14: ("FFXSR", _FLOATING),
        15: ("TCE", "narrows what INVLPG invalidates; `crosswalk.walker.tlb` knows it"),
        17: ("MCOMMIT", _INSTRUCTIONS),
        18: ("INTWB", "makes WBINVD interruptible"),
        21: ("AIBRSE", "restricts predictions of branches"),
    },
}
"""By register and bit number: name, and why no ordinary access depends on it."""

REFUSED: Mapping[str, Bits] = {
    "CR3": {
        63: ("bit 63", "it is no part of the register, only of what MOV to CR3 is given"),
    },
    "EFER": {
        13: ("LMSLE", "segment limits in 64-bit mode are not modelled"),
    },
}
"""By register and bit number: name, and why the bit is refused."""


def refuse_unmodelled(vendor: Vendor, registers: Mapping[str, int]) -> None:
    """Raise `BadInput` for the lowest bit set that isn't modelled, by its name.

    `registers` has the values of CR0, CR4, EFER and, in IA-32e mode alone, CR3, by register name;
    of CR3 only bits 63:61 are looked at here.
    """
    for name, value in registers.items():
        refused = value & ~_TAKEN[vendor][name]
        if refused:
            bit = (refused & -refused).bit_length() - 1
            raise BadInput(f"{name} = {value:#x} sets {_objection(vendor, name, bit)}")


def _objection(vendor: Vendor, register: str, bit: int) -> str:
    """Return the name of a bit that isn't taken, and why it isn't."""
    if bit in REFUSED.get(register, ()):
        return "; ".join(REFUSED[register][bit])
    if _MODELLED[register].get(bit):
        owner = _ONLY[register, bit]
        return f"{_MODELLED[register][bit]}, which is {owner}'s, and the vendor is {vendor}"
    return f"bit {bit}, which isn't known: what it does to an access isn't modelled"


_MODELLED = {
    register: {
        bit: flag.name
        for flag in flags
        for bit in [flag.bit_length() - 1]
        if bit not in ACCEPTED.get(register, ()) and bit not in REFUSED.get(register, ())
    }
    for register, flags in (("CR0", CR0), ("CR3", CR3), ("CR4", CR4), ("EFER", EFER))
}

_ONLY = {
    ("CR3", 61): Vendor.INTEL,
    ("CR3", 62): Vendor.INTEL,
    ("CR4", 24): Vendor.INTEL,
    ("CR4", 27): Vendor.INTEL,
    ("CR4", 28): Vendor.INTEL,
    ("EFER", 20): Vendor.AMD,
}
"""The bits, by register and number, that the processors of one vendor alone have."""


def _taken(vendor: Vendor, register: str) -> int:
    """Return the bits of a register that are modelled, or accepted, for this vendor."""
    bits = {*_MODELLED[register], *ACCEPTED.get(register, ())} - {*REFUSED.get(register, ())}
    if register == "CR3":
        bits |= {*range(61)}
    return sum(1 << bit for bit in bits if _ONLY.get((register, bit), vendor) is vendor)


_TAKEN = {
    vendor: {register: _taken(vendor, register) for register in _MODELLED} for vendor in Vendor
}
