"""A composite for people: what it is, what it may come to, what it came to."""

from collections.abc import Iterator

from crosswalk.emu.check.allowed_outcomes import AllowedOutcome
from crosswalk.emu.check.composite_check import Judged
from crosswalk.emu.probe.composites import FORMS, SAME_PKRU, CompositeOutcomes, Family
from crosswalk.emu.report.composite_case import CompositeCase, changes, outcomes_at
from crosswalk.emu.report.text import outcome_text, walk_lines, words_text
from crosswalk.walker.memory import FRAME
from crosswalk.walker.translate import walk

__all__ = ["composite_lines"]


def composite_lines(name: str, case: CompositeCase, judged: Judged) -> Iterator[str]:
    """Yield lines about one composite, as `replay` prints them."""
    row, inner = case.composite, case.case
    va = int(row.va[0])
    agrees = not judged.differ[0] and not judged.explained[0]
    yield f"{name}: {'agrees' if agrees else 'diverges'}: {_what(case)}"
    memory, context = inner.memory(), inner.context()
    pages = [va]
    if FORMS[case.access].family is Family.CROSS:
        pages.append(((va | FRAME - 1) + 1) % (1 << 64))
    elif row.then_va[0] != row.va[0]:
        pages.append(int(row.then_va[0]))
    for page in pages:
        yield from walk_lines(context, walk(memory, context, page))
    for number, option in enumerate(each for each in judged.allowed if each.valid[0]):
        yield f"  {'or:       ' if number else 'predicted:'} {_answers(option, case)}"
        for must, title in ((True, "changes"), (False, "may change")):
            words = changes(option, must=must)
            if words:
                yield f"             {title} {words_text(words)}"
    yield f"  observed:  {_answers(judged.seen, case)}"
    pairs = zip(judged.seen.entry_pa[0].tolist(), judged.seen.entry_value[0].tolist(), strict=True)
    changed = [(pa, value) for pa, value in pairs if value]
    if changed:
        yield f"             changes {words_text(changed)}"
    for known in judged.known:
        yield f"  known emulator divergence: {known}"


def _what(case: CompositeCase) -> str:
    row = case.composite
    text = f"{case.access} at {int(row.va[0]):#x}, CPL {int(row.cpl[0])}"
    text += ", AC set" if row.ac[0] else ""
    if FORMS[case.access].family is Family.TWICE:
        then_va = int(row.then_va[0])
        text += f", then {'' if then_va == int(row.va[0]) else f'at {then_va:#x}, '}"
        text += f"CPL {int(row.then_cpl[0])}{', AC set' if row.then_ac[0] else ''}"
        pkru = int(row.then_pkru[0])
        text += "" if pkru == SAME_PKRU else f", PKRU {pkru:#x}"
    return text


def _answers(row: AllowedOutcome | CompositeOutcomes, case: CompositeCase) -> str:
    joint = " then " if FORMS[case.access].family is Family.TWICE else " and "
    return joint.join(outcome_text(each) for each in outcomes_at(row, case.access))
