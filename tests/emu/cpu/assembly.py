"""Pieces of assembly that the kernels of tests are made of."""

__all__ = ["EOI", "PIC_UP", "SAY", "SLEEP"]

# The end of an interrupt of the first 8259.
EOI = """
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
"""

# Both 8259 initialised, IRQ 0 at vector 0x30, nothing masked.
PIC_UP = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x30
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    xor eax, eax
    out 0x21, al
"""

# Interrupts on, for ever; the handler at `tick` does nothing.
SLEEP = f"""{PIC_UP}
    sti
sleep:
    hlt
    jmp sleep
tick:
{EOI}
    iretq
"""

# Sends the text at RDI, up to a zero byte.
SAY = """
say:
    mov dx, 0x3f8
next:
    mov al, [rdi]
    test al, al
    jz said
    out dx, al
    inc rdi
    jmp next
said:
    ret
"""
