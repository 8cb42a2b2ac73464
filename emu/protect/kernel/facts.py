"""The facts of a nested fault, found in the guest's registers, tables and code."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import capstone
from capstone import x86_const as operands

from crosswalk.emu.cpu.cpu import GENERAL, Cpu
from crosswalk.emu.cpu.decoding import decoder, register_number
from crosswalk.emu.cpu.engine import MAXPHYADDR
from crosswalk.emu.protect.kernel.guestwalk import KERNEL_BASE, find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import FaultFacts, Grants
from crosswalk.emu.protect.permissions import WRITE_EXECUTE
from crosswalk.walker.architecture import CR3, RFlags
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.protection.pagelist import Permission

__all__ = [
    "LONGEST_INSTRUCTION",
    "GuestState",
    "cpu_state",
    "find_facts",
    "host_context",
    "instruction_size",
    "read_code",
    "store_addresses",
]

_WINDOW_PAGES = 2
LONGEST_INSTRUCTION = 15
"""The size of the longest instruction, in bytes."""

_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_STACK = frozenset({"rsp", "esp", "sp", "rbp", "ebp", "bp"})
# What stores below the stack pointer, which none of its operands names, and how many values.
_PUSHES = dict.fromkeys(
    (
        operands.X86_INS_PUSH,
        operands.X86_INS_CALL,
        operands.X86_INS_PUSHF,
        operands.X86_INS_PUSHFD,
        operands.X86_INS_PUSHFQ,
    ),
    1,
) | {operands.X86_INS_PUSHAW: 8, operands.X86_INS_PUSHAL: 8}
_OPERAND_SIZE = 0x66
_TOP, _TOP_32 = (1 << 64) - 1, (1 << 32) - 1
_decoder = functools.cache(decoder)


@dataclass(frozen=True, slots=True)
class GuestState:
    """Registers of a guest stopped at an instruction; `general` in the order of `GENERAL`.

    `context` has its control registers. Its code is of 16, 32 or 64 `bits`, and `bases` are those
    of segments by name; in 64-bit code only those of FS and GS are looked at.
    """

    general: tuple[int, ...]
    rip: int
    cpl: int
    rflags: int
    context: PagingContext
    bits: int = 64
    bases: Mapping[str, int] = field(default_factory=dict)

    @property
    def root(self) -> int:
        """The physical address of the present root table."""
        return self.context.root

    def code_address(self, offset: int) -> int:
        """Return the linear address of code at RIP plus `offset`."""
        return self.linear("cs", self.rip + offset)

    def linear(self, segment: str, offset: int) -> int:
        """Return the linear address of an offset in a segment."""
        if self.bits == 64:
            return offset + self.bases.get(segment, 0) * (segment in {"fs", "gs"}) & _TOP
        return offset + self.bases[segment] & _TOP_32


def cpu_state(cpu: Cpu) -> GuestState:
    """Return the state of an emulated CPU, as it was taken over."""
    return GuestState(
        general=tuple(cpu.general(number) for number in range(len(GENERAL))),
        rip=cpu.rip,
        cpl=cpu.cpl,
        rflags=cpu.rflags,
        context=host_context(cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer),
        bits=cpu.bits,
        bases={name: cpu.segment(name).base for name in _SEGMENTS},
    )


@functools.lru_cache(maxsize=64)
def host_context(cr0: int, cr3: int, cr4: int, efer: int) -> PagingContext:
    """Return the paging of a guest under SVM, by its control registers.

    Its processor is AMD's, as the emulated one with SVM is: in PAE paging an access reads the PDPTE
    that it goes through from memory, and none is loaded with CR3.

    Source: AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3A, "PDPTE Registers".
    """
    return PagingContext(
        cr0=cr0,
        cr3=cr3 & ~CR3.NO_FLUSH,
        cr4=cr4,
        efer=efer,
        maxphyaddr=MAXPHYADDR,
        vendor=Vendor.AMD,
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
    context = state.context
    loaded = rights.own[frame] & WRITE_EXECUTE == Permission.EXECUTE
    # A fetch may fault at an instruction's first byte, or at one on the page behind.
    places = [state.code_address(more) for more in (0, LONGEST_INSTRUCTION - 1)]
    pages = [find_leaf(memory, context, va) for va in places]
    frames = [
        None if leaf is None else (leaf.pa + va % leaf.size) // FRAME
        for leaf, va in zip(pages, places, strict=True)
    ]
    own = [leaf for leaf, at in zip(pages, frames, strict=True) if leaf is not None and at == frame]
    place = None if fetch else frames[0]
    return FaultFacts(
        write=write,
        fetch=fetch,
        cpl=state.cpl,
        write_protect=context.wp,
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
        va = state.code_address(len(code))
        leaf = find_leaf(memory, state.context, va)
        part = min(size - len(code), FRAME - va % FRAME)
        pa = 0 if leaf is None else leaf.pa + va % leaf.size
        if leaf is None or pa + part > ram_size:
            break
        code += memory.read(pa, part)
    return code


def instruction_size(state: GuestState, code: bytes) -> int:
    """Return the size in bytes of the instruction at RIP, whose bytes begin `code`; 0 for none."""
    return next((each.size for each in _decoder(state.bits).disasm(code, state.rip, 1)), 0)


def _in_window(state: GuestState, memory: PhysicalMemory, frame: int) -> bool:
    """Return whether the store goes through a mapping made for patching alone."""
    stored = store_addresses(state, read_code(state, memory, LONGEST_INSTRUCTION))
    if stored is None or stored[1] >= KERNEL_BASE[state.context.mode]:
        return False
    pages = []
    for va in lower_leaves(memory, state.context):
        pages.append(va)
        if len(pages) > _WINDOW_PAGES:
            return False
    for va in {each & -FRAME for each in stored}:
        leaf = find_leaf(memory, state.context, va)
        if leaf is None or leaf.user or va not in pages:
            return False
        if leaf.pa // FRAME == frame:
            return True
    return False


def store_addresses(state: GuestState, code: bytes) -> tuple[int, int] | None:
    """Return the first and the last byte's linear address that the instruction stores to.

    `code` are the bytes at RIP. None where it stores nothing, or isn't known; of a repeated string
    instruction, the next store.
    """
    for instruction in _decoder(state.bits).disasm(code, state.rip, 1):
        for operand in instruction.operands:
            if operand.type != operands.X86_OP_MEM or not operand.access & capstone.CS_AC_WRITE:
                continue
            first = _address(state, instruction, operand.mem)
            return None if first is None else _stored(state, first, operand.size)
        if values := _PUSHES.get(instruction.id):
            size = values * _pushed(state, instruction)
            mask = _TOP if state.bits == 64 else _TOP_32
            top = state.general[GENERAL.index("rsp")] - size & mask
            return _stored(state, state.linear("ss", top), size)
    return None


def _stored(state: GuestState, first: int, size: int) -> tuple[int, int]:
    """Return the linear addresses of the first and the last of `size` bytes."""
    return first, first + size - 1 & (_TOP if state.bits == 64 else _TOP_32)


def _pushed(state: GuestState, instruction: capstone.CsInsn) -> int:
    """Return the size in bytes of a value that a push or a call stores."""
    short = _OPERAND_SIZE in instruction.prefix
    if state.bits == 64:
        return 2 if short else 8
    return 2 if short is (state.bits == 32) else 4


def _address(state: GuestState, instruction: capstone.CsInsn, memory: operands) -> int | None:
    """Return the linear address of an operand; None for one by registers that aren't general."""
    offset = int(memory.disp)
    for number, scale in ((memory.base, 1), (memory.index, memory.scale)):
        name = instruction.reg_name(number) if number else "riz"
        if name in {"rip", "eip"}:
            offset += instruction.address + instruction.size
        elif name not in {"riz", "eiz"}:
            register = register_number(name)
            if register is None:
                return None
            offset += scale * state.general[register]
    offset &= (1 << 8 * int(instruction.addr_size)) - 1
    if memory.segment:
        return state.linear(instruction.reg_name(memory.segment), offset)
    base = instruction.reg_name(memory.base) if memory.base else ""
    return state.linear("ss" if base in _STACK else "ds", offset)
