"""The attack table of a Linux kernel: code that runs in the kernel, and the expected results.

The code stands in for what an attacker makes the kernel run; the host puts it into a page of the
kernel's own text. It ends with a HLT, and has worked if it has made a word in memory MARK, or set
RBP to MARK. It is written for 64 bits, and is the same in 32: what isn't, by the words of the
kernel's code or its paging mode, is in `crosswalk.emu.protect.kernel.guest_code`.
"""

import re
from collections.abc import Mapping, Sequence
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
from crosswalk.emu.protect.kernel.guest_code import (
    WORDS,
    GuestWords,
    exception_gate,
    executable,
    forged_root,
    identity,
    root_executable,
    window,
    words_of,
)
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME

__all__ = [
    "DIRECT",
    "EXECUTE_FREE",
    "IMAGE",
    "USED_AS_TABLES",
    "WITHOUT_NX",
    "AttackFrames",
    "Code",
    "attack_table",
    "lacking",
]

DIRECT, IMAGE = WORDS[64].direct, WORDS[64].image
"""Where a 64-bit kernel has physical address 0 without KASLR: in the direct map, in the image."""

_WRITE, _FETCH = 0x7, 0x15
"""Error codes of nested page faults: P, W and U; P, U and I/D."""

_STORE = "mov rax, MARK\nmov [rbx], rax"
_NO_WP = "mov rax, cr0\nand rax, -0x10001\nmov cr0, rax"
# Code that stores to RBX and halts; it is to run where RDI points.
_PLANTED = """
    mov rax, PLANTED
    mov [rdi], rax
    mov rbx, RESULT_DIRECT
    mov rax, MARK
"""
_LOADED_FORGED = "mov rax, FREE0\nmov cr3, rax"
# The stack in text, by an IDT of one gate: that of #UD.
_EXCEPTION = """
    mov rbx, TEXT_ENTRY
    or qword ptr [rbx], 2
    mov rsp, TEXT_DIRECT + 16
    invlpg [rsp]
    ud2
"""
# The kernel's own code copies; it takes some of what is on the stack before it returns.
_COPIED = f"""
    mov rbx, RESULT_DIRECT
    {_STORE}
    mov rsi, RESULT_DIRECT
    xor edi, edi
    mov ecx, COPIER_COUNT
    {_LOADED_FORGED}
    jmp calling
copying:
    sub rsp, COPIER_POPS
    mov rax, COPIER
    jmp rax
calling:
    call copying
"""
EXECUTE_FREE = "execute free memory"

USED_AS_TABLES = (
    "any such frame may become a table, and a table without execution takes the emulator down"
)
WITHOUT_NX = "without NX the mappings let all memory be executed"

_FIELDS = {"result": "free"}
"""The field of `AttackFrames` that a symbol is of, where the names differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackFrames:
    """What attacks act on: physical addresses, but for those of code, which are linear.

    `context` is the paging under which it was found. `site` is the text that injected code
    replaces; `text`, `rodata` and `data` are frames of the image; `free` are zeroed frames that may
    be written, not of the image; `user` is a page that a user may execute, and `user_frame` its
    frame. `loaded` is a frame of code that the kernel has loaded outside the image, `loaded_place`
    where it is mapped besides the direct map. `copier` is code in text that copies RCX times
    `copier_unit` bytes from RSI to RDI, takes `copier_pops` bytes off the stack and returns.
    `user`, `loaded_place` and `copier` are linear addresses. What the kernel doesn't have is 0, and
    `lacks` says why, by the field's name; or by that of a feature: `nx`, `smep`, `wp`, and `image`,
    a mapping of the image besides the direct map.
    """

    context: PagingContext
    site: int = 0
    text: int = 0
    rodata: int = 0
    data: int = 0
    free: tuple[int, ...] = (0,)
    user: int = 0
    user_frame: int = 0
    copier: int = 0
    copier_unit: int = 1
    copier_pops: int = 0
    loaded: int = 0
    loaded_place: int = 0
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> GuestWords:
        """What the kernel's code has in this mode."""
        return words_of(self.context)

    @property
    def result(self) -> int:
        """The frame that an attack stores its mark in."""
        return self.free[-1]

    @property
    def copier_frame(self) -> int:
        """The frame that the code that copies lies in."""
        return self.copier - self.words.image & -FRAME


