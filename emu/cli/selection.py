"""Which mappings a command is about: the options that choose some, in bulk."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.flags import FlagChoice, parse_flags
from crosswalk.emu.cli.followed import within_one_privilege
from crosswalk.emu.cli.listing_options import FILTERS, IN, PAGE_SIZES
from crosswalk.emu.cli.memory_types import of_types
from crosswalk.emu.cli.names import chosen_addresses
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.cli.type_options import CHOSEN_TYPES
from crosswalk.walker.chosen import Condition, Spans, chosen_pages
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of, maps_large
from crosswalk.walker.errors import BadInput
from crosswalk.walker.frames import Frames
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.memory_types import MemoryTypes
from crosswalk.walker.pages import Pages, pages
from crosswalk.walker.rights import EXECUTES, WRITES, Rights
from crosswalk.walker.symbols import NO_NAMES, Names

__all__ = [
    "Selection",
    "chosen_frames",
    "chosen_selection",
    "chosen_words",
    "frame_of",
    "mappings_of_frame",
    "plain_conditions",
    "reaching",
]

_SOME_OF = {
    "writable": WRITES,
    "executable": EXECUTES,
    "user": Rights.USER_READ | Rights.USER_EXECUTE,
}
"""The rights of which a page has some, by the option that asks for that."""

_BY = {
    "readable_by": {"supervisor": Rights.SUPERVISOR_READ, "user": Rights.USER_READ},
    "writable_by": {"supervisor": Rights.SUPERVISOR_WRITE, "user": Rights.USER_WRITE},
    "executable_by": {"supervisor": Rights.SUPERVISOR_EXECUTE, "user": Rights.USER_EXECUTE},
}
"""The right that a page has, by the option that asks for that and its value."""

_USE = ("a", "d")
"""The flags that accesses set."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The mappings that everything here chooses; with nothing here, all.

    `conditions` are about physical address, size, level, flags and rights alone, and `spans` are
    linear addresses that pages touch: by these the walk goes past the tables that lead to nothing
    else; `by_use` says that some of them are about A or D.
    """

    conditions: tuple[Condition[PagingContext], ...] = ()
    spans: Spans | None = None
    by_use: bool = False

    @property
    def everything(self) -> bool:
        """Whether all mappings are chosen."""
        return not self.conditions and self.spans is None

    def sections(
        self,
        memory: PhysicalMemory,
        contexts: Sequence[PagingContext],
        start: int = 0,
        end: int = TOP,
        *,
        edges: U64 | None = None,
    ) -> Iterator[tuple[PagingContext, Iterator[Pages]]]:
        """Yield for each address space what is chosen in [start, end), as `chosen_pages` does."""
        condition = _all(self.conditions) if self.conditions else None
        between = (start, end)
        return chosen_pages(
            memory, contexts, condition, self.spans, *between, edges=edges, by_use=self.by_use
        )


def _all(conditions: Sequence[Condition[PagingContext]]) -> Condition[PagingContext]:
    """Return the condition that all of these hold."""

    def chosen(pages: Pages, context: PagingContext) -> NDArray[np.bool_]:
        kept = np.ones(len(pages), np.bool_)
        for condition in conditions:
            kept &= condition(pages, context)
        return kept

    return chosen


def chosen_selection(
    options: argparse.Namespace,
    spaces: Spaces,
    names: Names = NO_NAMES,
    *,
    types: MemoryTypes | None = None,
) -> Selection:
    """Return the selection that the options ask for.

    `names` are those that --in and --name mean; `types` decides memory types for --memory-type.

    Options that a command doesn't have choose nothing. `BadInput` in one line for what no mapping
    of these address spaces can be.
    """
    given = {name: value for name, value in vars(options).items() if value}
    by_use = False
    conditions = plain_conditions(given)
    if "page_size" in given:
        conditions.append(_of_sizes(given["page_size"], spaces))
    if "flags" in given:
        flags = _meant(given["flags"], spaces)
        conditions += [choice.chosen for choice in flags]
        by_use = any(choice.name in _USE for choice in flags)
    if "aliases_of" in given:
        conditions.append(reaching([_aliased(given["aliases_of"], spaces)]))
    if "memory_type" in given and types is not None:
        conditions.append(of_types(types, given["memory_type"]))
    addresses = chosen_addresses(given, names)
    return Selection(conditions=tuple(conditions), spans=addresses, by_use=by_use)


def plain_conditions(given: Mapping[str, Any]) -> list[Condition[Any]]:
    """Return the conditions about rights, levels and physical addresses, by dest of their options.

    They mean the same in any kind of tables.
    """
    conditions = [_some_of(rights) for name, rights in _SOME_OF.items() if name in given]
    conditions += [_some_of(named[given[name]]) for name, named in _BY.items() if name in given]
    if "wx" in given:
        conditions.append(lambda rows, _: within_one_privilege(rows.rights))
    if "level" in given:
        level = int(given["level"])
        conditions.append(lambda rows, _: rows.level == level)
    if "pa" in given:
        conditions.append(reaching(given["pa"]))
    if "frame" in given:
        conditions.append(reaching(frame_of(pa) for pa in given["frame"]))
    return conditions


def _some_of(rights: Rights) -> Condition[Any]:
    return lambda rows, _: (rows.rights & np.uint8(rights)) != 0


def _of_sizes(names: Sequence[str], spaces: Spaces) -> Condition[PagingContext]:
    """Return the condition that pages have one of these sizes."""
    shifts = [PAGE_SIZES[name] for name in names]
    there = {shift for context in spaces.contexts for shift in _shifts(context)}
    for name, shift in zip(names, shifts, strict=True):
        if shift not in there:
            sizes = ", ".join(each for each, has in PAGE_SIZES.items() if has in there)
            raise BadInput(f"--page-size {name}: {_modes(spaces)} paging here has {sizes}")
    return lambda rows, _: np.isin(rows.shift, shifts)


def _shifts(context: PagingContext) -> list[int]:
    """Return the sizes that pages of an address space may have, as shifts."""
    large = [
        number for number in (2, 3) if number <= context.levels and maps_large(context, number)
    ]
    return [level_of(context, number).shift for number in (1, *large)]


def _modes(spaces: Spaces) -> str:
    return " and ".join(dict.fromkeys(context.mode.value for context in spaces.contexts))


def _meant(text: str, spaces: Spaces) -> tuple[FlagChoice, ...]:
    """Return the flags of --flags; `BadInput` for one without a meaning in any address space."""
    choices = parse_flags(text)
    for choice in choices:
        why = [choice.meaningless(context) for context in spaces.contexts]
        if why and None not in why:
            hint = _assumed(why[0] or "", spaces)
            raise BadInput(f"--flags {choice.text} means nothing here: {why[0]}{hint}")
    return choices


def _assumed(why: str, spaces: Spaces) -> str:
    """Return which option gives the register of which `why` speaks, if it is only assumed."""
    for register in ("cr4", "efer"):
        assumed = any(each.startswith(f"{register} ") for each in spaces.source.assumed)
        if register.upper() in why and assumed:
            return f" (as assumed: give --{register})"
    return ""


def reaching(ranges: Iterable[tuple[int, int]]) -> Condition[Any]:
    """Return the condition that pages reach some of the physical addresses [start, end)."""
    spans = Spans.of(ranges)
    return lambda rows, _: spans.touched(rows.pa, rows.pa + (rows.size - np.uint64(1)))


def frame_of(pa: int) -> tuple[int, int]:
    """Return the frame that holds a physical address, as a range."""
    start = pa & -FRAME
    return start, start + FRAME


def _aliased(target: tuple[str, int], spaces: Spaces) -> tuple[int, int]:
    """Return the frame of --aliases-of, as a range."""
    kind, address = target
    if kind == "pa":
        return frame_of(address)
    found: dict[int, PagingContext] = {}
    for context in spaces.contexts:
        for block in pages(spaces.source.memory, context, address, address + 1):
            for page in block:
                found.setdefault((page.pa + address - page.va) & -FRAME, context)
    if not found:
        raise BadInput(f"--aliases-of {address:#x}: nothing is mapped there")
    if len(found) > 1:
        (one, context), (other, another) = list(found.items())[:2]
        raise BadInput(
            f"--aliases-of {address:#x}: {len(found):,} frames in these roots, as {one:#x} in "
            f"{context.root:#x} and {other:#x} in {another.root:#x}: give pa:PA, or one of --roots"
        )
    return frame_of(next(iter(found)))


def chosen_words(options: argparse.Namespace) -> list[str]:
    """Return the words of a command line that choose the same, --start and --end left out."""
    words: list[str] = []
    # --pat and --mtrr choose nothing of themselves.
    types = CHOSEN_TYPES.options if getattr(options, "memory_type", None) else ()
    for each in (*FILTERS.options, *IN, *types):
        value = getattr(options, each.dest, None)
        if value is True:
            words.append(each.names[0])
        elif value:
            values = value if each.settings.get("action") == "append" else [value]
            words += [word for one in values for word in (each.names[0], _word(one))]
    symbols = getattr(options, "symbols", None)
    named = any(getattr(options, each.dest, None) for each in IN)
    return [*(_symbols_words(options) if symbols and named else []), *words]


def _symbols_words(options: argparse.Namespace) -> list[str]:
    """Return the words of a command line that give the same names."""
    offset = getattr(options, "symbols_offset", None)
    # In one word: a negative number would be taken for an option.
    moved = [] if offset is None else [f"--symbols-offset={offset:#x}"]
    return ["--symbols", options.symbols, *moved]


def _word(value: Any) -> str:
    """Return the value of an option as the option takes it."""
    match value:
        case int():
            return f"{value:#x}"
        case (int(start), int(end)):
            return f"{start:#x}-{end:#x}"
        case (str(kind), int(address)):
            return f"{kind}:{address:#x}"
        case tuple():
            return ",".join(value)
    return str(value)


def mappings_of_frame(pa: int) -> Selection:
    """Return the mappings of the 4-KiB frame that holds a physical address."""
    return Selection(conditions=(reaching([frame_of(pa)]),))


def chosen_frames(options: argparse.Namespace, frames: Frames) -> Frames:
    """Return the physical ranges that the options choose; of --pa, what lies in its ranges."""
    given = {name: value for name, value in vars(options).items() if value}
    kept = np.ones(len(frames), np.bool_)
    for name, named in _BY.items():
        if name in given:
            kept &= (frames.rights & np.uint8(named[given[name]])) != 0
    if "wx" in given:
        kept &= within_one_privilege(frames.rights)
    some = Frames(frames.start[kept], frames.size[kept], frames.rights[kept])
    if "pa" not in given:
        return some
    return _within(some, Spans.of((start & -FRAME, -(-end & -FRAME)) for start, end in given["pa"]))


def _within(frames: Frames, spans: Spans) -> Frames:
    """Return the parts of physical ranges that lie in these spans of whole frames."""
    end = frames.start + frames.size
    parts = [(frames.start[:0], frames.start[:0], frames.rights[:0])]
    for first, last in zip(spans.first, spans.last, strict=True):
        some = slice(
            np.searchsorted(end, first, "right"), np.searchsorted(frames.start, last, "right")
        )
        start = np.maximum(frames.start[some], first)
        size = np.minimum(end[some], last + np.uint64(1)) - start
        parts.append((start, size, frames.rights[some]))
    start, size, rights = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Frames(start, size, rights)
