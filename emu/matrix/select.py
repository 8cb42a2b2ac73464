"""The default matrix, and `--select`: a choice of its combinations by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from crosswalk.emu.fuzz.generate.choice import EntryCondition, LayoutChoice, Selection
from crosswalk.emu.matrix.asking import EMULATED, Asking
from crosswalk.emu.matrix.bits import (
    ACCESSES,
    CONTROLS,
    ENTRY_BITS,
    FEATURES,
    KEY_BITS,
    LEVEL_NAMES,
    MODES,
)
from crosswalk.emu.matrix.composite_sections import COMPOSITE_SECTIONS
from crosswalk.emu.matrix.feature_sections import FEATURE_SECTIONS
from crosswalk.emu.matrix.section import KEY, SECOND, Choice, Section
from crosswalk.emu.matrix.sections import BOUNDARY_SECTIONS, SECTIONS
from crosswalk.emu.matrix.tlb.sections import SEQUENCE_SECTIONS
from crosswalk.emu.matrix.unit import AnySection, Unit, units_of
from crosswalk.emu.probe.composites import NAMES, Family
from crosswalk.walker.context import PagingContext, PagingMode, Vendor
from crosswalk.walker.errors import BadInput

__all__ = [
    "ACCESS_SECTIONS",
    "ALL_SECTIONS",
    "chosen_sections",
    "chosen_units",
    "layout_choice",
    "parse_choice",
    "sections_of",
    "selection_of",
]

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
    if entry or name in SECOND or name == "rflags.ac" or name in CONTROLS or name in KEY_BITS:
        return _SWITCH
    raise BadInput(f"{where}: no {name!r} (crosswalk matrix --list names what there is)")


def chosen_sections(choice: Choice) -> list[Section]:
    """Return the sections of accesses whose names and modes a choice allows.

    None if it names dimensions of sequences.
    """
    if choice.keys() & _SEQUENCE_NAMES:
        return []
    return [each for each in ACCESS_SECTIONS if each.chosen(choice)]


def sections_of(asking: Asking) -> tuple[AnySection, ...]:
    """Return the sections as they are to be asked: pairs of values are of single accesses alone."""
    single = [
        replace(section, portable=asking.portable, pairs=asking.pairs)
        for section in ACCESS_SECTIONS
        if not (asking.pairs and section.composite)
    ]
    return (*single, *(() if asking.pairs else SEQUENCE_SECTIONS))


def chosen_units(choice: Choice, asking: Asking = EMULATED) -> list[Unit]:
    """Return the units of the matrix that the choice leaves, in order."""
    names = {section.name for section in chosen_sections(choice)}
    return [
        unit
        for section in sections_of(asking)
        if not isinstance(section, Section) or section.name in names
        for unit in units_of(section, choice)
    ]


_KEY_FIELD = 15 << 59
_FEATURE_TYPES: Mapping[str, Callable[[str], Any]] = {
    "maxphyaddr": int,
    "page1gb": lambda text: text == "1",
    "vendor": Vendor,
    "encryption_mask": lambda text: int(text, 16),
}


def layout_choice(
    modes: Sequence[str] = (), assume: Sequence[str] = (), select: str = ""
) -> LayoutChoice:
    """Return what layouts are restricted to: modes as `MODES` names them, assumptions, `--select`.

    `BadInput` where `select` is wrong, or leaves none of the modes.
    """
    named = {name: mode for mode, name in MODES.items()}
    chosen = LayoutChoice(
        tuple(sorted({named[name] for name in modes}, key=list(PagingMode).index)),
        tuple(sorted(set(assume))),
        selection_of(select),
    )
    if (chosen.modes or chosen.select.modes) and not chosen.asked_modes:
        raise BadInput(f"--select {select}: leaves nothing in --mode {','.join(modes)}")
    return chosen


def selection_of(text: str, where: str = "--select") -> Selection:
    """Return the selection of layouts and their accesses that `text` makes, by the matrix's names.

    `BadInput` as `parse_choice`, and for names and values that the matrix alone has: sections,
    composites, steps of sequences; and for features that no processor has together.
    """
    choice = parse_choice(text, where)
    controls, features = [], []
    entries: list[EntryCondition] = []
    for name, values in sorted(choice.items()):
        level, _, bit = name.partition(".")
        if name in {"section", *SECOND, *_SEQUENCE_NAMES}:
            raise BadInput(f"{where}: {name} is a dimension of the matrix alone")
        if name in FEATURES:
            features.append((name, tuple(_FEATURE_TYPES[name](each) for each in sorted(values))))
        elif len(values) == len(_SWITCH) and values == _SWITCH:
            continue
        elif name in CONTROLS:
            register, mask = CONTROLS[name]
            controls.append((register, int(mask), "1" in values))
        elif name in KEY_BITS:
            field, denied = KEY_BITS[name]
            controls.append((field, denied << 2 * KEY, "1" in values))
        elif level in LEVEL_NAMES.values():
            entries.append(_condition(level, bit, holds="1" in values))
    composites = choice.get("access", frozenset()) - ACCESSES.keys()
    if composites:
        raise BadInput(f"{where}: access {min(composites)} is a composite, of the matrix alone")
    named = (f"{name}={value}" for name, values in choice.items() for value in values)
    selection = Selection(
        ",".join(sorted(named)),
        tuple(controls),
        tuple(features),
        tuple(entries),
        _modes(choice, where),
        tuple(kind for name, kind in ACCESSES.items() if name in choice.get("access", ())),
        tuple(sorted(int(each) for each in choice.get("cpl", ()))),
        tuple(sorted(each == "1" for each in choice.get("rflags.ac", ()))),
    )
    _require_possible(selection, where)
    return selection


def _modes(choice: Choice, where: str) -> tuple[PagingMode, ...]:
    """Return the modes that are selected, none where all may be; `BadInput` where none can be."""
    modes = tuple(mode for mode, name in MODES.items() if name in choice.get("mode", ()))
    if choice.get("encryption_mask", frozenset()) - {"0x0"}:
        # Entries of 32-bit paging have none.
        modes = tuple(mode for mode in modes or PagingMode if mode is not PagingMode.BIT32)
        if not modes:
            raise BadInput(f"{where}: entries of 32-bit paging have no encryption_mask")
    return modes


def _condition(level: str, bit: str, *, holds: bool) -> EntryCondition:
    """Return the condition that a bit, a key, or any bit of a group is set, or the opposite."""
    number = next(at for at, name in LEVEL_NAMES.items() if name == level)
    mask = ENTRY_BITS[bit]
    if bit == "pk" or bit.startswith("key"):
        return EntryCondition(number, _KEY_FIELD, mask, holds)
    return EntryCondition(number, mask, None, holds)


def _require_possible(selection: Selection, where: str) -> None:
    """Raise `BadInput` where no control state has what is selected.

    Of any vendor, unless that is selected.
    """
    features = dict(selection.features)
    for values in product(*features.values()):
        fields = dict(zip(features, values, strict=True))
        tried = [fields] if "vendor" in fields else [{**fields, "vendor": each} for each in Vendor]
        refused = [why for each in tried if (why := _refusal(selection, each)) is not None]
        if len(refused) == len(tried):
            raise BadInput(f"{where}: {refused[0]}") from refused[0]


def _refusal(selection: Selection, features: Mapping[str, Any]) -> BadInput | None:
    """Return why no control state has the selected bits and these features, or None."""
    registers = dict.fromkeys(("cr3", "pkru", "pkrs"), 0)
    registers |= {"cr0": 0x8001_0033, "cr4": 0x20, "efer": 0x500}
    for name, mask, value in selection.controls:
        registers[name] = registers[name] | mask if value else registers[name] & ~mask
    fields: dict[str, Any] = {**registers, **features}
    try:
        PagingContext(**fields)
    except BadInput as error:
        return error
    return None
