"""Questions of any kind divided into runs: by memory that a machine may lack, by slots lent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.answers import Answered, refusal_reason
from crosswalk.emu.judges.asked import Asked, Part, Refusals, Registers, Whole, run_of, run_words
from crosswalk.emu.judges.ends import together, widest_cpus
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.lending import choose_loans, use_of
from crosswalk.emu.judges.ways import Ram, frames_of, root_entries
from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.guest.boot.programs import Program, ProgramResult
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64

__all__ = ["NO_SLOT", "AddressSpace", "Compiled", "Places", "divided", "results_by_row"]

T_co = TypeVar("T_co", covariant=True)

NO_SLOT = Reason(
    Unjudged.NOT_EXPORTABLE, "no slot of the root to lend that the access doesn't come across"
)

_MOST_PROGRAMS = 8192  # Of a run.


class Compiled(Protocol[T_co]):
    """What a question of any kind was compiled into: runs, and how to read their results.

    `parts` are the runs in the order in which their results are read; `refused` has the rows that
    have no outcome, whatever the results.
    """

    parts: list[Part]
    refused: Refusals

    def judged(self, context: PagingContext, answers: Sequence[Answered]) -> T_co:
        """Return what the machine says; `context` is the question's with the CPU that it has."""
        ...

    def nothing(self, context: PagingContext, reason: Reason) -> T_co:
        """Return that it says nothing."""
        ...


def results_by_row(
    parts: Sequence[Part], answers: Sequence[Answered], refused: Refusals
) -> Iterator[tuple[int, ProgramResult]]:
    """Yield each row that has a result, with it; the others are refused, for what the answer says.

    `answers` has what came of each part, in order.
    """
    for part, answer in zip(parts, answers, strict=True):
        if answer.refused is not None:
            refused.add(part.rows, refusal_reason(answer.refused))
            continue
        for row, result in zip(part.rows.tolist(), answer.programs, strict=True):
            if refused.why[row]:
                continue
            if isinstance(result, Reason):
                refused.add(row, result)
            else:
                yield row, result


@dataclass(frozen=True, slots=True)
class Places:
    """Where n rows of a question may lead.

    `entry` uint64[n, k] are the addresses of the entries on their walks, `end` uint64[n, m] the
    addresses reached; `target` uint64[n, m] those of the words there that tell of themselves,
    NO_ADDRESS for none, of which `marked` bool[n, m] are given a marker. `beyond` uint64[n, h] are
    the frames of tables that the walks go on to and that aren't there.
    """

    entry: U64
    end: U64
    target: U64
    marked: NDArray[np.bool_]
    beyond: U64


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """An address space as a machine is given it: registers, tables, where there is RAM for them.

    `root` is the address of its first table.
    """

    registers: Registers
    whole: Whole
    ram: Ram
    form: PagingFormat
    root: int

    @property
    def held(self) -> U64:
        """The entries of the root, uint64[s]."""
        return root_entries(self.whole.tables, self.form, self.root)


def divided(
    space: AddressSpace,
    places: Places,
    programs: Sequence[Program],
    refused: Refusals,
    *,
    pkru: int = 0,
) -> list[Part]:
    """Return the rows that aren't refused as runs; those for which no slot is free are refused.

    `programs` are those of the rows; `pkru` are bits that they may set in PKRU on the way.
    """
    form, root, ram, parts = space.form, space.root, space.ram, list[Part]()
    every = np.concatenate([places.entry, places.end, places.beyond], axis=1)
    widest = widest_cpus(every, ram, space.whole.width)
    for rows in together(refused.left, every, widest, ram):
        use = use_of(form, root, places.entry[rows], places.target[rows])
        lent = np.zeros(len(rows), np.bool_)
        for loan, chosen in choose_loans(form, space.held, use, len(rows)):
            lent[chosen] = True
            for at in range(0, len(chosen), _MOST_PROGRAMS):
                some = rows[chosen[at : at + _MOST_PROGRAMS]]
                marked = places.target[some][places.marked[some]]
                words = run_words(space.whole, ram, frames_of(places.entry[some]), marked)
                made = (programs[row] for row in some.tolist())
                most = int(widest[some[0]])
                run = run_of(space.registers, words, made, pkru=pkru, maxphyaddr=most)
                asked = Asked(run=run, form=form, roots=(root,), loan=loan, taken=run.clear)
                parts.append(Part(asked, some))
        refused.add(rows[~lent], NO_SLOT)
    return parts
