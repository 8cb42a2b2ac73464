"""The page about known emulator divergences, made from the registry."""

from collections.abc import Iterator

from emu.check import KNOWN, KnownDivergence
from emu.check.composite_known import KNOWN_COMPOSITE, KnownComposite
from emu.check.known_sequences import KNOWN_SEQUENCES
from emu.machine.departures import MACHINE_DEPARTURES

__all__ = ["known_page"]

_HEAD = """\
# Known divergences of the emulator

Where Unicorn 2.1.4 departs from the manuals, as far as Crosswalk has met it. Such a divergence is
counted apart, under its id, and never hidden; each has a case file in tests/cases/known or, where
it takes more than an access of one byte to see it, tests/cases/composite, and a test that it still
occurs. This page is made from `emu/check/known.py` and `emu/check/composite_known.py` by
`scripts/emulator-divergences`.
"""


_SEQUENCES = """\
# …and of its TLB

The same of sequences of changes, invalidations and accesses, where an outcome is none of those
that caching allows ([tlb.md](tlb.md)): each has a sequence in tests/cases/known-sequences, and is
registered in `emu/check/known_sequences.py`.
"""

_MACHINE = """\
# …and of its registers

Values that a processor refuses with #GP, and the emulated CPU takes: they concern how registers
are set up, not how an access is translated under them. Each is registered in
`emu/machine/departures.py` with instructions that a test runs, at CPL 0 of 64-bit mode. The address
that isn't canonical is 0x8000000000001234.
"""


def known_page() -> str:
    """Return docs/emulator-divergences.md as it has to be."""
    sections = [_section(each, "known") for each in KNOWN]
    sections += [_section(each, "composite") for each in KNOWN_COMPOSITE]
    sequences = (
        f"## {known.id}\n\n{known.differs}\n\n"
        f"- Manual: {known.manual}\n"
        f"- Reason in the emulator: {known.reason}\n"
        f"- See it: `crosswalk sequence tests/cases/known-sequences/{known.sequence}`\n"
        for known in KNOWN_SEQUENCES
    )
    return "\n".join([_HEAD, *sections, _SEQUENCES, *sequences, *_machine()])


def _machine() -> Iterator[str]:
    yield _MACHINE
    for each in MACHINE_DEPARTURES:
        yield (
            f"## {each.id}\n\n{each.differs}\n\n"
            f"- Manual: {each.manual}\n"
            f"- Reason in the emulator: {each.reason}\n"
            f"- See it: `run_alone` in `emu/machine/departures.py`, with "
            f"`{'`, `'.join(each.source.splitlines())}`; RAX is then {each.taken:#x}\n"
        )


def _section(entry: KnownDivergence | KnownComposite, folder: str) -> str:
    return (
        f"## {entry.id}\n\n{entry.differs}\n\n"
        f"- Manual: {entry.manual}\n"
        f"- Reason in the emulator: {entry.reason}\n"
        f"- See it: `crosswalk replay tests/cases/{folder}/{entry.case}`\n"
    )
