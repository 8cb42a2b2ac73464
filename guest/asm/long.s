# Long mode, still in identity-mapped memory: go to the higher half. Assembled as 64-bit code.

.equ DATA, 0x18

long:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    movabs rsp, KERNEL_STACK_TOP
    movabs rax, KERNEL_TEXT
    jmp rax
