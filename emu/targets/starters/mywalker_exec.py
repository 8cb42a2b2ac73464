"""A page-table walker as a process, for Crosswalk to test: 4-level and 5-level paging.

crosswalk walker try 'exec:python3 mywalker_exec.py'
crosswalk fuzz --walker 'exec:python3 mywalker_exec.py'

It reads lines of JSON and writes lines of JSON, as a walker in any language can. `translate` says
where an access leads to, and `mappings` lists what is mapped. Put yours in their place, and leave
out of CLAIMS what it doesn't answer.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

CLAIMS = ["translation", "rights", "leaves", "flags"]
MODES = ["4level", "5level"]
P, RW, US, PS, G, XD = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 8, 1 << 63
FIELD = 0x000F_FFFF_FFFF_F000  # Bits 51:12 of an entry.


class Space:
    """An address space: registers, and the words of memory that aren't 0."""

    def __init__(self, line: dict[str, Any]) -> None:
        cpu = line["cpu"]
        registers = ("cr0", "cr3", "cr4", "efer", "pkru")
        self.cr0, self.cr3, self.cr4, self.efer, self.pkru = (int(cpu[n], 16) for n in registers)
        self.mask = int(cpu.get("encryption_mask", "0"), 16)
        self.address: int = (1 << cpu["maxphyaddr"]) - 4096 & ~self.mask
        self.page1gb, self.amd = cpu["page1gb"], cpu["vendor"] == "amd"
        self.levels = 5 if self.cr4 >> 12 & 1 else 4
        self.root = self.cr3 & self.address
        self.words = {int(pa, 16): int(word, 16) for pa, word in line["entries"].items()}

    def declined(self) -> bool:
        """Return whether there is no answer: other modes, LAM, LASS, UAI, PKS, encryption."""
        long_mode = self.efer >> 10 & 1
        more = self.cr3 >> 61 & 3 or self.cr4 >> 27 & 3 or self.efer >> 20 & 1
        more = more or self.cr4 >> 24 & 1
        return bool(not long_mode or more or self.mask)

    def canonical(self, va: int) -> bool:
        """Return whether the bits above the linear address width copy its top bit."""
        top = va >> 11 + 9 * self.levels
        return top in (0, (1 << 53 - 9 * self.levels) - 1)

    def reserved(self, level: int, entry: int) -> int:
        """Return the bits that a present entry may not set."""
        bits: int = FIELD & ~self.address & ~self.mask
        if not self.efer >> 11 & 1:
            bits |= XD
        if level > 3:
            bits |= PS | (G if self.amd else 0)
        elif level > 1 and entry & PS:
            bits |= (1 << 3 + 9 * level) - (1 << 13)
            if level == 3 and not self.page1gb:
                bits |= PS
        return bits


def translate(space: Space, question: dict[str, Any]) -> dict[str, Any]:
    """Return what an access comes to."""
    va = int(question["va"], 16)
    if not space.canonical(va):
        return {"outcome": "general_protection"}
    table, level = space.root, space.levels
    user = writable = executable = True
    while True:
        entry = space.words.get(table + (va >> 3 + 9 * level & 511) * 8, 0)
        if not entry & P or entry & space.reserved(level, entry):
            return {"outcome": "page_fault"}
        user = user and bool(entry & US)
        writable = writable and bool(entry & RW)
        executable = executable and not entry & XD
        if level == 1 or entry & PS:
            break
        table, level = entry & space.address, level - 1
    if not allowed(space, question, entry >> 59 & 15, user, writable, executable):
        return {"outcome": "page_fault"}
    inside = (1 << 3 + 9 * level) - 1
    return {"outcome": "ok", "pa": hex(entry & space.address & ~inside | va & inside)}


def allowed(
    space: Space,
    question: dict[str, Any],
    key: int,
    user: bool,
    writable: bool,
    executable: bool,
) -> bool:
    """Return whether the rights of a page allow an access."""
    by_user, access = question["cpl"] == 3, question["access"]
    if by_user and not user:
        return False
    if access == "execute":
        return executable and not (user and not by_user and space.cr4 >> 20 & 1)  # SMEP
    if user and not by_user and space.cr4 >> 21 & 1 and not question["ac"]:  # SMAP
        return False
    protected = by_user or bool(space.cr0 >> 16 & 1)  # CR0.WP
    if user and space.cr4 >> 22 & 1:  # Protection keys
        denied = space.pkru >> 2 * key
        if denied & 1 or (denied & 2 and access == "write" and protected):
            return False
    return bool(access == "read" or writable or not protected)


def mappings(
    space: Space, table: int, level: int, base: int, first: int, last: int
) -> Iterator[dict[str, Any]]:
    """Yield the mappings of a table that touch these addresses; `last` is the last of them."""
    size, root = 1 << 3 + 9 * level, level == space.levels
    touched = range(max(0, (first - base) // size), min(512, (last - base) // size + 1))
    for index in range(512) if root else touched:
        va = base + index * size
        if root and index >= 256:
            va += (1 << 64) - 512 * size  # The upper half: canonical addresses.
        entry = space.words.get(table + index * 8, 0)
        if va + size <= first or va > last:
            continue
        if not entry & P or entry & space.reserved(level, entry):
            continue
        if level > 1 and not entry & PS:
            yield from mappings(space, entry & space.address, level - 1, va, first, last)
        else:
            field = space.address & -size
            pa, flags = hex(entry & field), hex(entry & ~field)
            yield {"va": hex(va), "pa": pa, "size": size, "flags": flags}


def main() -> None:
    """Greet, then answer each question in a line, until standard input ends."""
    print(
        json.dumps({"protocol": "crosswalk-walker/1", "claims": CLAIMS, "modes": MODES}), flush=True
    )
    for line in sys.stdin:
        message = json.loads(line)
        if "cpu" in message:
            space = Space(message)
            continue
        answer: dict[str, Any]
        if space.declined():
            answer = {"outcome": "unknown"}
        elif "first" in message:
            first, last = int(message["first"], 16), int(message["last"], 16)
            found = mappings(space, space.root, space.levels, 0, first, last)
            answer = {"mappings": list(found)}
        else:
            answer = translate(space, message)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
