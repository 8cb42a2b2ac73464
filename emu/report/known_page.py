"""The page about known emulator divergences, made from the registry."""

from emu.check import KNOWN

__all__ = ["known_page"]

_HEAD = """\
# Known divergences of the emulator

Where Unicorn 2.1.4 departs from the manuals, as far as Crosswalk has met it. Such a divergence is
counted apart, under its id, and never hidden; each has a case file in tests/cases/known, and a
test that it still occurs. This page is made from `emu/check/known.py` by
`scripts/emulator-divergences`.
"""


def known_page() -> str:
    """Return docs/emulator-divergences.md as it has to be."""
    sections = (
        f"## {entry.id}\n\n{entry.differs}\n\n"
        f"- Manual: {entry.manual}\n"
        f"- Reason in the emulator: {entry.reason}\n"
        f"- See it: `crosswalk replay tests/cases/known/{entry.case}`\n"
        for entry in KNOWN
    )
    return "\n".join([_HEAD, *sections])
