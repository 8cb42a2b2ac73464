"""The matrix for people: what it is made of, and what came of it."""

from collections.abc import Iterator

from emu.check import KNOWN
from emu.matrix.bits import LEVEL_NAMES, MODES
from emu.matrix.section import Choice, Section
from emu.matrix.sections import SECTIONS
from emu.matrix.summary import Summary
from emu.matrix.tlb.sections import SEQUENCE_NAMES, SEQUENCE_SECTIONS
from emu.matrix.tlb.summary import sequence_list
from emu.matrix.unit import units_of
from walker.columns import Kind

__all__ = ["list_lines", "section_record", "summary_lines"]


def section_record(section: Section, choice: Choice) -> dict[str, object]:
    """Return one section as `matrix --list --json` prints it."""
    variants = section.variants(choice)
    return {
        "section": section.name,
        "mode": MODES[section.mode],
        "covers": section.covers,
        "entries": {LEVEL_NAMES[each.level]: len(each.word) for each in variants},
        "paths": len(section.paths(variants)),
        "control_states": sum(1 for _ in section.contexts(choice)),
        "accesses": len(section.accesses_to(section.paths(variants)[:1], choice)),
        "combinations": sum(unit.combinations for unit in units_of(section, choice)),
        "pruned": list(section.pruned),
    }


def list_lines(choice: Choice) -> Iterator[str]:
    """Yield what each section crosses, its size, and why it leaves out what it does."""
    total = 0
    for section in SECTIONS:
        if choice.keys() & SEQUENCE_NAMES or not section.chosen(choice):
            continue
        variants = section.variants(choice)
        count = sum(unit.combinations for unit in units_of(section, choice))
        if not count:
            continue
        total += count
        paths = section.paths(variants)
        yield f"{section.name}: {count:,}"
        yield f"  {section.covers}"
        for each in variants:
            name = LEVEL_NAMES[each.level]
            yield f"  {name:<6}{len(each.word):>6}  {_entry(section, each.level)}"
        states = sum(1 for _ in section.contexts(choice))
        yield f"  {len(paths):,} paths × {states:,} control states ({_controls(section)})"
        yield f"  × {len(section.accesses_to(paths[:1], choice))} accesses ({_accesses(section)})"
        for reason in section.pruned:
            yield f"  left out: {reason}"
    if total:
        yield f"{total:,} combinations"
    for sequences in SEQUENCE_SECTIONS:
        yield from sequence_list(sequences, choice)


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


def _accesses(section: Section) -> str:
    ac = " × rflags.ac" if len(section.ac) > 1 else ""
    return f"{' '.join(section.accesses)} × cpl 0, 3{ac}"


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
    rate = summary.probes / summary.seconds if summary.seconds else 0
    known = sum(summary.known.values())
    agree = summary.probes - summary.divergent - known
    yield (
        f"{summary.probes:,} combinations in {summary.seconds:.0f} s ({rate:,.0f} a second): "
        f"{agree:,} agree, {summary.divergent:,} diverge"
    )
    for name, count in summary.known.items():
        differs = next(entry.differs for entry in KNOWN if entry.id == name)
        yield f"{count:,} known emulator divergences, {name}: {differs}"
    for slug, group in summary.groups.items():
        yield f"{group.count:,} × {group.signature} ({slug})"
