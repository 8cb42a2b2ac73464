"""A kernel of a few pages that is laid out as Linux is: text, read-only data, data, aliases."""

import struct

import numpy as np

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.protect.kernel.attacks import DIRECT, IMAGE, AttackFrames, attack_table
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.scenario import Guest
from crosswalk.guest.assembler import assemble
from crosswalk.walker.context import PagingContext
from tests.emu.cpu.assembly import SAY, SLEEP

PAGE = 0x1000
RAM = 32 << 20
BASE, TABLES = 0x100_0000, 0x101_0000
TEXT, RODATA, DATA, END = BASE, BASE + 4 * PAGE, BASE + 5 * PAGE, BASE + 7 * PAGE
USER, USER_FRAME = 0x40_0000, 0x80_0000
OUTSIDE = 0x103_0000
"""A frame that isn't the image's, and is mapped read-only."""

READY = "ready"
PROTECT_AT = parse_point(f"console:{READY}")
SYMBOLS = {"IMAGE": IMAGE, "DIRECT": DIRECT} | {
    name: value
    for name, value in globals().copy().items()
    if name.isupper() and isinstance(value, int)
}
NX, LARGE = 1 << 63, 0x80
ROOT0, ROOT1, WINDOW, DIRECT_TABLE, IMAGE_TABLE, DIRECTORY, LEAVES = range(7)
IDENTITY, USER_TABLES, WINDOW_TABLES = 7, 8, 11  # Three tables each of the latter two.
IMAGE_DIRECTORY, IMAGE_LEAVES, MODULE_DIRECTORY, MODULE_LEAVES = range(14, 18)
COUNT = 18
MODULES = 0xFFFF_FFFF_C000_0000
"""Where modules are mapped; at first none is."""

_BOOT = """
    mov ecx, 0xc0000080
    rdmsr
    bts eax, 11
    wrmsr
    mov rax, cr4
    or rax, 0x300000
    mov cr4, rax
    mov rax, cr0
    or rax, 0x10000
    mov cr0, rax
    mov eax, TABLES
    mov cr3, rax
    lea rax, [rip + high]
    mov rcx, IMAGE
    add rax, rcx
    jmp rax
high:
    mov eax, TABLES + 0x1000
    mov cr3, rax
    mov rsp, IMAGE + END
    mov rdi, IMAGE + DATA
    mov rax, DIRECT + 0x1000
    push rax
    sub rsp, 2
    mov word ptr [rsp], 31
    lgdt [rsp]
    lea rax, [rip + tick]
    mov [rdi + 0x300], rax
    mov word ptr [rdi + 0x302], 0x10
    mov word ptr [rdi + 0x304], 0x8e00
    mov ecx, eax
    shr ecx, 16
    mov [rdi + 0x306], cx
    shr rax, 32
    mov [rdi + 0x308], rax
    push rdi
    sub rsp, 2
    mov word ptr [rsp], 0xfff
    lidt [rsp]
    lea rdi, [rip + ready]
    call say
"""
# Ticks are acknowledged, so that they go on, where controllers wait for that.
_TICKS = """tick:
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
"""
_SLEEP = f"""{SLEEP.replace("tick:", _TICKS)}copy:
    rep movsb
    ret
{SAY}ready:
    .asciz "ready"
"""

# The text at its window, by way of forged tables: what a kernel does to patch itself.
PATCH = """
    pushfq
    cli
    mov rdx, cr3
    mov eax, TABLES + 0x2000
    mov cr3, rax
    mov rdi, 0x5000
    mov rsi, IMAGE + DATA + 0x800
    mov ecx, 8
    call copy
    mov cr3, rdx
    popfq
"""


WINDOW_LEAF = TABLES + (WINDOW_TABLES + 2) * PAGE + 8 * 5

