# The monitor: takes commands, carries them out, answers. It decides nothing; see
# guest/monitor/commands.py for what the commands are, and image.py for how the sources are put
# together. First of them: what begins, and the loop over the commands of a batch.
#
# All code finds the base of its pages in RBP; addresses are physical ones (identity map). While a
# command is carried out:
#
#   R12 the command's head    R13 the end of the batch    R15 the answer's head
#   RSI, RCX its payload, and how many words    RDI where the answer's next word goes
#
# A command ends at `done`, or at `refuse`, `vm_failed` or `command_faulted`.

.equ CODE64, 0x10
.equ DATA64, 0x18
.equ TASK, 0x30

# Keystone takes the last of two symbols in an address alone.
.equ GDT_TASK, P_GDT + TASK

.equ CR4_OSXSAVE, 0x40000
.equ PAGE_1G, 0xe3              # present, writable, accessed, dirty, page

# From 32-bit code, in 64-bit mode.
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
    lea rsp, [rbp + P_STACK_TOP]
    call set_descriptors
    call map_all
    call note_ram

    mov eax, 1
    cpuid
    bt ecx, 26
    jnc no_xsave
    mov rax, cr4
    or eax, CR4_OSXSAVE
    mov cr4, rax
no_xsave:

    mov r15, [rbp + D_ANSWERS]
    lea rdi, [r15 + 8]
    mov eax, FORMAT
    stosq
    mov rax, rbp
    stosq
    mov rax, [rbp + D_END]
    sub rax, rbp
    stosq
    mov rcx, [rbp + D_RAM_COUNT]
    lea rsi, [rbp + P_RAM]
    shl rcx, 1
    rep movsq
    mov rbx, OP_GREETING
    call end_answer

    cmp qword ptr [rbp + D_TRANSPORT], TRANSPORT_DISK
    je by_disk
    mov r12, [rbp + D_COMMANDS]
    mov r13, [rbp + D_COMMAND_WORDS]
    lea r13, [r12 + r13 * 8]
    call do_batch
    jmp power_off

by_disk:
    call send
    call receive
    call do_batch
    jmp by_disk

# Carry out the commands from R12 to R13. The answers go behind those that are there.
do_batch:
    mov [rbp + D_BATCH_END], r13
    mov qword ptr [rbp + D_SEQUENCE], 0
    mov [rbp + D_RSP], rsp
next_command:
    mov rsp, [rbp + D_RSP]
    cmp r12, r13
    jae batch_done
    mov [rbp + D_COMMAND], r12
    lea rax, [rip + command_faulted]
    mov [rbp + D_RESUME], rax
    mov r15, [rbp + D_OUT]
    mov [rbp + D_RECORD], r15
    lea rdi, [r15 + 8]

    mov eax, REFUSAL_LENGTH
    mov ecx, [r12 + 4]
    lea rdx, [rcx * 8 + 16]
    add rdx, r12
    cmp rdx, r13
    ja refuse
    mov [rbp + D_NEXT], rdx
    mov r8, rdx
    mov rsi, r12
    inc rcx
    call checksum
    mov rdx, rax
    mov eax, REFUSAL_CHECKSUM
    cmp rdx, [r8 - 8]
    jne refuse
    mov eax, REFUSAL_SEQUENCE
    mov rdx, [rbp + D_SEQUENCE]
    cmp dx, [r12 + 2]
    jne refuse

    lea rsi, [r12 + 8]
    mov ecx, [r12 + 4]
    movzx eax, byte ptr [r12]
    cmp al, OP_READ
    je do_read
    cmp al, OP_WRITE
    je do_write
    cmp al, OP_FILL
    je do_fill
    cmp al, OP_COPY
    je do_copy
    cmp al, OP_COMPARE
    je do_compare
    cmp al, OP_LOAD
    je do_load
    cmp al, OP_STORE
    je do_store
    cmp al, OP_READ_MSR
    je do_read_msr
    cmp al, OP_WRITE_MSR
    je do_write_msr
    cmp al, OP_CPUID
    je do_cpuid
    cmp al, OP_SET_REGISTERS
    je do_set_registers
    cmp al, OP_GET_REGISTERS
    je do_get_registers
    cmp al, OP_HANDLE
    je do_handle
    cmp al, OP_VMX_ON
    je do_vmx_on
    cmp al, OP_READ_FIELDS
    je do_read_fields
    cmp al, OP_WRITE_FIELDS
    je do_write_fields
    cmp al, OP_RUN
    je do_run
    cmp al, OP_RUN_VMCB
    je do_run_vmcb
    cmp al, OP_RESTORE
    je do_restore
    cmp al, OP_FLUSH
    je do_flush
    cmp al, OP_END
    je do_end
    mov eax, REFUSAL_COMMAND
    jmp refuse

done:
    xor eax, eax
