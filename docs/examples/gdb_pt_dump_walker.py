"""The page-table walk of gdb-pt-dump, under test: what its command `pt` lists, in a checkout of it.

crosswalk fuzz --walker 'exec:python3 docs/examples/gdb_pt_dump_walker.py CHECKOUT'

Its `Machine` reads registers and memory of a guest; here it reads those of the question. All
entries are followed, as by `pt -force_traverse_all`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

EXAMPLES = Path(__file__).resolve().parent
sys.path[:0] = [str(EXAMPLES.parents[1] / "emu" / "targets" / "starters" / "adapters"), sys.argv[1]]

from protocol import FRAME, serve  # noqa: E402 -- Found by the line above.
from pt.pt_x86_64_parse import PT_x86_64_Backend  # noqa: E402

OPTIONS = SimpleNamespace(cr3=None, force_traverse_all=True, phys_verbose=True, save=False)
"""`phys_verbose`: neighbours are listed as one only where their frames are neighbours, too."""


class Machine:
    """Registers and memory of an address space."""

    def __init__(self, space):
        self.space, self.frames = space, space.frames()

    def read_register(self, name):
        """Return a register by its name in gdb."""
        return getattr(self.space, name.removeprefix("$"))

    def read_physical_memory(self, address, length):
        """Return bytes within a frame."""
        frame = self.frames.get(address & -FRAME, bytes(FRAME))
        return bytes(frame[address % FRAME : address % FRAME + length])


def attach(space):
    """Return a function that lists what `pt` lists."""
    listed = PT_x86_64_Backend(Machine(space)).parse_tables({}, OPTIONS)

    def mappings(first, last):
        for page in listed:
            if page.va <= last and page.va + page.page_size > first:
                rights = "-u"[not page.s] + "-w"[page.w] + "-x"[page.x]
                yield page.va, page.phys[0], page.page_size, None, rights

    return mappings


if __name__ == "__main__":
    serve(["leaves", "ranges", "effective"], ["32bit", "pae", "4level", "5level"], attach)
