"""Made systems: processes that share a kernel's half, among frames that are no tables."""

import random
from dataclasses import dataclass, field

import numpy as np

from crosswalk.walker import Segments
from crosswalk.walker.formats import Contents, SourceKind
from tests.tables import KIB4, MODES, OPEN, XD, A, P, PageTables

SIZE = 4 << 20
KERNEL = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000, "PAE": 0xC000_0000}
KERNEL["32-bit"] = KERNEL["PAE"]
TEXT = b"Call me Ishmael. Some years ago, never mind how long precisely, "


@dataclass
class System:
    """Tables in a memory of 4 MiB, the first at 1 MiB, and the roots that were made."""

    mode: int | str = 4
    ram: int = SIZE
    entries: dict = field(default_factory=dict)
    roots: list = field(default_factory=list)
    _free: int = 1 << 20
    _kernel: dict = field(default_factory=dict)

    def space(self, mapped, *, upper=OPEN, gap=0):
        """Add a root with the kernel's entries and these (va, pa, flags)."""
        # Roots of PAE have 32 bytes; here each has a frame, and begins in its middle.
        tables = PageTables(self.mode, root=self._free + (0x7E0 if self.mode == "PAE" else 0))
        size = MODES[self.mode].entry_size
        if not self.roots:
            for page in range(40):
                flags = P | A | 2 | (XD if self.mode != "32-bit" else 0)
                tables.map(KERNEL[self.mode] + page * KIB4, 0x1000 * (page + 1), flags)
            top = max(MODES[self.mode].shifts)
            first = tables.entry_pa(KERNEL[self.mode], top)
            self._kernel = {first - tables.root: tables.entries[first]}
        for offset, entry in self._kernel.items():
            tables.entries[tables.root + offset] = entry
        for va, pa, flags in mapped:
            tables.map(va, pa, flags, upper=upper)
        assert size in {4, 8}
        self.entries |= tables.entries
        self.roots.append(tables.root)
        self._free = tables._free + gap
        return tables.root

    def processes(self, count):
        """Add processes with a few pages of their own."""
        for number in range(count):
            pages = [
                (0x40_0000 + at * KIB4, 0x20_0000 + KIB4 * (number + at), OPEN) for at in range(9)
            ]
            self.space(pages)
        return self

    def contents(self, seed=0, **others):
        """What a raw image of the memory holds, with noise in the frames that are no tables."""
        memory = noise(seed, self.ram)
        size = MODES[self.mode].entry_size
        for frame in {pa & -KIB4 for pa in self.entries} | {root & -KIB4 for root in self.roots}:
            memory[frame : frame + KIB4] = 0
        for pa, entry in self.entries.items():
            memory[pa : pa + size] = np.frombuffer(entry.to_bytes(size, "little"), np.uint8)
        return raw(Segments([(0, memory)]), **others)


def raw(memory, **others):
    return Contents(name="memory", kind=SourceKind.RAW, memory=memory, **others)


def noise(seed, size):
    """Frames of zeros, text, random bytes, small numbers and pointers, by turns."""
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    count = size // KIB4
    kinds = {
        "zeros": lambda: bytes(KIB4),
        "text": lambda: TEXT * (KIB4 // len(TEXT)),
        "random": lambda: numbers.bytes(KIB4),
        "small": lambda: numbers.integers(0, 300, 512).astype(np.uint64).tobytes(),
        "pointers": lambda: pointers(numbers, size).tobytes(),
    }
    frames = [kinds[chance.choice(list(kinds))]() for _ in range(count)]
    return np.frombuffer(b"".join(frames), np.uint8).copy()


def pointers(numbers, size):
    words = numbers.integers(0, size // 8, 512).astype(np.uint64)
    return words * np.uint64(8) + np.uint64(KERNEL[4])
