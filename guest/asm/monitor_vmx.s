# Commands of VMX. What a VMCS holds but the host's state is written by commands.

.equ IA32_FEATURE_CONTROL, 0x3a
.equ LOCKED_AND_VMX, 5
.equ IA32_VMX_BASIC, 0x480
.equ CR4_VMXE, 0x2000
.equ OWN_EFER, 0x500            # LMA, LME

.equ F_HOST_CS, 0xc02
.equ F_HOST_TR, 0xc0c
.equ F_HOST_EFER, 0x2c02
.equ F_INSTRUCTION_ERROR, 0x4400
.equ F_EXIT_REASON, 0x4402
.equ F_INSTRUCTION_LENGTH, 0x440c
.equ F_ENTRY_EVENT, 0x4016
.equ F_ENTRY_ERROR, 0x4018
.equ F_HOST_CR0, 0x6c00
.equ F_QUALIFICATION, 0x6400
.equ F_RIP, 0x681e
.equ EVENT_GP, 0x80000b0d       # valid, error code, hardware exception, vector 13

# VMX_ON: enter VMX operation, and have one VMCS current and clear, with the host's state. Answers
# its address, and IA32_VMX_BASIC.
do_vmx_on:
    mov r8, rdi
    mov ecx, IA32_FEATURE_CONTROL
    rdmsr
    test al, 1
    jnz locked
    or eax, LOCKED_AND_VMX
    wrmsr
locked:
    mov rax, cr4
    test eax, CR4_VMXE
    jnz vmx_is_on
    or eax, CR4_VMXE
    mov cr4, rax
    mov ecx, IA32_VMX_BASIC
    rdmsr
    and eax, 0x7fffffff
    mov [rbp + P_VMXON], eax
    lea rax, [rbp + P_VMXON]
    mov [rbp + D_REGION], rax
    vmxon [rbp + D_REGION]
    jbe vm_failed
vmx_is_on:
    xor eax, eax
    lea rdi, [rbp + P_VMCS]
    mov ecx, 512
    lea rdx, [rbp + P_VMCS]
    mov [rbp + D_REGION], rdx
    vmclear [rbp + D_REGION]
    jbe vm_failed
    rep stosq
    mov ecx, IA32_VMX_BASIC
    rdmsr
    and eax, 0x7fffffff
    mov [rbp + P_VMCS], eax
    vmclear [rbp + D_REGION]
    jbe vm_failed
    vmptrld [rbp + D_REGION]
    jbe vm_failed
    mov qword ptr [rbp + D_LAUNCHED], 0

    # Selectors: ES, CS, SS, DS, FS, GS, TR.
    mov ebx, 0xc00
next_selector:
    mov eax, DATA64
    cmp ebx, 0xc08
    jb selector_known
    xor eax, eax
    cmp ebx, F_HOST_TR
    jne selector_known
    mov eax, TASK
selector_known:
    cmp ebx, F_HOST_CS
    jne not_code
    mov eax, CODE64
not_code:
    vmwrite rbx, rax
    jbe vm_failed
    add ebx, 2
    cmp ebx, F_HOST_TR
    jbe next_selector
    # SYSENTER's CS, then CR0, CR3, CR4, the bases of FS, GS, TR, GDTR, IDTR, SYSENTER's ESP and
    # EIP, RSP and RIP.
    mov ebx, 0x4c00
    xor eax, eax
    vmwrite rbx, rax
    jbe vm_failed
    mov ebx, F_HOST_CR0
    mov rax, cr0
    call host_field
    mov rax, cr3
    call host_field
    mov rax, cr4
    call host_field
    xor eax, eax
    call host_field
    xor eax, eax
    call host_field
    lea rax, [rbp + P_TSS]
    call host_field
    lea rax, [rbp + P_GDT]
    call host_field
    lea rax, [rbp + P_IDT]
    call host_field
    xor eax, eax
    call host_field
    xor eax, eax
    call host_field
    mov rax, rsp                # above it is where the batch returns to
    call host_field
    lea rax, [rip + vm_exit]
    call host_field
    # Not every CPU has this field.
    mov ebx, F_HOST_EFER
    mov eax, OWN_EFER
    vmwrite rbx, rax

    mov rdi, r8
    lea rax, [rbp + P_VMCS]
    stosq
    mov ecx, IA32_VMX_BASIC
    rdmsr
    mov [rdi], eax
    mov [rdi + 4], edx
    add rdi, 8
    jmp done

