"""The facts of a nested fault, found in the guest's registers, tables and code."""

import capstone
from capstone import x86_const as operands
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import FaultFacts, Grants
from crosswalk.emu.protect.permissions import WRITE_EXECUTE
from crosswalk.walker.architecture import CR0, RFlags
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.outcome import NestedError
from crosswalk.walker.protection.pagelist import Permission

__all__ = ["find_facts", "present_root", "read_code", "store_addresses"]

_ROOT = (1 << 52) - FRAME
_LOW = 1 << 47
_WINDOW_PAGES, _LONGEST_INSTRUCTION = 2, 15

_TOP = (1 << 64) - 1
_WITH_BASES = (operands.X86_REG_FS, operands.X86_REG_GS)
_DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DECODER.detail = True
# A push or a call stores below RSP, which none of its operands names.
_PUSHES = (operands.X86_INS_PUSH, operands.X86_INS_CALL, operands.X86_INS_PUSHFQ)


def present_root(machine: Machine) -> int:
    """Return the physical address of the guest's present root table."""
    return int(machine.engine.reg_read(x86.UC_X86_REG_CR3)) & _ROOT


def find_facts(
    machine: Machine, grants: Grants, rights: RightsFollower, frame: int, error_code: int
) -> FaultFacts:
    """Return the facts of a nested fault at a frame; the guest is at the faulting instruction.

    `rights` are up to date with the tables.
    """
    cpu, words, root = machine.cpu, machine.ram.words, present_root(machine)
    write, fetch = bool(error_code & NestedError.WR), bool(error_code & NestedError.ID)
    sealed = bool(grants.sealed[frame])
    loaded = rights.own[frame] & WRITE_EXECUTE == Permission.EXECUTE
    # A fetch may fault at an instruction's first byte, or at one on the page behind.
    pages = [find_leaf(words, root, cpu.rip + more) for more in (0, _LONGEST_INSTRUCTION - 1)]
    own = [leaf for leaf in pages if leaf is not None and leaf.pa // FRAME == frame]
    code = None if fetch else pages[0]
    place = None if code is None else (code.pa + cpu.rip % code.size) // FRAME
    return FaultFacts(
        write=write,
        fetch=fetch,
        cpl=cpu.cpl,
        write_protect=bool(cpu.engine.reg_read(x86.UC_X86_REG_CR0) & CR0.WP),
        interrupts=bool(cpu.rflags & RFlags.IF),
        in_text=place is not None and place < rights.count and bool(grants.text[place]),
        window=write and (sealed or loaded) and _in_window(machine, root, frame),
        writable=bool(rights.writable[frame]) and not sealed,
        loaded=loaded and not sealed,
        user_code=fetch and any(leaf.user and leaf.executable for leaf in own),
    )


def read_code(machine: Machine, size: int) -> bytes:
    """Return up to `size` bytes at RIP, as many as are mapped."""
    cpu, ram, root, code = machine.cpu, machine.ram, present_root(machine), b""
    while len(code) < size:
        va = cpu.rip + len(code)
        leaf = find_leaf(ram.words, root, va)
        part = min(size - len(code), FRAME - va % FRAME)
        pa = 0 if leaf is None else leaf.pa + va % leaf.size
        if leaf is None or pa + part > ram.size:
            break
        code += ram.read(pa, part)
    return code


def _in_window(machine: Machine, root: int, frame: int) -> bool:
    """Return whether the store goes through a mapping made for patching alone."""
    stored = store_addresses(machine.cpu, read_code(machine, _LONGEST_INSTRUCTION))
    if stored is None or stored[1] >= _LOW:
        return False
    words, pages = machine.ram.words, []
    for va in lower_leaves(words, root):
        pages.append(va)
        if len(pages) > _WINDOW_PAGES:
            return False
    for va in {each & -FRAME for each in stored}:
        leaf = find_leaf(words, root, va)
        if leaf is None or leaf.user or va not in pages:
            return False
        if leaf.pa // FRAME == frame:
            return True
    return False


def store_addresses(cpu: Cpu, code: bytes) -> tuple[int, int] | None:
    """Return the first and the last byte's address that the instruction stores to.

    `code` are the bytes at RIP. None where it stores nothing, or isn't known; of a repeated string
    instruction, the next store.
    """
    for instruction in _DECODER.disasm(code, cpu.rip, 1):
        for operand in instruction.operands:
            if operand.type != operands.X86_OP_MEM or not operand.access & capstone.CS_AC_WRITE:
                continue
            memory = operand.mem
            address = memory.disp + _register(cpu, instruction, memory.base)
            address += memory.scale * _register(cpu, instruction, memory.index)
            if memory.segment in _WITH_BASES:
                address += cpu.segment(instruction.reg_name(memory.segment)).base
            return address & _TOP, address + operand.size - 1 & _TOP
        if instruction.id in _PUSHES:
            return cpu.rsp - 8 & _TOP, cpu.rsp - 1 & _TOP
    return None


def _register(cpu: Cpu, instruction: capstone.CsInsn, number: int) -> int:
    if number == operands.X86_REG_INVALID:
        return 0
    if number == operands.X86_REG_RIP:
        return int(instruction.address + instruction.size)
    name = instruction.reg_name(number)
    if name in GENERAL:
        return cpu.general(GENERAL.index(name))
    return cpu.general(GENERAL.index("r" + name[1:])) & 0xFFFF_FFFF  # EDI of RDI.
