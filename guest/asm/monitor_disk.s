# The mailbox: a disk, whose file the other side has too. It is the first of the second ATA channel,
# and read and written by programmed I/O; ports and commands are those of ATA/ATAPI-4.
#
#   sector 0    the doorbell: MARK, the batch's number, its words, and the sum of these three
#   COMMANDS    the batch
#   ANSWERS     the answers to it
#
# A batch is there when the doorbell has another number; that the answers are, one byte by port 0xE9
# says. Then two others are sent there before each look at the doorbell. Where the machine can't send
# a byte before the last one is read, it stands still between these two until the other side, which
# has rung by then, reads on: what it does depends on nobody's speed.

.equ ATA_DATA, 0x170
.equ ATA_COUNT, 0x172
.equ ATA_COMMAND, 0x177
.equ ATA_CONTROL, 0x376
.equ ATA_READ, 0x20
.equ ATA_WRITE, 0x30
.equ NO_INTERRUPTS, 2
.equ CHUNK, 128                 # sectors of a transfer, at most

# Write the answers that weren't yet, up to RAX. What a sector has room for comes again with the rest.
write_answers:
    push rax
    mov rdi, [rbp + D_WRITTEN]
    sub rax, rdi
    add rax, 511
    shr rax, 9
    mov rcx, rax
    mov rax, rdi
    sub rax, [rbp + D_ANSWERS]
    shr rax, 9
    add eax, ANSWERS_SECTOR
    mov r9d, ATA_WRITE
    call transfer
    pop rax
    sub rax, [rbp + D_ANSWERS]
    and rax, -512
    add rax, [rbp + D_ANSWERS]
    mov [rbp + D_WRITTEN], rax
    ret

# Write all answers, and ring; the next ones begin anew.
send:
    call end_batch
    mov rax, [rbp + D_OUT]
    call write_answers
    mov al, RING
    out 0xe9, al
    mov rax, [rbp + D_ANSWERS]
    mov [rbp + D_OUT], rax
    mov [rbp + D_WRITTEN], rax
    ret

# Wait for the next batch: R12 to R13.
receive:
    mov al, WAITING
    out 0xe9, al
    out 0xe9, al
    xor eax, eax
    mov ecx, 1
    lea rdi, [rbp + P_DOORBELL]
    mov r9d, ATA_READ
    call transfer
    lea rsi, [rbp + P_DOORBELL]
    mov rax, MARK
    cmp [rsi], rax
    jne receive
    mov rdx, [rsi + 8]
    cmp rdx, [rbp + D_BATCH]
    je receive
    add rax, rdx
    add rax, [rsi + 16]
    cmp rax, [rsi + 24]
    jne receive
    mov [rbp + D_BATCH], rdx
    mov r12, [rbp + D_COMMANDS]
    mov r13, [rsi + 16]
    lea rcx, [r13 + 63]
    shr rcx, 6
    lea r13, [r12 + r13 * 8]
    mov eax, COMMANDS_SECTOR
    mov rdi, r12
    mov r9d, ATA_READ
# Transfer RCX sectors, from EAX on, to or from RDI; R9 is the command.
transfer:
    mov r8d, eax
    mov r10, rcx
next_chunk:
    test r10, r10
    jz transferred
    mov r11d, CHUNK
    cmp r10, r11
    cmovb r11, r10
    mov edx, ATA_CONTROL
    mov al, NO_INTERRUPTS
    out dx, al
    call wait_idle
    mov edx, ATA_COUNT
    mov eax, r11d
    out dx, al
    inc edx
    mov eax, r8d
    out dx, al
    inc edx
    shr eax, 8
    out dx, al
    inc edx
    shr eax, 8
    out dx, al
    inc edx
    mov al, 0xe0                # LBA, the first disk
    out dx, al
    inc edx
    mov eax, r9d
    out dx, al
    sub r10, r11
    add r8, r11
next_sector:
    call wait_data
    mov ecx, 128
    mov edx, ATA_DATA
    cmp r9d, ATA_READ
    jne writes
    .byte 0xf3, 0x6d            # rep insd
    jmp sector_done
writes:
    mov rsi, rdi
    .byte 0xf3, 0x6f            # rep outsd
    mov rdi, rsi
sector_done:
    dec r11
    jnz next_sector
    call wait_idle
    jmp next_chunk
transferred:
    ret

wait_idle:
    mov edx, ATA_COMMAND
still_busy:
    in al, dx
    test al, 0x80
    jnz still_busy
    ret

# An error of the disk has no remedy, and nobody to be told.
wait_data:
    mov edx, ATA_COMMAND
no_data:
    in al, dx
    test al, 0x80
    jnz no_data
    test al, 0x21               # DF, ERR
    jnz power_off
    test al, 8
    jz no_data
    ret
