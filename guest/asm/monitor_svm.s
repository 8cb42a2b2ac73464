# Commands of SVM, which is switched on by WRITE_MSR: EFER.SVME, and VM_HSAVE_PA. A VMCB is memory like
# any other, and written as such. Keystone lacks these instructions' names.

# RUN_VMCB: the VMCB, offsets in it. VMRUN; what VMRUN leaves alone is loaded and saved by VMLOAD and
# VMSAVE, the general registers as RUN has it, but for RAX and RSP, which are the VMCB's. Answers the
# registers, 0 for the exits handled, and the words at the offsets.
do_run_vmcb:
    test ecx, ecx
    jz bad_payload
    add rcx, REGISTERS
    call need_room
    mov rax, [rsi]
    push rbp
    push rax
    .byte 0x0f, 0x01, 0xdd      # clgi
    lea rax, [rbp + P_HOST_VMCB]
    .byte 0x0f, 0x01, 0xdb      # vmsave
    mov rax, [rsp]
    .byte 0x0f, 0x01, 0xda      # vmload
    mov rcx, [rbp + D_RCX]
    mov rdx, [rbp + D_RDX]
    mov rbx, [rbp + D_RBX]
    mov rsi, [rbp + D_RSI]
    mov rdi, [rbp + D_RDI]
    mov r8, [rbp + D_R8]
    mov r9, [rbp + D_R9]
    mov r10, [rbp + D_R10]
    mov r11, [rbp + D_R11]
    mov r12, [rbp + D_R12]
    mov r13, [rbp + D_R13]
    mov r14, [rbp + D_R14]
    mov r15, [rbp + D_R15]
    mov rbp, [rbp + D_RBP]
    .byte 0x0f, 0x01, 0xd8      # vmrun; RAX and RSP are as before when it is over
    .byte 0x0f, 0x01, 0xdb      # vmsave
    mov rax, rbp
    mov rbp, [rsp + 8]
    mov [rbp + D_RBP], rax
    mov [rbp + D_RCX], rcx
    mov [rbp + D_RDX], rdx
    mov [rbp + D_RBX], rbx
    mov [rbp + D_RSI], rsi
    mov [rbp + D_RDI], rdi
    mov [rbp + D_R8], r8
    mov [rbp + D_R9], r9
    mov [rbp + D_R10], r10
    mov [rbp + D_R11], r11
    mov [rbp + D_R12], r12
    mov [rbp + D_R13], r13
    mov [rbp + D_R14], r14
    mov [rbp + D_R15], r15
    lea rax, [rbp + P_HOST_VMCB]
    .byte 0x0f, 0x01, 0xda      # vmload
    .byte 0x0f, 0x01, 0xdc      # stgi
    pop rdx
    pop rax
    mov r12, [rbp + D_COMMAND]
    mov r13, [rbp + D_BATCH_END]
    mov r15, [rbp + D_RECORD]
    lea rdi, [r15 + 8]
    lea rsi, [rbp + D_RAX]
    mov ecx, REGISTERS
    rep movsq
    xor eax, eax
    stosq
    lea rsi, [r12 + 16]
    mov ecx, [r12 + 4]
    dec ecx
    jz done
next_vmcb_word:
    lodsq
    mov rax, [rdx + rax]
    stosq
    dec ecx
    jnz next_vmcb_word
    jmp done
