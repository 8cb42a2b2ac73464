# Exceptions of the monitor: all go to one place, on a stack of their own (IST 1), and none returns.
# What the CPU said is noted, and the monitor goes on at D_RESUME, which holds for one exception.

.equ WITH_ERROR_CODE, 0x60227d00        # vectors 8, 10 to 14, 17, 21, 29, 30
.equ GATE, 0x8e01               # present, DPL 0, interrupt gate, IST 1
.equ TSS_IST1, P_TSS + 36

.align 8
traps:
.rept 32
    call trapped
.align 8
.endr

trapped:
    lea rbp, [rip + in_long]
    sub rbp, P_CODE
    mov rax, cr2
    mov [rbp + D_CR2], rax
    pop rax                     # behind the call above
    lea rcx, [rip + traps]
    sub rax, rcx
    shr eax, 3
    mov [rbp + D_VECTOR], rax
    xor esi, esi
    mov ecx, WITH_ERROR_CODE
    bt ecx, eax
    jnc no_error_code
    pop rsi
no_error_code:
    mov [rbp + D_ERROR], rsi
    pop rax
    mov [rbp + D_RIP], rax
    mov rsp, [rbp + D_RSP]
    push 2
    popfq
    xor eax, eax
    xchg rax, [rbp + D_RESUME]
    test rax, rax
    jz unexpected
    jmp rax

# The monitor itself is wrong, or its pages are broken: an answer that is none to a command.
unexpected:
    mov r15, [rbp + D_OUT]
    lea rdi, [r15 + 8]
    mov rax, [rbp + D_VECTOR]
    stosq
    mov rax, [rbp + D_ERROR]
    stosq
    mov rax, [rbp + D_RIP]
    sub rax, rbp
    stosq
    mov rax, [rbp + D_CR2]
    stosq
    mov ebx, UNEXPECTED_HEAD
    call end_answer
    jmp give_up

# The GDT's task, and the IDT. RAX, RCX, RDI are lost.
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
