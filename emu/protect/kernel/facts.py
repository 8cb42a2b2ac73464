"""The facts of a nested fault, found in the guest's registers, tables and code."""

from dataclasses import dataclass

import capstone
from capstone import x86_const as operands
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import FaultFacts, Grants
from crosswalk.emu.protect.permissions import WRITE_EXECUTE
from crosswalk.walker.architecture import CR0, RFlags
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = [
    "LONGEST_INSTRUCTION",
    "GuestState",
    "cpu_state",
    "find_facts",
    "instruction_size",
    "read_code",
    "store_addresses",
]

_ROOT = (1 << 52) - FRAME
_LOW = 1 << 47
_WINDOW_PAGES = 2
LONGEST_INSTRUCTION = 15
"""The size of the longest instruction, in bytes."""

_TOP = (1 << 64) - 1
_BASES = {operands.X86_REG_FS: "fs_base", operands.X86_REG_GS: "gs_base"}
_DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DECODER.detail = True
# A push or a call stores below RSP, which none of its operands names.
_PUSHES = (operands.X86_INS_PUSH, operands.X86_INS_CALL, operands.X86_INS_PUSHFQ)


@dataclass(frozen=True, slots=True)
class GuestState:
    """Registers of a guest stopped at an instruction; `general` in the order of `GENERAL`."""

    general: tuple[int, ...]
    rip: int
    cpl: int
    rflags: int
    cr0: int
    cr3: int
    fs_base: int
    gs_base: int

    @property
    def root(self) -> int:
        """The physical address of the present root table."""
        return self.cr3 & _ROOT


def cpu_state(cpu: Cpu) -> GuestState:
    """Return the state of an emulated CPU."""
    return GuestState(
        general=tuple(cpu.general(number) for number in range(len(GENERAL))),
        rip=cpu.rip,
        cpl=cpu.cpl,
        rflags=cpu.rflags,
        cr0=int(cpu.engine.reg_read(x86.UC_X86_REG_CR0)),
        cr3=int(cpu.engine.reg_read(x86.UC_X86_REG_CR3)),
        fs_base=cpu.segment("fs").base,
        gs_base=cpu.segment("gs").base,
    )


def find_facts(
    state: GuestState,
    memory: PhysicalMemory,
    grants: Grants,
    rights: RightsFollower,
    frame: int,
    *,
    write: bool,
    fetch: bool,
    sealed: bool,
) -> FaultFacts:
    """Return the facts of a nested fault at a frame; the guest is at the faulting instruction.

    An access that is neither a write nor a fetch is a read. `rights` are up to date with the
    tables. `sealed` says whether the frame is, in the image or outside.
    """
    root = state.root
    loaded = rights.own[frame] & WRITE_EXECUTE == Permission.EXECUTE
    # A fetch may fault at an instruction's first byte, or at one on the page behind.
    pages = [find_leaf(memory, root, state.rip + more) for more in (0, LONGEST_INSTRUCTION - 1)]
    own = [leaf for leaf in pages if leaf is not None and leaf.pa // FRAME == frame]
    code = None if fetch else pages[0]
    place = None if code is None else (code.pa + state.rip % code.size) // FRAME
    return FaultFacts(
        write=write,
        fetch=fetch,
        cpl=state.cpl,
        write_protect=bool(state.cr0 & CR0.WP),
        interrupts=bool(state.rflags & RFlags.IF),
        in_text=place is not None and place < rights.count and bool(grants.text[place]),
        window=write and (sealed or loaded) and _in_window(state, memory, frame),
        writable=bool(rights.writable[frame]) and not sealed,
        loaded=loaded and not sealed,
        user_code=fetch and any(leaf.user and leaf.executable for leaf in own),
    )


def read_code(state: GuestState, memory: PhysicalMemory, size: int) -> bytes:
    """Return up to `size` bytes at RIP, as many as are mapped."""
    code = b""
    (_, ram_size), *_ = memory.ranges
    while len(code) < size:
        va = state.rip + len(code)
        leaf = find_leaf(memory, state.root, va)
        part = min(size - len(code), FRAME - va % FRAME)
        pa = 0 if leaf is None else leaf.pa + va % leaf.size
        if leaf is None or pa + part > ram_size:
            break
        code += memory.read(pa, part)
    return code


def instruction_size(state: GuestState, code: bytes) -> int:
    """Return the size in bytes of the instruction at RIP, whose bytes begin `code`; 0 for none."""
    return next((each.size for each in _DECODER.disasm(code, state.rip, 1)), 0)


def _in_window(state: GuestState, memory: PhysicalMemory, frame: int) -> bool:
    """Return whether the store goes through a mapping made for patching alone."""
    stored = store_addresses(state, read_code(state, memory, LONGEST_INSTRUCTION))
    if stored is None or stored[1] >= _LOW:
        return False
    pages = []
    for va in lower_leaves(memory, state.root):
        pages.append(va)
        if len(pages) > _WINDOW_PAGES:
            return False
    for va in {each & -FRAME for each in stored}:
        leaf = find_leaf(memory, state.root, va)
        if leaf is None or leaf.user or va not in pages:
            return False
        if leaf.pa // FRAME == frame:
            return True
    return False


def store_addresses(state: GuestState, code: bytes) -> tuple[int, int] | None:
    """Return the first and the last byte's address that the instruction stores to.

    `code` are the bytes at RIP. None where it stores nothing, or isn't known; of a repeated string
    instruction, the next store.
    """
    for instruction in _DECODER.disasm(code, state.rip, 1):
        for operand in instruction.operands:
            if operand.type != operands.X86_OP_MEM or not operand.access & capstone.CS_AC_WRITE:
                continue
            memory = operand.mem
            address = memory.disp + _register(state, instruction, memory.base)
            address += memory.scale * _register(state, instruction, memory.index)
            if memory.segment in _BASES:
                address += getattr(state, _BASES[memory.segment])
            return address & _TOP, address + operand.size - 1 & _TOP
        if instruction.id in _PUSHES:
            rsp = state.general[GENERAL.index("rsp")]
            return rsp - 8 & _TOP, rsp - 1 & _TOP
    return None


def _register(state: GuestState, instruction: capstone.CsInsn, number: int) -> int:
    if number == operands.X86_REG_INVALID:
        return 0
    if number == operands.X86_REG_RIP:
        return int(instruction.address + instruction.size)
    name = instruction.reg_name(number)
    if name in GENERAL:
        return state.general[GENERAL.index(name)]
    return state.general[GENERAL.index("r" + name[1:])] & 0xFFFF_FFFF  # EDI of RDI.
