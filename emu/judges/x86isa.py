"""x86isa as a judge: the formal model of x86 in ACL2's books, asked for its translations.

Its function for 4-level paging, `la-to-pa`, is given registers and memory, and answers with a
physical address or a page fault, and with the entries that it marked. Nothing is booted: ACL2 is
asked by Lisp forms on its standard input (`x86isa.lisp`), question by question.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.answers import Found
from crosswalk.emu.judges.asked import Refusals, Registers
from crosswalk.emu.judges.judge import (
    Heard,
    Interrupted,
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    Unjudged,
    unheard,
)
from crosswalk.emu.judges.ways import Ram, walked
from crosswalk.emu.probe.composites import CompositeOutcomes, Composites
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.frames import has_frames
from crosswalk.emu.probe.paths import NO_ADDRESS, NO_PAGE
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.emu.workers.sandbox import Limits, NoAnswer, Process, Restarted
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import MAX_STEPS, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import one_line, printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = ["X86isa"]

Item = TypeVar("Item")

_WIDTH = 52
"""MAXPHYADDR of the model: no bit of an address field is reserved."""

_TOP = 1 << 42
"""Words below this are stored: each 4 TiB of memory that is written takes the model 5 GB."""

_FEATURES = frozenset({"smep", "smap", "nx", "pcid"})
"""What of `Registers.features` the model has, or needs to know nothing of."""

_LIMITS = Limits(seconds=200.0, output=1 << 20, memory=1 << 40, patience=3.0)
"""To read the books takes 20 seconds of CPU time, and 11 GB of memory."""

_EACH = 512
"""Bytes that are printed of an access, at most."""

_ROWS = 256
"""Accesses, or words, in one form: what isn't compiled calls itself for each."""

_MOST_DEATHS = 8
_KINDS = {AccessType.READ: ":r", AccessType.WRITE: ":w", AccessType.EXECUTE: ":x"}

_END = b"\ncrosswalk end\n"
_SAY_END = b"""
(acl2::pprogn (acl2::newline acl2::*standard-co* acl2::state)
              (acl2::princ$ "crosswalk end" acl2::*standard-co* acl2::state)
              (acl2::newline acl2::*standard-co* acl2::state))
"""
"""Prints `_END`, whatever became of the forms before."""

_OF = re.compile(r"^crosswalk of ACL2 Version (\S+) $", re.MULTILINE)
_STRAYS = re.compile(r"^crosswalk strays ((?:\d+ )*)$", re.MULTILINE)
_ANSWER = re.compile(r"^crosswalk (\d+) (.*?) changed ((?:\d+ \d+ )*)$", re.MULTILINE)
_FINE = re.compile(r"NIL (\d+) NIL")
_FAULT = re.compile(r"PAGE-FAULT 0 \(\(:?PAGE-FAULT (\d+) (-?\d+)\)\)")
_ERROR = re.compile(r"^(?:HARD )?ACL2 Error ?(.*)$", re.MULTILINE | re.IGNORECASE)

_LEVELS = Reason(Unjudged.NOT_SHOWN, "the model has 4-level paging alone")
_MASK = Reason(Unjudged.NOT_EXPORTABLE, "a mask of encryption bits, which no judge is told")
_NO_ROOT = Reason(Unjudged.NOT_EXPORTABLE, "CR3 points to no RAM of the case")
_VENDOR = Reason(Unjudged.NOT_SHOWN, "a CPU of its vendor has no such registers")
_CANONICAL = Reason(Unjudged.NOT_SHOWN, "the model translates canonical addresses alone")
_HIGH = Reason(
    Unjudged.NOT_SHOWN, "a table at 4 TiB or above, which takes the model too much memory"
)
_SINGLE = Reason(Unjudged.NOT_SHOWN, "the model is asked single accesses alone")
_NONSENSE = Reason(Unjudged.ENDED, "it answers what is no outcome")
_ASTRAY = Reason(Unjudged.ENDED, "it changed a word that is on none of the walks")
_UNCHECKED = Reason(Unjudged.ENDED, "it doesn't say which other words it changed")
_ONCE = Reason(Unjudged.LOST, "it ended at it, but not when it was asked again, alone")
_MANY = Reason(Unjudged.LOST, f"not asked: it had ended {_MOST_DEATHS} times before")


