# Has the kernel load code, and patch its own text. Follows init.s, which calls it.
.equ OPEN, 2
.equ CLOSE, 3
.equ MOUNT, 165
.equ PRCTL, 157
.equ SECCOMP, 317
.equ WRITE_ONLY, 1
.equ NO_NEW_PRIVILEGES, 38
.equ SET_FILTER, 1
.equ RETURN, 6
.equ ALLOW, 0x7fff0000

patch:
    lea rdi, [rip + proc]
    lea rsi, [rip + folder]
    mov rdx, rdi
    xor r10d, r10d
    xor r8d, r8d
    mov eax, MOUNT
    call checked

    # Two filters of system calls that allow them all. The kernel compiles the first; the second
    # it interprets, and keeps in memory that it makes read-only. A kernel that has no such switch,
    # or can't interpret, compiles both: what becomes of the switch isn't looked at.
    mov edi, NO_NEW_PRIVILEGES
    mov esi, 1
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    mov eax, PRCTL
    call checked
    call install
    lea rdi, [rip + compiling]
    mov esi, WRITE_ONLY
    xor edx, edx
    mov eax, OPEN
    syscall
    mov rdi, rax
    lea rsi, [rip + off]
    mov edx, 1
    mov eax, WRITE
    syscall
    mov eax, CLOSE
    syscall
    call install

    # A switch that the kernel keeps in its code, turned on and off.
    lea rsi, [rip + on]
    call switch
    lea rsi, [rip + off]
switch:
    push rsi
    lea rdi, [rip + file]
    mov esi, WRITE_ONLY
    xor edx, edx
    mov eax, OPEN
    call checked
    mov rdi, rax
    pop rsi
    push rdi
    mov edx, 1
    mov eax, WRITE
    call checked
    pop rdi
    mov eax, CLOSE
    jmp checked

install:
    # A filter's length, and where it is: on the stack, as the program can't write to itself.
    lea rax, [rip + filter]
    push rax
    push 1
    mov edi, SET_FILTER
    xor esi, esi
    mov rdx, rsp
    mov eax, SECCOMP
    call checked
    add rsp, 16
    ret

proc:
    .asciz "proc"
folder:
    .asciz "/proc"
file:
    .asciz "/proc/sys/kernel/sched_schedstats"
compiling:
    .asciz "/proc/sys/net/core/bpf_jit_enable"
on:
    .ascii "1"
off:
    .ascii "0"
filter:
    .short RETURN
    .byte 0, 0
    .int ALLOW