# The host's field EBX becomes RAX; EBX the next one.
host_field:
    vmwrite rbx, rax
    jbe vm_failed
    add ebx, 2
    ret

# A VMX instruction failed: CF, ZF as RFLAGS has them, and what the VMCS says of it.
vm_failed:
    pushfq
    pop r8
    lea rbp, [rip + in_long]
    sub rbp, P_CODE
    mov rsp, [rbp + D_RSP]      # it may have failed in a subroutine
    mov r12, [rbp + D_COMMAND]
    mov r13, [rbp + D_BATCH_END]
    mov r15, [rbp + D_RECORD]
    lea rdi, [r15 + 8]
    mov rax, r8
    and eax, 0x41
    stosq
    xor edx, edx
    test al, 0x40
    jz no_error_known
    mov ecx, F_INSTRUCTION_ERROR
    vmread rdx, rcx
no_error_known:
    mov rax, rdx
    stosq
    mov eax, STATUS_VM_FAIL
    jmp finish_command

# READ_FIELDS: their encodings. Answers their values.
do_read_fields:
    call need_room
read_fields:
    mov r8, rcx
next_field_read:
    test r8, r8
    jz done
    lodsq
    vmread rdx, rax
    jbe vm_failed
    mov rax, rdx
    stosq
    dec r8
    jmp next_field_read

# WRITE_FIELDS: encoding and value of each
do_write_fields:
    shr ecx, 1
    jc bad_payload
    mov r8, rcx
next_field_written:
    test r8, r8
    jz done
    mov rax, [rsi]
    vmwrite rax, [rsi + 8]
    jbe vm_failed
    add rsi, 16
    dec r8
    jmp next_field_written

# RUN: flags, fields to read. Enter the guest until an exit that isn't to be handled here. Answers
# the registers, how many exits were handled, the fields.
do_run:
    test ecx, ecx
    jz bad_payload
    add rcx, REGISTERS
    call need_room
    mov r8, [rsi]
    mov eax, 2                  # all contexts
    test r8b, RUN_INVEPT
    jz ept_kept
    invept rax, [rbp + D_NO_EPT]
    jbe vm_failed
ept_kept:
    test r8b, RUN_INVVPID
    jz vpid_kept
    invvpid rax, [rbp + D_NO_EPT]
    jbe vm_failed
vpid_kept:
    test r8b, RUN_IO
    jz no_io
    call carry_out_io
no_io:
    mov qword ptr [rbp + D_COUNT], 0
enter_vmx:
    mov rax, [rbp + D_GUEST_CR2]
    mov cr2, rax
    cmp qword ptr [rbp + D_LAUNCHED], 0
    mov rax, [rbp + D_RAX]
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
    jne resume
    vmlaunch
    jmp vm_failed
resume:
    vmresume
    jmp vm_failed

# Carry out the guest's I/O instruction, for which it left, no string's; it goes on behind it.
carry_out_io:
    mov ecx, F_QUALIFICATION
    vmread r9, rcx
    mov rdx, r9
    shr edx, 16
    mov rax, [rbp + D_RAX]
    mov ecx, r9d
    and ecx, 7                  # the bytes, but one
    test r9b, 8
    jnz io_in
    cmp ecx, 1
    jb io_out_byte
    je io_out_word
    out dx, eax
    jmp io_done
io_out_word:
    out dx, ax
    jmp io_done
io_out_byte:
    out dx, al
    jmp io_done
io_in:
    cmp ecx, 1
    jb io_in_byte
    je io_in_word
    in eax, dx
    jmp io_done
io_in_word:
    in ax, dx
    jmp io_done
io_in_byte:
    in al, dx
io_done:
    mov [rbp + D_RAX], rax
# The guest goes on behind its instruction. RAX, RCX, RDX are lost.
skip_instruction:
    mov ecx, F_RIP
    vmread rax, rcx
    mov edx, F_INSTRUCTION_LENGTH
    vmread rdx, rdx
    add rax, rdx
    vmwrite rcx, rax
    ret

