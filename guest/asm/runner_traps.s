# Exceptions of the runner: all go to one place, on a stack of their own (IST 1), and none returns.
# What the CPU said is noted, and the runner goes on at D_RESUME, which holds for one exception.

.equ WITH_ERROR_CODE, 0x60227d00        # vectors 8, 10 to 14, 17, 21, 29, 30
.equ GATE, 0x8e01               # present, DPL 0, interrupt gate, IST 1
.equ USER_GATE, 0xee01
.equ TSS_IST1, P_TSS + 36

.align 8
traps:
.rept 32
    call trapped
.align 8
.endr

trapped:
    push rbp
    lea rbp, [rip + in_long]
    sub rbp, P_CODE
    mov [rbp + D_SEEN], rax
    mov [rbp + D_FIRST], rdx
    mov rax, cr2
    mov [rbp + D_CR2], rax
    mov rax, [rsp + 8]          # behind the call above
    lea rcx, [rip + traps]
    sub rax, rcx
    shr eax, 3
    mov [rbp + D_VECTOR], rax
    lea rdx, [rsp + 16]
    xor esi, esi
    mov ecx, WITH_ERROR_CODE
    bt ecx, eax
    jnc no_error_code
    mov rsi, [rdx]
    add rdx, 8
no_error_code:
    mov [rbp + D_ERROR], rsi
    mov rax, [rdx]
    mov [rbp + D_RIP], rax
    mov rbx, [rbp + D_DM]
    mov rsp, [rbp + D_RSP]
    push 2
    popfq                       # AC and DF are as they were
    xor eax, eax
    xchg rax, [rbp + D_RESUME]
    test rax, rax
    jz nobody_expected
    jmp rax

# The runner itself is wrong, or its pages are broken: say so, and end.
nobody_expected:
    mov eax, KIND_TRAPPED
    call begin_record
    mov rax, [rbp + D_VECTOR]
    call add_word
    mov rax, [rbp + D_ERROR]
    call add_word
    mov rax, [rbp + D_RIP]
    sub rax, rbp
    call add_word
    mov rax, [rbp + D_CR2]
    call add_word
    call end_record
    jmp power_off

# Descriptor tables for where the runner's pages are now: RBP. RAX, RCX, RDI are lost.
set_descriptors:
    lea rdi, [rbp + P_IDT]
    lea rax, [rip + traps]
    mov ecx, 32
next_gate:
    mov [rdi], ax
    mov word ptr [rdi + 2], CODE64
    mov word ptr [rdi + 4], GATE
    ror rax, 16
    mov [rdi + 6], ax
    ror rax, 16
    mov [rdi + 8], eax
    ror rax, 32
    add rax, 8
    add rdi, 16
    dec ecx
    jnz next_gate
    mov word ptr [rbp + P_IDT + 3 * 16 + 4], USER_GATE

    lea rax, [rbp + P_TRAP_STACK_TOP]
    mov [rbp + TSS_IST1], rax
    lea rax, [rbp + P_TSS]
    mov word ptr [rbp + GDT_TASK], 0x67
    mov [rbp + GDT_TASK + 2], ax
    shr rax, 16
    mov [rbp + GDT_TASK + 4], al
    mov word ptr [rbp + GDT_TASK + 5], 0x89         # present, available 64-bit TSS
    mov [rbp + GDT_TASK + 7], ah
    shr rax, 16
    mov [rbp + GDT_TASK + 8], eax

    lea rax, [rbp + P_GDT]
    mov [rbp + D_GDTR + 2], rax
    lgdt [rbp + D_GDTR]
    mov word ptr [rbp + D_IDTR], 0x1ff
    lea rax, [rbp + P_IDT]
    mov [rbp + D_IDTR + 2], rax
    lidt [rbp + D_IDTR]
    mov eax, TASK
    ltr ax
    ret
