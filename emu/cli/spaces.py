"""Which address spaces of SOURCE a command is about: one, or those that --roots names."""

import argparse
from dataclasses import dataclass, fields, replace

import numpy as np

from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.roots_file import ALL, MOST_ROOTS, WantedRoot, wanted_roots
from crosswalk.emu.cli.sources import (
    WIDEST,
    chosen_contents,
    chosen_registers,
    chosen_roots,
    chosen_source,
    is_guest,
)
from crosswalk.emu.report.source import roots_text, strays_text
from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats import Contents, Registers, Source, SourceKind, source_of
from crosswalk.walker.formats.live import settle
from crosswalk.walker.formats.located_errors import errors_named
from crosswalk.walker.formats.registers import ASSUMED_WIDTH
from crosswalk.walker.memory import FRAME
from crosswalk.walker.roots import Roots, find_roots
from crosswalk.walker.spaces import Contexts, distinct_contexts

__all__ = ["NOT_SEARCHED", "Spaces", "chosen_spaces"]

NOT_SEARCHED = "memory wasn't searched for others (crosswalk roots --scan-live does)"
"""What is said of a live guest, whose memory isn't searched unless that is asked for."""


@dataclass(frozen=True, slots=True)
class Spaces:
    """Address spaces of one memory, each once.

    `source` is the memory with the context of the first of `contexts`. `named` says that --roots
    was given, so that everything is named by its root; `chosen` that the user said which address
    spaces they are, with --cr3 or --roots, and not SOURCE. `known` is the number of roots that are
    known, these included; None where nobody looked for others. `strays` is the number of those
    that were left out besides; `unsearched` is why memory wasn't searched for others, "" where it
    was.
    """

    source: Source
    contexts: tuple[PagingContext, ...]
    named: bool = False
    chosen: bool = False
    known: int | None = None
    strays: int = 0
    unsearched: str = ""

    @property
    def walked(self) -> Contexts:
        """What the walker takes: one context, or with --roots a sequence."""
        return self.contexts if self.named else self.source.context

    @property
    def part(self) -> bool:
        """Whether these are some of the known roots, and others are known."""
        return self.known is not None and len(self.contexts) < self.known

    @property
    def open(self) -> bool:
        """Whether there are other roots, or may be, and the user didn't choose these."""
        return (self.part or bool(self.unsearched)) and not self.chosen

    @property
    def text(self) -> str:
        """Which roots these are: how many of those that are known, if anybody looked."""
        known = None if self.chosen and self.unsearched and not self.part else self.known
        of_cpus = self.source.kind is SourceKind.LIVE and not self.chosen
        return roots_text(self.contexts, known, self.strays, of_cpus=of_cpus)


def chosen_spaces(
    options: argparse.Namespace, *, listing: bool = False, count: bool = False
) -> Spaces:
    """Return the address spaces that the options name.

    `listing` as in `chosen_source`. With `count` the other roots of SOURCE are looked for, to
    count them; those of --roots all are known anyway. `BadInput` in one line for roots that are
    none, and with --roots for options that choose one.
    """
    width = WIDEST if listing else ASSUMED_WIDTH
    if options.roots is not None:
        for name in ("cr3", "cpu"):
            if getattr(options, name) is not None:
                raise BadInput(f"--roots and --{name}: choose one of them")
        return _named(options, width, count=count)
    if is_guest(options.source) or not count:
        source = chosen_source(options, listing=listing)
        known = 1 if count else None
        return Spaces(source, (source.context,), chosen=options.cr3 is not None, known=known)
    contents = chosen_contents(options)
    roots = _counted(options, contents, width)
    source = chosen_source(options, listing=listing, contents=contents, roots=roots)
    spaces = Spaces(source, (source.context,), chosen=options.cr3 is not None)
    return _among(spaces, roots)


def _counted(options: argparse.Namespace, contents: Contents, width: int) -> Roots:
    """Return all roots of a memory, to be counted.

    None at all for a case file and a guest that is booted, which have the one root that they state.
    Of a live guest those of its CPUs, and it isn't let go: the tables to walk are still to be read.
    """
    if contents.complete:
        return Roots(())
    if contents.kind is SourceKind.LIVE:
        return find_roots(contents, chosen_registers(options), scan=False, width=width)
    return chosen_roots(options, contents, width=width)


def _among(spaces: Spaces, roots: Roots) -> Spaces:
    """Return address spaces with what is known of others, of which these roots are all."""
    own = {(each.mode, each.root) for each in spaces.contexts}
    known = {(each.context.mode, each.context.root) for each in roots.known} | own
    strays = {(each.context.mode, each.context.root) for each in roots.strays} - own
    source = spaces.source
    if strays:
        source = replace(source, remarks=(*source.remarks, strays_text(len(strays))))
    return replace(
        spaces,
        source=source,
        known=len(known),
        strays=len(strays),
        unsearched=_unsearched(source, roots),
    )


def _unsearched(contents: Contents, roots: Roots) -> str:
    """Return why memory wasn't searched for other roots; "" where it was."""
    if contents.kind is SourceKind.LIVE:
        return NOT_SEARCHED
    return f"memory can't be searched for others: {roots.unsearched}" if roots.unsearched else ""


def _named(options: argparse.Namespace, width: int, *, count: bool) -> Spaces:
    """Return the address spaces that --roots names."""
    wanted = [] if options.roots == ALL else wanted_roots(options.roots)
    registers = chosen_registers(options)
    contents = chosen_contents(options)
    if not wanted:
        return _every(options, contents, registers, width)
    with errors_named(contents.name):
        contexts = _contexts(contents, registers, wanted, width)
        _require_backed(contents, contexts)
    roots = _counted(options, contents, width) if count else None
    distinct = distinct_contexts(contexts)
    if len(distinct) < len(contexts):
        twice = len(contexts) - len(distinct)
        remark(f"{twice:,} of {len(contexts):,} roots are given before, and count once")
    # Before anything else: a live guest is paused until then.
    settle(contents.memory, distinct)
    source = _source(contents, registers, distinct[0])
    spaces = Spaces(source, tuple(distinct), named=True, chosen=True)
    return spaces if roots is None else _among(spaces, roots)


def _every(
    options: argparse.Namespace, contents: Contents, registers: Registers, width: int
) -> Spaces:
    """Return all address spaces of a memory that are known."""
    roots = chosen_roots(options, contents, width=width)
    contexts = tuple(each.context for each in roots.known)
    if not contexts:
        raise BadInput(f"{contents.name}: no root is known: give --cr3, or --roots with CR3s")
    if len(contexts) > MOST_ROOTS:
        raise LimitExceeded(
            f"{contents.name}: {len(contexts):,} roots; at most {MOST_ROOTS:,} at a time"
        )
    source = _source(contents, registers, contexts[0], roots.remarks)
    return _among(Spaces(source, contexts, named=True), roots)


def _source(
    contents: Contents,
    registers: Registers,
    context: PagingContext,
    remarks: tuple[str, ...] = (),
) -> Source:
    """Return the memory with this context, and with what is assumed for it."""
    shared = {field.name: getattr(contents, field.name) for field in fields(Contents)}
    if contents.complete:
        return Source(**shared, context=context)
    known = replace(registers.over(contents.registers), cr3=context.cr3)
    return Source(
        **shared,
        context=context,
        assumed=known.assumed(context),
        width_known=known.maxphyaddr is not None,
        remarks=remarks,
    )


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
