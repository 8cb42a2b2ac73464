"""The page-table walk of Bochs as a library, under test: `virt_translate` of bochscpu-python.

python3 -m venv bochs && bochs/bin/pip install 'bochscpu-python<0.4'
crosswalk fuzz --walker 'exec:bochs/bin/python bochscpu_walker.py'

Version 0.4.0 needs a C library newer than its wheel says (glibc 2.38).
"""

import ctypes

from bochscpu import memory
from protocol import FRAME, serve

NOTHING = (1 << 64) - 1
held = {}


def insert(frame, content):
    """Let the emulator have a frame of this content."""
    if frame not in held:
        held[frame] = memory.allocate_host_page()
        memory.page_insert(frame, held[frame])
    ctypes.memmove(held[frame], bytes(content), FRAME)


def attach(space):
    """Return a function that translates with the emulator."""
    for frame, page in held.items():
        memory.page_remove(frame)
        memory.release_host_page(page)
    held.clear()
    frames = space.frames()
    for word in space.words.values():
        # A frame that isn't there ends the process: whatever an entry leads to is there.
        frames.setdefault(word & 0x000F_FFFF_FFFF_F000, bytes(FRAME))
    frames.setdefault(space.root, bytes(FRAME))
    for frame, content in frames.items():
        insert(frame, content)

    def translate(va):
        pa = memory.virt_translate(space.cr3, va)
        return None if pa == NOTHING else pa

    return translate


if __name__ == "__main__":
    serve(["translation"], ["4level"], attach)