class X86isa:
    """Asks the model, by an ACL2 that has its books: a command, by its path or its name on PATH.

    ACL2 is started when the first question comes that can be asked. Raises `BadInput` where there
    is no such command, and then where it has no such books.
    """

    def __init__(self, name: str = "x86isa", path: str = "acl2") -> None:
        if shutil.which(path) is None:
            raise BadInput(f"{printable(path)}: no such command")
        self.name, self._path = name, path
        self._number = ""
        self.heard: Heard = unheard
        self._process = Restarted("x86isa", self._start)

    @property
    def version(self) -> str:
        """ACL2's version, once it was asked, and the CPU that the model is."""
        of = f" of ACL2 {self._number}" if self._number else ""
        return f"x86isa{of}, GenuineIntel of {_WIDTH} bits"

    def close(self) -> None:
        """End ACL2."""
        self._process.close()

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what the model says of each question, in order."""
        judged: list[Judged] = []
        try:
            for question, one in zip(questions, self._each(questions), strict=True):
                judged.append(one)
                self.heard(len(question.accesses))
        except KeyboardInterrupt:
            raise Interrupted([*judged, *[None] * (len(questions) - len(judged))]) from None
        return judged

    def _each(self, questions: Sequence[Question]) -> Iterator[Judged]:
        """Yield what the model says of each question."""
        deaths = 0
        for question in questions:
            try:
                context = _as_model(question.context)
            except BadInput as error:
                why = replace(_VENDOR, exact=f"{_VENDOR.text}: {error}")
                yield _Asked(question, why).judged(question.context)
                continue
            asked = _Asked(question, _refusal(question))
            deaths += self._ask(asked, _MOST_DEATHS - deaths)
            yield asked.judged(context)

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return that none of them can be shown."""
        return [
            JudgedComposites(
                context,
                CompositeOutcomes.empty(len(composites)),
                np.ones(len(composites), np.uint8),
                (_SINGLE,),
            )
            for _, context, composites in questions
        ]

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return that none of them can be shown."""
        return [JudgedSequence(each.context, _SINGLE) for each in sequences]

    def _ask(self, asked: "_Asked", most: int) -> int:
        """Ask all rows that can be; return how often ACL2 failed at one, up to `most` times."""
        deaths = 0
        while len(rows := asked.left):
            if deaths == most:
                asked.refused.add(rows, _MANY)
                break
            how = self._put(asked, rows)
            if not len(left := asked.left):
                break
            deaths += 1
            if len(rows) > 1:
                how = self._put(asked, left[:1])
                if asked.answered(left[0]):
                    asked.forget(left[0])
                    how = _ONCE
            asked.refused.add(left[:1], how)
        return deaths

    def _put(self, asked: "_Asked", rows: NDArray[np.intp]) -> Reason:
        """Ask these rows; return why those have no answer that have none."""
        question = asked.forms(rows).encode("ascii")
        said = bytearray()

        def exchange(process: Process) -> None:
            said.clear()
            _talk(process, question, said, _LIMITS.output + _EACH * len(rows))

        why = _NONSENSE
        try:
            self._process.ask(exchange)
        except ProcessLost as lost:
            why = Reason(Unjudged.LOST, str(lost))
        except NoAnswer as none:
            why = Reason(Unjudged.ENDED, none.kind)
        text = said.decode("ascii", "replace")
        if not asked.read(rows, text):
            self._process.close()  # What a row that failed has changed is still in its memory.
            if why is _NONSENSE and (error := _ERROR.search(text)):
                why = Reason(Unjudged.ENDED, f"it raises an error: {_unnumbered(error[1])}")
        return why

    def _start(self) -> Process:
        """Start ACL2, and have it read the books."""
        forms = files(__package__).joinpath("x86isa.lisp").read_bytes()
        process = Process(_LIMITS, _no_body, [self._path])
        said = bytearray()
        try:
            _talk(process, forms + _SAY_END, said, _LIMITS.output)
        except NoAnswer as none:
            raise BadInput(f"{printable(self._path)}: {none}") from none
        text = said.decode("ascii", "replace")
        found = _OF.search(text)
        if found is None:
            process.close()
            error = _ERROR.search(text)
            why = f": {one_line(error[1])}" if error else ""
            raise BadInput(f"{printable(self._path)}: no ACL2 with the books of x86isa{why}")
        self._number = printable(found[1])
        return process


class _Asked:
    """The rows of a question that can be asked, and their answers as they come.

    None can if there is a reason for `whole`.
    """

    def __init__(self, question: Question, whole: Reason | None) -> None:
        context, accesses = question.context, question.accesses
        self._accesses, self._registers = accesses, Registers.of(context)
        self._outcomes = Outcomes.empty(len(accesses))
        self._answered = np.zeros(len(accesses), np.bool_)
        self.refused = Refusals(len(accesses))
        self._words: dict[int, int] = {}
        self._checks = 0
        if whole is not None:
            self.refused.add(np.ones(len(accesses), np.bool_), whole)
            return
        high = accesses.va >> np.uint64(47)
        self.refused.add((high != 0) & (high != np.uint64((1 << 17) - 1)), _CANONICAL)
        tables, ways = walked(question.memory, context, accesses.va, Ram([(0, _TOP)]), _WIDTH)
        self._on_walk, top = ways.words, np.uint64(_TOP)
        bad = ((self._on_walk != np.uint64(NO_ADDRESS)) & (self._on_walk >= top)).any(axis=1)
        bad |= (ways.beyond != np.uint64(NO_PAGE)) & (ways.beyond >= top)
        self.refused.add(bad, _HIGH)
        row, at = np.nonzero(tables.words)
        where = tables.frames[row] + np.uint64(8) * at.astype(np.uint64)
        kept = where < top
        self._words = dict(
            zip(where[kept].tolist(), tables.words[row, at][kept].tolist(), strict=True)
        )

    @property
    def left(self) -> NDArray[np.intp]:
        """The rows without an answer, and without a reason for that."""
        return np.flatnonzero(self.refused.left & ~self._answered)

    def answered(self, row: int) -> bool:
        """Return whether a row has an answer."""
        return bool(self._answered[row])

    def forget(self, row: int) -> None:
        """Take a row's answer away."""
        self._answered[row] = False

    def judged(self, context: PagingContext) -> Judged:
        """Return what became of all rows."""
        refused = self.refused
        why, reasons = refused.why, tuple(refused.reasons)
        outcomes, kept = Outcomes.empty(len(why)), why == 0
        for name in Outcomes.__slots__:
            getattr(outcomes, name)[kept] = getattr(self._outcomes, name)[kept]
        return Judged(context, outcomes, why, np.zeros(len(why), np.bool_), reasons)

    def forms(self, rows: NDArray[np.intp]) -> str:
        """Return the Lisp forms that put these rows to the model, and empty its memory."""
        registers, accesses = self._registers, self._accesses
        walks = [
            sorted({word for word in walk if word != NO_ADDRESS})
            for walk in self._on_walk[rows].tolist()
        ]
        words = {word: 0 for walk in walks for word in walk} | self._words
        columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
        asked = [
            f"({row} {va - (va >> 63 << 64)} {_KINDS[AccessType(kind)]} {cpl} {ac:d}"
            f"{_pairs((word, words[word]) for word in walk)})"
            for row, va, kind, cpl, ac, walk in zip(
                rows.tolist(), *(column[rows].tolist() for column in columns), walks, strict=True
            )
        ]
        control = f"{registers.cr0} {registers.cr3} {registers.cr4} {registers.efer}"
        held = list(words.items())
        self._checks = len(list(_parts(held)))
        return "\n".join(
            [
                f"(crosswalk-enter {control} x86)",
                *(f"(crosswalk-store '({_pairs(some)}) x86)" for some in _parts(held)),
                *(f"(crosswalk-ask '({' '.join(some)}) x86 state)" for some in _parts(asked)),
                *(f"(crosswalk-check '({_pairs(some)}) x86 state)" for some in _parts(held)),
                *(
                    f"(crosswalk-store '({_pairs((word, 0) for word, _ in some)}) x86)"
                    for some in _parts(held)
                ),
                _SAY_END.decode("ascii"),
            ]
        )

    def read(self, rows: NDArray[np.intp], said: str) -> bool:
        """Take the answers to these rows; return whether all of them have one."""
        expected = set(rows.tolist())
        for number, answer, changed in _ANSWER.findall(said):
            row = int(number)
            found = _found(answer, changed)
            if row in expected and found is not None:
                expected.remove(row)
                self._take(row, found)
        checks = _STRAYS.findall(said)
        if any(checks):
            self.refused.add(rows, _ASTRAY)
        if not expected and len(checks) != self._checks:
            self.refused.add(rows, _UNCHECKED)
        return not expected

    def _take(self, row: int, found: Found) -> None:
        outcomes = self._outcomes
        self._answered[row] = True
        outcomes.kind[row], outcomes.pa[row] = found.kind, found.pa
        outcomes.error_code[row], outcomes.cr2[row] = found.error_code, found.cr2
        for place, (pa, value) in enumerate(sorted(found.changed.items())):
            outcomes.entry_pa[row, place], outcomes.entry_value[row, place] = pa, value


