"""A judge that is a log: what a machine printed that booted an exported image."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from crosswalk.emu.judges.asked import cpu_context
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.composites import CompiledComposites
from crosswalk.emu.judges.exported import Logs
from crosswalk.emu.judges.judge import (
    Heard,
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    unheard,
)
from crosswalk.emu.judges.parts import Compiled
from crosswalk.emu.judges.sequences import CompiledSequence
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.probe.composites import Composites
from crosswalk.guest.boot.programs import CpuFacts
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = ["LoggedJudge"]

Q = TypeVar("Q")
T = TypeVar("T")


class LoggedJudge:
    """Answers what was asked of a machine by an exported image, from the log of that.

    The file is read when it is first needed. Raises `BadInput` for one that can't be read then.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name, self._path = name, Path(path)
        self.heard: Heard = unheard

    @cached_property
    def _logs(self) -> Logs:
        data = read_file(self._path)
        with errors_named(printable(self.name)):
            return Logs(data)

    @property
    def version(self) -> str:
        """The CPU that the image met."""
        facts = self._logs.facts
        bits = f"{facts.vendor} of {facts.maxphyaddr} bits"
        return f"{facts.brand}, {bits}" if facts.brand else bits

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what the log says of each question, in order."""
        return [self._of(each, each.context, CompiledAccesses) for each in questions]

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return what the log says of each question, in order."""
        return [self._of(each, each[1], CompiledComposites) for each in questions]

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return what the log says of each sequence, in order."""
        return [self._of(each, each.context, CompiledSequence) for each in sequences]

    def close(self) -> None:
        """Nothing runs."""

    def _of(
        self,
        question: Q,
        context: PagingContext,
        compile_: Callable[[Q, Ram, CpuFacts | None], Compiled[T]],
    ) -> T:
        """Return what the log says of a question of any kind.

        It was asked without knowing the machine, and is compiled so again. What this machine can't
        show is what would be refused if it were known.
        """
        facts = self._logs.facts
        asked = compile_(question, Ram(None), None)
        ram = Ram([(start, end - start) for start, end in facts.ram])
        known = compile_(question, ram, facts)
        asked.refused.add_all(known.refused.why, known.refused.reasons)
        met = cpu_context(context, facts)
        if isinstance(met, Reason):
            return asked.nothing(context, met)
        return asked.judged(met, [self._logs.of(part.asked) for part in asked.parts])
