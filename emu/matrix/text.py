"""The matrix for people: what it is made of, and what came of it."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from crosswalk.emu.check import differs
from crosswalk.emu.matrix.bits import ENTRY_BITS, LEVEL_NAMES, MODES
from crosswalk.emu.matrix.composite import CompositeSection
from crosswalk.emu.matrix.counts import tally_of
from crosswalk.emu.matrix.run import chosen_sections
from crosswalk.emu.matrix.section import Choice, Section
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.matrix.tlb.summary import sequence_list
from crosswalk.emu.matrix.unit import AnySection, units_of
from crosswalk.emu.probe.composites import FORMS, Family
from crosswalk.emu.probe.scope import LACKS
from crosswalk.emu.report.conclusion import agreement, counted
from crosswalk.walker.columns import Kind

__all__ = ["list_lines", "section_record", "summary_lines", "verdict"]


def section_record(section: AnySection, choice: Choice) -> dict[str, object]:
    """Return one section as `matrix --list --json` prints it."""
    base, places, states, accesses = _sizes(section, choice)
    return {
        "section": base.name,
        "mode": MODES[base.mode],
        "covers": base.covers,
        "entries": {LEVEL_NAMES[each.level]: len(each.word) for each in base.variants(choice)},
        "paths": places,
        "control_states": states,
        "accesses": accesses,
        "combinations": sum(unit.combinations for unit in units_of(section, choice)),
        "pruned": list(base.pruned),
    }


def list_lines(choice: Choice) -> Iterator[str]:
    """Yield what each section crosses, its size, and why it leaves out what it does.

    In the end of those of accesses, how many combinations have each value of each dimension.
    """
    total, tally = 0, Counter[tuple[str, str]]()
    for section in chosen_sections(choice):
        count = sum(unit.combinations for unit in units_of(section, choice))
        if not count:
            continue
        total += count
        base, places, states, accesses = _sizes(section, choice)
        yield f"{base.name}: {count:,}"
        yield f"  {base.covers}"
        for each in base.variants(choice):
            name = LEVEL_NAMES[each.level]
            yield f"  {name:<6}{len(each.word):>6}  {_entry(base, each.level)}"
        what = "paths" if isinstance(section, Section) else "places"
        yield f"  {places:,} {what} × {states:,} control states ({_controls(base)})"
        yield f"  × {accesses} accesses ({_accesses(section)})"
        for reason in base.pruned:
            yield f"  left out: {reason}"
        for name, values in tally_of(section, choice).items():
            tally.update({(name, value): number for value, number in values.items()})
    if total:
        yield f"{total:,} combinations"
        yield from _tally_lines(tally)
    for sequences in SEQUENCE_SECTIONS:
        yield from sequence_list(sequences, choice)


def _tally_lines(tally: Counter[tuple[str, str]]) -> Iterator[str]:
    """Yield how many combinations have each value, a line a dimension or level."""
    yield "of which so many have"
    names = list(dict.fromkeys(name for name, _ in tally))
    for name in (name for name in names if name.partition(".")[0] not in LEVEL_NAMES.values()):
        values = sorted(value for each, value in tally if each == name)
        yield f"  {name}: " + ", ".join(f"{value} {tally[name, value]:,}" for value in values)
    for level in LEVEL_NAMES.values():
        bits = [bit for bit in ENTRY_BITS if (f"{level}.{bit}", "1") in tally]
        if bits:
            yield f"  {level}: " + ", ".join(
                f"{bit} {tally[f'{level}.{bit}', '1']:,}" for bit in bits
            )


def _sizes(section: AnySection, choice: Choice) -> tuple[Section, int, int, int]:
    """Return what a section is based on, and its numbers of places, control states, accesses."""
    if isinstance(section, CompositeSection):
        base = section.base
        shapes = section.shapes(base, choice)
        places = sum(section.places(shape) for shape in shapes)
        one = shapes[0].va[:1] if shapes else np.zeros(0, np.uint64)
        accesses = len(section.accesses_to(one, choice))
    else:
        base, va = section, section.paths(section.variants(choice))
        places, accesses = len(va), len(section.accesses_to(va[:1], choice))
    return base, places, sum(1 for _ in base.contexts(choice)), accesses


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
    return text


def _accesses(section: AnySection) -> str:
    if isinstance(section, Section):
        ac = " × rflags.ac" if len(section.ac) > 1 else ""
        return f"{' '.join(section.accesses)} × cpl 0, 3{ac}"
    ac = " × rflags.ac" if len(section.base.ac) > 1 else ""
    text = f"{' '.join(section.forms)} × cpl 0, 3{ac}"
    if FORMS[section.forms[0]].family is Family.TWICE:
        text = f"{' '.join(section.forms)} × cpl 0 with either rflags.ac, 3 × the same again"
    if len(section.pkrus) > 1:
        text += f" × {len(section.pkrus)} values of PKRU in between"
    return text


def summary_lines(summary: Summary) -> Iterator[str]:
    """Yield the outcomes by section, the sum, and every group of divergences."""
    if summary.combinations:
        yield from _single_lines(summary)
    if summary.tlb.sections:
        yield from ("",) if summary.combinations else ()
        yield from summary.tlb.lines()
    for crash in summary.crashes:
        yield f"the emulator failed: {crash}"


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
    for name, count in summary.known.items():
        yield f"{count:,} known emulator divergences, {name}: {differs(name)}"
    for slug, group in summary.groups.items():
        yield f"{group.count:,} × {group.signature} ({slug})"


def verdict(summary: Summary) -> tuple[int, str]:
    """Return the exit status of a run, and its last word.

    Only what the CPU was asked and answered is agreement. 2: nothing was asked.
    """
    known = sum(summary.known.values()) + sum(summary.tlb.known.values())
    clauses = []
    if summary.predicted_only and known:
        clauses.append(f"known divergences: {known:,}")
    if summary.predicted_only:
        clauses.append(f"predicted only: {counted(summary.predicted_only)}")
    if summary.masked:
        clauses.append(f"{summary.masked:,} with the encryption mask taken off")
    if summary.divergent or summary.tlb.violations or summary.crashes:
        return 1, "FAILED"
    probes = summary.probes + summary.tlb.accesses
    if not probes:
        return 2, "; ".join(["nothing asked", *clauses])
    beyond = sum(summary.predicted_only.values())
    return 0, "; ".join([agreement(probes - known, probes, beyond), *clauses])
