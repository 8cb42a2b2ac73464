"""The matrix for people: its dimensions, and the results."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from crosswalk.emu.check import differs
from crosswalk.emu.matrix.bits import ENTRY_BITS, LEVEL_NAMES, MODES
from crosswalk.emu.matrix.counts import value_counts
from crosswalk.emu.matrix.section import Choice, Section, SequenceSection
from crosswalk.emu.matrix.select import chosen_sections
from crosswalk.emu.matrix.summary import SequenceSummary, Summary
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.probe.composites import FORMS, Family
from crosswalk.emu.probe.scope import LACKS
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.emu.report.text import count_text
from crosswalk.walker.columns import Kind
from crosswalk.walker.formats.located_errors import printable

__all__ = ["list_lines", "list_records", "section_record", "summary_lines", "verdict"]


def list_records(choice: Choice) -> Iterator[dict[str, object]]:
    """Yield the sections as `matrix --list --json` prints them."""
    for section in chosen_sections(choice):
        yield section_record(section, choice)
    for sequences in SEQUENCE_SECTIONS:
        yield {
            "section": sequences.name,
            "covers": sequences.covers,
            "dimensions": {name: len(values) for name, values in sequences.dimensions.items()},
            "sequences": sum(sequences.sizes(choice)),
            "pruned": list(sequences.pruned),
        }


def section_record(section: Section, choice: Choice) -> dict[str, object]:
    """Return a section of accesses as `matrix --list --json` prints it."""
    places, states, accesses = _sizes(section, choice)
    return {
        "section": section.name,
        "mode": MODES[section.mode],
        "covers": section.covers,
        "entries": {LEVEL_NAMES[each.level]: len(each.word) for each in section.variants(choice)},
        "paths": places,
        "control_states": states,
        "accesses": accesses,
        "combinations": sum(section.sizes(choice)),
        "pruned": list(section.pruned),
    }


def list_lines(choice: Choice) -> Iterator[str]:
    """Yield each section's dimensions and size, and the reasons for what it leaves out.

    After those of accesses, the number of combinations by the value of each dimension.
    """
    total, counts = 0, Counter[tuple[str, str]]()
    for section in chosen_sections(choice):
        count = sum(section.sizes(choice))
        if not count:
            continue
        total += count
        places, states, accesses = _sizes(section, choice)
        yield f"{section.name}: {count:,}"
        yield f"  {section.covers}"
        for each in section.variants(choice):
            name = LEVEL_NAMES[each.level]
            yield f"  {name:<6}{len(each.word):>6}  {_entry(section, each.level)}"
        what = "places" if section.composite else "paths"
        yield f"  {places:,} {what} × {states:,} control states ({_controls(section)})"
        yield f"  × {accesses} accesses ({_accesses(section)})"
        for reason in section.pruned:
            yield f"  left out: {reason}"
        for name, values in value_counts(section, choice).items():
            counts.update({(name, value): number for value, number in values.items()})
    if total:
        yield f"{total:,} combinations"
        yield from _count_lines(counts)
    for sequences in SEQUENCE_SECTIONS:
        yield from _sequence_lines(sequences, choice)


def _sequence_lines(section: SequenceSection, choice: Choice) -> Iterator[str]:
    count = sum(section.sizes(choice))
    if not count:
        return
    yield f"{section.name}: {count:,} sequences"
    yield f"  {section.covers}"
    for name, values in section.dimensions.items():
        shown = " ".join(values) if len(values) < 40 else f"{values[0]} to {values[-1]}"
        yield f"  {name:<11}{len(values):>5}  {shown}"
    for reason in section.pruned:
        yield f"  left out: {reason}"


def _count_lines(counts: Counter[tuple[str, str]]) -> Iterator[str]:
    """Yield how many combinations have each value, a line a dimension or level."""
    yield "of which so many have"
    names = list(dict.fromkeys(name for name, _ in counts))
    for name in (name for name in names if name.partition(".")[0] not in LEVEL_NAMES.values()):
        values = sorted(value for each, value in counts if each == name)
        yield f"  {name}: " + ", ".join(f"{value} {counts[name, value]:,}" for value in values)
    for level in LEVEL_NAMES.values():
        bits = [bit for bit in ENTRY_BITS if (f"{level}.{bit}", "1") in counts]
        if bits:
            yield f"  {level}: " + ", ".join(
                f"{bit} {counts[f'{level}.{bit}', '1']:,}" for bit in bits
            )


def _sizes(section: Section, choice: Choice) -> tuple[int, int, int]:
    """Return a section's numbers of places, of control states, and of accesses at a place."""
    shapes = section.shapes(section, choice)
    places = sum(section.places(shape) for shape in shapes)
    one = shapes[0].va[:1] if shapes else np.zeros(0, np.uint64)
    states = sum(1 for _ in section.contexts(choice))
    return places, states, len(section.accesses_to(one, choice))


def _entry(section: Section, level: int) -> str:
    parts = []
    if section.free[level]:
        parts.append(" × ".join(section.free[level]))
    if level in section.one_of:
        parts.append(f"at most one of {', '.join(section.one_of[level])}")
    if section.fixed.get(level):
        parts.append(f"always {' '.join(section.fixed[level])}")
    return "; ".join(parts)


def _controls(section: Section) -> str:
    text = " × ".join(section.controls)
    if section.on:
        text += f"; always {' '.join(section.on)}"
    if section.pkrus:
        text += f"; {len(section.pkrus)} values of PKRU"
    if section.pkrs:
        one, *more = section.pkrs
        text += f"; {len(section.pkrs)} values of PKRS" if more else f"; PKRS {one:#x}"
    return text


