# What is driven under nested paging: carries out one command of the mailbox with one instruction,
# and halts. Assembled as 64-bit code.
#
# R15 says where to go on after a fault in an operation, and R14 has the stack to go on with. What
# an operation found is its result; DONE says that it came to its end.

.equ A_OPERATION, 0
.equ A_FIRST, 8
.equ A_SECOND, 16
.equ A_THIRD, 24
.equ A_RESULT, 32
.equ A_DONE, 40
.equ A_FOUND, 0x100             # a sweep's results, 8 bytes each

.equ LEAVE, 0x20                # the vector that user code leaves by
.equ CODE, 0x10
.equ DATA, 0x18
.equ USER_SS, 0x23
.equ USER_CS, 0x2b

# Where a page has its signature (MOV RAX, imm64; RET), and a word to write to.
.equ SIGNED, 2
.equ WRITTEN, 16

agent:
    jmp begin                   # 2 bytes: what follows lies where emu.protect.agent has it

# What tells this page from any other that is called at the same place.
landmark:
    mov eax, 0x41474e54
    ret

# The same for user code that gets here, and ends here.
landmark_for_user:
    mov eax, 0x55534552
    int LEAVE

# A handler of the INT by which user code ends, for a CPU that delivers it.
user_left:
    hlt

begin:
    movabs rbx, MAILBOX
    mov r14, rsp
    lea r15, [rip + stopped]
    mov r8, [rbx + A_FIRST]
    mov r9, [rbx + A_SECOND]
    mov r10, [rbx + A_THIRD]
    mov edx, [rbx + A_OPERATION]
    lea rsi, [rip + operations]
    lea rax, [rip + agent]
    movzx edx, word ptr [rsi + rdx * 2]
    add rdx, rax
    jmp rdx

operations:
    .short load - agent, store - agent, execute - agent
    .short load_user - agent, store_user - agent, execute_user - agent
    .short set_cr0 - agent, set_cr3 - agent, set_cr4 - agent, set_msr - agent
    .short invalidate - agent, hypercall - agent
    .short save_all - agent, load_all - agent, interrupts_on - agent, interrupts_off - agent
    .short sweep - agent, run_guest - agent, invalidate_tagged - agent, start_secure - agent
    .short interrupt - agent, hypercall_vmx - agent
    .short enter_vmx - agent, leave_vmx - agent, launch - agent, resume - agent
    .short clear_vmcs - agent, load_vmcs - agent, store_vmcs - agent
    .short read_field - agent, write_field - agent
    .short invalidate_ept - agent, invalidate_vpid - agent

load:
    mov rax, [r8]
    jmp done
store:
    mov [r8], r9
    jmp done
execute:
    call r8
    jmp done

# User code that makes one access, and leaves by an INT; it stores the low byte of R10.
load_user:
    xor r9d, r9d
    jmp to_user
store_user:
    mov r9d, 1
    jmp to_user
execute_user:
    mov r9d, 2
to_user:
    push USER_SS
    movabs rax, USER_STACK_TOP
    push rax
    push 2
    push USER_CS
    movabs rax, USER_TEXT
    push rax
    mov rax, r10
    iretq

set_cr0:
    mov cr0, r8
    jmp done
set_cr3:
    mov cr3, r8
    jmp done
set_cr4:
    mov cr4, r8
    jmp done
set_msr:
    mov ecx, r8d
    mov eax, r9d
    mov rdx, r9
    shr rdx, 32
    wrmsr
    jmp done
invalidate:
    invlpg [r8]
    jmp done
hypercall:
    mov rax, r8
    push rbx
    mov rbx, r9
    mov rcx, r10
    vmmcall
    pop rbx
    jmp done
hypercall_vmx:
    mov rax, r8
    push rbx
    mov rbx, r9
    mov rcx, r10
    vmcall
    pop rbx
    jmp done
save_all:
    mov rax, r8
    vmsave rax
    jmp done
load_all:
    mov rax, r8
    vmload rax
    jmp done
interrupts_on:
    stgi
    jmp done
interrupts_off:
    clgi
    jmp done

run_guest:
    mov rax, r8
    vmrun rax
    jmp done
invalidate_tagged:
    mov rax, r8
    xor ecx, ecx
    invlpga rax, ecx
    jmp done
interrupt:
    int LEAVE
    jmp done
start_secure:
    mov eax, r8d
    skinit eax
    jmp done

# The instructions of VMX, each with R8 as its operand, in memory or in a register.
enter_vmx:
    push r8
    vmxon [rsp]
    pop r8
    jmp done
leave_vmx:
    vmxoff
    jmp done
launch:
    vmlaunch
    jmp done
resume:
    vmresume
    jmp done
clear_vmcs:
    push r8
    vmclear [rsp]
    pop r8
    jmp done
load_vmcs:
    push r8
    vmptrld [rsp]
    pop r8
    jmp done
store_vmcs:
    push r8
    vmptrst [rsp]
    pop r8
    jmp done
read_field:
    vmread rax, r8
    jmp done
write_field:
    xor eax, eax
    vmwrite r8, rax
    jmp done
invalidate_ept:
    mov eax, 2                  # all contexts
    invept rax, [rsp]
    jmp done
invalidate_vpid:
    mov eax, 2
    invvpid rax, [rsp]
    jmp done

# Read, write or execute a page from R8 on and every 4 KiB, as many times as the low word of R9 says;
# what to do is its next word: 0, 1, or 2, or 3 to write what is there.
sweep:
    mov rcx, r9
    shr rcx, 16
    movzx r9d, r9w
    lea rdi, [rbx + A_FOUND]
    lea r15, [rip + following]
each:
    cmp ecx, 1
    jb read_one
    jz write_one
    cmp ecx, 2
    jz execute_one
    mov rax, [r8 + WRITTEN]
    mov [r8 + WRITTEN], rax
    mov eax, 1
    jmp found
read_one:
    mov rax, [r8 + SIGNED]
    jmp found
write_one:
    mov [r8 + WRITTEN], r8
    mov eax, 1
    jmp found
execute_one:
    call r8
found:
    mov [rdi], rax
following:
    mov rsp, r14
    add rdi, 8
    add r8, 0x1000
    dec r9d
    jnz each
    lea r15, [rip + stopped]
    xor eax, eax

done:
    mov [rbx + A_RESULT], rax
    mov qword ptr [rbx + A_DONE], 1
stopped:
    hlt
