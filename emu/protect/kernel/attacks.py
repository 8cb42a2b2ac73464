"""The attack table of a Linux kernel: code that runs in the kernel, and the expected results.

The code stands in for what an attacker makes the kernel run; the host puts it into a page of the
kernel's own text. It ends with a HLT, and has worked if it has changed a word in memory, or set
R15 to MARK.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.protect.attack import (
    Attack,
    DeliveryRefused,
    Intercepted,
    NestedFault,
    NotStopped,
    Result,
)
from crosswalk.walker.memory import FRAME

__all__ = [
    "DIRECT",
    "EXECUTABLE",
    "EXECUTE_FREE",
    "IMAGE",
    "MARK",
    "AttackFrames",
    "Code",
    "attack_table",
    "lacking",
]

DIRECT, IMAGE = 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8000_0000
"""The linear addresses of physical address 0 without KASLR: in the direct map, in the image."""

MARK = 0x5EED_C0DE_5EED_C0DE

_WRITE, _FETCH = 0x7, 0x15
"""Error codes of nested page faults: P, W and U; P, U and I/D."""

_STORE = "mov rax, MARK\nmov [rbx], rax"
_NO_WP = "mov rax, cr0\nand rax, -0x10001\nmov cr0, rax"
# A root that has the kernel's half of the present one, in a free frame.
_FORGED = """
    mov rsi, ROOT_DIRECT + 0x800
    mov rdi, FREE0_DIRECT + 0x800
    mov ecx, 256
    cld
    rep movsq
    mov rbx, FREE0_DIRECT
    mov rax, FREE1 + 3
    mov [rbx], rax
    mov rbx, FREE1_DIRECT
