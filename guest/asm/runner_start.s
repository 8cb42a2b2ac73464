# The runner of a boot image: where its 64-bit code begins, first of all and after paging was off. First of the runner's sources; see guest/boot/image.py for how they are put together.
#
# The runner lies at physical addresses from D_BASE on; places.py has what is where. All code finds
# the base of its pages in EBP or RBP, in physical memory or through the alias.

.equ CODE32, 0x08
.equ CODE64, 0x10
.equ DATA64, 0x18
.equ USER_SS, 0x23
.equ USER_CS, 0x2b
.equ TASK, 0x30
.equ LOCAL, 0x40

# Keystone takes the last of two symbols in an address alone.
.equ GDT_TASK, P_GDT + TASK
.equ GDT_LOCAL, P_GDT + LOCAL

.equ CR4_PSE, 0x10
.equ CR4_PAE, 0x20
.equ CR4_PGE, 0x80
.equ CR4_LA57, 0x1000
.equ CR4_PCIDE, 0x20000
.equ CR4_PKE, 0x400000
.equ CR4_PKS, 0x1000000
.equ OWN_CR0, 0x80010033        # PG, WP, NE, ET, MP, PE
.equ EFER, 0xc0000080
.equ EFER_LME, 0x100
.equ OWN_EFER, 0x500            # LMA, LME
.equ IA32_PKRS, 0x6e1

# From 32-bit code, in 64-bit mode: go on at D_AFTER_SWITCH, or, the first time, begin.
in_long:
    mov eax, DATA64
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lea rbp, [rip + in_long]
    sub rbp, P_CODE
    mov esp, esp
    mov eax, [rbp + D_AFTER_SWITCH]
    test eax, eax
    jz begin
    jmp rax

# Under own tables, at physical addresses: paging with other levels. EDI is CR4, ESI the root.
change_levels:
    lea rax, [rip + levels_changed]
    mov [rbp + D_AFTER_SWITCH], rax
    push CODE32
    lea rax, [rbp + P_WITHOUT_PAGING]
    push rax
    .byte 0x48, 0xcb            # RETFQ
levels_changed:
    ret
