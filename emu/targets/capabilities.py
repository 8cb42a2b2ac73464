"""What a walker under test answers, and what it is held to."""

from enum import StrEnum
from typing import Protocol

from crosswalk.emu.targets.answers import Answers
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["Capability", "Target", "parse_claims"]


class Capability(StrEnum):
    """One kind of answer. What a walker doesn't claim isn't held against it."""

    LEAVES = "leaves"
    """It lists mappings: each with its address, where it leads to, and its size."""
    FLAGS = "flags"
    """It gives the flags of each mapping that it lists: its last entry without the address."""
    TRANSLATION = "translation"
    """It says whether an address is mapped, and where to."""
    RIGHTS = "rights"
    """It says whether an access is allowed, and where it leads to."""
    FAULTS = "faults"
    """It says which fault is raised, with error code and CR2."""
    MARKS = "marks"
    """It says which A and D bits are set."""


_RESTS_ON = {
    Capability.FLAGS: frozenset({Capability.LEAVES}),
    Capability.MARKS: frozenset({Capability.RIGHTS, Capability.FAULTS}),
}


def parse_claims(text: str, where: str) -> frozenset[Capability]:
    """Return the claims of a list of names, with commas; `where` is what errors call it.

    `BadInput` for a name that is none, and for a claim without one that it rests on: flags are
    those of leaves, marks those of accesses of which the rights or faults are known.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in {claim.value for claim in Capability}:
            known = ", ".join(claim.value for claim in Capability)
            raise BadInput(f"{where}: {name!r} is none of {known}")
    claims = frozenset(Capability(name) for name in names)
    for claim, others in _RESTS_ON.items():
        if claim in claims and not claims & others:
            needed = " or ".join(sorted(others))
            raise BadInput(f"{where}: {claim.value} means nothing without {needed}")
    return claims


class Target(Protocol):
    """A walker under test."""

    @property
    def name(self) -> str:
        """What `--walker` called it."""
        ...

    @property
    def claims(self) -> frozenset[Capability]:
        """What it answers."""
        ...

    def answer(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
        """Return what it says of each access, and what it lists; raises `NoAnswer`."""
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...
