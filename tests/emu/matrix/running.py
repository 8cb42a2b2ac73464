"""The units of a choice, run in this process; the address space of a section."""

import numpy as np

from crosswalk.emu.matrix.select import ALL_SECTIONS, chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.matrix.unit import Worker
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.memory import SparseWords


def all_of(text, predict=translate_many):
    """The summary of all units of a choice."""
    choice = parse_choice(text)
    worker = Worker(ALL_SECTIONS, choice, predict)
    summary = Summary(text)
    for unit in chosen_units(choice):
        summary.add(worker.do(unit))
    return summary


def laid_out(section, choice):
    """The variants of a section, its one address space, and the addresses in it."""
    variants = section.variants(choice)
    for shape in section.shapes(section, choice):
        return variants, SparseWords.of_tables(section.ram, shape.frames, shape.words), shape.va
    return variants, SparseWords(section.ram, {}), np.zeros(0, np.uint64)
