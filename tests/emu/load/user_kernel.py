"""A kernel of a few instructions that goes to user mode, and is called from there."""

from tests.emu.load.linux.kernels import BASE, TABLES

SEGMENTS = (
    *(0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF),
    *(0, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF),
)
DATA3, CODE3 = 0x2B, 0x33
USER = BASE + 0x4000


def user_kernel(user, *, before="", called=""):
    """The source of one whose user mode runs `user`; `before` comes before, `called` in a call.

    User mode may access all of the first GiB.
    """
    segments = "\n".join(f".quad {each}" for each in SEGMENTS)
    return f"""
    mov dword ptr [rbx], {TABLES + 0x1007}
    mov dword ptr [rbx + 0x1000], {TABLES + 0x2007}
    xor ecx, ecx
user_pages:
    or dword ptr [rbx + rcx * 8 + 0x2000], 4
    inc ecx
    cmp ecx, 16
    jb user_pages
    mov cr3, rbx
    lea rax, [rip + segments]
    push rax
    sub rsp, 2
    mov word ptr [rsp], {8 * len(SEGMENTS) - 1}
    lgdt [rsp]
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1
    wrmsr
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x230010
    wrmsr
    mov ecx, 0xc0000082
    lea rax, [rip + handler]
    xor edx, edx
    wrmsr
    {before}
    push {DATA3}
    push {BASE + 0xE000}
    push 2
    push {CODE3}
    lea rax, [rip + program]
    push rax
    iretq
handler:
    {called}
    .byte 0x48, 0x0f, 0x07
segments:
    {segments}
program:
    {user}
"""
