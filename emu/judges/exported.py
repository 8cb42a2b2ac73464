"""Boot images for machines that aren't there, and judges that are the logs of such machines.

    questions ──► runs, each with a tag of what it asks ──► images ──► some machine ──► log
    the same questions, later ──► the same runs ──► by their tags, what the log says of them

Of the machine nothing is known when images are made: what its CPU and its RAM are, the log says.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.answers import Answered, refusal_reason
from crosswalk.emu.judges.asked import Asked
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.guest.boot.image import Output, Place, boot_image, results_of, size_of
from crosswalk.guest.boot.log import read_logs
from crosswalk.guest.boot.programs import BootLog, CpuFacts, RunResult
from crosswalk.guest.boot.wire import encoded
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, U64

__all__ = ["ExportedImage", "Logs", "images_of", "tag_of"]

_STEP = 2 << 20
_FIRST, _END = 0x800_0000, 2 << 30
"""Where the runner lies if it can, and below what PCs have RAM."""

_LARGEST = 32 << 20
"""Bytes of an image and its results: one is no larger, unless a run alone is."""

_ABSENT = Reason(Unjudged.LOST, "not in the log: that is of other cases, or by another version")
_NOT_WHOLE = Reason(Unjudged.LOST, "not in the log, which isn't whole")
_CUT = Reason(Unjudged.LOST, "the log ends before it")
_BEHIND = Reason(Unjudged.LOST, "not asked: the machine had ended before")


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """A boot image: the bytes, the address that it loads at, how much is in it.

    `results` are the bytes that it answers at most.
    """

    data: bytes
    base: int
    runs: int
    programs: int
    results: int


def tag_of(asked: Asked) -> int:
    """Return 64 bits that stand for all that a run asks, wherever the runner lies."""
    lent = (*asked.roots, asked.loan.alias, asked.loan.user)
    told = encoded(asked.run) + np.array(lent, np.uint64).tobytes()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "little")


def images_of(asked: Sequence[Asked], output: Output) -> tuple[list[ExportedImage], frozenset[int]]:
    """Return images with all these runs, as few as can be, and tags of runs with no place in any.

    The same runs give the same bytes. A run that is there twice is put in once.
    """
    left = list({tag_of(each): each for each in asked}.items())
    own = size_of([])
    sizes = {tag: size_of([each.placed(Place(_FIRST))]) - own for tag, each in left}
    images, homeless = list[ExportedImage](), set[int]()
    while left:
        total = list(accumulate((sizes[tag] for tag, _ in left), initial=own))
        several = max(1, sum(size <= _LARGEST for size in total) - 1)
        chosen = left[:several]
        place, fits = _best_place([each.taken for _, each in chosen], total[several])
        inside = [each for each, fit in zip(chosen, fits, strict=True) if fit]
        if not inside:
            homeless.add(left.pop(0)[0])
            continue
        images.append(_image(inside, place, output))
        done = {tag for tag, _ in inside}
        left = [each for each in left if each[0] not in done]
    return images, frozenset(homeless)


def _image(tagged: Sequence[tuple[int, Asked]], place: Place, output: Output) -> ExportedImage:
    runs = [replace(each.placed(place), tag=tag) for tag, each in tagged]
    data = boot_image(runs, place, output)
    programs = sum(len(run.programs) for run in runs)
    return ExportedImage(data, place.base, len(runs), programs, results_of(data).size)


def _best_place(taken: Sequence[U64], size: int) -> tuple[Place, NDArray[np.bool_]]:
    """Return the place that is free for the most runs, and bool[n], for which.

    `taken` are the frames of each, ascending.
    """
    bases = np.array([_FIRST, *range(_STEP, _END - size, _STEP)], np.uint64)
    free = np.ones((len(bases), len(taken)), np.bool_)
    ends = bases + np.uint64(-(-size // FRAME) * FRAME)
    for at, frames in enumerate(taken):
        free[:, at] = np.searchsorted(frames, bases) == np.searchsorted(frames, ends)
    best = int(free.sum(axis=1).argmax())
    return Place(int(bases[best])), free[best]


class Logs:
    """What some logs say, one behind the other: what CPU there was, and what came of each run.

    Raises `BadInput` where there is none or a damaged one, and for logs of several machines.
    """

    def __init__(self, data: bytes) -> None:
        logs = read_logs(data)
        self.facts: CpuFacts = logs[0].cpu
        if any(replace(log.cpu, ram=self.facts.ram) != self.facts for log in logs):
            raise BadInput("the logs in it are of several machines")
        self._absent = _ABSENT if all(log.complete for log in logs) else _NOT_WHOLE
        self._answers: dict[int, _Answer] = {}
        for tag, answer in (each for log in logs for each in _answers(log)):
            known = self._answers.get(tag)
            if known is None or len(known.result.programs) < len(answer.result.programs):
                self._answers[tag] = answer

    def of(self, asked: Asked) -> Answered:
        """Return what came of a run."""
        count = len(asked.run.programs)
        answer = self._answers.get(tag_of(asked))
        return Answered((self._absent,) * count) if answer is None else answer.filled(count)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The results of a run, and why there are no more: None where it came to its end."""

    result: RunResult
    ended: Reason | None

    def filled(self, count: int) -> Answered:
        """Return them with a reason for each of the programs, `count` in all, that has none."""
        programs, refused = self.result.programs, self.result.refused
        missing = count - len(programs)
        if refused is not None and not programs:
            return Answered((), refused)
        if refused is not None:
            return Answered((*programs, *(refusal_reason(refused),) * missing))
        if missing and (missing < 0 or self.ended is None):
            raise BadInput("the log hasn't as many results of a run as the run has programs")
        if not missing or self.ended is None:
            return Answered(programs)
        behind = _CUT if self.ended is _CUT else _BEHIND
        return Answered((*programs, self.ended, *(behind,) * (missing - 1)))


def _answers(log: BootLog) -> Iterator[tuple[int, _Answer]]:
    """Yield what a log says of each run, by tag."""
    for at, result in enumerate(log.runs, 1):
        ended = None
        if at == len(log.runs) and not log.complete:
            ended = Reason(Unjudged.ENDED, log.ended) if log.ended else _CUT
        yield result.tag, _Answer(result, ended)
