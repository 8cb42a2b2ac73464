"""`--blame`: the stores that made the entries of a walk, each with its instruction and its moment.

The guest has been run to its last point, and its memory then tells the entries. It is run once
more, with these entries watched; two runs are the same, and memory is compared to show it.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from crosswalk.emu.cli.blame_history import Copied, chain_of, stores_before, twins_of
from crosswalk.emu.cli.blame_options import BlameTarget
from crosswalk.emu.cli.guest_files import report_cut_symbols
from crosswalk.emu.cli.names import symbols_of
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.blame import Moment, Store, StoreLog, WatchedWord, Written
from crosswalk.emu.load.boot import Boot, Reached
from crosswalk.emu.load.code_names import CALLERS, CodeNames
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.points import Point
from crosswalk.emu.report.text import count_text, entry_name
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.aliases import Aliases, AliasQuery
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME, PhysicalMemory, Segments
from crosswalk.walker.translate import Walk, walk

__all__ = ["Rerun", "blame_at", "blame_key", "report_blame"]

_MAPPINGS = 8
"""How many mappings of a frame are walked."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """How a run is made once more: its boot, to the same points in the same time."""

    boot: Callable[[Ram], Boot]
    points: Sequence[Point]
    until: Point
    seconds: float


@dataclass(frozen=True, slots=True)
class _Blamed:
    """The walks of a target, and what was written to their entries, by physical address.

    `more` are the mappings of a frame beyond those walked.
    """

    target: BlameTarget
    context: PagingContext
    walks: tuple[Walk, ...]
    more: int
    written: dict[int, Written]


def report_blame(
    options: argparse.Namespace, image: GuestImage, ram: Ram, reached: Reached, rerun: Rerun
) -> list[dict[str, Any]]:
    """Tell who wrote the entries that lead to the targets of --blame; return it as JSON has it.

    `ram` is the memory at the last point, which another run of the same has to come to. Nothing is
    run, and nothing told, where there are no targets.

    Raises `BadInput` where paging is off at the point, or an address has more bits than it has
    linear addresses; `CrosswalkError` where the other run goes otherwise.
    """
    if not options.blame:
        return []
    blamed = _blame(options.blame, ram, reached, rerun)
    code = _code(options, image)
    beyond = next((rip for rip in _writers(blamed) if rip >> 32), None)
    if beyond is not None:
        report_cut_symbols(options, image, f"code runs at {beyond:#x}")
    for line in _lines(blamed, code):
        (remark if options.json else print)(line)
    return _records(blamed, code)


def _writers(blamed: Sequence[_Blamed]) -> Iterator[int]:
    """Yield the instructions that made the stores."""
    for each in blamed:
        for written in each.written.values():
            yield from (store.rip for store in written.stores)


def blame_key(blamed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the key of a document that has what was blamed; nothing where nothing was."""
    return {"blame": blamed} if blamed else {}


def blame_at(options: argparse.Namespace, image: GuestImage, rerun: Rerun) -> list[dict[str, Any]]:
    """Do as `report_blame`, after a run of its own, to the point where the other one is to end."""
    if not options.blame:
        return []
    ram = Ram(0, options.ram << 20)  # Shared with the child.
    remark(f"running to {rerun.until}, for --blame…")
    _, reached = contained(lambda: _run(rerun, ram))
    return report_blame(options, image, ram, reached, rerun)


def _run(
    rerun: Rerun,
    ram: Ram,
    words: Iterable[WatchedWord] = (),
    sources: Mapping[int, Sequence[int]] | None = None,
) -> tuple[list[Written], Reached]:
    """Run to the last point; return what was written to words, and the machine there.

    `sources` as `StoreLog` has them.
    """
    boot = rerun.boot(ram)
    log = StoreLog(boot.machine, words, sources)
    *_, reached = boot.run(rerun.points, rerun.until, rerun.seconds)
    return log.written(), reached


def _blame(
    targets: Sequence[BlameTarget], ram: Ram, reached: Reached, rerun: Rerun
) -> list[_Blamed]:
    """Return what was written to the entries of each target's walks, up to the last point."""
    memory, context = Segments([(ram.start, ram.bytes)]), reached.context
    walks = [_walks(memory, context, target) for target in targets]
    words = {
        word.pa: word
        for found, _ in walks
        for path in found
        for word in _words(context, path)
        if ram.start <= word.pa < ram.start + ram.size
    }
    twins, sources = _twins(ram, context, [path for found, _ in walks for path in found])
    again = Ram(ram.start, ram.size)  # Shared with the child.
    remark(f"running once more, to see who writes {len(words)} entries…")
    every = (words | twins).values()
    written, _ = contained(lambda: _run(rerun, again, every, sources))
    differing = int(np.count_nonzero(ram.words != again.words))
    if differing:
        raise CrosswalkError(
            f"--blame: the guest went another way when it was run once more: {differing:,} words "
            "of its memory differ"
        )
    by_address = {each.word.pa: each for each in written}
    return [
        _Blamed(target, context, found, more, by_address)
        for target, (found, more) in zip(targets, walks, strict=True)
    ]


