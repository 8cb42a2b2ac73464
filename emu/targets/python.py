"""A walker in Python: `python:module:function`, or `python:path.py:function`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from operator import index
from pathlib import Path
from types import ModuleType
from typing import Any

from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.capabilities import Capability, parse_claims
from crosswalk.emu.targets.loaded import Loaded
from crosswalk.emu.targets.mapping_lists import ask, ranges_of
from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation

__all__ = ["Function", "load_python"]

_OUTCOMES = (Translation, PageFault, GeneralProtection)


class Function:
    """A function that translates, or one that lists, as its claims say."""

    def __init__(self, function: Callable[..., Any], claims: frozenset[Capability]) -> None:
        if Capability.LEAVES in claims and claims - {Capability.LEAVES, Capability.FLAGS}:
            raise BadInput("one function either lists mappings or translates, not both")
        self.claims = claims
        self._function = function

    def answer(self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Answers:
        """Return what it says of each access, or lists; raises what it raises, or `NoAnswer`."""
        answers = Answers.none(len(accesses))
        if Capability.LEAVES in self.claims:
            ranges = ranges_of(memory, context, accesses)
            listing = ask(context, ranges, lambda va, end: self._function(memory, context, va, end))
            return Answers(answers.outcomes, answers.silent, listing)
        for row in range(len(accesses)):
            said = self._function(memory, context, accesses[row])
            if said is not NotImplemented:
                answers.fill(row, _outcome(said))
        return answers


def load_python(text: str, chosen: frozenset[Capability] | None) -> Loaded:
    """Return the walker that "module:function" or "path.py:function" names.

    What it claims is `chosen`, or else says its attribute `claims`, or its module's `CLAIMS`: names
    with commas, or a sequence of them. Else it is translation.
    Raises `BadInput` where there is no such function, or its module can't be imported.
    """
    where, _, name = text.rpartition(":")
    if not where or not name:
        raise BadInput("not python:MODULE:FUNCTION")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _by_name(where)
    except (Exception, SystemExit) as error:  # A stranger's module may raise anything.
        first = str(error).splitlines()[:1]
        raise BadInput(printable(": ".join([type(error).__name__, *first]))) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"{where} has no function {name}")
    own = getattr(function, "claims", getattr(module, "CLAIMS", Capability.TRANSLATION.value))
    names = ",".join(map(str, own)) if isinstance(own, tuple | list) else str(own)
    claims = chosen or parse_claims(names, f"its claims, {own!r}")
    return Function(function, claims)


def _by_name(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    # A file called types.py, say, doesn't replace the module that others mean by that name.
    name = f"{path.stem} under test" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # Its neighbours are its own to import.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _outcome(said: Any) -> Outcome:
    """Return an answer as an outcome: None is a fault, a number the address that is reached."""
    if said is None:
        return PageFault(0, 0)
    if isinstance(said, _OUTCOMES):
        _check(said)
        return said
    if isinstance(said, bool):
        raise _nonsense(said)
    try:
        pa = index(said)
    except TypeError as error:
        raise _nonsense(said) from error
    if not 0 <= pa < 1 << 64:
        raise _nonsense(said)
    return Translation(pa)


def _check(said: Outcome) -> None:
    numbers: list[Any] = [number for entry in said.entries for number in entry]
    if isinstance(said, Translation):
        numbers.append(said.pa)
    elif isinstance(said, PageFault):
        numbers += [said.error_code << 48, said.cr2]
    fits = all(isinstance(number, int) and 0 <= number < 1 << 64 for number in numbers)
    if not fits or len(said.entries) > 5:
        raise _nonsense(said)


def _nonsense(said: Any) -> NoAnswer:
    kind = "no physical address, None or outcome"
    return NoAnswer(Failure.NONSENSE, kind, f"{said!r:.100} is {kind}")
