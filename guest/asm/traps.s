# Exceptions: descriptors and handlers of the guest's own, then faults taken on purpose. Called with
# the status block's address in RBX. Assembled as 64-bit code.
#
# Whoever may fault says in R15 where to go on after that; 0 means that no fault is due. A handler
# enters all that it was given in the status block's account, and returns there.

.equ CODE, 0x10
.equ DATA, 0x18
.equ USER_SS, 0x23              # with RPL 3
.equ USER_CS, 0x2b
.equ TASK, 0x30

# What lies in the page of descriptors.
.equ GDT, DESCRIPTORS
.equ GDT_LIMIT, 0x3f
.equ TSS, DESCRIPTORS + 0x80
.equ SAVED_RSP, DESCRIPTORS + 0xf8
.equ IDT, DESCRIPTORS + 0x100
.equ IDT_LIMIT, 0x20f           # vectors 0 to 0x20

.equ TSS_LIMIT, 0x67
.equ RSP0, 4
.equ IST1, 36
.equ IST2, 44
.equ IO_MAP, 102

# A gate's word 4: present, DPL, interrupt gate; IST.
.equ ON_SAME_STACK, 0x8e00
.equ ON_IST1, 0x8e01
.equ ON_IST2, 0x8e02
.equ FOR_USER, 0xee00

.equ DOUBLE_FAULT, 8
.equ PROTECTION, 13
.equ PAGE_FAULT, 14
.equ LEAVE, 0x20

.equ S_STATE, 16
.equ S_EXCEPTIONS, 88
.equ S_ACCOUNT, 96              # 9 words each
.equ STATE_UNEXPECTED, 0x103
.equ STATE_ACCOUNT_FULL, 0x104

# What is to be done on purpose: a count, then records.
.equ P_VA, 0
.equ P_ACCESS, 8                # 0: read, 1: write, 2: execute
.equ P_CPL, 16
.equ P_SIZE, 24

traps:
    # Accessed bits are set beforehand, so that loads of a segment write nothing.
    movabs rdi, GDT
    movabs rax, 0x00af9b000000ffff
    mov [rdi + CODE], rax
    movabs rax, 0x00cf93000000ffff
    mov [rdi + DATA], rax
    movabs rax, 0x00cff3000000ffff
    mov [rdi + USER_SS - 3], rax
    movabs rax, 0x00affb000000ffff
    mov [rdi + USER_CS - 3], rax

    movabs rsi, TSS
    movabs rax, RSP0_TOP
    mov [rsi + RSP0], rax
    movabs rax, IST1_TOP
    mov [rsi + IST1], rax
    movabs rax, IST2_TOP
    mov [rsi + IST2], rax
    mov word ptr [rsi + IO_MAP], TSS_LIMIT + 1
    mov word ptr [rdi + TASK], TSS_LIMIT
    mov [rdi + TASK + 2], si
    shr rsi, 16
    mov eax, esi
    mov [rdi + TASK + 4], al
    mov byte ptr [rdi + TASK + 5], 0x89     # present, available 64-bit TSS
    mov [rdi + TASK + 7], ah
    shr rsi, 16
    mov [rdi + TASK + 8], esi

    movabs rdi, IDT + DOUBLE_FAULT * 16
    lea rax, [rip + double_fault]
    mov edx, ON_IST2
    call set_gate
    movabs rdi, IDT + PROTECTION * 16
    lea rax, [rip + protection]
    mov edx, ON_IST1
    call set_gate
    movabs rdi, IDT + PAGE_FAULT * 16
    lea rax, [rip + page_fault]
    mov edx, ON_SAME_STACK
    call set_gate
    movabs rdi, IDT + LEAVE * 16
    lea rax, [rip + leave_user]
    mov edx, FOR_USER
    call set_gate

    sub rsp, 16
    movabs rax, GDT
    mov word ptr [rsp], GDT_LIMIT
    mov [rsp + 2], rax
    lgdt [rsp]
    movabs rax, IDT
    mov word ptr [rsp], IDT_LIMIT
    mov [rsp + 2], rax
    lidt [rsp]
    add rsp, 16
    mov eax, TASK
    ltr ax

    movabs rsi, ON_PURPOSE
    mov rcx, [rsi]
    add rsi, 8
next:
    push rcx
    push rsi
    mov r8, [rsi + P_VA]
    mov r9, [rsi + P_ACCESS]
    cmp qword ptr [rsi + P_CPL], 0
    jnz as_user
    lea r15, [rip + done]
    cmp r9, 1
    jz write
    ja execute
    mov al, [r8]
    jmp done
write:
    mov [r8], al
    jmp done
execute:
    jmp r8
as_user:
    movabs rax, SAVED_RSP
    mov [rax], rsp
    push USER_SS
    movabs rax, USER_STACK_TOP
    push rax
    push 2
    push USER_CS
    movabs rax, USER_TEXT
    push rax
    iretq
back:
    movabs rax, SAVED_RSP
    mov rsp, [rax]
    mov eax, DATA
    mov ss, eax
done:
    xor r15d, r15d
    pop rsi
    pop rcx
    add rsi, P_SIZE
    dec rcx
    jnz next
    ret

# Write the gate at RDI: the handler is RAX, word 4 is DX. RAX is lost.
set_gate:
    mov [rdi], ax
    mov word ptr [rdi + 2], CODE
    mov [rdi + 4], dx
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], eax
    ret

double_fault:
    push DOUBLE_FAULT
    jmp handle
protection:
    push PROTECTION
    jmp handle
page_fault:
    push PAGE_FAULT
    jmp handle
leave_user:
    push 0                      # there is no error code
    push LEAVE

# Vector, error code and the CPU's own five words are on the stack.
handle:
    push rax
    push rbx
    push rcx
    push rsi
    push rdi
    movabs rbx, STATUS_ALIAS
    mov eax, [rbx + S_EXCEPTIONS]
    cmp eax, ACCOUNT_SLOTS
    jae account_full
    inc dword ptr [rbx + S_EXCEPTIONS]
    lea rax, [rax + rax * 8]
    lea rdi, [rbx + rax * 8 + S_ACCOUNT]
    lea rsi, [rsp + 40]
    mov ecx, 7
    cld
    rep movsq
    xor eax, eax                # CR2 counts for page faults alone
    cmp dword ptr [rsp + 40], PAGE_FAULT
    jnz no_address
    mov rax, cr2
no_address:
    mov [rdi], rax
    mov [rdi + 8], rsi          # where the stack began

    cmp dword ptr [rsp + 40], LEAVE
    jz back
    cmp dword ptr [rsp + 40], DOUBLE_FAULT
    jz unexpected
    test r15, r15
    jz unexpected
    mov [rsp + 56], r15
    xor r15d, r15d
    pop rdi
    pop rsi
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq

unexpected:
    mov dword ptr [rbx + S_STATE], STATE_UNEXPECTED
    hlt
account_full:
    mov dword ptr [rbx + S_STATE], STATE_ACCOUNT_FULL
    hlt
