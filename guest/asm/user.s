# User code: make one access that faults, and leave. Assembled as 64-bit code.
#
# The address is in R8, what to do there in R9 (0: read, 1: write, 2: execute); R15 says where to go
# on after the fault.

.equ LEAVE, 0x20

user:
    lea r15, [rip + leave_user]
    cmp r9, 1
    jz write
    ja execute
    mov al, [r8]
    jmp leave_user
write:
    mov [r8], al
    jmp leave_user
execute:
    jmp r8
leave_user:
    int LEAVE
