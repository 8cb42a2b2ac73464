"""`sequence`: what each access of a sequence may see, and what it saw."""

import argparse
from collections.abc import Iterator

from crosswalk.emu.check.sequences import SequenceVerdict, judge
from crosswalk.emu.cli.output import emit_document, remark
from crosswalk.emu.matrix.select import parse_choice
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.probe.sequences import Runner
from crosswalk.emu.report.text import access_text, outcome_text
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Kind
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.tlb import (
    Halted,
    Option,
    Sequence,
    SequenceRecord,
    dump_sequence,
    load_sequence,
)

__all__ = ["run", "sequence_lines"]


def run(options: argparse.Namespace) -> int:
    """Run and judge each sequence, and return the exit status."""
    violated = 0
    for given in options.sequences:
        sequence, note = _given(given)
        observed = contained(lambda sequence=sequence: Runner().run(sequence))  # type: ignore[misc]
        judged = judge(sequence, observed)
        violated += judged.violation is not None and judged.violation.known is None
        if options.json:
            emit_document(dump_sequence(SequenceRecord(sequence, note, judged.allowed, observed)))
            continue
        print(f"{printable(given)}: steps {len(sequence.steps)}, accesses {len(sequence.accesses)}")
        for line in sequence_lines(sequence, observed, judged):
            print(line)
        if not sequence.accesses:
            remark(f"{given}: no accesses to judge")
    return 1 if violated else 0


def _given(text: str) -> tuple[Sequence, str | None]:
    if not text.startswith("section="):
        record = load_sequence(text)
        return record.sequence, record.note
    choice = parse_choice(text, text)
    found = [
        (section, named) for section in SEQUENCE_SECTIONS for named in section.combinations(choice)
    ]
    if len(found) != 1:
        raise BadInput(f"{text}: names {len(found):,} sequences, not one")
    ((section, named),) = found
    return section.make(named), section.text(named)


def sequence_lines(
    sequence: Sequence, observed: tuple[Outcome | Halted, ...], judged: SequenceVerdict
) -> Iterator[str]:
    """Yield each step, with what came of an access, up to the first violation."""
    seen, allowed = iter(observed), iter(judged.allowed)
    violation = judged.violation
    for at, step in enumerate(sequence.steps):
        if not isinstance(step, Access):
            values = (getattr(step, name) for name in step.__slots__)
            yield f"  {type(step).__name__} {' '.join(f'{value:#x}' for value in values)}"
        else:
            outcome, options = next(seen), next(allowed, None)
            if isinstance(outcome, Halted) or options is None:
                break
            yield f"  {access_text(step)}: {outcome_text(outcome)}"
            if len({option[:3] for option in options}) > 1:
                yield f"    allowed: {'; '.join(dict.fromkeys(map(_text, options)))}"
        if violation is not None and violation.at == at:
            known = f" (known emulator divergence: {violation.known})" if violation.known else ""
            yield f"    VIOLATION: {'; '.join(violation.causes)}{known}"
            return


def _text(option: Option) -> str:
    fresh = "" if option.fresh else " (stale)"
    if option.kind is Kind.OK:
        return f"{option.pa:#x}{fresh}"
    if option.kind is Kind.PAGE_FAULT:
        return f"#PF {option.error_code:#x}{fresh}"
    return f"#GP{fresh}"
