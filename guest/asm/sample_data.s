# What the processor writes, too: accessed bits in the GDT, the task's busy bit.

.globl gdt, tss
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # CODE
    .quad 0x00cf92000000ffff    # WRITABLE
    .quad 0x00cff2000000ffff    # USER_WRITABLE
    .quad 0x00affa000000ffff    # USER_CODE
    .quad 0x0000890000000067 | (TSS & 0xffffff) << 16 | (TSS >> 24 & 0xff) << 56
    .quad TSS >> 32

tss:
    .long 0
    .quad STACK_END             # RSP0
    .rept 23
    .long 0
    .endr
    .short 0, 104               # no map of ports