def _twins(
    ram: Ram, context: PagingContext, walks: Iterable[Walk]
) -> tuple[dict[int, WatchedWord], dict[int, tuple[int, ...]]]:
    """Return words that entries may be copied from, and which of them each may be."""
    words: dict[int, WatchedWord] = {}
    sources: dict[int, tuple[int, ...]] = {}
    for step in dict.fromkeys(step for path in walks for step in path.steps):
        found = twins_of(ram, context, step)
        size = level_of(context, step.level).entry_size
        words |= {pa: WatchedWord(pa, size) for pa in found}
        group = (step.pa, *found)
        sources |= {pa: tuple(each for each in group if each != pa) for pa in group if found}
    return words, sources


def _walks(
    memory: PhysicalMemory, context: PagingContext, target: BlameTarget
) -> tuple[tuple[Walk, ...], int]:
    """Return the walks that lead to a target, and the number of those left out."""
    if not target.physical:
        return (walk(memory, context, target.address),), 0
    frame = target.address & -FRAME
    found = Aliases(memory, context, [AliasQuery(frame, FRAME)]).find(0)
    walked = tuple(
        walk(memory, context, each.va + max(frame - each.pa, 0))
        for each in islice(found, _MAPPINGS)
    )
    return walked, sum(1 for _ in found)


def _words(context: PagingContext, path: Walk) -> Iterator[WatchedWord]:
    for step in path.steps:
        yield WatchedWord(step.pa, level_of(context, step.level).entry_size)


def _code(options: argparse.Namespace, image: GuestImage) -> CodeNames:
    given = options.system_map
    return CodeNames(image, None if given is None else symbols_of(str(given)).symbols)


def _callers(code: CodeNames, stack: Sequence[int]) -> list[str]:
    """Return what the return addresses of a stack are called that have a name, the last first."""
    names = map(code.name_behind, code.return_addresses(stack))
    return list(islice((name for name in names if name is not None), CALLERS))


def _lines(blamed: Sequence[_Blamed], code: CodeNames) -> Iterator[str]:
    """Yield what was written, entry by entry, for people."""
    told: set[int] = set()
    for each in blamed:
        yield f"blame {each.target}, by CR3 {each.context.cr3:#x}:"
        if each.target.physical and not each.walks:
            yield "  nothing maps this frame"
        for path in each.walks:
            if each.target.physical:
                yield f"  mapped at {path.va:#x}:"
            if not path.steps:
                yield "  not canonical: no entries"
            for number, step in enumerate(path.steps):
                yield from _entry_lines(each, path, number, code, again=step.pa in told)
                told.add(step.pa)
        if each.more:
            yield f"  … and {each.more:,} more mappings of this frame"


def _entry_lines(
    blamed: _Blamed, path: Walk, number: int, code: CodeNames, *, again: bool
) -> Iterator[str]:
    """Yield what was written to an entry of a path; its stores not `again`."""
    step = path.steps[number]
    written = blamed.written.get(step.pa)
    title = f"  {entry_name(blamed.context, step)} {step.pa:#x}:"
    if written is None:
        yield f"{title} {step.kind}"
        return
    digits = 2 * written.word.size
    title += f" {step.entry:0{digits}x}, {step.kind}, {count_text(written.count, 'store')}"
    if again:
        yield f"{title}, as above"
        return
    yield title
    told = sum(store.times for store in written.stores)
    before = stores_before(path, number, blamed.context, blamed.written)
    left = written.first if written.count == told else None
    if before:
        earlier = written.count - sum(store.times for store in written.stores[before:])
        yield f"    {_earlier_text(earlier, written.stores[before - 1])}"
        left = None
    else:
        if written.first:
            yield f"    {written.first:0{digits}x} left by the loader"
        elif not written.count and not written.last:
            yield "    zero from the start, never written"
        if written.count > told:
            yield f"    {written.count - told:,} earlier stores left out"
    for store in written.stores[before:]:
        yield from _unseen_lines(left, store.before, digits)
        yield f"    {store.after:0{digits}x} {_made_text(store, code)}"
        yield from (f"      {line}" for line in _caller_lines(store, code))
        for each in chain_of(store, blamed.written):
            yield f"      {_copied_text(each, code)}"
            if each.store is not None:
                yield from (f"        {line}" for line in _caller_lines(each.store, code))
        left = store.after
    yield from _unseen_lines(left, written.last, digits)