"""
# Code that stores to RBX and halts; it is to run where RDI points.
_PLANTED = f"""
    mov rax, {0xF4_0389_48:#x}
    mov [rdi], rax
    mov rbx, RESULT_DIRECT
    mov rax, MARK
"""
# The stack in text, by an IDT of one gate: that of #UD.
_EXCEPTION_FRAME = """
    mov rbx, FREE0_DIRECT
    mov rax, GATE_LOW
    mov [rbx + 0x60], rax
    mov rax, GATE_HIGH
    mov [rbx + 0x68], rax
    mov word ptr [rbx + 0x800], 0xfff
    mov [rbx + 0x802], rbx
    lidt [rbx + 0x800]
    mov rbx, TEXT_ENTRY
    or qword ptr [rbx], 2
    mov rsp, TEXT_DIRECT + 16
    invlpg [rsp]
    ud2
"""
_FORGED_WINDOW = f"""{_FORGED}
    mov rax, FREE2 + 3
    mov [rbx], rax
    mov rbx, FREE2_DIRECT
    mov rax, FREE3 + 3
    mov [rbx], rax
    mov rbx, FREE3_DIRECT
    mov rax, TEXT + 3
    mov [rbx], rax
    mov rbx, RESULT_DIRECT
    {_STORE}
    mov rsi, RESULT_DIRECT
    xor edi, edi
    mov ecx, 8
    mov rax, FREE0
    mov cr3, rax
    mov rax, COPIER
    call rax
"""
EXECUTABLE = "btr qword ptr [rbx], 63\ninvlpg [rdi]"
"""Source that clears NX in the entry at RBX, that of the page at RDI."""
EXECUTE_FREE = "execute free memory"

_FIELDS = {"result": "free"}
"""The field of `AttackFrames` that a symbol is of, where the names differ."""


@dataclass(frozen=True, slots=True)
class AttackFrames:
    """What attacks act on: physical addresses, but for those of code, which are linear.

    `site` is the text that injected code replaces; `text`, `rodata` and `data` are frames of the
    image; `free` are zeroed frames that may be written, not of the image; `user` is a page that a
    user may execute, and `user_frame` its frame. `loaded` is a frame of code that the kernel has
    loaded outside the image, `loaded_place` where it is mapped besides the direct map. `copier` is
    code in text that copies RCX bytes from RSI to RDI and returns. `user`, `loaded_place` and
    `copier` are linear addresses. `root` is the root table. What the kernel doesn't have is 0, and
    `lacks` says why, by the field's name.
    """

    site: int
    text: int
    rodata: int
    data: int
    free: tuple[int, ...]
    user: int
    user_frame: int
    copier: int
    root: int
    loaded: int = 0
    loaded_place: int = 0
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def result(self) -> int:
        """The frame that an attack stores its mark in."""
        return self.free[-1]

    @property
    def copier_frame(self) -> int:
        """The frame that the code that copies lies in."""
        return self.copier - IMAGE & -FRAME


@dataclass(frozen=True, slots=True)
class Code:
    """The program of an attack: `does` says in a few words what its assembly `source` does.

    It wants the word at physical address `target` changed; None: R15.
    """

    does: str
    source: str
    target: int | None


def lacking(code: Code, frames: AttackFrames) -> str:
    """Return why an attack can't be built: what its source names, and the kernel lacks; or "".

    A symbol of the source begins with its field's name; the code itself has to lie at the site.
    """
    begins = {each.lower() for each in re.findall(r"\b[A-Z]+", code.source)}
    fields = {"site", *(_FIELDS.get(each, each) for each in begins)}
    return next((why for name, why in frames.lacks.items() if name in fields), "")


def _attack(
    name: str,
    does: str,
    source: str,
    target: int | None,
    expected: Result,
    *,
    why: str = "",
    pinned: bool = True,
) -> Attack[Code]:
    return Attack(name, Code(does, source, target), expected, why, pinned)


def attack_table(frames: AttackFrames) -> tuple[Attack[Code], ...]:
    """Return the attacks on these frames: those expected to be stopped first."""
    return (
        _attack(
            "clear WP",
            "CR0.WP cleared, text written through the direct map",
            f"{_NO_WP}\nmov rbx, TEXT_DIRECT\n{_STORE}",
            frames.text,
            Intercepted(ExitCode.CR0_WRITE),
        ),
        _attack(
            "text, direct map",
            "the same where WP isn't pinned",
            f"{_NO_WP}\nmov rbx, TEXT_DIRECT\n{_STORE}",
            frames.text,
            NestedFault(frames.text, _WRITE),
            pinned=False,
        ),
        _attack(
            "text, image",
            "the same through the image's mapping, WP not pinned",
            f"{_NO_WP}\nmov rbx, TEXT_IMAGE\n{_STORE}",
            frames.text,
            NestedFault(frames.text, _WRITE),
            pinned=False,
        ),
        _attack(
            "remap rodata",
            "read-only data made writable in its own table entry, then written",
            "mov rbx, RODATA_ENTRY\nor qword ptr [rbx], 2\n"
            f"mov rbx, RODATA_IMAGE\ninvlpg [rbx]\n{_STORE}",
            frames.rodata,
            NestedFault(frames.rodata, _WRITE),
        ),
        _attack(
            "forge tables",
            "CR3 set to forged tables that map all memory writable, then text written",
            f"{_FORGED}\nmov qword ptr [rbx], 0x83\nmov rax, FREE0\nmov cr3, rax\n"
            f"mov rbx, TEXT\n{_STORE}",
            frames.text,
            NestedFault(frames.text, _WRITE),
        ),
        _attack(
            "execute data",
            "code stored in the kernel's data, made executable in its own entry, and run",
            f"mov rdi, DATA_IMAGE\n{_PLANTED}\nmov rbx, DATA_ENTRY\n{EXECUTABLE}\n"
            "mov rbx, RESULT_DIRECT\njmp rdi",
            frames.result,
            NestedFault(frames.data, _FETCH),
        ),
        _attack(
            "loaded code",
            "code outside the image made writable in its own entry, then written",
            f"mov rbx, LOADED_ENTRY\nor qword ptr [rbx], 2\n"
            f"mov rbx, LOADED_DIRECT\ninvlpg [rbx]\n{_STORE}",
            frames.loaded,
            NestedFault(frames.loaded, _WRITE),
        ),
        _attack(
            "execute user code",
            "CR4.SMEP cleared, a process's code run in the kernel",
            "mov rbx, USER_ENTRY\nbtr qword ptr [rbx], 63\nmov rax, cr4\n"
            "and rax, -0x100001\nmov cr4, rax\nmov rbx, RESULT_DIRECT\n"
            "mov rax, MARK\nmov rdi, USER\ncall rdi",
            frames.result,
            Intercepted(ExitCode.CR4_WRITE),
        ),
        _attack(
            "clear NXE",
            "EFER.NXE cleared",
            "mov ecx, 0xc0000080\nrdmsr\nand eax, -0x801\nwrmsr",
            None,
            Intercepted(ExitCode.MSR),
        ),
        _attack(
            "exception frame",
            "the stack put into text by a forged entry, then an exception",
            _EXCEPTION_FRAME,
            frames.text,
            DeliveryRefused(),
        ),
        _attack(
            "forge the patching window",
            "forged tables with one page in the lower half, text; the kernel's own copying "
            "code called",
            _FORGED_WINDOW,
            frames.text,
            NotStopped(),
            why="it does all that the kernel does when it patches",
        ),
        _attack(
            EXECUTE_FREE,
            "code stored in memory that isn't the image's, made executable, and run",
            f"mov rdi, FREE0_DIRECT\n{_PLANTED}\nmov rbx, FREE0_ENTRY\n{EXECUTABLE}\n"
            "mov rbx, RESULT_DIRECT\njmp rdi",
            frames.result,
            NotStopped(),
            why="any such frame may become a table, and a table without execution takes the "
            "emulator down",
        ),
        _attack(
            "free loaded code",
            "code outside the image unmapped where it is run, made writable in the direct map, "
            "written",
            "mov rbx, LOADED_PLACE_ENTRY\nbtr qword ptr [rbx], 0\n"
            "mov rbx, LOADED_PLACE\ninvlpg [rbx]\n"
            "mov rbx, LOADED_ENTRY\nor qword ptr [rbx], 2\n"
            f"mov rbx, LOADED_DIRECT\ninvlpg [rbx]\n{_STORE}",
            frames.loaded,
            NotStopped(),
            why="it does all that the kernel does when it frees code",
        ),
        _attack(
            "swap rodata",
            "the address of read-only data mapped to other memory, and read",
            f"mov rbx, FREE0_DIRECT\n{_STORE}\nmov rbx, RODATA_ENTRY\nmov rax, FREE0 + 1\n"
            "mov [rbx], rax\nmov rbx, RODATA_IMAGE\ninvlpg [rbx]\nmov rax, [rbx]\n"
            "mov rbx, RESULT_DIRECT\nmov [rbx], rax",
            frames.result,
            NotStopped(),
            why="rights belong to frames; where a frame is mapped is the guest's affair",
        ),
        _attack(
            "write data",
            "the kernel's data written",
            f"mov rbx, DATA_IMAGE\n{_STORE}",
            frames.data,
            NotStopped(),
            why="the kernel's own mappings let it be written",
        ),
    )
