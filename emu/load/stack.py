"""What lies on a guest's stack at an instruction, and which of it may be return addresses.

The stack is read without asking the CPU, which may be amid a store: a look through its own TLB
would change that. So the tables are read here, by the formats of their levels.
"""

import re

from crosswalk.emu.cpu.cpu import Cpu
from crosswalk.emu.cpu.ram import Ram
from crosswalk.walker.architecture import CR0, PAGE_BYTES
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, is_leaf, leaf_address, level_of
from crosswalk.walker.errors import BadInput

__all__ = ["behind_call", "stack_words"]

_SIZE = 512
"""How many bytes of a stack are read, from its pointer on."""
_LONGEST_CALL = 7
# CALL rel32; CALL of a register; of memory without a displacement, with one of 1 byte, or of 4.
# In the last of these the index byte of an address without a base is followed by 4 bytes.
_WITHOUT_BASE = b"".join(re.escape(bytes([each])) for each in range(5, 256, 8))
_CALL = re.compile(
    rb"(?:\xe8.{4}|\xff(?:[\xd0-\xd7]|[\x10-\x13\x16\x17]|\x14.|[\x50-\x53\x55-\x57].|\x54..|"
    rb"[\x15\x90-\x93\x95-\x97].{4}|\x94.{5}|\x14[" + _WITHOUT_BASE + rb"].{4}))\Z",
    re.DOTALL,
)
"""Source: Intel SDM vol. 2A, "CALL—Call Procedure", and "ModR/M and SIB Bytes"."""


def stack_words(cpu: Cpu, ram: Ram) -> tuple[int, ...]:
    """Return the words on the stack of the state that `cpu` has taken over, the last one first.

    They are of 8 bytes in 64-bit code and of 4 elsewhere; as many as can be read, none in real
    mode.
    """
    if not cpu.protected:
        return ()
    size = 8 if cpu.bits == 64 else 4
    found = b""
    at = cpu.rsp if size == 8 else cpu.rsp & 0xFFFF_FFFF
    end = at + _SIZE
    context = _context(cpu)
    while at < end:
        pa = (
            at if not cpu.cr0 & CR0.PG else None if context is None else _physical(ram, context, at)
        )
        part = min(end - at, PAGE_BYTES - at % PAGE_BYTES)
        if pa is None or not ram.start <= pa <= ram.start + ram.size - part:
            break
        found += ram.read(pa, part)
        at += part
    whole = len(found) // size * size
    return tuple(int.from_bytes(found[row : row + size], "little") for row in range(0, whole, size))


def _context(cpu: Cpu) -> PagingContext | None:
    """Return the paging; None where it is off, or has features that aren't modelled."""
    try:
        return PagingContext(cr0=cpu.cr0, cr3=cpu.cr3, cr4=cpu.cr4, efer=cpu.efer)
    except BadInput:
        return None


def _physical(ram: Ram, context: PagingContext, va: int) -> int | None:
    """Return where `va` is mapped to, whatever the rights; None for nowhere."""
    table = context.root
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        pa = table + level.index(va) * level.entry_size
        if not ram.start <= pa < ram.start + ram.size:
            return None
        entry = int.from_bytes(ram.read(pa, level.entry_size), "little")
        if not entry & Entry.P:
            return None
        if is_leaf(context, number, entry):
            return leaf_address(context, number, entry) + va % level.span
        table = entry & context.address_mask
    return None


def behind_call(code: bytes, offset: int) -> bool:
    """Return whether a near CALL ends at this offset into code, or may, by the bytes before it."""
    return bool(_CALL.search(code[max(offset - _LONGEST_CALL, 0) : offset]))