# Code is loaded to a free frame, which is made read-only and executable; time passes, and the
# frame is patched as text is.
LOADED = 0x103_1000
LOAD = f"""
    mov rbx, DIRECT + {TABLES + LEAVES * PAGE + 8 * ((LOADED - BASE) // PAGE)}
    mov qword ptr [rbx], {LOADED | 1}
    mov rbx, DIRECT + {LOADED}
    invlpg [rbx]
    mov r14d, 50
again:
    {PATCH}
    dec r14d
    jnz again
"""
# The same frame, as memory that is read-only for a while; nothing is patched.
LOWER = f"""
    mov rbx, DIRECT + {TABLES + LEAVES * PAGE + 8 * ((LOADED - BASE) // PAGE)}
    mov rax, {LOADED | 1 | NX}
    mov [rbx], rax
    mov rbx, DIRECT + {LOADED}
    invlpg [rbx]
"""
# A module of two pages, text and read-only data, is written through its own mapping; then both are
# made read-only there and in the direct map, and the text executable. It is called. RBX is its
# text in the direct map then.
MODULE = 0x103_2000
_MODULE_ENTRY = f"DIRECT + {TABLES + MODULE_LEAVES * PAGE}"
_MODULE_DIRECT = f"DIRECT + {TABLES + LEAVES * PAGE + 8 * ((MODULE - BASE) // PAGE)}"
INSERT = f"""
    mov rbx, {_MODULE_ENTRY}
    mov rax, {MODULE | 3 | NX}
    mov [rbx], rax
    mov rax, {MODULE + PAGE | 3 | NX}
    mov [rbx + 8], rax
    mov rdi, {MODULES}
    mov rax, {0xC300_0000_2AB8:#x}
    mov [rdi], rax
    mov [rdi + 0x1000], rax
    mov rax, {MODULE | 1}
    mov [rbx], rax
    mov rax, {MODULE + PAGE | 1 | NX}
    mov [rbx + 8], rax
    mov rbx, {_MODULE_DIRECT}
    mov rax, {MODULE | 1 | NX}
    mov [rbx], rax
    mov rax, {MODULE + PAGE | 1 | NX}
    mov [rbx + 8], rax
    FLUSH
    call rdi
    mov rbx, DIRECT + {MODULE}
"""
PAGES_FLUSHED = """
    invlpg [rdi]
    invlpg [rdi + 0x1000]
    mov rbx, DIRECT + MODULE
    invlpg [rbx]
    invlpg [rbx + 0x1000]
"""
ALL_FLUSHED = """
    mov rax, cr4
    xor rax, 0x80
    mov cr4, rax
    xor rax, 0x80
    mov cr4, rax
"""
# It is removed: its mapping is, and the direct map has it writable again. Something is written.
REMOVE = f"""
    mov rbx, {_MODULE_ENTRY}
    xor eax, eax
    mov [rbx], rax
    mov [rbx + 8], rax
    mov rbx, {_MODULE_DIRECT}
    mov rax, {MODULE | 3 | NX}
    mov [rbx], rax
    mov rax, {MODULE + PAGE | 3 | NX}
    mov [rbx + 8], rax
    FLUSH
    mov rbx, DIRECT + {MODULE}
    mov [rbx], rbx
    mov [rbx + 0x1000], rbx
"""


def module(source=INSERT, flush=PAGES_FLUSHED):
    """The source that inserts or removes a module, and flushes translations one way or another."""
    return source.replace("FLUSH", flush.replace("MODULE", str(MODULE)))


PATCH_LOADED = f"""
    mov rbx, DIRECT + {WINDOW_LEAF}
    mov rax, {LOADED | 3 | NX}
    mov [rbx], rax
    {PATCH}
"""


# A process gets another frame, and its code runs: a SYSCALL, by EFER.SCE, IA32_STAR, IA32_LSTAR and
# IA32_FMASK.
PROCESS_FRAME = 0x81_0000
RUN_USER = f"""
    mov rbx, DIRECT + {TABLES + (USER_TABLES + 2) * PAGE + 8 * (USER >> 12 & 511)}
    mov qword ptr [rbx], {PROCESS_FRAME | 7}
    mov ecx, USER
    invlpg [rcx]
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1
    wrmsr
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x230010
    wrmsr
    lea rax, [rip + called]
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0xc0000082
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x200
    xor edx, edx
    wrmsr
    mov rbx, DIRECT + {PROCESS_FRAME}
    mov word ptr [rbx], 0x050f
    mov ecx, USER
    mov r11d, 2
    .byte 0x48, 0x0f, 0x07
called:
"""


