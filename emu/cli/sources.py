"""SOURCE: opened as the options ask."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from crosswalk.emu.cli.apart import is_among, named_inputs
from crosswalk.emu.cli.options import SOURCE, Group
from crosswalk.emu.cli.output import Report, progress, remark
from crosswalk.emu.report.source import lack_lines, source_text
from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import (
    Contents,
    Registers,
    Source,
    SourceKind,
    open_contents,
    source_of,
)
from crosswalk.walker.formats.live import LiveMemory, names_live_guest, settle
from crosswalk.walker.formats.registers import ASSUMED_WIDTH
from crosswalk.walker.leaves import TOP
from crosswalk.walker.roots import Roots, find_roots
from crosswalk.walker.roots.passes import Progress

__all__ = [
    "WIDEST",
    "chosen_contents",
    "chosen_range",
    "chosen_registers",
    "chosen_roots",
    "chosen_source",
    "is_guest",
    "is_rootless",
    "report_source",
    "require_unread",
    "source_words",
]

WIDEST = 52
"""The MAXPHYADDR, in bits, that hides no mapping."""
_NUMBERS = ("cr0", "cr3", "cr4", "efer", "pkru", "pkrs", "maxphyaddr", "encryption_mask")
_GUEST = "guest:"
_HOW = ("unpack_to", "unpack_limit", "gdb_timeout", "leave_paused")
"""Options of SOURCE that don't decide what is read."""


def chosen_source(
    options: argparse.Namespace,
    *,
    nested: bool = False,
    listing: bool = False,
    contents: Contents | None = None,
    roots: Roots | None = None,
) -> Source:
    """Return the source that the options name; `nested` and `BadInput` as in `open_source`.

    Where MAXPHYADDR isn't known, a `listing` takes 52, which hides no mapping, and everything
    else 40, which is what the emulated CPU has. `contents` and `roots` are what is known before.
    """
    registers = chosen_registers(options)
    name = options.source
    if is_guest(name):
        return _guest(name, registers, options, nested=nested)
    width = WIDEST if listing else ASSUMED_WIDTH
    contents = chosen_contents(options) if contents is None else contents
    with _searching(asked=is_rootless(options, contents) and not nested) as report:
        source = source_of(
            contents, registers, nested=nested, width=width, roots=roots, progress=report
        )
    if not nested:
        # Before anything else: a live guest is paused until then.
        settle(contents.memory, [source.context])
    return source


def chosen_roots(
    options: argparse.Namespace,
    contents: Contents,
    *,
    scan: bool | None = None,
    width: int = WIDEST,
) -> Roots:
    """Return all roots of a memory, as the options ask for them; as `find_roots` does.

    All memory is searched where `scan` says so, and where it says nothing, but for a live guest's:
    that would be paused for long.
    """
    registers = chosen_registers(options)
    scan = contents.kind is not SourceKind.LIVE if scan is None else scan
    with _searching(asked=scan) as report:
        roots = find_roots(contents, registers, scan=scan, width=width, progress=report)
    settle(contents.memory, [each.context for each in roots])
    return roots


def is_guest(name: str) -> bool:
    """Return whether SOURCE is a guest that is booted, and no file."""
    return name.startswith(_GUEST)


def is_rootless(options: argparse.Namespace, contents: Contents) -> bool:
    """Return whether neither the options nor the file say what CR3 is."""
    return options.cr3 is None and contents.registers.cr3 is None


def chosen_contents(options: argparse.Namespace) -> Contents:
    """Return what is in the memory that the options name: a file's, or a guest's."""
    if is_guest(options.source):
        booted = _guest(options.source, Registers(), options, nested=False)
        registers = Registers(**asdict(booted.context))
        shared = {field.name: getattr(booted, field.name) for field in fields(Contents)}
        return Contents(**shared | {"registers": registers, "cpus": (registers,)})
    if names_live_guest(options.source):
        if options.kind is not None or options.base:
            raise BadInput(f"{options.source}: --kind and --base are for files")
        # Of all that this needs, other sources need nothing.
        from crosswalk.emu.cli.names import reads_variables  # noqa: PLC0415
        from crosswalk.walker.formats.gdb import open_live  # noqa: PLC0415

        # Files are read before the guest is paused.
        reads = reads_variables(options)
        contents = open_live(
            options.source,
            cpu=options.cpu or 0,
            seconds=options.gdb_timeout,
            leave_paused=options.leave_paused,
            notice=_remark_once(options),
        )
        if isinstance(contents.memory, LiveMemory) and reads is not None:
            contents.memory.read_first = partial(reads, contents.memory)
        return contents
    return open_contents(
        options.source,
        cpu=options.cpu or 0,
        base=options.base,
        kind=options.kind,
        memory_map=options.memory_map or (),
        unpack_to=options.unpack_to,
        unpack_limit=options.unpack_limit,
        notice=remark,
    )


