"""A walker in Python: `python:module:function`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emu.peers.builtin import outcomes_of
from emu.peers.claims import Claim, Failure, PeerFailure
from emu.peers.leaflist import answers_by_range
from walker.columns import Accesses, Outcomes
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import PhysicalMemory
from walker.outcome import GeneralProtection, PageFault, Translation

__all__ = ["load_function", "python_answer"]

_OUTCOMES = (Translation, PageFault, GeneralProtection)


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that "module:function" or "path.py:function" names.

    Raises `BadInput` where there is none, or its module can't be imported.
    """
    where, _, name = text.rpartition(":")
    if not where or not name:
        raise BadInput(f"python:{text}: not python:MODULE:FUNCTION")
    try:
        module = (
            _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
    except Exception as error:  # A stranger's module may raise anything.
        raise BadInput(f"python:{text}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"python:{text}: {where} has no function {name}")
    return function  # type: ignore[no-any-return]  # It is callable, that is all there is to know.


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def python_answer(
    function: Callable[..., Any], claims: frozenset[Claim]
) -> Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]:
    """Return what asks a function: for lists of mappings, or for one access after another."""
    if Claim.LEAVES in claims:
        return lambda memory, context, accesses: answers_by_range(
            context, accesses, lambda va, end: function(memory, context, va, end)
        )
    return lambda memory, context, accesses: _one_by_one(function, memory, context, accesses)


def _one_by_one(
    function: Callable[..., Any],
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
) -> Outcomes:
    answers = []
    for row in range(len(accesses)):
        answer = function(memory, context, accesses[row])
        if isinstance(answer, bool) or not isinstance(answer, (int, type(None), *_OUTCOMES)):
            raise PeerFailure(
                Failure.NONSENSE, f"{answer!r} is no physical address, None or outcome"
            )
        if answer is None:
            answer = PageFault(0, 0)
        elif isinstance(answer, int):
            if not 0 <= answer < 1 << 64:
                raise PeerFailure(Failure.NONSENSE, f"{answer:#x} is no physical address")
            answer = Translation(answer)
        answers.append(answer)
    return outcomes_of(answers)
