# Has the kernel load code, and patch its own text, as patching.s does. Follows init32.s, which calls
# it.
.equ OPEN, 5
.equ CLOSE, 6
.equ MOUNT, 21
.equ PRCTL, 172
.equ SECCOMP, 354
.equ WRITE_ONLY, 1
.equ NO_NEW_PRIVILEGES, 38
.equ SET_FILTER, 1
.equ RETURN, 6
.equ ALLOW, 0x7fff0000

patch:
    lea ebx, [proc]
    lea ecx, [folder]
    mov edx, ebx
    xor esi, esi
    xor edi, edi
    mov eax, MOUNT
    call checked

    # Two filters: the kernel compiles the first, and interprets the second. It has a switch for
    # that, which is off at first; what becomes of it isn't looked at.
    mov ebx, NO_NEW_PRIVILEGES
    mov ecx, 1
    xor edx, edx
    xor esi, esi
    xor edi, edi
    mov eax, PRCTL
    call checked
    lea edi, [on]
    call compile
    call install
    lea edi, [off]
    call compile
    call install

    # A switch that the kernel keeps in its code, turned on and off.
    lea edi, [on]
    call switch
    lea edi, [off]
switch:
    lea ebx, [file]
    mov ecx, WRITE_ONLY
    xor edx, edx
    mov eax, OPEN
    call checked
    mov ebx, eax
    mov ecx, edi
    mov edx, 1
    mov eax, WRITE
    call checked
    mov eax, CLOSE
    jmp checked

compile:
    lea ebx, [compiling]
    mov ecx, WRITE_ONLY
    xor edx, edx
    mov eax, OPEN
    int 0x80
    mov ebx, eax
    mov ecx, edi
    mov edx, 1
    mov eax, WRITE
    int 0x80
    mov eax, CLOSE
    int 0x80
    ret

install:
    # A filter's length, and where it is: on the stack, as the program can't write to itself.
    lea eax, [filter]
    push eax
    push 1
    mov ebx, SET_FILTER
    xor ecx, ecx
    mov edx, esp
    mov eax, SECCOMP
    call checked
    add esp, 8
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
