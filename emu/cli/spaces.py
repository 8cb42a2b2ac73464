"""Which address spaces of SOURCE a command is about: one, or those that --roots names."""

import argparse
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.roots_file import ALL, MOST_ROOTS, WantedRoot, wanted_roots
from crosswalk.emu.cli.sources import (
    WIDEST,
    chosen_contents,
    chosen_registers,
    chosen_source,
    is_guest,
)
from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import Contents, Registers, Source, SourceKind, source_of
from crosswalk.walker.formats.gdb import settle
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.formats.registers import ASSUMED_WIDTH
from crosswalk.walker.memory import FRAME
from crosswalk.walker.roots import find_roots
from crosswalk.walker.spaces import Contexts, distinct_contexts, space_key

__all__ = ["Spaces", "chosen_spaces"]


@dataclass(frozen=True, slots=True)
class Spaces:
    """Address spaces of one memory, each once.

    `source` is the memory with the context of the first of `contexts`. `named` says that --roots
    was given, so that everything is named by its root; `chosen` that the user said which address
    spaces they are, with --cr3 or --roots, and not SOURCE. `known` is the number of roots that are
    known, these included; None where nobody looked for others.
    """

    source: Source
    contexts: tuple[PagingContext, ...]
    named: bool = False
    chosen: bool = False
    known: int | None = None

    @property
    def walked(self) -> Contexts:
        """What the walker takes: one context, or with --roots a sequence."""
        return self.contexts if self.named else self.source.context

    @property
    def part(self) -> bool:
        """Whether these are some of the known roots, and others are known."""
        return self.known is not None and len(self.contexts) < self.known


def chosen_spaces(
    options: argparse.Namespace, *, listing: bool = False, count: bool = False
) -> Spaces:
    """Return the address spaces that the options name.

    `listing` as in `chosen_source`. With `count` the other roots of SOURCE are looked for, to
    count them; those of --roots all are known anyway. `BadInput` in one line for roots that are
    none, and with --roots for options that choose one.
    """
    width = WIDEST if listing else ASSUMED_WIDTH
    if options.roots is None:
        source = chosen_source(options, listing=listing)
        found = Spaces(source, (source.context,), chosen=options.cr3 is not None)
    else:
        for name in ("cr3", "cpu"):
            if getattr(options, name) is not None:
                raise BadInput(f"--roots and --{name}: choose one of them")
        found = _named(options, width)
    if found.known is None and count:
        found = replace(found, known=_known(options, found, width))
    return found


def _named(options: argparse.Namespace, width: int) -> Spaces:
    """Return the address spaces that --roots names."""
    wanted = [] if options.roots == ALL else wanted_roots(options.roots)
    registers = chosen_registers(options)
    if is_guest(options.source):
        source = chosen_source(options)
        contents: Contents = source
    else:
        contents = chosen_contents(options)
    with errors_named(contents.name):
        if not wanted:
            return _every(contents, registers, width)
        contexts = _contexts(contents, registers, wanted, width)
        _require_backed(contents, contexts)
        # Before anything else: a live guest is paused until then.
        settle(contents.memory, contexts)
    distinct = distinct_contexts(contexts)
    if len(distinct) < len(contexts):
        twice = len(contexts) - len(distinct)
        remark(f"{twice:,} of {len(contexts):,} roots are given before, and count once")
    source = _source(contents, registers, distinct[0], width)
    return Spaces(source, tuple(distinct), named=True, chosen=True)


def _every(contents: Contents, registers: Registers, width: int) -> Spaces:
    """Return all address spaces of a memory that are known."""
    # The memory of a live guest isn't searched: it is paused meanwhile.
    scan = contents.kind is not SourceKind.LIVE
    found = find_roots(contents, registers, scan=scan, width=width)
    for text in found.remarks:
        remark(text)
    if not found:
        raise BadInput("no root is known: give --cr3, or --roots with CR3s")
    if len(found) > MOST_ROOTS:
        raise LimitExceeded(f"{len(found):,} roots; at most {MOST_ROOTS:,} at a time")
    contexts = tuple(distinct_contexts([each.context for each in found]))
    settle(contents.memory, contexts)
    source = _source(contents, registers, contexts[0], width)
    return Spaces(source, contexts, named=True, known=len(contexts))


def _known(options: argparse.Namespace, spaces: Spaces, width: int) -> int:
    """Return how many roots of SOURCE are known, with those chosen.

    A case file and a guest have the one root that they state, a live guest, which runs again by
    now, those of its CPUs.
    """
    source = spaces.source
    if source.complete:
        return len(spaces.contexts)
    if source.kind is SourceKind.LIVE:
        return max(len(spaces.contexts), source.address_spaces)
    found = find_roots(source, chosen_registers(options), width=width)
    keys = {space_key(each) for each in spaces.contexts}
    return len(keys | {space_key(each.context) for each in found})


def _source(contents: Contents, registers: Registers, context: PagingContext, width: int) -> Source:
    """Return the memory with this context, and with what is assumed for it."""
    if isinstance(contents, Source):
        return replace(contents, context=context)
    source = source_of(contents, replace(registers, cr3=context.cr3), width=width)
    return replace(source, context=context)


def _contexts(
    contents: Contents, registers: Registers, wanted: list[WantedRoot], width: int
) -> list[PagingContext]:
    """Return the context of each root: in the mode of its line, else in that of the source."""
    base: dict[PagingMode | None, PagingContext] = {}
    found = []
    for each in wanted:
        if each.mode not in base:
            base[each.mode] = _context(contents, registers, each, width)
        found.append(replace(base[each.mode], cr3=each.value))
    return found


def _context(
    contents: Contents, registers: Registers, wanted: WantedRoot, width: int
) -> PagingContext:
    if isinstance(contents, Source):
        context = replace(contents.context, cr3=wanted.value)
    else:
        known = replace(registers, cr3=wanted.value)
        context = source_of(contents, known, width=width).context
    if wanted.mode in (None, context.mode):
        return context
    cr4, efer = _registers_of(wanted.mode, context)
    return replace(context, cr4=cr4, efer=efer)


def _registers_of(mode: PagingMode, context: PagingContext) -> tuple[int, int]:
    """Return CR4 and EFER of a context, changed as far as this mode takes it."""
    cr4 = context.cr4 & ~(CR4.PAE | CR4.LA57)
    efer = context.efer & ~(EFER.LME | EFER.LMA)
    if mode is PagingMode.BIT32:
        return cr4 | CR4.PSE, efer
    if mode is PagingMode.PAE:
        return cr4 | CR4.PAE, efer
    cr4 |= CR4.PAE | (CR4.LA57 if mode is PagingMode.LEVEL5 else 0)
    return cr4, efer | EFER.LME | EFER.LMA


def _require_backed(contents: Contents, contexts: list[PagingContext]) -> None:
    frames = np.array([each.root & -FRAME for each in contexts], np.uint64)
    outside = np.flatnonzero(~contents.memory.backed(frames))
    if len(outside):
        cr3 = contexts[int(outside[0])].cr3
        raise BadInput(f"--roots: {cr3:#x} points outside the memory")
