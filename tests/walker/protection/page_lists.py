"""Page lists written with none of the code under test, and memory to put them in."""

import struct

import numpy as np

from crosswalk.walker import Segments

__all__ = ["LIST", "PAGE", "RAM", "Reads", "memory_with", "raw_page"]

PAGE = 4096
RAM = 0x80_0000
LIST = 0x10_0000


def raw_page(*entries, next_pa=0, npages=None):
    """A page of a list."""
    head = struct.pack("<QQQ", 0xFFFF_8880_0000_0000, next_pa, npages or len(entries))
    return (head + b"".join(struct.pack("<QQQ", *each) for each in entries)).ljust(PAGE, b"\0")


def memory_with(pages, ram=((0, RAM),)):
    """Physical memory of zeros but for these pages, by address."""
    parts = []
    for start, size in ram:
        data = np.zeros(size, np.uint8)
        for pa, page in pages.items():
            if start <= pa < start + size:
                held = np.frombuffer(page, np.uint8)[: start + size - pa]
                data[pa - start : pa - start + len(held)] = held
        parts.append((start, data))
    return Segments(parts)


class Reads:
    """Counts the reads of another memory."""

    def __init__(self, memory):
        self.memory = memory
        self.count = 0

    def __getattr__(self, name):
        return getattr(self.memory, name)

    def read(self, pa, size):
        self.count += 1
        return self.memory.read(pa, size)
