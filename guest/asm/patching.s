# Has the kernel patch its own text: a switch that it keeps in its code is turned on and off, by
# what a process may write to a file of /proc. Follows init.s, which calls it.
.equ OPEN, 2
.equ CLOSE, 3
.equ MOUNT, 165
.equ WRITE_ONLY, 1

patch:
    lea rdi, [rip + proc]
    lea rsi, [rip + folder]
    mov rdx, rdi
    xor r10d, r10d
    xor r8d, r8d
    mov eax, MOUNT
    call checked
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

proc:
    .asciz "proc"
folder:
    .asciz "/proc"
file:
    .asciz "/proc/sys/kernel/sched_schedstats"
on:
    .ascii "1"
off:
    .ascii "0"