def _talk(process: Process, forms: bytes, said: bytearray, allowed: int) -> None:
    """Have ACL2 read forms, and keep what it prints until it has come to the end of them."""

    def whole(part: bytes) -> bool:
        said.extend(part)
        return said.endswith(_END)

    process.talk(forms, whole, allowed)


def _no_body() -> None:
    """Do nothing: the process is a command."""


def _as_model(context: PagingContext) -> PagingContext:
    """Return the context with the features of the model; `BadInput` if it can't have these."""
    return replace(context, vendor=Vendor.INTEL, maxphyaddr=_WIDTH, page1gb=True)


def _refusal(question: Question) -> Reason | None:
    """Return why nothing of a question can be asked, or None."""
    context = question.context
    control = Control.of(context)
    if context.encryption_mask:
        return _MASK
    if not (control.long and control.levels == 4):
        return _LEVELS
    if not has_frames(question.memory, np.array([control.root], np.uint64))[0]:
        return _NO_ROOT
    for name, words in Registers.of(context).features:
        if name not in _FEATURES:
            return Reason(Unjudged.NOT_SHOWN, f"the CPU has no {words}")
    return None


def _found(answer: str, changed: str) -> Found | None:
    """Return an outcome as printed, None for what is none."""
    numbers = [int(each) for each in changed.split()]
    words = dict(zip(numbers[::2], numbers[1::2], strict=True))
    if any(each >> 64 for each in numbers) or len(words) > MAX_STEPS:
        return None
    if (fine := _FINE.fullmatch(answer)) and not int(fine[1]) >> _WIDTH:
        return Found(Kind.OK, int(fine[1]), changed=words)
    if (fault := _FAULT.fullmatch(answer)) and not int(fault[1]) >> 16:
        return Found(Kind.PAGE_FAULT, 0, int(fault[1]), int(fault[2]) & (1 << 64) - 1, words)
    return None


def _unnumbered(text: str) -> str:
    """Return an error without its numbers, so that equal ones are counted together."""
    return re.sub(r"\d+", "…", one_line(text))


def _pairs(words: Iterable[tuple[int, int]]) -> str:
    return "".join(f" ({word} . {value})" for word, value in words)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield the items in parts that a form can hold."""
    for at in range(0, len(items), _ROWS):
        yield items[at : at + _ROWS]
