"""The ways to walk that are compared: timed with all results kept, checked by sums over them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker import (
    HekiArgs,
    coalesce_leaves,
    collective_rights,
    heki_walk,
    mappings,
    walk_leaves,
)
from scripts.benchmarks.cwalk import CWalker
from scripts.benchmarks.images import U64, Image

__all__ = [
    "TOP",
    "VOLATILITY",
    "Contender",
    "Sums",
    "c_walks",
    "checked",
    "python_walks",
    "volatility_walks",
]

TOP = 1 << 64
VOLATILITY = "volatility3 mapping()"
_ADDRESS = 0x000F_FFFF_FFFF_F000

Sums = dict[str, int]
"""`count`, and `va`, `pa`, `size`, `flags`: sums modulo 2^64, as far as a way to walk has them."""


@dataclass(frozen=True)
class Contender:
    """One way to walk an image: `run` is timed, `sums` says what a run finds."""

    name: str
    run: Callable[[Image], Any]
    sums: Callable[[Image], Sums]
    images: tuple[str, ...] = ()
    """The images that it walks; empty for all."""


def c_walks(c: CWalker) -> list[Contender]:
    """Return the baseline, and the same with the callback that is quicker."""
    both = (("C", c.walk), ("C, quicker callback", c.walk_by_field))
    return [Contender(name, walk, partial(_record_sums, walk)) for name, walk in both]


def python_walks() -> list[Contender]:
    """Return the ways that Python has."""
    return [
        Contender("walk_leaves", _lean, _lean_sums),
        Contender("with pa, size, flags", _full, _full_sums),
        Contender("coalesce_leaves", _ranges, _range_sums),
        Contender("collective_rights", _frames, _frame_sums),
        Contender("tuple generator", _tuples, lambda it: _row_sums(_straightforward(it))),
        Contender("mappings", _objects, _object_sums),
        Contender("heki_walk", _callback, _callback_sums),
    ]


def checked(contenders: Iterable[Contender], image: Image) -> Sums:
    """Return the sums that all contenders agree on; `AssertionError` where two don't."""
    agreed: Sums = {"count": image.leaves}
    for contender in contenders:
        for what, found in contender.sums(image).items():
            if agreed.setdefault(what, found) != found:
                raise AssertionError(
                    f"{contender.name} on {image.name}: {what} is {found}, not {agreed[what]}"
                )
    return agreed


def _lean(image: Image) -> list[Any]:
    return list(walk_leaves(image.memory, image.context))


def _lean_sums(image: Image) -> Sums:
    blocks = _lean(image)
    return {
        "count": sum(map(len, blocks)),
        "va": sum(_sum(it.va) for it in blocks) % TOP,
        "grants": sum(_sum(it.grant) for it in blocks),
    }


def _full(image: Image) -> list[tuple[U64, U64, U64, U64]]:
    blocks = walk_leaves(image.memory, image.context)
    return [(it.va, it.pa, it.size, it.flags) for it in blocks]


def _full_sums(image: Image) -> Sums:
    return _column_sums(_full(image))


def _ranges(image: Image) -> list[Any]:
    return list(coalesce_leaves(walk_leaves(image.memory, image.context), image.context))


def _range_sums(image: Image) -> Sums:
    blocks = _ranges(image)
    return {
        "count": sum(_sum(it.count) for it in blocks),
        "size": sum(_sum(it.size) for it in blocks) % TOP,
        "ranges": sum(map(len, blocks)),
    }


def _frames(image: Image) -> Any:
    return collective_rights(image.memory, image.context)


def _frame_sums(image: Image) -> Sums:
    """Return nothing; compare the bytes that are mapped, by the ranges, with those by all pages."""
    found = _sum(_frames(image).size)
    blocks = _full(image)
    start = np.concatenate([pa for _, pa, _, _ in blocks])
    order = np.argsort(start, kind="stable")
    start = start[order]
    end = np.maximum.accumulate(start + np.concatenate([it[2] for it in blocks])[order])
    covered = _sum(end - np.maximum(start, np.concatenate([start[:1], end[:-1]])))
    if found != covered:
        raise AssertionError(f"collective_rights on {image.name}: {found} bytes, not {covered}")
    return {}


