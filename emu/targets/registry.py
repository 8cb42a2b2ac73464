"""`--walker`: the kinds of walkers under test, by name, and the built-in ones."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from crosswalk.emu.targets.answers import Answers, Ranges
from crosswalk.emu.targets.capabilities import (
    Capability,
    Target,
    choose_claims,
    parse_claims,
)
from crosswalk.emu.targets.clib import CLibrary
from crosswalk.emu.targets.jsonl import JsonLines
from crosswalk.emu.targets.loaded import Contained
from crosswalk.emu.targets.mapping_lists import ask, ranges_of, rights_text
from crosswalk.emu.targets.python import load_python
from crosswalk.emu.targets.volatility import Volatility
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.rights import GRANTS
from crosswalk.walker.translate import translate

__all__ = ["BUILTIN", "KINDS", "Builtin", "open_target"]

_TEXTS = [rights_text(grant) for grant in range(GRANTS)]
_LISTS = frozenset({Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE})
_ALL = frozenset({Capability.TRANSLATION, Capability.RIGHTS, Capability.FAULTS, Capability.MARKS})


class _Answer(Protocol):
    def __call__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        accesses: Accesses,
        ranges: Ranges | None = None,
    ) -> Answers: ...


@dataclass(frozen=True, slots=True)
class Builtin:
    """A walker of this project, asked in this process: it neither crashes nor hangs."""

    name: str
    claims: frozenset[Capability]
    answer: _Answer
    modes: frozenset[PagingMode] | None = frozenset(PagingMode)

    def close(self) -> None:
        """Do nothing: there are no processes and no files."""


def _in_bulk(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    ranges: Ranges | None = None,  # noqa: ARG001  # It lists nothing.
) -> Answers:
    outcomes = translate_many(memory, context, accesses)
    return Answers(outcomes, np.zeros(len(accesses), np.bool_))


def _one_by_one(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    ranges: Ranges | None = None,  # noqa: ARG001  # The same.
) -> Answers:
    answers = Answers.none(len(accesses))
    for row in range(len(accesses)):
        answers.fill(row, translate(memory, context, accesses[row]))
    return answers


def _by_leaves(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    ranges: Ranges | None = None,
) -> Answers:
    def lister(va: int, end: int) -> Iterator[tuple[int, int, int, int, str]]:
        for leaves in walk_leaves(memory, context, va, end):
            columns = (leaves.va, leaves.pa, leaves.size, leaves.flags)
            rights = [_TEXTS[grant] for grant in leaves.grant.tolist()]
            yield from zip(*(column.tolist() for column in columns), rights, strict=True)

    answers = Answers.none(len(accesses))
    ranges = ranges_of(memory, context, accesses) if ranges is None else ranges
    listing = ask(context, ranges, lister)
    return Answers(answers.outcomes, answers.silent, listing)


BUILTIN = {
    each.name: each
    for each in (
        Builtin("bulk", _ALL, _in_bulk),
        Builtin("translate", _ALL, _one_by_one),
        Builtin("walk", _LISTS, _by_leaves),
    )
}

KINDS = (
    "python:MODULE:FUNCTION, python:FILE.py:FUNCTION, exec:COMMAND, c:LIBRARY.so, volatility3, "
    "bulk, translate, walk"
)

_FORMS = {
    "python": ("function", "python:MODULE:FUNCTION or python:FILE.py:FUNCTION"),
    "c": ("library", "c:LIBRARY.so"),
    "exec": ("command", "exec:COMMAND"),
}


def open_target(text: str, limits: Limits | None = None, *, claims: str | None = None) -> Target:
    """Return the walker that `text` names; `claims`, names with commas, replace its own.

    Raises `BadInput` for an unknown walker, one that can't be loaded, or a claim that it can't
    answer.
    """
    limits = Limits() if limits is None else limits
    chosen = None if claims is None else parse_claims(claims, "--claims")
    kind, _, rest = text.partition(":")
    if kind in _FORMS and not rest.strip():
        what, form = _FORMS[kind]
        raise BadInput(f"--walker {text} names no {what}; give {form}")
    if text in BUILTIN:
        return replace(BUILTIN[text], claims=choose_claims(text, BUILTIN[text].claims, chosen))
    if kind == "python":
        return Contained(text, lambda _: load_python(rest, chosen), limits)
    if kind == "c":
        return Contained(text, lambda give_up: CLibrary(rest, chosen, give_up), limits)
    if kind == "exec":
        return JsonLines(text, rest, chosen, limits)
    if text == "volatility3":
        choose_claims(text, Volatility.claims, chosen)
        return Contained(text, lambda _: Volatility(), limits)
    raise BadInput(f"--walker {text}: none of {KINDS}")
