"""What a monitor's guest has written, by the D bits of its EPT, and putting it back from a copy."""

from collections.abc import Sequence

import numpy as np

from crosswalk.emu.protect.permissions import Bools
from crosswalk.guest.monitor import commands
from crosswalk.guest.monitor.commands import Command
from crosswalk.walker.architecture import MIB
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.nested import EptEntry

__all__ = ["copies", "note_written", "runs", "without_flags"]


def note_written(written: Bools, words: U64, base: int) -> None:
    """Mark the frames that the CPU has written, by the words of an EPT as the CPU has left them.

    `written` bool[n] is by frame of the guest, whose address 0 lies at `base`. The EPT has pages of
    4 KiB and 2 MiB.
    """
    for entry in words[words & np.uint64(EptEntry.D) != 0].tolist():
        size = 2 * MIB if entry & EptEntry.PS else FRAME
        first = ((entry & ADDRESS_FIELD & -size) - base) // FRAME
        written[first : first + size // FRAME] = True


def runs(flags: Bools) -> Sequence[tuple[int, int]]:
    """Return the runs of set flags, in order: the first number of each, and the one behind it."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [(low, high) for low, high in edges.reshape(-1, 2).tolist()]


def copies(frames: Bools, source: int, target: int) -> list[Command]:
    """Return commands that copy these frames, by number, from one place to another."""
    return [
        commands.copy(source + low * FRAME, target + low * FRAME, (high - low) * WORDS)
        for low, high in runs(frames)
    ]


def without_flags(words: U64) -> U64:
    """Return entries of an EPT with A and D clear."""
    return words & ~np.uint64(EptEntry.A | EptEntry.D)
