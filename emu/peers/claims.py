"""What a walker under test answers, and what it is held to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.errors import CrosswalkError
from walker.memory import PhysicalMemory

__all__ = ["Claim", "Failure", "Limits", "Peer", "PeerFailure"]


class Claim(StrEnum):
    """One kind of answer. What a walker doesn't claim isn't held against it."""

    LEAVES = "leaves"
    """It lists mappings; an address is mapped where one of them says so."""
    TRANSLATION = "translation"
    """It says whether an address is mapped, and where to."""
    RIGHTS = "rights"
    """It says whether an access is allowed."""
    FAULTS = "faults"
    """It says which fault is raised, with error code and CR2."""
    MARKS = "marks"
    """It says which A and D bits are set."""


class Failure(StrEnum):
    """How a walker can fail to answer."""

    CRASH = "crash"
    HANG = "hang"
    FLOOD = "flood"
    NONSENSE = "nonsense"


class PeerFailure(CrosswalkError):
    """The walker under test gave no answer: it died, ran out of time or said what can't be."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self._message = message

    def __reduce__(self) -> tuple[type["PeerFailure"], tuple[Failure, str]]:
        """Let it come back from the process that it was raised in."""
        return type(self), (self.failure, self._message)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a walker under test may use for one question: seconds, and bytes or items of output."""

    seconds: float = 10.0
    output: int = 1 << 26


class Peer(Protocol):
    """A walker under test."""

    @property
    def name(self) -> str:
        """What `--walker` called it."""
        ...

    @property
    def claims(self) -> frozenset[Claim]:
        """What it answers."""
        ...

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what it says of each access.

        Kind OK means mapped, at `pa`; where RIGHTS is claimed, that the access is allowed too.
        Columns that it doesn't claim are zeros. Raises `PeerFailure`.
        """
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...
