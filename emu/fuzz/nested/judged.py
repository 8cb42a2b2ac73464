"""Pairs of layouts put to a machine's virtualisation, one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.check.nested import NestedVerdict, check_answers, is_fatal
from crosswalk.emu.fuzz.nested.ept_pair import make_ept_pair
from crosswalk.emu.fuzz.nested.pair import ENTRY_SLOTS, Pair, make_pair
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.judge import NestedJudge, NestedJudged, NestedQuestion
from crosswalk.walker.access import Access
from crosswalk.walker.protection.policy import TableKind

__all__ = ["JudgedPair", "judge_pair", "judged_pairs", "pair_of"]


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of layouts, what a machine said of the accesses that were `made`, and the verdict.

    The machine is known not to survive `verdict.fatal`. Those of them that were made are `proved`;
    `survived` are those that it survived all the same.
    """

    number: int
    made: tuple[Access, ...]
    said: NestedJudged
    verdict: NestedVerdict
    proved: int
    survived: tuple[Access, ...]


def pair_of(tables: TableKind, seed: int, number: int, accesses: int) -> Pair:
    """Return the pair of this seed and number, with tables of this kind beneath the guest's."""
    if tables is TableKind.NPT:
        return make_pair(seed, number, accesses)
    return make_ept_pair(seed, number, accesses, mbec=tables is TableKind.EPT_MBEC)


def judged_pairs(
    judge: NestedJudge, tables: TableKind, seed: int, numbers: Sequence[int], accesses: int
) -> Iterator[JudgedPair]:
    """Put pairs to a machine, and yield what came of them in the order of the numbers.

    An access that it is known not to survive isn't made, but the first of all. Raises `BadInput`
    and `MonitorEnded` where the machine can't be had or doesn't come to answer, and `ProcessLost`
    where others go on to kill it.
    """
    proofs = 1
    for number in numbers:
        result = judge_pair(judge, pair_of(tables, seed, number, accesses), proofs)
        proofs -= result.proved
        yield result


def judge_pair(judge: NestedJudge, pair: Pair, proofs: int) -> JudgedPair:
    """Put a pair to a machine; make so many accesses at most that it is known not to survive."""
    who = kind_of(judge.name, judge.version)
    # By place: an access may have been drawn more than once.
    fatal = [
        at
        for at, access in enumerate(pair.accesses)
        if is_fatal(pair.memory, pair.context, access, who)
    ]
    left = fatal[proofs:]
    places = [at for at in range(len(pair.accesses)) if at not in left]
    made = [pair.accesses[at] for at in places]
    question = NestedQuestion(pair.memory, pair.context, made, pair.tables, ENTRY_SLOTS)
    (said,) = judge.ask([question])
    verdict = check_answers(said.memory, said.context, made, said.answers, who, shows=said.shows)
    survived = tuple(
        access
        for at, access, answer in zip(places, made, said.answers, strict=True)
        # With the judge's marks in memory, a walk may end otherwise.
        if at in fatal and not _ended(answer) and is_fatal(said.memory, said.context, access, who)
    )
    unmade = tuple(pair.accesses[at] for at in left)
    return JudgedPair(
        pair.number,
        tuple(made),
        said,
        replace(verdict, fatal=(*verdict.fatal, *unmade)),
        len(verdict.fatal) + len(survived),
        survived,
    )


def _ended(answer: object) -> bool:
    return isinstance(answer, Reason) and answer.kind is Unjudged.ENDED
