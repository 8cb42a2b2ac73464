"""The units of a choice, run in this process."""

from crosswalk.emu.matrix.select import ALL_SECTIONS, chosen_units, parse_choice
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.matrix.unit import Worker
from crosswalk.walker.bulk import translate_many


def all_of(text, predict=translate_many):
    """The summary of all units of a choice."""
    choice = parse_choice(text)
    worker = Worker(ALL_SECTIONS, choice, predict)
    summary = Summary(text)
    for unit in chosen_units(choice):
        summary.add(worker.do(unit))
    return summary
