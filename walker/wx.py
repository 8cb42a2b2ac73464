"""W^X: frames that somebody may write and somebody may execute, and through which addresses."""

from dataclasses import dataclass
from itertools import islice

from crosswalk.walker.aliases import QUESTIONS, Aliases, Question
from crosswalk.walker.context import PagingContext
from crosswalk.walker.frames import Frames
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.rights import EXECUTES, WRITES, Rights

__all__ = ["WritableExecutable", "writable_and_executable"]


@dataclass(frozen=True, slots=True)
class WritableExecutable:
    """`size` bytes from `pa`, and the first mappings that write and that execute there."""

    pa: int
    size: int
    rights: Rights
    writers: tuple[Mapping, ...]
    executors: tuple[Mapping, ...]

    @property
    def within_one_privilege(self) -> bool:
        """Whether the supervisor alone, or the user alone, may do both."""
        return any(self.rights >> shift & 6 == 6 for shift in (0, 3))


def writable_and_executable(
    memory: PhysicalMemory, context: PagingContext, frames: Frames, *, aliases: int
) -> list[WritableExecutable]:
    """Return the ranges of `frames` that are both, by address, with up to `aliases` of each kind.

    `frames` are the `collective_rights` of the same address space.
    """
    both = [each for each in frames if each[2] & WRITES and each[2] & EXECUTES]
    found = []
    for at in range(0, len(both), QUESTIONS // 2):
        some = both[at : at + QUESTIONS // 2]
        questions = [Question(pa, size, how) for pa, size, _ in some for how in (WRITES, EXECUTES)]
        finder = Aliases(memory, context, questions)
        for number, (pa, size, rights) in enumerate(some):
            writers = tuple(islice(finder.find(2 * number), aliases))
            executors = tuple(islice(finder.find(2 * number + 1), aliases))
            found.append(WritableExecutable(pa, size, rights, writers, executors))
    return found