# Where the CPU goes at an exit, with the stack as a batch's commands have it.
vm_exit:
    push rbp
    lea rbp, [rip + in_long]
    sub rbp, P_CODE
    mov [rbp + D_RAX], rax
    pop rax
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
    mov rax, cr2
    mov [rbp + D_GUEST_CR2], rax
    mov ecx, F_EXIT_REASON
    vmread rdx, rcx
    bt edx, 31
    jc report_exit              # it was no entry
    mov qword ptr [rbp + D_LAUNCHED], 1
    mov eax, edx
    cmp eax, 63
    ja report_exit
    bt [rbp + D_HANDLED], rax
    jnc report_exit
    cmp al, 10
    je handle_cpuid
    cmp al, 31
    je handle_read_msr
    cmp al, 32
    je handle_write_msr
    cmp al, 55
    je handle_xsetbv
report_exit:
    mov r12, [rbp + D_COMMAND]
    mov r13, [rbp + D_BATCH_END]
    mov r15, [rbp + D_RECORD]
    lea rdi, [r15 + 8]
    lea rsi, [rbp + D_RAX]
    mov ecx, REGISTERS
    rep movsq
    mov rax, [rbp + D_COUNT]
    stosq
    lea rsi, [r12 + 16]
    mov ecx, [r12 + 4]
    dec ecx
    jmp read_fields

handled_here:
    call skip_instruction
enter_again:
    inc qword ptr [rbp + D_COUNT]
    jmp enter_vmx

handle_cpuid:
    mov r10d, [rbp + D_RAX]
    mov r11d, [rbp + D_RCX]
    mov eax, r10d
    mov ecx, r11d
    cpuid
    shl rbx, 32
    lea r8, [rax + rbx]
    shl rdx, 32
    lea r9, [rcx + rdx]
    lea rsi, [rbp + P_CPUID_ROWS]
    mov rdi, [rbp + D_ROWS]
next_row:
    test rdi, rdi
    jz rows_done
    cmp r10d, [rsi]
    jne other_row
    mov eax, [rsi + 4]
    cmp eax, 0xffffffff
    je this_row
    cmp eax, r11d
    jne other_row
this_row:
    and r8, [rsi + 8]
    and r9, [rsi + 16]
    or r8, [rsi + 24]
    or r9, [rsi + 32]
other_row:
    add rsi, 40
    dec rdi
    jmp next_row
rows_done:
    mov eax, r8d
    mov [rbp + D_RAX], rax
    shr r8, 32
    mov [rbp + D_RBX], r8
    mov eax, r9d
    mov [rbp + D_RCX], rax
    shr r9, 32
    mov [rbp + D_RDX], r9
    jmp handled_here

# What of MSRs the bitmap has is not for here.
outside_bitmap:
    mov ecx, [rbp + D_RCX]
    mov eax, ecx
    and eax, 0xffffe000
    jz bitmap_has
    cmp eax, 0xc0000000
    je bitmap_has
    lea rax, [rip + give_gp]
    mov [rbp + D_RESUME], rax
    ret
bitmap_has:
    pop rax
    jmp report_exit
still_usual:
    lea rdx, [rip + command_faulted]
    mov [rbp + D_RESUME], rdx
    ret
give_gp:
    call still_usual
    mov ecx, F_ENTRY_EVENT
    mov eax, EVENT_GP
    vmwrite rcx, rax
    mov ecx, F_ENTRY_ERROR
    xor eax, eax
    vmwrite rcx, rax
    jmp enter_again

handle_read_msr:
    call outside_bitmap
    rdmsr
    mov eax, eax
    mov [rbp + D_RAX], rax
    mov edx, edx
    mov [rbp + D_RDX], rdx
    call still_usual
    jmp handled_here

handle_write_msr:
    call outside_bitmap
    mov eax, [rbp + D_RAX]
    mov edx, [rbp + D_RDX]
    wrmsr
    call still_usual
    jmp handled_here

handle_xsetbv:
    lea rax, [rip + give_gp]
    mov [rbp + D_RESUME], rax
    mov ecx, [rbp + D_RCX]
    mov eax, [rbp + D_RAX]
    mov edx, [rbp + D_RDX]
    xsetbv
    call still_usual
    jmp handled_here
