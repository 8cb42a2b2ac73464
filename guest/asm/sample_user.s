# The program that the sample kernel runs in user mode.

.globl user_main
user_main:
    lea rsi, [rip + hello]
    push rsi
    pop rsi
    mov eax, 1
    int 0x80
    xor eax, eax
    int 0x80
    jmp user_main

hello:
    .asciz "hello from user mode\n"
