"""Machines made of the second statement: what they answer to the accesses of pairs."""

from dataclasses import replace

from crosswalk.emu.check.nested_deviations import Deviation
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.walker.nested.outcome import EptViolation

BOCHS = Deviation.TABLE_WRITE | Deviation.BIT_13 | Deviation.UNCHECKED | Deviation.BIT_12


def answers(pair, deviations):
    """What a machine with these deviations answers, with no bit left open."""
    found = [emulated(pair.memory, pair.context, each, deviations) for each in pair.accesses]
    return [replace(each, open=0) if isinstance(each, EptViolation) else each for each in found]
