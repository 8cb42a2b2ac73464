"""The case of each group of divergences, made as small as it can be."""

from collections.abc import Iterator

from emu.check.composite_check import CompositeStand
from emu.check.crosscheck import Predictor
from emu.fuzz.attempt import Tester
from emu.fuzz.reduce.same import reduced_to, signatures_of
from emu.matrix.composite_finding import reduced_composite, shows_slug, told
from emu.matrix.summary import Summary
from emu.report.composite_case import parse_composite
from walker.bulk import translate_many
from walker.source import dump_case
from walker.source.case import parse_case

__all__ = ["smallest"]


def smallest(summary: Summary, predict: Predictor = translate_many) -> Iterator[tuple[str, str]]:
    """Yield the slug of each group that was not reduced yet, and its case's file, reduced.

    A case that doesn't show its group by itself is left as it was found: then what is wrong is
    the testbed, or the walker isn't the one that was compared. May crash the process.
    """
    tester, stand = Tester(predict), CompositeStand(predict)
    for slug, group in summary.groups.items():
        if not group.reduced:
            yield slug, _smaller(tester, stand, slug, group.case)


def _smaller(tester: Tester, stand: CompositeStand, slug: str, text: str) -> str:
    composite = parse_composite(text.encode(), slug)
    if composite is not None:
        shows = shows_slug(stand, slug)
        if shows(composite):
            composite = reduced_composite(composite, shows)
        return told(stand, composite).decode()
    case = parse_case(text.encode(), slug)
    for signature in signatures_of(tester, case):
        if signature.slug == slug:
            return dump_case(reduced_to(tester, case, signature).case).decode()
    return text
