"""A kernel of a few pages that is laid out as a 32-bit Linux is, in 32-bit or PAE paging.

Physical memory is mapped from 3 GiB on: text and read-only data of the image are write-protected
there, and code that lies outside the image and is mapped once more. A process has one page.
"""

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import KernelImage
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.guest.assembler import assemble
from tests.emu.cpu.assembly import PIC_UP
from tests.tables import KIB4, MIB2, MIB4, PS, RW, XD, P, PageTables

RAM = 16 << 20
DIRECT = 0xC000_0000
BASE = 0x80_0000
TEXT, RODATA, DATA, END = BASE, BASE + 4 * KIB4, BASE + 6 * KIB4, BASE + 8 * KIB4
ROOTS = BASE + 0x1_0000
BOOT, KERNEL, PROCESS, WINDOW = (ROOTS + number * 0x1_0000 for number in range(4))
"""The roots: with the image where it is loaded; the kernel's own; a process's; with a window."""
TABLES_END = ROOTS + 4 * 0x1_0000
LOADED, PLACE = BASE + 0x10_0000, 0xF000_0000
"""The frame of code outside the image, and where it is mapped besides the direct map."""
USER, USER_FRAME = 0x40_0000, 0x40_3000
PATCHED, PATCH_AT = TEXT + 3 * KIB4, 0x5000
GDT, IDT, POINTERS = DATA + 0x100, DATA + 0x200, DATA + 0x80
READY = "ready"
MODES = ("32-bit", "PAE")
LARGE = {"32-bit": MIB4, "PAE": MIB2}
SYMBOLS = {
    name: value
    for name, value in globals().copy().items()
    if name.isupper() and isinstance(value, int)
}
_CONTROL = {
    "32-bit": "mov eax, 0x300010\nmov cr4, eax",
    "PAE": """
    mov eax, 0x300020
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    bts eax, 11
    wrmsr
    """,
}
# Code 0x60 and data 0x68, as Linux has them; the gate of the timer, 0x30.
_SOURCE = f"""
    mov eax, BOOT
    mov cr3, eax
    mov eax, 0x80010033
    mov cr0, eax
    mov eax, high
    jmp eax
high:
    mov ebx, DIRECT + GDT
    mov dword ptr [ebx + 0x60], 0x0000ffff
    mov dword ptr [ebx + 0x64], 0x00cf9b00
    mov dword ptr [ebx + 0x68], 0x0000ffff
    mov dword ptr [ebx + 0x6c], 0x00cf9300
    mov esi, DIRECT + POINTERS
    mov word ptr [esi], 0x6f
    mov [esi + 2], ebx
    .byte 0x0f, 0x01, 0x16  # lgdt [esi]
    mov esp, DIRECT + END
    push 0x60
    mov eax, flat
    push eax
    .byte 0xcb  # retf
flat:
    mov eax, 0x68
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov ebx, DIRECT + IDT
    mov eax, tick
    mov ecx, eax
    and eax, 0xffff
    or eax, 0x600000
    and ecx, 0xffff0000
    or ecx, 0x8e00
    mov [ebx + 0x180], eax
    mov [ebx + 0x184], ecx
    mov word ptr [esi], 0x187
    mov [esi + 2], ebx
    .byte 0x0f, 0x01, 0x1e  # lidt [esi]
    mov eax, PROCESS
    mov cr3, eax
    mov edi, said_at
    mov dx, 0x3f8
say:
    mov al, [edi]
    test al, al
    jz said
    out dx, al
    inc edi
    jmp say
said:
    THEN
    {PIC_UP}
    sti
sleep:
    hlt
    jmp sleep
tick:
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    .byte 0xcf  # iretd
copy:
    rep movsb
    pop esi
    pop edi
    ret
said_at:
    .asciz "{READY}"
"""

# A word of text is written at the window, as the kernel patches itself.
PATCH = """
    pushfd
    cli
    mov edx, cr3
    mov eax, WINDOW
    mov cr3, eax
    mov esi, DIRECT + DATA + 0x800
    mov edi, PATCH_AT
    mov ecx, 4
    push edi
    push esi
    call copying
    jmp patched
copying:
    sub esp, 8
    jmp copy
patched:
    mov cr3, edx
    pop esi
    pop edi
    popfd
"""


def tables_of(mode, *, pse=True):
    """The page tables by root; without `pse` they have no large pages."""
    kernel = PageTables(mode, root=KERNEL)
    execution = XD if mode == "PAE" else 0
    large = LARGE[mode]
    for pa in range(0, RAM, large):
        if pse and not pa <= BASE < pa + large:
            kernel.map(DIRECT + pa, pa, P | RW | PS | execution, level=2, upper=P | RW)
    for pa in range(BASE, BASE + large, KIB4) if pse else range(0, RAM, KIB4):
        flags = P | RW | execution
        if TEXT <= pa < RODATA:
            flags = P
        elif RODATA <= pa < DATA or pa == LOADED:
            flags = P | execution
        kernel.map(DIRECT + pa, pa, flags, upper=P | RW)
    kernel.map(PLACE, LOADED, P, upper=P | RW)
    found = {KERNEL: kernel}
    for root in (BOOT, PROCESS, WINDOW):
        found[root] = PageTables(mode, root=root)
        for slot in range(3, 4) if mode == "PAE" else range(768, 1024):
            size = 8 if mode == "PAE" else 4
            if entry := kernel.entries.get(KERNEL + size * slot):
                found[root].entries[root + size * slot] = entry
    found[BOOT].map(BASE, BASE, P)
    found[PROCESS].map(USER, USER_FRAME)
    found[WINDOW].map(PATCH_AT, PATCHED, P | RW | execution, upper=P | RW)
    return found


def tiny_kernel_32(mode, then="", *, pse=True):
    """The kernel, which does something more before it sleeps."""
    control = _CONTROL[mode] if pse else _CONTROL[mode].replace("0x300010", "0x300000")
    source = control + _SOURCE.replace("THEN", then)
    code = assemble("tiny32", source, bits=32, address=DIRECT + BASE, symbols=SYMBOLS)
    assert len(code) <= 2 * KIB4
    content = bytearray(TABLES_END - BASE)
    content[: len(code)] = code
    for tables in tables_of(mode, pse=pse).values():
        for pa, word in tables.words.items():
            content[pa - BASE : pa - BASE + 8] = word.to_bytes(8, "little")
    return KernelImage(
        segments=((BASE, bytes(content), len(content)),),
        entry=BASE,
        sections=(
            (".text", TEXT, RODATA - TEXT),
            (".rodata", RODATA, DATA - RODATA),
            (".data", DATA, END - DATA),
        ),
        bits=32,
    )


class Protected32:
    """The tiny kernel, protected when it is ready, and run on."""

    def __init__(self, mode, then="", *, pse=True, tampered=None):
        kernel = tiny_kernel_32(mode, then, pse=pse)
        boot = Boot(Ram(0, RAM), LinuxGuest(kernel, b""), model=HOST_MODEL)
        self.mode, self.ram = mode, boot.machine.ram
        self.protection = protection = Protection(boot, kernel)
        self.run = boot.run([parse_point(f"console:{READY}")], parse_point("idle"), 20)
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
