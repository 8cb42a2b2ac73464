"""`--select`: which combinations, by the field's names."""

from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    LEVEL_NAMES,
    MODES,
    PKRU_BITS,
)
from crosswalk.emu.matrix.composite import SECOND
from crosswalk.emu.matrix.run import ALL_SECTIONS
from crosswalk.emu.matrix.section import Choice
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_NAMES, SEQUENCE_SECTIONS
from crosswalk.emu.probe.composites import NAMES, Family
from crosswalk.walker.errors import BadInput

__all__ = ["parse_choice"]

_SECTION_NAMES = (
    *(each.name for each in ALL_SECTIONS),
    *(each.name for each in SEQUENCE_SECTIONS),
)
_VALUES: dict[str, tuple[str, ...]] = {
    "section": _SECTION_NAMES,
    "mode": tuple(MODES.values()),
    "access": (*ACCESSES, *Family, *NAMES),
    "cpl": ("0", "3"),
    "then.cpl": ("0", "3"),
    **FEATURES,
}
_SWITCH = frozenset({"0", "1"})


def parse_choice(text: str) -> Choice:
    """Return the choice that `text` makes, as in "pte.nx=1,cr0.wp=0,access=write".

    A name given twice allows either value; `BadInput` for a name or a value that there isn't.
    """
    choice: dict[str, frozenset[str]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--select: {item!r} is not NAME=VALUE")
        values = _values(name)
        if value not in values:
            raise BadInput(f"--select: {name} is one of {', '.join(sorted(values))}, not {value!r}")
        choice[name] = choice.get(name, frozenset()) | _meant(name, value)
    return choice


def _meant(name: str, value: str) -> set[str]:
    """Return all that a value stands for: of accesses a family for all of its forms."""
    if name == "access" and value in list(Family):
        return {form for form in NAMES if form.startswith(f"{value}:")}
    return {value}


def _values(name: str) -> frozenset[str]:
    if name in _VALUES:
        return frozenset(_VALUES[name])
    if name in SEQUENCE_NAMES:
        sections = (section.dimensions for section in SEQUENCE_SECTIONS)
        return frozenset(value for each in sections for value in each.get(name, ()))
    level, _, bit = name.partition(".")
    entry = level in LEVEL_NAMES.values() and bit in ENTRY_BITS
    if entry or name in SECOND or name == "rflags.ac" or name in CONTROLS or name in PKRU_BITS:
        return _SWITCH
    raise BadInput(f"--select: no {name!r} (crosswalk matrix --list names what there is)")
