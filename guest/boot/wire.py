"""Runs as the runner takes them: 8-byte words, little-endian.

    run        size in bytes; mode | alias_key << 8 | maxphyaddr << 16; CR0; CR3; CR4; EFER;
               PKRU | PKRS << 32; alias; user; numbers of blocks to clear, of blocks of words, of
               programs; tag; bits of the CPUID record that have to be set, 16 bits each; then these
    to clear   address of the first frame | number of frames << 52
    words      address of the first word | number of words << 52, then the words
    program    numbers of steps, watched, signed | flags << 48, each of 16 bits; then these
    step       op | cpl << 8 | ac << 16; va; value; more
    watched    address
    signed     address; value

A block lies within one GiB: as much of what is far up as the runner makes visible at a time.
"""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from crosswalk.guest.boot.log import FEATURE_BITS, words_bound
from crosswalk.guest.boot.programs import Op, Program, Run
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = ["MODES", "RUN_WORDS", "STATE_CHANGED", "encoded", "scratch_size"]

MODES = (PagingMode.BIT32, PagingMode.PAE, PagingMode.LEVEL4, PagingMode.LEVEL5)
"""In the order of their numbers."""

RUN_WORDS = 16
"""Those before a run's blocks."""

STATE_CHANGED = 1
"""A program's flag: registers have to be loaded again after it."""

_STATE = frozenset({Op.MOV_CR0, Op.MOV_CR3, Op.MOV_CR4, Op.WRPKRU, Op.LOAD_FS})

_ADDRESS = (1 << 52) - 1
_MOST = 1 << 11  # Frames or words of a block; a count has 12 bits.
_GIB = 1 << 30
_COUNTED = 1 << 16


def encoded(run: Run) -> bytes:
    """Return a run as the runner takes it.

    Raises `BadInput` for addresses that aren't of 52 bits, or not aligned, and for a program whose
    results are more than a record has room for.
    """
    clear = _blocks(np.unique(run.clear), 12, "frame")
    blocks = _word_blocks(run)
    body = [*clear]
    for start, values in blocks:
        body.append(start | len(values) << 52)
        body.extend(values)
    for program in run.programs:
        body.extend(_program(program))
    head = [
        (RUN_WORDS + len(body)) * 8,
        MODES.index(run.mode) | run.alias_key << 8 | run.maxphyaddr << 16,
        run.cr0,
        run.cr3,
        run.cr4,
        run.efer,
        run.pkru | run.pkrs << 32,
        run.alias,
        run.user,
        len(clear),
        len(blocks),
        len(run.programs),
        run.tag,
        *_needs(run.needs),
    ]
    return np.array([*head, *body], dtype="<u8").tobytes()


def _needs(names: Sequence[str]) -> tuple[int, ...]:
    """Return three words of four bits' numbers each, 0 for none."""
    bits = [FEATURE_BITS[name] for name in names]
    return struct.unpack("<3Q", struct.pack("<12H", *bits, *[0] * (12 - len(bits))))


def scratch_size(runs: Iterable[Run]) -> int:
    """Return how many bytes the runner notes of a program at most: what it has to put back."""
    programs = (program for run in runs for program in run.programs)
    return max((8 * (len(one.watched) + len(one.signed)) for one in programs), default=0)


def _word_blocks(run: Run) -> list[tuple[int, list[int]]]:
    """Return the words in blocks of neighbours, by address; of an address twice, the last value."""
    words = np.asarray(run.words, np.uint64).reshape(-1, 2)
    where, last = np.unique(words[::-1, 0], return_index=True)
    values = words[::-1, 1][last].tolist()
    found: list[tuple[int, list[int]]] = []
    at = 0
    for block in _blocks(where, 3, "word"):
        count = block >> 52
        found.append((block & _ADDRESS, values[at : at + count]))
        at += count
    return found


def _blocks(addresses: U64, shift: int, what: str) -> list[int]:
    """Return address | count << 52 of each block of neighbours; `addresses` are in order."""
    size = 1 << shift
    bad = addresses[(addresses % np.uint64(size) != 0) | (addresses > np.uint64(_ADDRESS))]
    if len(bad):
        raise BadInput(f"{int(bad[0]):#x} is no address of a {what}")
    found: list[int] = []
    start = count = 0
    for address in addresses.tolist():
        goes_on = address == start + count * size and count < _MOST and address % _GIB
        if count and goes_on:
            count += 1
            continue
        if count:
            found.append(start | count << 52)
        start, count = address, 1
    if count:
        found.append(start | count << 52)
    return found


def _program(program: Program) -> list[int]:
    counts = (len(program.steps), len(program.watched), len(program.signed))
    if max(counts[2], words_bound(program)) >= _COUNTED:
        raise BadInput(
            f"a program of {counts[0]:,} steps and {sum(counts[1:]):,} words is too long"
        )
    flags = STATE_CHANGED if any(step.op in _STATE for step in program.steps) else 0
    words = [counts[0] | counts[1] << 16 | counts[2] << 32 | flags << 48]
    for step in program.steps:
        words += [step.op | step.cpl << 8 | step.ac << 16, step.va, step.value, step.more]
    words += _addresses(program.watched)
    for address, value in zip(
        _addresses([at for at, _ in program.signed]),
        [value for _, value in program.signed],
        strict=True,
    ):
        words += [address, value]
    return words


def _addresses(addresses: Sequence[int]) -> Sequence[int]:
    for address in addresses:
        if address & 7 or not 0 <= address <= _ADDRESS:
            raise BadInput(f"{address:#x} is no address of a word")
    return addresses
