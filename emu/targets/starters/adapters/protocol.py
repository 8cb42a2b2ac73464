"""What the adapters in this folder share: the lines of crosswalk-walker/1, read and written.

It needs no more than a Python with its standard library, since a walker's own may have no more.
"""

import json
import sys

FRAME = 4096


class Space:
    """An address space: registers, and the words of memory that aren't 0."""

    def __init__(self, line):
        cpu = line["cpu"]
        names = ("cr0", "cr3", "cr4", "efer")
        self.cr0, self.cr3, self.cr4, self.efer = (int(cpu[name], 16) for name in names)
        self.words = {int(pa, 16): int(word, 16) for pa, word in line["entries"].items()}
        self.encryption = int(cpu.get("encryption_mask", "0"), 16)

    @property
    def mode(self):
        """The paging mode, as `--mode` calls it."""
        if not self.cr4 >> 5 & 1:  # PAE
            return "32bit"
        if not self.efer >> 10 & 1:  # LMA
            return "pae"
        return "5level" if self.cr4 >> 12 & 1 else "4level"

    @property
    def root(self):
        """The physical address of the first table."""
        if self.mode in ("32bit", "pae"):
            return self.cr3 & (0xFFFF_F000 if self.mode == "32bit" else 0xFFFF_FFE0)
        return self.cr3 & 0x000F_FFFF_FFFF_F000

    @property
    def more_than_tables(self):
        """Whether more than tables decides about an address: LAM, UAI, LASS, memory encryption."""
        features = self.cr3 >> 61 & 3 or self.cr4 >> 27 & 3 or self.efer >> 20 & 1
        return bool(self.encryption or (self.efer >> 10 & 1 and features))

    def frames(self):
        """Return the frames that hold words other than 0, as bytes by their address."""
        found = {}
        for pa, word in self.words.items():
            frame = found.setdefault(pa & -FRAME, bytearray(FRAME))
            frame[pa % FRAME : pa % FRAME + 8] = word.to_bytes(8, "little")
        return found


def serve(claims, modes, attach):
    """Answer all questions. `attach(space)` returns a function, or None to decline the space.

    With the claim translation the function takes an address, and returns the physical one or None;
    with the claim leaves it takes the first and the last address of a range, and yields a
    (va, pa, size, flags) for each mapping, or a (va, pa, size, flags, rights); None says nothing.
    """
    greeting = {"protocol": "crosswalk-walker/1", "claims": claims, "modes": modes}
    print(json.dumps(greeting), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "cpu" in message:
            space = Space(message)
            declined = space.mode not in modes or space.more_than_tables
            ask = None if declined else attach(space)
            continue
        print(json.dumps(answer(ask, message)), flush=True)


def answer(ask, message):
    """Return the answer to a question, as the protocol has it."""
    if ask is None:
        return {"outcome": "unknown"}
    if "first" in message:
        found = ask(int(message["first"], 16), int(message["last"], 16))
        return {"mappings": [mapping(*each) for each in found]}
    pa = ask(int(message["va"], 16))
    return {"outcome": "page_fault"} if pa is None else {"outcome": "ok", "pa": hex(pa)}


def mapping(va, pa, size, flags, rights=None):
    """Return a mapping as the protocol has it."""
    told = {"va": hex(va), "size": size}
    told |= {key: hex(each) for key, each in (("pa", pa), ("flags", flags)) if each is not None}
    return told if rights is None else told | {"rights": rights}
