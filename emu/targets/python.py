"""A walker in Python: `python:module:function`, or `python:path.py:function`."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from operator import index
from pathlib import Path
from types import ModuleType
from typing import Any

from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.capabilities import (
    LISTS,
    Capability,
    names_text,
    parse_claims,
    parse_modes,
)
from crosswalk.emu.targets.loaded import Loaded
from crosswalk.emu.targets.questions import Course, Questions, listed
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation

__all__ = ["Function", "load_python"]

_TRANSLATOR, _LISTER = ("memory", "context", "access"), ("memory", "context", "va", "end")
_OUTCOMES = (Translation, PageFault, GeneralProtection)


class Function:
    """A function that translates, or one that lists mappings, by its claims."""

    def __init__(
        self,
        function: Callable[..., Any],
        claims: frozenset[Capability],
        modes: frozenset[PagingMode] | None = None,
    ) -> None:
        if claims & LISTS and claims - LISTS:
            raise BadInput("one function either lists mappings or translates, not both")
        self.claims, self.modes = claims, modes
        _require_parameters(function, _LISTER if claims & LISTS else _TRANSLATOR)
        self._function = function

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, questions: Questions, course: Course
    ) -> Answers:
        """Return the answers or the list; raise what the function raises, or `NoAnswer`."""
        answers = Answers.none(len(questions.accesses))
        for row in range(len(questions.accesses)):
            course.place[0] = row
            answer = self._function(memory, context, questions.accesses[row])
            try:
                if answer is not NotImplemented:
                    answers.fill(row, _outcome(answer))
            except NoAnswer as nonsense:
                course.refused[row] = nonsense

        def lister(va: int, end: int) -> Any:
            return self._function(memory, context, va, end)

        return replace(answers, listing=listed(context, questions, lister, course))


def _require_parameters(function: Callable[..., Any], given: tuple[str, ...]) -> None:
    """Raise `BadInput` for what can't be called as a walker is, as far as its signature tells."""
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, type):
        raise BadInput(f"{name} is a class, and not a function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Functions of C needn't have one.
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        message = f"{name} takes {signature}, and is called with ({', '.join(given)})"
        raise BadInput(f"{message}: {error}") from error


def load_python(text: str, chosen: frozenset[Capability] | None) -> Loaded:
    """Return the walker that "module:function" or "path.py:function" names.

    Its claims are `chosen`; without that, the attribute `claims` of the function or `CLAIMS` of the
    module (names with commas, or a collection of them); without those, translation. Its modes are
    the attribute `modes` or `MODES`, in the same form.
    Raises `BadInput` where there is no such function, or its module can't be imported.
    """
    where, _, name = text.rpartition(":")
    if not where or not name:
        raise BadInput("names no function; give python:MODULE:FUNCTION or python:FILE.py:FUNCTION")
    if where.endswith(".py"):
        map_file(where)
    elif os.sep in where:
        raise BadInput(f"{where} is neither a module nor a file whose name ends in .py")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _by_name(where)
    except BaseException as error:  # Other people's modules may raise anything.
        first = str(error).splitlines()[:1]
        raise BadInput(printable(": ".join([type(error).__name__, *first]))) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"{where} has no function {name}")
    own = getattr(function, "claims", getattr(module, "CLAIMS", Capability.TRANSLATION.value))
    where = f"its claims, {own!r:.60}"
    claims = chosen or parse_claims(names_text(own, where), where)
    modes = getattr(function, "modes", getattr(module, "MODES", None))
    where = f"its modes, {modes!r:.60}"
    known = None if modes is None else parse_modes(names_text(modes, where), where)
    return Function(function, claims, known)


def _by_name(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    # A file called types.py, say, doesn't replace the module of that name for everybody else.
    name = f"{path.stem} under test" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # Its neighbours are its own to import.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _outcome(answer: Any) -> Outcome:
    """Return an answer as an outcome: None is a fault, a number the address that is reached."""
    if answer is None:
        return PageFault(0, 0)
    if isinstance(answer, _OUTCOMES):
        _check(answer)
        return answer
    if isinstance(answer, bool):
        raise _nonsense(answer)
    try:
        pa = index(answer)
    except TypeError as error:
        raise _nonsense(answer) from error
    if not 0 <= pa < 1 << 64:
        raise _nonsense(answer)
    return Translation(pa)


def _check(answer: Outcome) -> None:
    numbers: list[Any] = [number for entry in answer.entries for number in entry]
    if isinstance(answer, Translation):
        numbers.append(answer.pa)
    elif isinstance(answer, PageFault):
        numbers += [answer.error_code << 48, answer.cr2]
    fits = all(isinstance(number, int) and 0 <= number < 1 << 64 for number in numbers)
    if not fits or len(answer.entries) > 5:
        raise _nonsense(answer)


def _nonsense(answer: Any) -> NoAnswer:
    kind = "no physical address, None or outcome"
    return NoAnswer(Failure.NONSENSE, kind, f"{answer!r:.100} is {kind}")
