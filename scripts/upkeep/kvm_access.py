"""kvm-unit-tests' access test with a stride: only some of its combinations, chosen evenly.

The test (x86/access.c there) keeps a combination as bits of one word, the first of its `ac_test_t`.
It makes the access of one, adds one to the word in those bits that its `invalid_mask` leaves free,
and goes on to the next word that it finds legal. With a stride, the host adds more: when
`ac_test_do_access` has come back, it moves the word on, in the free bits, by the stride less one,
and the test goes on from there by its own rules. So behind a combination the next one tested is the
first legal one that is at least the stride further on. What the test does with a combination, and
what it expects, is its own.
"""

import io
from dataclasses import dataclass
from typing import Protocol

import capstone
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from crosswalk.walker.errors import BadInput

__all__ = ["AccessTest", "Stride", "Words", "advanced", "read_access_test"]

_LOOPS = ("ac_test_exec", "ac_test_run")
"""Functions that have the access of a combination made: one of them, as the compiler inlines it."""

_ACCESS, _MASK = "ac_test_do_access", "invalid_mask"
_BITS = 31
"""Of a combination: the next bit says that all have been tested."""


@dataclass(frozen=True, slots=True)
class AccessTest:
    """Linear addresses in a file of the test, which are physical ones.

    `access` is the function that makes a combination's access, with a pointer to it in RDI;
    `returns` is where it comes back to in the loop; `mask` is the variable `invalid_mask`.
    """

    access: int
    returns: int
    mask: int


def read_access_test(data: bytes) -> AccessTest:
    """Return what a stride needs of a file of the test.

    Raises `BadInput` where that isn't in it: another version of the test, or another compiler.
    """
    try:
        elf = ELFFile(io.BytesIO(data))
    except ELFError as error:
        raise BadInput(f"a stride needs an ELF file: {error}") from None
    table = elf.get_section_by_name(".symtab")
    symbols = {} if table is None else {each.name: each for each in table.iter_symbols()}
    if _ACCESS not in symbols or _MASK not in symbols:
        raise BadInput(f"a stride needs its symbols {_ACCESS} and {_MASK}")
    access = symbols[_ACCESS]["st_value"]
    returns = [
        at
        for name in _LOOPS
        if name in symbols
        for at in _behind_calls(elf, symbols[name]["st_value"], symbols[name]["st_size"], access)
    ]
    if len(returns) != 1:
        loops = " or ".join(_LOOPS)
        raise BadInput(f"a stride needs one call of {_ACCESS} in {loops}; there are {len(returns)}")
    return AccessTest(access, returns[0], symbols[_MASK]["st_value"])


def _behind_calls(elf: ELFFile, start: int, size: int, called: int) -> list[int]:
    """Return the addresses behind the calls of a function in another."""
    code = b""
    for segment in elf.iter_segments():
        offset = start - segment["p_paddr"]
        if offset >= 0 and offset + size <= segment["p_filesz"]:
            code = segment.data()[offset : offset + size]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [
        each.address + each.size
        for each in decoder.disasm(code, start)
        if each.mnemonic == "call" and each.op_str == hex(called)
    ]


def advanced(word: int, invalid: int, steps: int) -> int:
    """Return the word as many steps further on, counted in the bits that `invalid` leaves free.

    The last one, all of these bits, where the steps lead beyond it.
    """
    free = [bit for bit in range(_BITS) if not invalid >> bit & 1]
    number = sum((word >> bit & 1) << place for place, bit in enumerate(free)) + steps
    number = min(number, (1 << len(free)) - 1)
    return sum((number >> place & 1) << bit for place, bit in enumerate(free))


class Words(Protocol):
    """A guest's words of 32 bits by physical address."""

    def read(self, at: int) -> int:
        """Return a word."""
        ...

    def write(self, at: int, value: int) -> None:
        """Store a word."""
        ...


class Stride:
    """Moves the test on: `entered` at the access's entry, `returned` behind its call.

    `steps` is the stride; `tested` counts the combinations.
    """

    def __init__(self, test: AccessTest, steps: int, words: Words) -> None:
        self._test, self._steps, self._words = test, steps, words
        self._at: int | None = None
        self.tested = 0

    def entered(self, at: int) -> None:
        """Note where the combination is: RDI at the entry of the access."""
        self._at = at

    def returned(self) -> None:
        """Move the combination on, before the test adds one; once for each access."""
        if self._at is None:  # The test may come to that place from elsewhere, too.
            return
        self.tested += 1
        word, invalid = self._words.read(self._at), self._words.read(self._test.mask)
        if word & invalid:
            raise BadInput(f"{self._at:#x} holds no combination: {word:#x}, of {invalid:#x} none")
        self._words.write(self._at, advanced(word, invalid, self._steps - 1))
        self._at = None
