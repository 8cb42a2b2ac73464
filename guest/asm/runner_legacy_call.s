# A step in 32-bit or PAE paging, from 64-bit mode and back: what runner_legacy.s has to know and what
# it answers. Behind runner.s, whose registers these are.

.equ LEGACY_CODE64, 0x08        # of the descriptors there
.equ LEGACY_CODE, 0x10
.equ LEGACY_DATA, 0x28
.equ LEGACY_COMPLETED, 0xff
.equ LEGACY_STEPS, 0x0e         # ops: READ, WRITE, EXECUTE
.equ BREAKPOINT, 3
.equ PROTECTION, 13
.equ PAGING_PAE, 0x20
.equ AC, 0x40000

# Make the step at R15 of the run at R12, under own tables at physical addresses. Leaves what came of
# it as an exception of 64-bit mode does, in D_VECTOR to D_DONE_RIP. EAX is 0, or what the run is
# refused for, with the value RDX. RBX, RBP and RSP are kept.
legacy_step:
    movzx ecx, byte ptr [r15]
    mov eax, LEGACY_STEPS
    bt eax, ecx
    jnc legacy_refused
    mov [rbp + L_OP], ecx
    movzx eax, byte ptr [r15 + 1]
    mov [rbp + L_CPL], eax
    mov eax, 2
    test byte ptr [r15 + 2], 1
    jz legacy_no_ac
    or eax, AC
legacy_no_ac:
    mov [rbp + L_FLAGS], eax
    mov eax, [r15 + S_VA]
    mov [rbp + L_VA], eax
    mov eax, [r15 + S_VALUE]
    mov [rbp + L_VALUE], eax
    mov eax, [r12 + R_EFER]
    mov [rbp + L_RUN_EFER], eax
    mov eax, [r12 + R_CR0]
    mov [rbp + L_RUN_CR0], eax
    mov eax, [r12 + R_CR3]
    mov [rbp + L_RUN_CR3], eax
    mov eax, [r12 + R_CR4]
    mov [rbp + L_RUN_CR4], eax
    lea rcx, [rbp + L_ROOT_32]
    test eax, PAGING_PAE
    jz legacy_root
    lea rcx, [rbp + L_ROOT_PAE]
legacy_root:
    mov [rbp + L_ROOT], ecx
    mov [rbp + L_FAULT_TSS_CR3], ecx

    # What depends on the alias, and the tasks, which are not busy.
    mov r9d, [r12 + R_ALIAS]
    mov [rbp + L_ALIAS], r9d
    mov eax, r9d
    movabs rdx, 0x00cf9b000000ffff
    call legacy_descriptor
    mov [rbp + L_THERE], rax
    mov eax, r9d
    movabs rdx, 0x00cf93000000ffff
    call legacy_descriptor
    mov [rbp + L_THERE + 8], rax
    lea eax, [r9 + L_TSS]
    movabs rdx, 0x0000890000000067
    call legacy_descriptor
    mov [rbp + L_GDT_TASK], rax
    lea eax, [r9 + L_FAULT_TSS]
    movabs rdx, 0x0000890000000067
    call legacy_descriptor
    mov [rbp + L_GDT_FAULT_TASK], rax
    lea eax, [r9 + L_GDT]
    mov [rbp + L_THERE_GDTR + 2], eax
    lea eax, [r9 + L_IDT]
    mov [rbp + L_THERE_IDTR + 2], eax

    mov rax, cr0
    mov [rbp + L_OWN_CR0], eax
    mov rax, cr3
    mov [rbp + L_OWN_CR3], eax
    mov rax, cr4
    mov [rbp + L_OWN_CR4], eax
    mov ecx, EFER
    rdmsr
    and eax, 0xfffffbff         # without LMA, which is read-only
    mov [rbp + L_OWN_EFER], eax
    lea rax, [rip + legacy_back]
    mov [rbp + L_OWN_RETURN], eax
    mov [rbp + L_OWN_BASE], ebp
    mov [rbp + L_RSP], rsp
    lgdt [rbp + L_HERE_GDTR]
    push LEGACY_CODE
    push P_LEGACY
    .byte 0x48, 0xcb            # RETFQ

legacy_back:                    # RBP is the base again, all others are lost
    mov eax, LEGACY_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, [rbp + L_RSP]
    xor ebx, ebx
    call set_descriptors
    push CODE64
    lea rax, [rip + legacy_own]
    push rax
    .byte 0x48, 0xcb            # RETFQ
legacy_own:
    mov eax, DATA64
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax

    mov ecx, [rbp + L_STAGE]
    mov eax, [rbp + L_VECTOR]
    test ecx, ecx
    jz legacy_done
    cmp eax, PROTECTION
    jz legacy_register_refused
legacy_done:
    mov edx, [rbp + L_ERROR]
    mov [rbp + D_ERROR], rdx
    mov edx, [rbp + L_FAULT_CR2]
    mov [rbp + D_CR2], rdx
    mov rdx, [rbp + L_SEEN]
    mov [rbp + D_SEEN], rdx
    mov edx, [rbp + L_FIRST]
    mov [rbp + D_FIRST], rdx
    mov edx, [rbp + L_AT]
    mov [rbp + D_ACCESS_RIP], rdx
    mov esi, 1                  # no address of 32 bits
    shl rsi, 32
    mov [rbp + D_DONE_RIP], rsi
    mov edx, [rbp + L_FOUND]
    mov edi, [rbp + L_FOUND_CS]
    cmp edi, [rbp + L_AT_CS]
    jz legacy_code_known
    mov rdx, -1
legacy_code_known:
    cmp edx, 0
    jnz legacy_not_wrapped
    cmp dword ptr [rbp + L_AT], -1
    cmovz rdx, rsi              # behind the last byte of 4 GiB: as if EIP had more bits
legacy_not_wrapped:
    cmp eax, LEGACY_COMPLETED
    jnz legacy_faulted
    mov eax, BREAKPOINT         # as 64-bit code ends
    mov rdx, rsi
    mov dword ptr [rbp + D_ERROR], 0
legacy_faulted:
    mov [rbp + D_VECTOR], rax
    mov [rbp + D_RIP], rdx
    xor eax, eax
    ret
legacy_register_refused:
    mov eax, ecx
    mov edx, [rbp + L_RUN_CR3]
    cmp eax, REFUSED_CR3
    jz legacy_says
    mov edx, [rbp + L_RUN_CR4]
    cmp eax, REFUSED_CR4
    jz legacy_says
    mov edx, [rbp + L_RUN_CR0]
    cmp eax, REFUSED_CR0
    jz legacy_says
    mov edx, [rbp + L_RUN_EFER]
legacy_says:
    ret
legacy_refused:
    mov edx, ecx
    mov eax, REFUSED_STEP
    ret

# Return in RAX the descriptor RDX with the base EAX. RCX is lost.
legacy_descriptor:
    mov ecx, eax
    and ecx, 0xffffff
    shl rcx, 16
    or rdx, rcx
    shr eax, 24
    shl rax, 56
    or rax, rdx
    ret
