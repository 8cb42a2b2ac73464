"""Attacks by code that runs in the kernel: what each does, and what is to stop it.

The code stands in for what an attacker has made the kernel run: the host lends it a piece of
the kernel's own text. Each ends by a halt, and has succeeded where a word in memory, or R15,
has become what it wanted.
"""

from dataclasses import dataclass

from crosswalk.emu.cpu.svm.exits import ExitCode

__all__ = ["ATTACKS", "MARK", "Attack"]

MARK = 0x5EED_C0DE_5EED_C0DE

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
_EXECUTABLE = "btr qword ptr [rbx], 63\ninvlpg [rdi]"


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `does` says it in a few words, `source` is its code.

    It wants the word at the place named `target` (of `Places`; "result" is a free frame, ""
    R15) changed. `stopped` is the exit that is to stop it, None for an attack that isn't stopped:
    `why` says why not. Without `pins`, control registers aren't pinned while it runs; `guarded`
    are attacks that make the CPU's delivery of an exception do the store, which the host does here.
    """

    name: str
    does: str
    source: str
    target: str
    stopped: ExitCode | None
    why: str = ""
    pins: bool = True
    guarded: bool = False


ATTACKS = (
    Attack(
        "clear WP",
        "CR0.WP cleared, text written through the direct map",
        f"{_NO_WP}\nmov rbx, TEXT_DIRECT\n{_STORE}",
        "text",
        ExitCode.CR0_WRITE,
    ),
    Attack(
        "text, direct map",
        "the same where WP isn't pinned",
        f"{_NO_WP}\nmov rbx, TEXT_DIRECT\n{_STORE}",
        "text",
        ExitCode.NPF,
        pins=False,
    ),
    Attack(
        "text, image",
        "the same through the image's mapping, WP not pinned",
        f"{_NO_WP}\nmov rbx, TEXT_IMAGE\n{_STORE}",
        "text",
        ExitCode.NPF,
        pins=False,
    ),
    Attack(
        "remap rodata",
        "read-only data made writable in its own table entry, then written",
        "mov rbx, RODATA_ENTRY\nor qword ptr [rbx], 2\nmov rbx, RODATA_IMAGE\ninvlpg [rbx]\n"
        + _STORE,
        "rodata",
        ExitCode.NPF,
    ),
    Attack(
        "forge tables",
        "CR3 set to forged tables that map all memory writable, then text written",
        f"{_FORGED}\nmov qword ptr [rbx], 0x83\nmov rax, FREE0\nmov cr3, rax\n"
        f"mov rbx, TEXT\n{_STORE}",
        "text",
        ExitCode.NPF,
    ),
    Attack(
        "execute data",
        "code stored in the kernel's data, made executable in its own entry, and run",
        f"mov rdi, DATA_IMAGE\n{_PLANTED}\nmov rbx, DATA_ENTRY\n{_EXECUTABLE}\n"
        "mov rbx, RESULT_DIRECT\njmp rdi",
        "result",
        ExitCode.NPF,
    ),
    Attack(
        "execute user code",
        "CR4.SMEP cleared, a process's code run in the kernel",
        "mov rbx, USER_ENTRY\nbtr qword ptr [rbx], 63\nmov rax, cr4\n"
        "and rax, -0x100001\nmov cr4, rax\nmov rbx, RESULT_DIRECT\n"
        "mov rax, MARK\nmov rdi, USER\njmp rdi",
        "result",
        ExitCode.CR4_WRITE,
    ),
    Attack(
        "clear NXE",
        "EFER.NXE cleared",
        "mov ecx, 0xc0000080\nrdmsr\nand eax, -0x801\nwrmsr",
        "",
        ExitCode.MSR,
    ),
    Attack(
        "exception frame",
        "the stack put into text by a forged entry, then an exception",
        """
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
        """,
        "text",
        None,
        guarded=True,
    ),
    Attack(
        "forge the patching window",
        "forged tables with one page in the lower half, text; the kernel's own copying code called",
        f"""{_FORGED}
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
        """,
        "text",
        None,
        why="it does all that the kernel does when it patches",
    ),
    Attack(
        "execute free memory",
        "code stored in memory that isn't the image's, made executable, and run",
        f"mov rdi, FREE0_DIRECT\n{_PLANTED}\nmov rbx, FREE0_ENTRY\n{_EXECUTABLE}\n"
        "mov rbx, RESULT_DIRECT\njmp rdi",
        "result",
        None,
        why="any such frame may become a table, and a table without execution takes the "
        "emulator down",
    ),
    Attack(
        "swap rodata",
        "the address of read-only data mapped to other memory, and read",
        f"mov rbx, FREE0_DIRECT\n{_STORE}\nmov rbx, RODATA_ENTRY\nmov rax, FREE0 + 1\n"
        "mov [rbx], rax\nmov rbx, RODATA_IMAGE\ninvlpg [rbx]\nmov rax, [rbx]\n"
        "mov rbx, RESULT_DIRECT\nmov [rbx], rax",
        "result",
        None,
        why="rights belong to frames; where a frame is mapped is the guest's affair",
    ),
    Attack(
        "write data",
        "the kernel's data written",
        f"mov rbx, DATA_IMAGE\n{_STORE}",
        "data",
        None,
        why="the kernel's own mappings let it be written",
    ),
)
"""Those that are to be stopped first, then those that aren't."""
