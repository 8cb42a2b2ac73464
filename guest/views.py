"""What is meant to be at an address, whoever looks."""

from dataclasses import dataclass

__all__ = ["Faulting", "Intended"]


@dataclass(frozen=True, slots=True)
class Intended:
    """`count` neighbouring pages of `size` bytes from `va` on, mapped to frames from `pa` on.

    `supervisor` and `user` are rights as "rwx" with dashes under the guest's final CR0.WP,
    EFER.NXE, CR4.SMEP and CR4.SMAP, with RFLAGS.AC clear and PKRU left out.
    """

    name: str
    va: int
    pa: int
    size: int
    count: int
    supervisor: str
    user: str


@dataclass(frozen=True, slots=True)
class Faulting:
    """`size` bytes from `va` on where every access faults; with RSVD set where `reserved`."""

    name: str
    va: int
    size: int
    reserved: bool = False
