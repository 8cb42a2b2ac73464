"""`--select`: which combinations, by the field's names."""

from emu.matrix.bits import ACCESSES, CONTROLS, ENTRY_BITS, LEVEL_NAMES, MODES, PKRU_BITS
from emu.matrix.section import Choice
from emu.matrix.sections import SECTIONS
from emu.matrix.tlb.sections import SEQUENCE_NAMES, SEQUENCE_SECTIONS
from walker.errors import BadInput

__all__ = ["parse_choice"]

_SECTION_NAMES = (*(each.name for each in SECTIONS), *(each.name for each in SEQUENCE_SECTIONS))
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
        choice[name] = choice.get(name, frozenset()) | {value}
    return choice


def _values(name: str) -> frozenset[str]:
    if name == "section":
        return frozenset(_SECTION_NAMES)
    if name == "mode":
        return frozenset(MODES.values())
    if name == "access":
        return frozenset(ACCESSES)
    if name == "cpl":
        return frozenset({"0", "3"})
    if name in SEQUENCE_NAMES:
        sections = (section.dimensions for section in SEQUENCE_SECTIONS)
        return frozenset(value for each in sections for value in each.get(name, ()))
    level, _, bit = name.partition(".")
    entry = level in LEVEL_NAMES.values() and bit in ENTRY_BITS
    if entry or name == "rflags.ac" or name in CONTROLS or name in PKRU_BITS:
        return _SWITCH
    raise BadInput(f"--select: no {name!r} (crosswalk matrix --list names what there is)")