@dataclass(frozen=True, slots=True)
class Code:
    """The program of an attack: `does` says in a few words what its assembly `source` does.

    It wants the word at physical address `target` to be the mark; None: RBP marked. Where the word
    is written by the processor, it has to be changed alone (`marks` is false). What it `needs` is
    named as in `lacks`, and is what its source doesn't name.
    """

    does: str
    source: str
    target: int | None
    needs: tuple[str, ...] = ()
    marks: bool = True

    def works(self, words: GuestWords, before: int, after: int) -> bool:
        """Return whether it did what it wants, by the target's eight bytes or RBP, and by before.

        What is left there by anything else is no success: an address that leads where it led. What
        RBP was before doesn't count: it is put back before each run, but may be shown as it ended.
        """
        marked = after & (1 << words.bits) - 1 == words.mark
        if self.target is None:
            return marked
        return before != after and (marked or not self.marks)


def lacking(code: Code, lacks: Mapping[str, str], named: Mapping[str, str] = _FIELDS) -> str:
    """Return why an attack can't be built: what its source names, or needs, and there isn't; or "".

    `lacks` has why, by name. A symbol of the source begins with the name of what it is of, but for
    those in `named`. The code itself has to lie at the site.
    """
    begins = [each.lower() for each in re.findall(r"\b[A-Z]+", code.source)]
    used = ("site", *code.needs, *(named.get(each, each) for each in begins))
    return next((lacks[name] for name in used if name in lacks), "")


def _attack(
    name: str,
    does: str,
    source: str,
    target: int | None,
    expected: Result,
    *,
    needs: Sequence[str] = (),
    why: str = "",
    pinned: bool = True,
) -> Attack[Code]:
    marks = not isinstance(expected, DeliveryRefused)  # An event's frame is the processor's.
    return Attack(name, Code(does, source, target, tuple(needs), marks), expected, why, pinned)


def attack_table(frames: AttackFrames) -> tuple[Attack[Code], ...]:
    """Return the attacks on these frames: those expected to be stopped first."""
    return (*_stopped(frames), *_passed(frames))


def _stopped(frames: AttackFrames) -> tuple[Attack[Code], ...]:
    context = frames.context
    return (
        _attack(
            "clear WP",
            "CR0.WP cleared, text written through the direct map",
            f"{_NO_WP}\nmov rbx, TEXT_DIRECT\n{_STORE}",
            frames.text,
            Intercepted(ExitCode.CR0_WRITE),
            needs=["wp"],
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
            needs=["image"],
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
            f"{forged_root(context)}\n{identity(context)}\n{_LOADED_FORGED}\n"
            f"mov rbx, TEXT\n{_STORE}",
            frames.text,
            NestedFault(frames.text, _WRITE),
        ),
        _attack(
            "execute data",
            "code stored in the kernel's data, made executable in its own entry, and run",
            f"mov rdi, DATA_IMAGE\n{_PLANTED}\nmov rbx, DATA_ENTRY\n{executable(context)}\n"
            "mov rbx, RESULT_DIRECT\njmp rdi",
            frames.result,
            NestedFault(frames.data, _FETCH),
            needs=["nx"],
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
            f"{root_executable(context)}mov rax, cr4\n"
            "and rax, -0x100001\nmov cr4, rax\nmov rbx, RESULT_DIRECT\n"
            "mov rax, MARK\nmov rdi, USER\ncall rdi",
            frames.result,
            Intercepted(ExitCode.CR4_WRITE),
            needs=["smep"],
        ),
        _attack(
            "clear NXE",
            "EFER.NXE cleared",
            "mov ecx, 0xc0000080\nrdmsr\nand eax, -0x801\nwrmsr",
            None,
            Intercepted(ExitCode.MSR),
            needs=["nx"],
        ),
        _attack(
            "exception frame",
            "the stack put into text by a forged entry, then an exception",
            f"{exception_gate(context)}\n{_EXCEPTION}",
            frames.text,
            DeliveryRefused(),
        ),
    )


def _passed(frames: AttackFrames) -> tuple[Attack[Code], ...]:
    """Return the attacks that aren't stopped."""
    context = frames.context
    withheld = context.nxe
    return (
        _attack(
            "forge the patching window",
            "forged tables with one page below the kernel's, text; the kernel's own copying "
            "code called",
            f"{forged_root(context)}\n{window(context)}\n{_COPIED}",
            frames.text,
            NotStopped(),
            why="it does all that the kernel does when it patches",
        ),
        _attack(
            EXECUTE_FREE,
            "code stored in memory that isn't the image's, made executable, and run"
            if withheld
            else "code stored in memory that isn't the image's, and run",
            f"mov rdi, FREE0_DIRECT\n{_PLANTED}\nmov rbx, FREE0_ENTRY\n{executable(context)}\n"
            "mov rbx, RESULT_DIRECT\njmp rdi",
            frames.result,
            NotStopped(),
            why=USED_AS_TABLES if withheld else WITHOUT_NX,
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
