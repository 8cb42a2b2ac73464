# Real mode: load the GDT, switch to protected mode. Assembled as 16-bit code.

.equ CR0_PE, 1
.equ CODE32, 0x08

real:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    lgdt [gdt_pointer]
    mov eax, cr0
    or eax, CR0_PE
    mov cr0, eax
    ljmp CODE32:PROTECTED

# The descriptors' accessed bits are set beforehand: the page becomes read-only with CR0.WP, and
# a processor that had to set one of them would fault.
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # 0x08: 32-bit code
    .quad 0x00af9b000000ffff    # 0x10: 64-bit code
    .quad 0x00cf93000000ffff    # 0x18: data
gdt_pointer:
    .short 31
    .long gdt
