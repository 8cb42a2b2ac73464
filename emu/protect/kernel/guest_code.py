"""What differs between guests in the code of attacks: words, gates, and tables, as data.

An attack is written once, for 64-bit code. `in_words` makes 32-bit code of it; what is done with
page tables follows from the formats of the guest's paging mode.

Source: Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging",
"IDT Descriptors", "64-Bit Mode IDT".
"""

import re
from dataclasses import dataclass

from crosswalk.emu.cpu.cpu import Segment
from crosswalk.emu.protect.kernel.guestwalk import KERNEL_BASE
from crosswalk.walker.architecture import CR4, GIB, Vector
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import Level, level_of

__all__ = [
    "MARKED",
    "WORDS",
    "GuestWords",
    "exception_gate",
    "executable",
    "forged_root",
    "huge_level",
    "identity",
    "in_words",
    "large_pages",
    "root_executable",
    "window",
    "words_of",
]

MARKED = "rbp"
"""The register, or its lower half, that has the mark where an attack changes no memory."""


@dataclass(frozen=True, slots=True)
class GuestWords:
    """What code of one size has: its `bits`, and the addresses and segments of Linux of that size.

    `direct` and `image` are the linear addresses of physical address 0 without KASLR, in the direct
    map and in the image. `code` and `stack` are flat, with Linux' selectors. `store_and_halt` is
    the code MOV [RBX], RAX; HLT in the lowest bytes of a word, `mark` what attacks store.
    """

    bits: int
    direct: int
    image: int
    code: Segment
    stack: Segment
    mark: int
    stores: bytes

    @property
    def size(self) -> int:
        """The bytes of a word, which a register and a push have."""
        return self.bits // 8

    @property
    def store_and_halt(self) -> bytes:
        """Code that stores RAX at RBX, and halts."""
        return self.stores + b"\xf4"

    def gate(self, vector: int) -> int:
        """Return the offset of a gate in an IDT; its first two words have all of it."""
        return 2 * self.size * vector

    def gate_words(self, handler: int) -> tuple[int, int]:
        """Return the first two words of the interrupt gate of a handler in the kernel's code."""
        low = handler & 0xFFFF | self.code.selector << 16
        high = handler & 0xFFFF_0000 | _INTERRUPT_GATE
        if self.size == 4:
            return low, high
        return low | high << 32, handler >> 32


_INTERRUPT_GATE = 0x8E00
_FLAT = 0xFFFF_FFFF

WORDS = {
    each.bits: each
    for each in (
        GuestWords(
            bits=64,
            direct=0xFFFF_8880_0000_0000,
            image=0xFFFF_FFFF_8000_0000,
            code=Segment(0x10, 0, _FLAT, 0x00A0_9B00),
            stack=Segment(0x18, 0, _FLAT, 0x00C0_9300),
            mark=0x5EED_C0DE_5EED_C0DE,
            stores=bytes.fromhex("488903"),
        ),
        GuestWords(
            bits=32,
            direct=0xC000_0000,
            image=0xC000_0000,
            code=Segment(0x60, 0, _FLAT, 0x00C0_9B00),
            stack=Segment(0x68, 0, _FLAT, 0x00C0_9300),
            mark=0x5EED_C0DE,
            stores=bytes.fromhex("8903"),
        ),
    )
}
"""By the size of code, in bits."""

_RULES = (
    (re.compile(r"\br(ax|bx|cx|dx|si|di|sp|bp)\b"), r"e\1"),
    (re.compile(r"\bqword\b"), "dword"),
    (re.compile(r"\bmovsq\b"), "movsd dword ptr es:[edi], dword ptr [esi]"),
)


def in_words(source: str, bits: int) -> str:
    """Return 64-bit source for code of 32 bits, with registers, operands and moves of that size.

    Source for 64 bits stays as it is.
    """
    if bits == 32:
        for pattern, replacement in _RULES:
            source = pattern.sub(replacement, source)
    return source


def words_of(context: PagingContext) -> GuestWords:
    """Return what a kernel's code has in this paging mode: 64 bits in IA-32e mode, else 32."""
    return WORDS[64 if context.mode.long else 32]


