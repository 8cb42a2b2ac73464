"""The page about the emulator's departures, made from their table and from what judges said."""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from crosswalk.emu.check.departures import FATAL, PANIC, UNICORN, Departure, Scope, departures
from crosswalk.emu.cpu.unchecked_registers import (
    INSTRUCTION_DEPARTURES,
    MACHINE_DEPARTURES,
    MachineDeparture,
)

__all__ = ["Cell", "Columns", "Said", "cell_of", "known_page"]

Said = Mapping[str, int]
"""How many probes of a case a judge answered in which way: "right", "known: …", "not shown: …"."""

Columns = Mapping[str, Mapping[str, Said]]
"""What each judge, by name and version, said of each case, by its path in tests/cases."""

_HEAD = """\
# Known divergences of the emulator

Where Unicorn 2.1.4 departs from the manuals, as far as Crosswalk has met it. Such a divergence is
counted apart, under its id, and never hidden; each departure has the smallest case that shows it
alone in tests/cases/known or, where it takes more than an access of one byte to see it,
tests/cases/composite, and a test that it still occurs. This page is made from
`emu/check/departures.py` and docs/data/judges.json by `scripts/emulator-divergences`; a
[table](#judges-and-versions) has who shows what, by version.

A divergence is known only if it is explained exactly. Each departure is a change of the rules by
which a second walk goes (`emu/check/emulated.py`), written apart from the walker. With every
departure off it has to predict what the walker predicts; with all of them on it has to answer what
was observed: outcome, address, error code, CR2, and every word changed. Anything else is a
divergence. Where it takes several departures together, the fewest that suffice are named, in the
order of this page, joined by `+`.
"""


_TABLE = """\
# Judges and versions

Each was asked about the smallest case of each departure, by `scripts/emulator-divergences --run`;
what they said is in docs/data/judges.json. *Shows*: its answer is explained by the departure.
*Right*: it answers as the manuals have it, and refutes those that show the departure. *Not shown*:
it lacks a feature or memory that the case takes. Where the name of another departure stands, that
one alone explains its answer.
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
`tests/emu/check/nested` show each, by pairs of tables made by hand. What other machines do
otherwise, and a pair of `crosswalk nested` that shows it, is below.
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
address that isn't canonical is 0x8000000000001234. In the machine of `run`, writes to CR0, CR4 and
EFER are checked before the emulated CPU gets them (`emu/cpu/control_writes.py`): there they raise
#GP as they should.
"""
_INSTRUCTIONS = """\
# …and of its instructions

Results that aren't a processor's, where no address is translated; shown and tested in the same way.
"""


class Cell(StrEnum):
    """What a judge's answers to the case of a departure come to."""

    SHOWS = "shows"
    RIGHT = "right"
    OTHERWISE = "otherwise"
    DIVERGES = "diverges"
    NOT_SHOWN = "not shown"
    NOT_ASKED = "not asked"


_RIGHT = "Refuted by"
_WORDS = {Cell.SHOWS: "Shown by", Cell.RIGHT: _RIGHT}


def cell_of(entry: Departure, said: Said | None) -> tuple[Cell, str]:
    """Return what a judge said of a departure's case, and what explains it that is OTHERWISE."""
    if said is None:
        return Cell.NOT_ASKED, ""
    known = [each.removeprefix("known: ") for each in said if each.startswith("known: ")]
    if any(entry.id in names.split("+") for names in known):
        return Cell.SHOWS, ""
    if said.keys() == {"right"}:
        return Cell.RIGHT, ""
    if all(each.startswith(("not shown", "not exportable")) for each in said):
        return Cell.NOT_SHOWN, ""
    return (Cell.OTHERWISE, "+".join(known)) if known else (Cell.DIVERGES, "")


def known_page(columns: Columns) -> str:
    """Return docs/emulator-divergences.md as it has to be."""

    def sections(entries: tuple[Departure, ...]) -> list[str]:
        return [_section(each, columns) for each in entries]

    others = tuple(each for each in departures(who=None) if UNICORN not in each.judges)
    parts = [
        *sections(departures(Scope.ACCESS, Scope.COMPOSITE)),
        _SEQUENCES,
        *sections(departures(Scope.SEQUENCE)),
        _NESTED,
        *sections((*departures(Scope.NESTED), FATAL)),
        _JUDGES,
        *sections((*others, PANIC)),
        *_table(columns),
        *_machine(),
    ]
    return "\n".join([_HEAD, *parts])


def _table(columns: Columns) -> Iterator[str]:
    yield _TABLE
    rows = [["departure", *columns], ["---"] * (1 + len(columns))]
    for entry in departures(Scope.ACCESS, Scope.COMPOSITE, Scope.SEQUENCE, who=None):
        cells = (cell_of(entry, said.get(_path(entry))) for said in columns.values())
        texts = (f"`{why}`" if why else cell for cell, why in cells)
        rows.append([f"`{entry.id}`", *texts])
    yield "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _path(entry: Departure) -> str:
    return f"{entry.folder}/{entry.case}"


def _machine() -> Iterator[str]:
    yield _MACHINE
    yield from map(_machine_section, MACHINE_DEPARTURES)
    yield _INSTRUCTIONS
    yield from map(_machine_section, INSTRUCTION_DEPARTURES)


def _machine_section(each: MachineDeparture) -> str:
    return (
        f"## {each.id}\n\n{each.differs}\n\n"
        f"- Manual: {each.manual}\n"
        f"- Reason in the emulator: {each.reason}\n"
        f"- See it: `run_alone` in `emu/cpu/unchecked_registers.py`, with "
        f"`{'`, `'.join(each.source.splitlines())}`; RAX is then {each.taken:#x}\n"
    )


def _section(entry: Departure, columns: Columns) -> str:
    lines = [f"- Manual: {entry.manual}", f"- Reason in the emulator: {entry.reason}"]
    if UNICORN not in entry.judges:
        command = f"judge --with {min(entry.judges)}"
    else:
        command = "sequence" if entry.scope is Scope.SEQUENCE else "replay"
    if entry.scope is not Scope.NESTED:
        lines.append(f"- See it: `crosswalk {command} tests/cases/{_path(entry)}`")
        lines.extend(_judged(entry, columns))
    elif entry.pair is not None:
        judge = f"--with {min(entry.judges)}"
        lines.append(f"- See it: `crosswalk nested {judge} {entry.command} --verbose`")
    return "\n".join([f"## {entry.id}\n\n{entry.differs}\n", *lines]) + "\n"


def _judged(entry: Departure, columns: Columns) -> Iterator[str]:
    """Yield who shows a departure, and who is right."""
    which: dict[str, list[str]] = {}
    for judge, said in columns.items():
        cell, why = cell_of(entry, said.get(_path(entry)))
        words = f"Wrong by `{why}` alone" if cell is Cell.OTHERWISE else _WORDS.get(cell)
        if words is not None:
            which.setdefault(words, []).append(judge)
    for words in sorted(
        which, key=lambda each: (each not in _WORDS.values(), each == _RIGHT, each)
    ):
        yield f"- {words}: {', '.join(which[words])}"
