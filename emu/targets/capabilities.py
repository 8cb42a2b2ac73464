"""What a walker under test answers, and what it is held to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from crosswalk.emu.targets.answers import Answers
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["Capability", "Failure", "Limits", "Peer", "PeerFailure", "parse_claims"]


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


class Failure(StrEnum):
    """How a walker can fail to answer."""

    CRASH = "crash"
    HANG = "hang"
    FLOOD = "flood"
    NONSENSE = "nonsense"


class PeerFailure(CrosswalkError):
    """The walker under test gave no answer: it died, ran out of time or said what can't be.

    `kind` says what happened in words that don't depend on addresses: failures of one kind are
    one finding.
    """

    def __init__(self, failure: Failure, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure, self.kind = failure, kind
        self._message = message

    def __reduce__(self) -> tuple[type["PeerFailure"], tuple[Failure, str, str]]:
        """Let it come back from the process that it was raised in."""
        return type(self), (self.failure, self.kind, self._message)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a walker under test may use.

    `seconds` of wall time for one question: an address space with its accesses; to load or to
    start it has as much once more. `output` in bytes: what it may print, or answer beyond 256
    bytes an access, for one question. `memory` in bytes: of address space, beyond what its
    process begins with.
    """

    seconds: float = 10.0
    output: int = 1 << 26
    memory: int = 1 << 32


class Peer(Protocol):
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
        """Return what it says of each access, and what it lists; raises `PeerFailure`."""
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...
