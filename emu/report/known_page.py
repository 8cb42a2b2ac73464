"""The page about the emulator's departures, made from their table."""

from collections.abc import Iterator

from crosswalk.emu.check.departures import FATAL, UNICORN, Departure, Scope, departures
from crosswalk.emu.cpu.unchecked_registers import MACHINE_DEPARTURES

__all__ = ["known_page"]

_HEAD = """\
# Known divergences of the emulator

Where Unicorn 2.1.4 departs from the manuals, as far as Crosswalk has met it. Such a divergence is
counted apart, under its id, and never hidden; each departure has the smallest case that shows it
alone in tests/cases/known or, where it takes more than an access of one byte to see it,
tests/cases/composite, and a test that it still occurs. This page is made from
`emu/check/departures.py` by `scripts/emulator-divergences`.

A divergence is known only if it is explained exactly. Each departure is a change of the rules by
which a second walk goes (`emu/check/emulated.py`), written apart from the walker. With every
departure off it has to predict what the walker predicts; with all of them on it has to answer what
was observed: outcome, address, error code, CR2, and every word changed. Anything else is a
divergence. Where it takes several departures together, the fewest that suffice are named, in the
order of this page, joined by `+`.
"""


_SEQUENCES = """\
# …and of its TLB

The same of sequences of changes, invalidations and accesses, where an outcome is none of those
that caching allows ([tlb.md](tlb.md)): each has a sequence in tests/cases/known-sequences.
"""

_NESTED = """\
# …and of nested paging

The same of the walk in two dimensions ([nested.md](nested.md)), by a second statement of it
(`emu/check/nested_emulated.py`). There are no case files of these; tests in
`tests/emu/check/nested/test_departures.py` show each.
"""

_JUDGES = """\
# …and of other judges

What Unicorn does right, and another emulator that `crosswalk judge` asks doesn't, or a version of
it ([judges.md](judges.md)). The smallest cases are in tests/cases/judges.
"""

_MACHINE = """\
# …and of its registers

Values that a processor refuses with #GP, and the emulated CPU takes: they concern how registers
are set up, not how an access is translated under them. Each is registered in
`emu/cpu/unchecked_registers.py` with instructions that a test runs, at CPL 0 of 64-bit mode. The
address that isn't canonical is 0x8000000000001234.
"""


def known_page() -> str:
    """Return docs/emulator-divergences.md as it has to be."""
    single = map(_section, departures(Scope.ACCESS, Scope.COMPOSITE))
    sequences = map(_section, departures(Scope.SEQUENCE))
    nested = map(_section, (*departures(Scope.NESTED), FATAL))
    others = map(_section, (each for each in departures(who=None) if UNICORN not in each.judges))
    parts = [*single, _SEQUENCES, *sequences, _NESTED, *nested, _JUDGES, *others, *_machine()]
    return "\n".join([_HEAD, *parts])


def _machine() -> Iterator[str]:
    yield _MACHINE
    for each in MACHINE_DEPARTURES:
        yield (
            f"## {each.id}\n\n{each.differs}\n\n"
            f"- Manual: {each.manual}\n"
            f"- Reason in the emulator: {each.reason}\n"
            f"- See it: `run_alone` in `emu/cpu/unchecked_registers.py`, with "
            f"`{'`, `'.join(each.source.splitlines())}`; RAX is then {each.taken:#x}\n"
        )


def _section(entry: Departure) -> str:
    lines = [f"- Manual: {entry.manual}", f"- Reason in the emulator: {entry.reason}"]
    others = ", ".join(sorted(entry.judges - {UNICORN}))
    if UNICORN not in entry.judges:
        command = f"judge --with {min(entry.judges)}"
    else:
        command = "sequence" if entry.scope is Scope.SEQUENCE else "replay"
    if entry.scope is not Scope.NESTED:
        lines.append(f"- See it: `crosswalk {command} tests/cases/{entry.folder}/{entry.case}`")
    if UNICORN in entry.judges and others:
        lines.append(f"- Shown as well by: {others}")
    if entry.since or entry.until:
        versions = f"since {entry.since}" if entry.since else f"until {entry.until}"
        lines.append(f"- Shown by {others}, {versions}")
    return "\n".join([f"## {entry.id}\n\n{entry.differs}\n", *lines]) + "\n"
