"""The peer of `crosswalk walk`: a plain loop that writes an f-string a line.

It lists what a raw image with its root at 0 maps, over the walker's columns, and writes the same
bytes to standard output.
"""

import sys
from collections.abc import Sequence

from crosswalk.emu.report.text import flags_text, size_text
from crosswalk.walker import PagingContext, Rights, coalesce_leaves, walk_leaves
from crosswalk.walker.formats import open_source
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.rights import rights_table

__all__ = ["main"]

_RIGHTS = [Rights(bits) for bits in range(64)]


def _text(memory: PhysicalMemory, context: PagingContext) -> None:
    write = sys.stdout.write
    rights = [f"{_RIGHTS[it].supervisor} {_RIGHTS[it].user}" for it in rights_table(context)]
    ends: dict[tuple[int, int, int, int], str] = {}
    for block in walk_leaves(memory, context):
        columns = (block.va, block.pa, block.size, block.level, block.flags, block.grant)
        for va, pa, size, level, flags, grant in zip(*(it.tolist() for it in columns), strict=True):
            key = size, level, flags, grant
            end = ends.get(key)
            if end is None:
                end = f"{size_text(size):>7} {rights[grant]}  {flags_text(level, flags)}"
                ends[key] = end
            write(f"{va:016x} {pa:013x} {end}\n")


def _json(memory: PhysicalMemory, context: PagingContext) -> None:
    write = sys.stdout.write
    rights = [
        f'{{"supervisor": "{_RIGHTS[it].supervisor}", "user": "{_RIGHTS[it].user}"}}'
        for it in rights_table(context)
    ]
    for block in walk_leaves(memory, context):
        columns = (block.va, block.pa, block.size, block.level, block.flags, block.grant)
        for va, pa, size, level, flags, grant in zip(*(it.tolist() for it in columns), strict=True):
            write(
                f'{{"va": "{va:#x}", "pa": "{pa:#x}", "size": {size}, "level": {level}, '
                f'"flags": "{flags:#x}", "rights": {rights[grant]}}}\n'
            )


def _coalesced(memory: PhysicalMemory, context: PagingContext) -> None:
    write = sys.stdout.write
    sizes: dict[int, str] = {}
    for block in coalesce_leaves(walk_leaves(memory, context), context):
        columns = (block.va, block.pa, block.size, block.rights, block.count)
        for va, pa, size, bits, count in zip(*(it.tolist() for it in columns), strict=True):
            if size not in sizes:
                sizes[size] = size_text(size)
            rights = _RIGHTS[bits]
            write(
                f"{va:016x}-{va + size - 1:016x} {pa:013x} {sizes[size]:>12} "
                f"{rights.supervisor} {rights.user}  {count:,} page{'s' if count > 1 else ''}\n"
            )


_LOOPS = {"text": _text, "json": _json, "coalesced": _coalesced}


def main(arguments: Sequence[str]) -> int:
    """List what the image FILE maps; return the exit status."""
    path, form = arguments
    source = open_source(path, Registers(cr3=0))
    _LOOPS[form](source.memory, source.context)
    return 0
