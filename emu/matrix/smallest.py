"""The case of each group of divergences, made as small as it can be."""

from collections.abc import Iterator

from crosswalk.emu.check.composite_check import CompositeStand
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.findings.composite_finding import findings_in, judged_case
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.composite import reduced_composite
from crosswalk.emu.fuzz.reduce.interesting import reduced_to, signatures_of
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.report.composite_case import CompositeCase, dump_composite, parse_composite
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.formats import dump_case
from crosswalk.walker.formats.case import parse_case

__all__ = ["smallest"]


def smallest(summary: Summary, predict: Predictor = translate_many) -> Iterator[tuple[str, str]]:
    """Yield the slug of each group that was not reduced yet, and its case's file, reduced.

    A case that doesn't show its group by itself is left as it was found: then what is wrong is
    the testbed, or the walker isn't the one that was compared. May crash the process.
    """
    executor, stand = Executor(predict), CompositeStand(predict)
    for slug, group in summary.groups.items():
        if not group.reduced:
            yield slug, _smaller(executor, stand, slug, group.case)


def _smaller(executor: Executor, stand: CompositeStand, slug: str, text: str) -> str:
    composite = parse_composite(text.encode(), slug)
    if composite is not None:

        def shows(case: CompositeCase) -> bool:
            return any(each.signature.slug == slug for each in findings_in(stand, case))

        if shows(composite):
            composite = reduced_composite(composite, shows).case
        judged = judged_case(stand, composite)
        return dump_composite(composite, judged.allowed, judged.seen).decode()
    case = parse_case(text.encode(), slug)
    for signature in signatures_of(executor, case):
        if signature.slug == slug:
            return dump_case(reduced_to(executor, case, signature).case).decode()
    return text
