"""Whether a CPU that was asked to stop has halted before it did.

Asked to stop by a hook, Unicorn ends the block of code that runs. Where that block ends in a HLT,
it has halted as well, and must not go on without an interrupt. Nothing else tells: a jump to what
follows a HLT leaves the same RIP.
"""

import capstone

from crosswalk.emu.cpu.cpu import Cpu, Guarded
from crosswalk.emu.cpu.decoding import decoder

__all__ = ["halted_after", "stands_behind_hlt"]

_HLT = b"\xf4"
_LONGEST = 256
_ENDING = (
    *(capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL, capstone.CS_GRP_RET),
    *(capstone.CS_GRP_INT, capstone.CS_GRP_IRET),
)


def stands_behind_hlt(cpu: Cpu) -> bool:
    """Return whether the byte before RIP is a HLT's; `cpu` as loaded."""
    try:
        return cpu.code(-1, 1) == _HLT
    except Guarded:  # Under nested paging: no HLT was executed where nothing is.
        return False


def halted_after(cpu: Cpu, asked_at: int) -> bool:
    """Return whether `cpu`, behind a HLT, executed it on its way from `asked_at`.

    `asked_at` is where RIP was when the stop was asked for, at or before an instruction of the
    block of code that ran: straight code from there leads to the HLT, or there was none.
    """
    hlt = cpu.rip - 1
    if not 0 <= hlt - asked_at < _LONGEST:
        return False
    code = cpu.code(asked_at - cpu.rip, cpu.rip - asked_at)
    for instruction in decoder(cpu.bits).disasm(code or b"", asked_at):
        if instruction.address == hlt:
            return True
        if any(instruction.group(group) for group in _ENDING):
            return False
    return False