def _accesses(section: Section) -> str:
    forms = " ".join(section.accesses)
    if section.composite and FORMS[section.accesses[0]].family is Family.TWICE:
        text = f"{forms} × cpl 0 with either rflags.ac, 3 × the same again"
    else:
        text = f"{forms} × cpl 0, 3" + (" × rflags.ac" if len(section.ac) > 1 else "")
    if len(section.then_pkrus) > 1:
        text += f" × {len(section.then_pkrus)} values of PKRU in between"
    return text


def summary_lines(summary: Summary) -> Iterator[str]:
    """Yield the outcomes by section, the sum, and every group of divergences."""
    judge = summary.asking.judge
    if judge is not None:
        yield f"judge {printable(judge)}: {printable(summary.asking.version)}"
    if summary.combinations:
        yield from _single_lines(summary)
    if summary.tlb.sections:
        yield from ("",) if summary.combinations else ()
        yield from _sequence_summary(summary.tlb, judge)
    for crash in summary.crashes:
        yield f"{'the emulator failed' if judge is None else 'no result'}: {crash}"


def _single_lines(summary: Summary) -> Iterator[str]:
    yield f"{'':<18}{'combinations':>14}{'ok':>13}{'#PF':>13}{'#GP':>7}"
    for name, count in summary.combinations.items():
        seen = summary.outcomes[name]
        yield (
            f"{name:<18}{count:>14,}{seen[Kind.OK]:>13,}{seen[Kind.PAGE_FAULT]:>13,}"
            f"{seen[Kind.GENERAL_PROTECTION] or '·':>7}"
        )
    yield ""
    total = sum(summary.combinations.values())
    rate = total / summary.seconds if summary.seconds else 0
    yield (
        f"{total:,} combinations in {summary.seconds:.0f} s ({rate:,.0f} a second): "
        f"{summary.agreements:,} agree, {summary.divergent:,} diverge"
    )
    for name, count in summary.predicted_only.items():
        yield f"{count:,} predicted only, {name}: the emulated CPU has no {LACKS[name]}"
    yield from _unjudged_lines(summary.not_shown, summary.not_exportable)
    if summary.unproved:
        unproved = count_text(summary.unproved, "agreement")
        yield f"{unproved} without the address that was reached"
    yield from _known_lines(summary.known, summary.asking.judge)
    for slug, group in summary.groups.items():
        yield f"{group.count:,} × {group.signature} ({slug})"


def _sequence_summary(found: SequenceSummary, judge: str | None) -> Iterator[str]:
    """Yield the counts by section, and every group of violations."""
    heads = ("sequences", "forced", "fresh", "stale", "known", "violated")
    yield f"{'':<18}{heads[0]:>14}" + "".join(f"{head:>10}" for head in heads[1:])
    for name, counts in found.sections.items():
        yield f"{name:<18}{counts[0]:>14,}" + "".join(
            f"{format(count, ',') if count else '·':>10}" for count in counts[1:]
        )
    yield ""
    yield (
        f"{found.sequences:,} sequences, {found.accesses:,} accesses: {found.total(1):,} with one "
        f"allowed outcome, {found.total(2):,} fresh, {found.total(3):,} stale where either is "
        f"allowed, {found.violations:,} violate what is"
    )
    yield from _unjudged_lines(found.not_shown, found.not_exportable)
    yield from _known_lines(found.known, judge)
    for slug, group in found.groups.items():
        yield f"{group.count:,} × {group.cause} ({slug})"
        yield f"  first: crosswalk matrix --select {group.select}"


def _unjudged_lines(not_shown: dict[str, int], not_exportable: dict[str, int]) -> Iterator[str]:
    """Yield what a judge has no outcome for, by reason."""
    for what, counts in (("not shown", not_shown), ("not exportable", not_exportable)):
        for reason, count in counts.items():
            yield f"{count:,} {what}: {printable(reason)}"


def _known_lines(known: dict[str, int], judge: str | None) -> Iterator[str]:
    who = "emulator" if judge is None else "judge"
    for name, count in known.items():
        yield f"{count_text(count, f'known {who} divergence')}, {name}: {differs(name)}"


def verdict(summary: Summary) -> tuple[int, str]:
    """Return the exit status of a run, and its verdict.

    Agreement is about accesses that the CPU, or the judge, made. Status 2: it made none.
    """
    known = sum(summary.known.values()) + sum(summary.tlb.known.values())
    clauses = []
    if known:
        clauses.append(f"known divergences: {known:,}")
    if summary.predicted_only:
        clauses.append(f"predicted only: {counted(summary.predicted_only)}")
    if summary.masked:
        clauses.append(f"{summary.masked:,} with the encryption mask taken off")
    for what, one, other in (
        ("not shown", summary.not_shown, summary.tlb.not_shown),
        ("not exportable", summary.not_exportable, summary.tlb.not_exportable),
    ):
        if one or other:
            clauses.append(f"{what}: {sum(one.values()) + sum(other.values()):,}")
    if summary.unproved:
        clauses.append(f"{summary.unproved:,} without the address reached")
    if summary.divergent or summary.tlb.violations or summary.crashes:
        return 1, "FAILED"
    probes = summary.probes + summary.tlb.accesses
    if not probes:
        return 2, "; ".join(["nothing asked", *clauses])
    every = (summary.predicted_only, summary.not_shown, summary.not_exportable)
    beyond = sum(sum(each.values()) for each in every)
    return 0, "; ".join([agreement(probes - known, probes, beyond), *clauses])