# The status in EAX, the answer's words up to RDI.
finish_command:
    movzx ebx, al
    shl ebx, 8
    mov bl, [r12]
    mov edx, [rbp + D_SEQUENCE]
    shl edx, 16
    or ebx, edx
    push rax
    call end_answer
    pop rax
    inc qword ptr [rbp + D_SEQUENCE]
    mov r12, [rbp + D_NEXT]
    test eax, eax
    jz next_command
    cmp eax, STATUS_REFUSED
    je give_up
    mov rdx, [rbp + D_COMMAND]
    test byte ptr [rdx + 1], FLAG_MAY_FAIL
    jnz next_command
batch_done:
    ret

# The command can't be what was meant: say so, for the reason in EAX, and end.
refuse:
    stosq
    mov rax, [r12]
    stosq
    mov eax, STATUS_REFUSED
    jmp finish_command
give_up:
    cmp qword ptr [rbp + D_TRANSPORT], TRANSPORT_DISK
    jne power_off
    call send
    jmp power_off

# An exception in a command: vector, error code, RIP as an offset, CR2.
command_faulted:
    mov r12, [rbp + D_COMMAND]
    mov r13, [rbp + D_BATCH_END]
    mov r15, [rbp + D_RECORD]
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
    mov eax, STATUS_FAULT
    jmp finish_command

# Close the answer from R15 to RDI: its head, of which EBX has the lower half, and its checksum.
end_answer:
    mov rcx, rdi
    sub rcx, r15
    shr rcx, 3
    lea rdx, [rcx - 1]
    shl rdx, 32
    mov ebx, ebx
    or rdx, rbx
    mov [r15], rdx
    mov rsi, r15
    call checksum
    stosq
    mov [rbp + D_OUT], rdi
    ret

# Behind the last answer.
end_batch:
    mov r15, [rbp + D_OUT]
    lea rdi, [r15 + 8]
    mov ebx, OP_DONE
    jmp end_answer

# The checksum of RCX words from RSI on, in RAX: see commands.py. RCX, RDX, RSI are lost.
checksum:
    movabs rax, SUM_START
    add rax, [rbp + D_BATCH]
    xor edx, edx
next_summand:
    add rax, [rsi]
    add rdx, rax
    add rsi, 8
    dec rcx
    jnz next_summand
    lea rax, [rax + rdx * 2]
    ret

do_flush:
    cmp qword ptr [rbp + D_TRANSPORT], TRANSPORT_DISK
    jne done
    push rdi
    mov rax, r15                # this answer isn't written yet
    call write_answers
    pop rdi
    jmp done

do_end:
    xor eax, eax
    movzx ebx, byte ptr [r12]
    mov edx, [rbp + D_SEQUENCE]
    shl edx, 16
    or ebx, edx
    call end_answer
    jmp give_up

power_off:
    cmp qword ptr [rbp + D_TRANSPORT], TRANSPORT_DISK
    je printed
    call end_batch
    cmp qword ptr [rbp + D_TRANSPORT], TRANSPORT_PRINTED
    jne printed
    mov rsi, [rbp + D_ANSWERS]
    mov rcx, [rbp + D_OUT]
    sub rcx, rsi
    mov edx, 0xe9
    rep outsb
printed:
    lea rsi, [rip + shutdown]
    mov ecx, 8
    mov edx, 0x8900
    rep outsb
    mov eax, 1                  # QEMU and other hypervisors end by ACPI's port
    cpuid
    test ecx, ecx
    jns stay
    mov eax, 0x2000
    mov edx, 0x604
    out dx, ax
    mov edx, 0xb004
    out dx, ax
stay:
    cli
    hlt
    jmp stay
shutdown:
    .ascii "Shutdown"

# What is above 4 GiB, in pages of 1 GiB, where the CPU has them.
map_all:
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_large
    mov eax, 0x80000001
    cpuid
    bt edx, 26
    jnc no_large
    lea rdi, [rbp + P_PDPT + 32]
    mov eax, 4
    shl rax, 30
    or rax, PAGE_1G
    mov ecx, 1020
    mov edx, 0x40000000
next_gib:
    stosq
    add rax, rdx
    loop next_gib
    mov rax, cr3
    mov cr3, rax
no_large:
    ret

# RAM, by the memory map of multiboot: start and end of each range.
note_ram:
    xor r8d, r8d
    mov ebx, [rbp + D_INFO]
    test rbx, rbx
    jz ram_noted
    test byte ptr [rbx], 0x40
    jz ram_noted
    mov ecx, [rbx + 44]
    mov esi, [rbx + 48]
    add rcx, rsi
    lea rdi, [rbp + P_RAM]
next_range:
    cmp rsi, rcx
    jae ram_noted
    cmp r8d, P_MOST_RAM
    jae ram_noted
    cmp dword ptr [rsi + 20], 1
    jne no_ram
    mov rax, [rsi + 4]
    mov rdx, [rsi + 12]
    add rdx, rax
    mov [rdi], rax
    mov [rdi + 8], rdx
    add rdi, 16
    inc r8d
no_ram:
    mov eax, [rsi]
    lea rsi, [rsi + rax + 4]
    jmp next_range
ram_noted:
    mov [rbp + D_RAM_COUNT], r8
    ret
