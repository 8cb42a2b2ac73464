"""The default matrix, and `--select`: a choice of its combinations by name."""

from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    LEVEL_NAMES,
    MODES,
    PKRU_BITS,
)
from crosswalk.emu.matrix.composite_sections import COMPOSITE_SECTIONS
from crosswalk.emu.matrix.section import SECOND, Choice, Section
from crosswalk.emu.matrix.sections import BOUNDARY_SECTIONS, FEATURE_SECTIONS, SECTIONS
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.matrix.unit import AnySection, Unit, units_of
from crosswalk.emu.probe.composites import NAMES, Family
from crosswalk.walker.errors import BadInput

__all__ = ["ACCESS_SECTIONS", "ALL_SECTIONS", "chosen_sections", "chosen_units", "parse_choice"]

ACCESS_SECTIONS: tuple[Section, ...] = (
    *SECTIONS,
    *BOUNDARY_SECTIONS,
    *FEATURE_SECTIONS,
    *COMPOSITE_SECTIONS,
)
"""The default matrix but for sequences: single accesses, then composites."""

ALL_SECTIONS: tuple[AnySection, ...] = (*ACCESS_SECTIONS, *SEQUENCE_SECTIONS)

_SEQUENCE_NAMES = {name for section in SEQUENCE_SECTIONS for name in section.dimensions}
_SEQUENCE_NAMES -= {"access", "cpl"}
"""The dimensions that only sequences have."""

_VALUES: dict[str, tuple[str, ...]] = {
    "section": tuple(section.name for section in ALL_SECTIONS),
    "mode": tuple(MODES.values()),
    "access": (*ACCESSES, *Family, *NAMES),
    "cpl": ("0", "3"),
    "then.cpl": ("0", "3"),
    **FEATURES,
}
_SWITCH = frozenset({"0", "1"})


def parse_choice(text: str, where: str = "--select") -> Choice:
    """Return the choice that `text` makes, as in "pte.nx=1,cr0.wp=0,access=write".

    A name given twice allows either value; `BadInput` for an unknown name or value begins with
    `where`.
    """
    choice: dict[str, frozenset[str]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"{where}: {item!r} is not NAME=VALUE")
        values = _values(name, where)
        if value not in values:
            raise BadInput(f"{where}: {name} is {_one_of(values)}, not {value!r}")
        choice[name] = choice.get(name, frozenset()) | _expanded(name, value)
    return choice


def _expanded(name: str, value: str) -> set[str]:
    """Return the values that one stands for: of accesses, a family for all of its forms."""
    if name == "access" and value in list(Family):
        return {form for form in NAMES if form.startswith(f"{value}:")}
    return {value}


def _one_of(values: frozenset[str]) -> str:
    if len(values) > 2 and all(each.isdecimal() for each in values):
        numbers = sorted(map(int, values))
        if numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"a number from {numbers[0]:,} to {numbers[-1]:,}"
    return f"one of {', '.join(sorted(values))}"


def _values(name: str, where: str) -> frozenset[str]:
    if name in _VALUES:
        return frozenset(_VALUES[name])
    if name in _SEQUENCE_NAMES:
        sections = (section.dimensions for section in SEQUENCE_SECTIONS)
        return frozenset(value for each in sections for value in each.get(name, ()))
    level, _, bit = name.partition(".")
    entry = level in LEVEL_NAMES.values() and bit in ENTRY_BITS
    if entry or name in SECOND or name == "rflags.ac" or name in CONTROLS or name in PKRU_BITS:
        return _SWITCH
    raise BadInput(f"{where}: no {name!r} (crosswalk matrix --list names what there is)")


def chosen_sections(choice: Choice) -> list[Section]:
    """Return the sections of accesses whose names and modes a choice allows.

    None if it names dimensions of sequences.
    """
    if choice.keys() & _SEQUENCE_NAMES:
        return []
    return [each for each in ACCESS_SECTIONS if each.chosen(choice)]


def chosen_units(choice: Choice) -> list[Unit]:
    """Return the units of the matrix that the choice leaves, in order."""
    sections: list[AnySection] = [*chosen_sections(choice), *SEQUENCE_SECTIONS]
    return [unit for section in sections for unit in units_of(section, choice)]