def _unseen_lines(left: int | None, found: int, digits: int) -> Iterator[str]:
    """Yield a line where a word isn't what was left there last."""
    if left is not None and left != found:
        yield f"    {found:0{digits}x} {_unseen_text(left, found)}"


def _unseen_text(left: int, found: int) -> str:
    """Say what changes a word without a store."""
    if found & ~left == found ^ left and not (found ^ left) & ~int(Entry.A | Entry.D):
        bits = "".join(bit.name or "" for bit in (Entry.A, Entry.D) if (found ^ left) & bit)
        return f"{' and '.join(bits)} set by the processor's own walk"
    return "changed by no store: by the delivery of an event, or by a store from the page before"


def _earlier_text(count: int, last: Store) -> str:
    return (
        f"{count_text(count, 'store')} to what the frame held before it was cleared to be a table, "
        f"the last at {_moment_text(last.moment)}"
    )


def _copied_text(found: Copied, code: CodeNames) -> str:
    """Say where a value was copied from, and what had put it there."""
    text = f"copied from PA {found.pa:#x}"
    if found.store is not None:
        return f"{text}, put there {_made_text(found.store, code)}"
    return f"{text}, {'where the loader left it' if found.by_loader else 'put there earlier'}"


def _made_text(store: Store, code: CodeNames) -> str:
    return f"{_by_text(store, code)}; {_moment_text(store.moment)}"


def _caller_lines(store: Store, code: CodeNames) -> Iterator[str]:
    if callers := _callers(code, store.stack):
        yield f"return addresses on the stack: {', '.join(callers)}"


def _by_text(store: Store, code: CodeNames) -> str:
    name = code.name(store.rip)
    place = f"{name} ({store.rip:#x})" if name else f"{store.rip:#x}"
    times = f", in {store.times:,} parts" if store.times > 1 else ""
    return f"by {place}{times}, CPL {store.cpl}, CR3 {store.cr3:#x}"


def _moment_text(moment: Moment) -> str:
    calls = f", {count_text(moment.system_calls, 'system call')}" if moment.system_calls else ""
    shown = f"behind line {moment.lines:,}: {moment.line}" if moment.lines else "before line 1"
    return f"{moment.seconds:.6f} s{calls}, {shown}"


def _records(blamed: Sequence[_Blamed], code: CodeNames) -> list[dict[str, Any]]:
    """Return what was written, entry by entry, as JSON has it: a record for each target.

    Of an entry `stores` are the last ones; `count` is the number of all of them.
    """
    return [
        {
            "target": str(each.target),
            "cr3": hex(each.context.cr3),
            "more_mappings": each.more,
            "walks": [
                {
                    "va": hex(path.va),
                    "entries": [
                        _entry_record(each, path, number, code) for number in range(len(path.steps))
                    ],
                }
                for path in each.walks
            ],
        }
        for each in blamed
    ]


def _entry_record(blamed: _Blamed, path: Walk, number: int, code: CodeNames) -> dict[str, Any]:
    step = path.steps[number]
    written = blamed.written.get(step.pa)
    record = {
        "level": step.level,
        "name": entry_name(blamed.context, step),
        "pa": hex(step.pa),
        "entry": hex(step.entry),
        "kind": step.kind.value,
    }
    if written is None:  # Outside RAM.
        return record
    before = stores_before(path, number, blamed.context, blamed.written)
    return record | {
        "loader": hex(written.first),
        "last": hex(written.last),
        "count": written.count,
        "stores": [
            {
                **_store_record(store, code),
                "before_table": at < before,
                "copied": [
                    {
                        "pa": hex(each.pa),
                        "store": None if each.store is None else _store_record(each.store, code),
                    }
                    for each in chain_of(store, blamed.written)
                ],
            }
            for at, store in enumerate(written.stores)
        ],
    }


def _store_record(store: Store, code: CodeNames) -> dict[str, Any]:
    return {
        "before": hex(store.before),
        "after": hex(store.after),
        "rip": hex(store.rip),
        "symbol": code.name(store.rip),
        "return_addresses": _callers(code, store.stack),
        "cpl": store.cpl,
        "cr3": hex(store.cr3),
        "times": store.times,
        **asdict(store.moment),
    }
