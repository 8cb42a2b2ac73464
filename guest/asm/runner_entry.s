# The 32-bit code of the runner: from the loader to 64-bit mode, and to it again with other levels of
# paging, for which paging has to be off. It lies in the first page, at P_ENTRY; EBP is the base.

.equ CODE64, 0x10
.equ CR4_PAE, 0x20
.equ OWN_CR0, 0x80010033        # PG, WP, NE, ET, MP, PE
.equ EFER, 0xc0000080
.equ EFER_LME, 0x100

# The loader comes here in protected mode without paging, interrupts off: EAX is the mark of
# multiboot, EBX the address of what it knows; EBP is the base (the image's first instruction).
start:
    jmp loaded
    .balign 8
    jmp without_paging          # P_WITHOUT_PAGING
loaded:
    cld
    lea esp, [ebp + P_STACK_TOP]
    mov [ebp + D_INFO], ebx
    mov edi, CR4_PAE
    lea esi, [ebp + P_OWN4]

# In protected mode without paging, or in compatibility mode once it is off: enter 64-bit mode with
# CR4 = EDI and CR3 = ESI, and go on at P_CODE. EBP is the base, ESP a stack.
enter_long:
    mov cr4, edi
    mov cr3, esi
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

# In compatibility mode, at the physical address: paging off, then 64-bit mode again with EDI and ESI.
without_paging:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp enter_long