def _remark_once(options: argparse.Namespace) -> Callable[[str], None]:
    """Return what reports a line once a command, however often it opens its source."""
    reported = vars(options).setdefault("reported", set())

    def report(text: str) -> None:
        if text not in reported:
            reported.add(text)
            remark(text)

    return report


@contextmanager
def _searching(*, asked: bool) -> Iterator[Progress | None]:
    """Yield what a search for roots reports to, on standard error; None where none is asked.

    Each pass of it has its own bar, or lines, by its name.
    """
    if not asked:
        yield None
        return
    with ExitStack() as shown:
        current: tuple[str, Report | None] = "", None

        def report(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current[0]:
                shown.close()
                current = what, shown.enter_context(progress(what, lines=True))
            if current[1] is not None:
                current[1](done, total)

        yield report


def report_source(source: Source) -> None:
    """Report on standard error what the source has, what is assumed and what follows from it."""
    remark(source_text(source))
    if source.assumed:
        remark(f"assumed: {', '.join(source.assumed)}")
    for text in source.remarks:
        remark(text)
    for text in lack_lines(source):
        remark(text)


def chosen_range(options: argparse.Namespace) -> tuple[int, int]:
    """Return [start, end) as chosen; `BadInput` if it isn't a range."""
    start, end = options.start, TOP if options.end is None else options.end
    if not start < end <= TOP:
        raise BadInput(f"no range: --start {start:#x}, --end {end:#x}")
    return start, end


def chosen_registers(options: argparse.Namespace) -> Registers:
    """Return the registers that the options state."""
    return Registers(
        **{name: getattr(options, name) for name in _NUMBERS},
        rflags_ac=True if options.ac else None,
        page1gb=False if options.no_page1gb else None,
        vendor=None if options.vendor is None else Vendor(options.vendor),
    )


def _guest(name: str, registers: Registers, options: argparse.Namespace, *, nested: bool) -> Source:
    # Not imported for files: it needs the emulator and the assembler.
    from crosswalk.emu.load.builtin import booted_guest  # noqa: PLC0415

    if options.kind is not None or options.cpu or options.base or options.memory_map:
        raise BadInput(f"{name}: --kind, --cpu, --base and --memory-map are for files")
    booted = booted_guest(name)
    context = replace(booted.context, **registers.given())
    if not nested and booted.memory.word(context.root) is None:
        raise BadInput(f"{name}: CR3 {context.cr3:#x} points outside the guest's RAM")
    return Source(
        name=name,
        kind=SourceKind.RAW,
        memory=booted.memory,
        context=context,
        complete=True,
    )


def require_unread(path: Path, source: str | None) -> None:
    """Raise `BadInput` where to write a case there would overwrite what SOURCE names."""
    if source is not None and is_among(path, named_inputs([source])):
        raise BadInput(f"{path}: is read, and --cases would overwrite it")


def source_words(options: argparse.Namespace) -> list[str]:
    """Return SOURCE as it was given, and the options that decide how it is read."""
    words = [str(options.source)]
    for each in (it for group in SOURCE if isinstance(group, Group) for it in group.options):
        value = getattr(options, each.dest)
        if value is None or value is False or value == each.default or each.dest in _HOW:
            continue
        for one in value if isinstance(value, list) else [value]:
            text = f"{one:#x}" if type(one) is int and one > 9 else str(one)
            words += [each.names[0]] if value is True else [each.names[0], text]
    return words
