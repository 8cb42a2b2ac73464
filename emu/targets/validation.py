"""What no walker can mean: answers that are refused before anybody judges them."""

import numpy as np

from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.columns import Kind
from crosswalk.walker.memory import FRAME, PhysicalMemory

__all__ = ["sane"]

_PHYSICAL_BITS = np.uint64(52)


def sane(answers: Answers, memory: PhysicalMemory) -> Answers:
    """Return the answers; raises `NoAnswer` where they are nonsense.

    That is a physical address of more than 52 bits, and a changed word that is none of RAM's.
    """
    out, listing = answers.outcomes, answers.listing
    beyond = out.pa[(out.kind == Kind.OK) & (out.pa >> _PHYSICAL_BITS != 0)]
    if listing is not None:
        last = listing.mappings.pa + (listing.mappings.size - np.uint64(1))
        wrong = (last >> _PHYSICAL_BITS != 0) | (last < listing.mappings.pa)
        beyond = np.concatenate([beyond, last[wrong]])
    if len(beyond):
        _refuse("a physical address of more than 52 bits", int(beyond[0]))
    changed = out.entry_pa[(out.entry_pa != 0) | (out.entry_value != 0)]
    frames = changed & ~np.uint64(FRAME - 1)
    stray = changed[(changed % np.uint64(8) != 0) | ~memory.backed(frames)]
    if len(stray):
        _refuse("a change of what is no word of RAM", int(stray[0]))
    return answers


def _refuse(kind: str, address: int) -> None:
    raise NoAnswer(Failure.NONSENSE, kind, f"{kind}: {address:#x}")
