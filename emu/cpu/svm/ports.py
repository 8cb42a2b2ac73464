"""An access to a port, as an exit tells of it.

Source: AMD APM vol. 2, "Instruction Intercepts", "IOIO Intercepts".
"""

from dataclasses import dataclass

import capstone
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.decoding import decoder
from crosswalk.emu.cpu.svm.watched_code import PORT_INSTRUCTIONS, STRINGS

__all__ = ["PortAccess", "port_access"]

_IN, _STRING, _REPEATED = 1 << 0, 1 << 2, 1 << 3
_SIZES = {1: 1 << 4, 2: 1 << 5, 4: 1 << 6}
_ADDRESSES = {2: 1 << 7, 4: 1 << 8, 8: 1 << 9}
_SEGMENT, _PORT = 10, 16
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_REPEATS = {0xF2, 0xF3}
_READS = {
    *(operands.X86_INS_IN, operands.X86_INS_INSB),
    *(operands.X86_INS_INSW, operands.X86_INS_INSD),
}
_RDX = GENERAL.index("rdx")


@dataclass(frozen=True, slots=True)
class PortAccess:
    """The first port, bytes that are read or written, bytes of the instruction, and EXITINFO1."""

    port: int
    size: int
    length: int
    info: int


def port_access(cpu: Cpu, code: bytes) -> PortAccess | None:
    """Return the access of the instruction at RIP, `code`, or None if it makes none.

    The state of `cpu` is loaded.
    """
    found = next(decoder(cpu.bits).disasm(code, cpu.rip, 1), None)
    if found is None or found.id not in PORT_INSTRUCTIONS:
        return None
    reads = found.id in _READS
    kept, other = found.operands[not reads], found.operands[reads]
    port = other.imm if other.type == operands.X86_OP_IMM else cpu.general(_RDX)
    info = _SIZES[kept.size] | _ADDRESSES[found.addr_size] | (port & 0xFFFF) << _PORT
    if reads:
        info |= _IN
    if found.id in STRINGS:
        info |= _STRING | (_REPEATED if found.prefix[0] in _REPEATS else 0)
        info |= _segment(found, kept.mem, reads=reads) << _SEGMENT
    return PortAccess(port & 0xFFFF, int(kept.size), int(found.size), info)


def _segment(found: capstone.CsInsn, memory: operands, *, reads: bool) -> int:
    if reads:
        return _SEGMENTS.index("es")
    name = found.reg_name(memory.segment) if memory.segment else "ds"
    return _SEGMENTS.index(name)
