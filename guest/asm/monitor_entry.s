# The 32-bit code of the monitor: from the loader to 64-bit mode. It lies in the first page, at
# P_ENTRY; EBP is the base.

.equ CODE64, 0x10
.equ CR4_PAE, 0x20
.equ OWN_CR0, 0x80010033        # PG, WP, NE, ET, MP, PE
.equ EFER, 0xc0000080
.equ EFER_LME, 0x100

# The loader comes here in protected mode without paging, interrupts off: EBX is the address of what
# it knows; EBP is the base (the image's first instruction).
    cld
    lea esp, [ebp + P_STACK_TOP]
    mov [ebp + D_INFO], ebx
    mov eax, CR4_PAE
    mov cr4, eax
    lea eax, [ebp + P_PML4]
    mov cr3, eax
    mov ecx, EFER
    xor edx, edx
    mov eax, EFER_LME
    wrmsr
    mov eax, OWN_CR0
    mov cr0, eax
    .byte 0x0f, 0x01, 0x95      # lgdt [ebp + D_GDTR], of 32 bits
    .long D_GDTR
    lea eax, [ebp + P_CODE]
    mov ecx, CODE64
    push ecx
    push eax
    retf
