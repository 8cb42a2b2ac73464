"""What a guest's code is called, by its file: an instruction by its symbol, and what was called."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from crosswalk.emu.load.elf import ElfSegment, read_elf_guest
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.stack import behind_call
from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.spans import Spans

__all__ = ["CALLERS", "CodeNames"]

CALLERS = 6
"""How many return addresses of a stack are told."""


class CodeNames:
    """Names of a guest's code: those of `symbols`, or without them those of its own file.

    The file is read when a name is asked for, once.
    """

    def __init__(self, image: GuestImage, symbols: Spans | None = None) -> None:
        self._image = image
        self._given = symbols

    def name(self, rip: int) -> str | None:
        """Return "symbol+0x12" of a linear address; None where it lies in no symbol.

        "pa:symbol+0x12" is what lies at that physical address, as the file was loaded: the code of
        an early kernel, which runs there before it has mapped itself to where it is linked to.
        """
        return self._name(rip, 0)

    def name_behind(self, rip: int) -> str | None:
        """Return the same for the address behind an instruction, which its function may end with.

        So a return address is named by what called, and a halted CPU's RIP by what halted.
        """
        return self._name(rip, 1)

    def return_addresses(self, stack: Iterable[int]) -> Iterator[int]:
        """Yield the words of a stack that lie behind a CALL of the guest's file, in their order.

        Without frame pointers nothing tells which of them will be returned to: one may be left
        from a call that has returned.
        """
        return (word for word in stack if self._behind_call(word))

    def _name(self, rip: int, back: int) -> str | None:
        for prefix, address in (("", rip), *(("pa:", each) for each in self._linked(rip))):
            looked_up = max(address - back, 0)
            (row,) = self._symbols.rows_at(np.array([looked_up], np.uint64)).tolist()
            if row >= 0:
                offset = address - int(self._symbols.start[row])
                symbol = self._symbols.names.shown(row)
                return f"{prefix}{symbol}+{offset:#x}" if offset else f"{prefix}{symbol}"
        return None

    @cached_property
    def _symbols(self) -> Spans:
        return self._image.names if self._given is None else self._given

    @cached_property
    def _segments(self) -> tuple[ElfSegment, ...]:
        image = self._image
        try:
            return read_elf_guest(image.file).segments
        except BadInput:  # No ELF file, or one that was loaded by other headers than its own.
            return tuple(ElfSegment(pa, pa, data, size) for pa, data, size in image.segments)

    def _linked(self, address: int) -> Iterator[int]:
        """Yield where code is linked to that runs at its physical address: an early kernel does."""
        for each in self._segments:
            if each.pa != each.va and 0 <= address - each.pa <= each.size:
                yield address - each.pa + each.va

    def _behind_call(self, address: int) -> bool:
        return any(
            behind_call(each.content, address - start)
            for each in self._segments
            for start in (each.va, each.pa)
            if 0 < address - start <= len(each.content)
        )