def _tuples(image: Image) -> None:
    _exhaust(_straightforward(image))


def _straightforward(image: Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield (va, pa, size, flags) of each page, as anybody would write it."""
    memory = memoryview(image.words)  # type: ignore[arg-type]  # numpy arrays are buffers

    def visit(table: int, level: int, base: int) -> Iterator[tuple[int, int, int, int]]:
        span = 1 << 3 + 9 * level
        for at in range(512):
            entry = memory[table // 8 + at]
            if not entry & 1:
                continue
            va = base + at * span
            if level == 1 or entry & 0x80:
                yield va, entry & _ADDRESS & -span, span, entry & ~(_ADDRESS & -span)
            else:
                yield from visit(entry & _ADDRESS, level - 1, va)

    return visit(0, 4, 0)


def _objects(image: Image) -> None:
    _exhaust(mappings(image.memory, image.context))


def _object_sums(image: Image) -> Sums:
    pages = mappings(image.memory, image.context)
    return _row_sums((it.va, it.pa, it.size, it.flags) for it in pages)


def _callback(image: Image) -> None:
    heki_walk(image.memory, image.context, 0, TOP, lambda _: None, HekiArgs())


def _callback_sums(image: Image) -> Sums:
    rows: list[tuple[int, int, int, int]] = []

    def keep(args: HekiArgs) -> None:
        rows.append((args.va, args.pa, args.size, args.flags))

    heki_walk(image.memory, image.context, 0, TOP, keep, HekiArgs())
    return _row_sums(rows)


def _record_sums(walk: Callable[[Image], NDArray[np.void]], image: Image) -> Sums:
    found = walk(image)
    return _column_sums([(found["va"], found["pa"], found["size"], found["flags"])])


def _column_sums(blocks: list[tuple[U64, U64, U64, U64]]) -> Sums:
    found = {"count": sum(len(block[0]) for block in blocks)}
    for at, name in enumerate(("va", "pa", "size", "flags")):
        found[name] = sum(_sum(block[at]) for block in blocks) % TOP
    return found


def _row_sums(rows: Iterable[tuple[int, int, int, int]]) -> Sums:
    count = va = pa = size = flags = 0
    for row in rows:
        count, va, pa, size, flags = (
            count + 1,
            va + row[0],
            pa + row[1],
            size + row[2],
            flags + row[3],
        )
    sums = {"va": va, "pa": pa, "size": size, "flags": flags}
    return {"count": count} | {name: found % TOP for name, found in sums.items()}


def _sum(column: NDArray[Any]) -> int:
    return int(column.sum(dtype=np.uint64))


def _exhaust(rows: Iterator[Any]) -> None:
    deque(rows, maxlen=0)


def volatility_walks() -> list[Contender]:
    """Return the walk of Volatility 3, if that is installed."""
    if find_spec("volatility3") is None:
        return []
    return [Contender(VOLATILITY, _volatility_mapping, _volatility_sums)]


def _volatility_mapping(image: Image) -> list[Any]:
    # Neighbours that are contiguous in both come as one there, but are translated one by one.
    layer = _volatility_layer(image)
    return list(layer.mapping(0, 1 << 47, ignore_errors=True))


def _volatility_sums(image: Image) -> Sums:
    return {"size": sum(length for _, length, *_ in _volatility_mapping(image))}


def _volatility_layer(image: Image) -> Any:
    framework = "volatility3.framework"
    contexts = import_module(f"{framework}.contexts")
    intel = import_module(f"{framework}.layers.intel")
    physical = import_module(f"{framework}.layers.physical")

    # It leaves out pages that lie outside the memory, and here all do but the tables.
    endless = {"maximum_address": (1 << 52) - 1}
    memory = type("Memory", (physical.BufferDataLayer,), endless)
    context = contexts.Context()
    context.add_layer(memory(context, "memory", "memory", image.words.tobytes()))
    context.config["intel.memory_layer"] = "memory"
    context.config["intel.page_map_offset"] = 0
    return intel.Intel32e(context, "intel", "intel")