def tiny_kernel(then="", *, early=""):
    """The kernel, which does something more before it is ready, or before it sleeps."""
    code = assemble(
        "tiny", f"{early}\n{_BOOT}{then}{_SLEEP}", bits=64, address=BASE, symbols=SYMBOLS
    )
    assert len(code) <= 2 * PAGE
    content = code.ljust(END - BASE, b"\0")
    return KernelImage(
        segments=((BASE, content, len(content)), (TABLES, _tables(), COUNT * PAGE)),
        entry=BASE,
        sections=((".text", TEXT, RODATA - TEXT), (".data", DATA, END - DATA)),
    )


def guest(then=""):
    return Guest(kernel=tiny_kernel(then), initrd=b"", arguments="", on_line=None)


NAMES = [each.name for each in attack_table(AttackFrames(context=PagingContext(cr3=0)))]


class Protected:
    """The tiny kernel, protected when it is ready, and run on."""

    def __init__(self, then="", *, tampered=None):
        kernel = tiny_kernel(then)
        boot = Boot(Ram(0, RAM), LinuxGuest(kernel, b""), model=HOST_MODEL)
        self.ram = boot.machine.ram
        self.protection = protection = Protection(boot, kernel)
        self.run = boot.run([PROTECT_AT], parse_point("idle"), 20)
        next(self.run)
        self.grants = protection.enforce()
        if tampered is not None:
            tampered(protection)

    def go_on(self):
        """Run to idle; what was refused."""
        try:
            list(self.run)
        except GuestFailure:
            assert self.protection.refusal is not None
        return self.protection.refusal


def _tables():
    words = np.zeros((COUNT, 512), np.uint64)

    def pa(table):
        return TABLES + table * PAGE

    for root in (ROOT0, ROOT1, WINDOW):
        words[root, DIRECT >> 39 & 511] = pa(DIRECT_TABLE) | 3
        words[root, 511] = pa(IMAGE_TABLE) | 3
    words[ROOT0, 0] = pa(DIRECT_TABLE) | 3
    words[DIRECT_TABLE, 0] = pa(DIRECTORY) | 3
    words[IMAGE_TABLE, 510] = pa(IMAGE_DIRECTORY) | 3
    words[IMAGE_TABLE, 511] = pa(MODULE_DIRECTORY) | 3
    words[IMAGE_DIRECTORY, BASE >> 21] = pa(IMAGE_LEAVES) | 3
    words[MODULE_DIRECTORY, 0] = pa(MODULE_LEAVES) | 3
    for large in range(RAM >> 21):
        words[DIRECTORY, large] = large << 21 | 3 | LARGE | NX
    words[DIRECTORY, BASE >> 21] = pa(LEAVES) | 3
    for small in range(512):
        frame = (BASE & -(1 << 21)) + small * PAGE
        flags = 3 | NX
        if TEXT <= frame < RODATA:
            flags = 1
        elif RODATA <= frame < DATA or frame == OUTSIDE:
            flags = 1 | NX
        words[LEAVES, small] = frame | flags
        if frame < TABLES + COUNT * PAGE:
            words[IMAGE_LEAVES, small] = frame | flags
    for root, first, va, leaf in (
        (ROOT1, USER_TABLES, USER, USER_FRAME | 7),
        (WINDOW, WINDOW_TABLES, 0x5000, TEXT + 3 * PAGE | 3 | NX),
    ):
        words[root, 0] = pa(first) | 7
        words[first, 0] = pa(first + 1) | 7
        words[first + 1, va >> 21] = pa(first + 2) | 7
        words[first + 2, va >> 12 & 511] = leaf
    return struct.pack(f"<{COUNT * 512}Q", *words.reshape(-1).tolist())