def executable(context: PagingContext) -> str:
    """Return source that clears NX in the entry at RBX, that of the page at RDI."""
    cleared = f"{_NX_CLEARED}\n" if context.nxe else ""
    return f"{cleared}invlpg [rdi]"


def root_executable(context: PagingContext) -> str:
    """Return source that clears NX in the entry at USER_ENTRY, of the root; or "" if it has none.

    With page-table isolation the kernel's root has it set there.
    """
    root = level_of(context, context.levels)
    if root.entry_size != 8 or not root.restricts:
        return ""
    return f"mov rbx, USER_ENTRY\n{_NX_CLEARED}\n"


_NX_CLEARED = "btr dword ptr [rbx + 4], 31"


def forged_root(context: PagingContext) -> str:
    """Return source that makes FREE0 a root that has the kernel's part of the present one."""
    top = level_of(context, context.levels)
    first = top.index(KERNEL_BASE[context.mode])
    offset = first * top.entry_size
    count = (top.entries - first) * top.entry_size // words_of(context).size
    return f"""
    mov rsi, ROOT_DIRECT + {offset:#x}
    mov rdi, FREE0_DIRECT + {offset:#x}
    mov ecx, {count}
    cld
    rep movsq
    """


def identity(context: PagingContext) -> str:
    """Return source that has the root FREE0 map the first GiB to itself, by the largest pages."""
    level = huge_level(context)
    return f"""
    {large_pages(context)}
    {_linked(context, level)}
    mov rax, {_HUGE:#x}
    mov ecx, {GIB // level.span}
fill:
    mov [rbx], rax
    add rax, {level.span:#x}
    add rbx, {level.entry_size}
    dec ecx
    jnz fill
    """


def window(context: PagingContext) -> str:
    """Return source that has the root FREE0 map the page at 0, alone of its part, to TEXT."""
    return f"""
    {_linked(context, level_of(context, 1))}
    mov rax, TEXT + {_TABLE}
    mov [rbx], rax
    """


def large_pages(context: PagingContext) -> str:
    """Return source that has entries map large pages: CR4.PSE set, where 32-bit paging wants it."""
    return "" if context.mode is not PagingMode.BIT32 or context.pse else _PSE_SET


_HUGE, _TABLE = 0x83, 3
_PSE_SET = f"mov rax, cr4\nor rax, {int(CR4.PSE):#x}\nmov cr4, rax"


def huge_level(context: PagingContext) -> Level:
    """Return the level whose entries map the largest pages: of 1 GiB, 2 MiB or 4 MiB."""
    levels = (level_of(context, number) for number in range(context.levels, 0, -1))
    return next(level for level in levels if level.large)


def _linked(context: PagingContext, last: Level) -> str:
    """Return source that has the first entries of FREE0, FREE1… lead down to a table of a level.

    RBX is that table then.
    """
    lines = []
    above = range(context.levels, last.number, -1)
    for free, number in enumerate(above):
        # An entry of PAE paging's first table has no rights.
        flags = _TABLE if level_of(context, number).restricts else 1
        lines += [f"mov rbx, FREE{free}_DIRECT", f"mov rax, FREE{free + 1} + {flags}"]
        lines.append("mov [rbx], rax")
    lines.append(f"mov rbx, FREE{len(above)}_DIRECT")
    return "\n".join(lines)


def exception_gate(context: PagingContext) -> str:
    """Return source that loads an IDT of one gate, in FREE0: that of #UD."""
    words = words_of(context)
    at = words.gate(Vector.UD)
    return f"""
    mov rbx, FREE0_DIRECT
    mov rax, GATE_LOW
    mov [rbx + {at:#x}], rax
    mov rax, GATE_HIGH
    mov [rbx + {at + words.size:#x}], rax
    mov word ptr [rbx + 0x800], 0xfff
    mov [rbx + 0x802], rbx
    .byte 0x0f, 0x01, 0x9b  # lidt [rbx + 0x800], in 32-bit code of 32 bits
    .long 0x800
    """
