# Commands on memory, MSRs and CPUID: what needs no virtualisation.

# READ: address, words
do_read:
    cmp ecx, 2
    jne bad_payload
    mov rcx, [rsi + 8]
    mov rsi, [rsi]
    call need_room
    rep movsq
    jmp done

# WRITE: address, the words
do_write:
    test ecx, ecx
    jz bad_payload
    mov rbx, rdi
    mov rdi, [rsi]
    add rsi, 8
    dec ecx
    rep movsq
    mov rdi, rbx
    jmp done

# FILL: address, words, value
do_fill:
    cmp ecx, 3
    jne bad_payload
    mov rbx, rdi
    mov rdi, [rsi]
    mov rcx, [rsi + 8]
    mov rax, [rsi + 16]
    rep stosq
    mov rdi, rbx
    jmp done

# COPY: source, target, words. Eight words at a time: an emulator's TLB may have one place for both
# pages, and lose it to the other with each access.
do_copy:
    cmp ecx, 3
    jne bad_payload
    push rdi
    mov rdi, [rsi + 8]
    mov rcx, [rsi + 16]
    mov rsi, [rsi]
    mov rax, rdi
    sub rax, rsi
    cmp rax, 64
    jb copy_rest                # what is written is read again
next_eight:
    sub rcx, 8
    jb fewer_than_eight
    mov rax, [rsi]
    mov rbx, [rsi + 8]
    mov rdx, [rsi + 16]
    mov r8, [rsi + 24]
    mov r9, [rsi + 32]
    mov r10, [rsi + 40]
    mov r11, [rsi + 48]
    mov r14, [rsi + 56]
    mov [rdi], rax
    mov [rdi + 8], rbx
    mov [rdi + 16], rdx
    mov [rdi + 24], r8
    mov [rdi + 32], r9
    mov [rdi + 40], r10
    mov [rdi + 48], r11
    mov [rdi + 56], r14
    add rsi, 64
    add rdi, 64
    jmp next_eight
fewer_than_eight:
    add rcx, 8
copy_rest:
    rep movsq
    pop rdi
    jmp done

# COMPARE: left, right, words, most. Answers how many words differ; number, left and right of the
# first ones.
do_compare:
    cmp ecx, 4
    jne bad_payload
    mov r8, [rsi]
    mov r9, [rsi + 8]
    mov r10, [rsi + 16]
    mov rcx, [rsi + 24]
    lea rcx, [rcx + rcx * 2 + 1]
    call need_room
    mov r11, [rsi + 24]
    mov rbx, rdi                # of the count
    add rdi, 8
    xor edx, edx
    mov [rbx], rdx
next_compared:
    mov rax, r10
    sub rax, rdx
    jbe done
    cmp rax, 4
    jb compare_one
    mov rax, [r8 + rdx * 8]     # four words at a time, as above
    mov rcx, [r8 + rdx * 8 + 8]
    mov rsi, [r8 + rdx * 8 + 16]
    mov r14, [r8 + rdx * 8 + 24]
    cmp rax, [r9 + rdx * 8]
    jne compare_one
    cmp rcx, [r9 + rdx * 8 + 8]
    jne compare_one
    cmp rsi, [r9 + rdx * 8 + 16]
    jne compare_one
    cmp r14, [r9 + rdx * 8 + 24]
    jne compare_one
    add rdx, 4
    jmp next_compared
compare_one:
    mov rax, [r8 + rdx * 8]
    cmp rax, [r9 + rdx * 8]
    jne differs
next_pair:
    inc rdx
    jmp next_compared
differs:
    inc qword ptr [rbx]
    cmp [rbx], r11
    ja next_pair
    mov rax, rdx
    stosq
    mov rax, [r8 + rdx * 8]
    stosq
    mov rax, [r9 + rdx * 8]
    stosq
    jmp next_pair

# RESTORE: how many to list; address, address of a copy, words of each part. All words become as in
# the copies. Answers how many had differed; address and value of the first ones.
do_restore:
    test ecx, ecx
    jz bad_payload
    lea eax, [ecx - 1]
    xor edx, edx
    mov ebx, 3
    div ebx
    test edx, edx
    jnz bad_payload
    mov r8d, eax                # parts
    mov r11, [rsi]
    lea rcx, [r11 + r11 + 1]
    call need_room
    lea r9, [rsi + 8]           # the next part
    mov rbx, rdi                # of the count
    lea r10, [rdi + 8]          # where the next one is listed
    mov qword ptr [rbx], 0
next_part:
    test r8, r8
    jz restored
    dec r8
    mov rdi, [r9]
    mov rsi, [r9 + 8]
    mov rcx, [r9 + 16]
    add r9, 24
go_on_in_part:
    cmp rcx, 4
    jb look_closely
    mov rax, [rsi]              # four words at a time, as above
    mov rdx, [rsi + 8]
    mov r14, [rsi + 16]
    mov r15, [rsi + 24]
    cmp rax, [rdi]
    jne look_closely
    cmp rdx, [rdi + 8]
    jne look_closely
    cmp r14, [rdi + 16]
    jne look_closely
    cmp r15, [rdi + 24]
    jne look_closely
    add rsi, 32
    add rdi, 32
    sub rcx, 4
    jmp go_on_in_part
look_closely:
    jrcxz next_part
    repe cmpsq
    je next_part
    inc qword ptr [rbx]
    mov rax, [rdi - 8]
    cmp [rbx], r11
    ja unlisted
    lea rdx, [rdi - 8]
    mov [r10], rdx
    mov [r10 + 8], rax
    add r10, 16
unlisted:
    mov rax, [rsi - 8]
    mov [rdi - 8], rax
    jmp go_on_in_part
restored:
    mov r15, [rbp + D_RECORD]
    mov rdi, r10
    jmp done

# LOAD: addresses
do_load:
    call need_room
    jrcxz done_loading
next_load:
    lodsq
    mov rax, [rax]
    stosq
    loop next_load
done_loading:
    jmp done

# STORE: address and value of each word
do_store:
    shr ecx, 1
    jc bad_payload
    jrcxz done_storing
next_store:
    lodsq
    mov rdx, rax
    lodsq
    mov [rdx], rax
    loop next_store
done_storing:
    jmp done

# READ_MSR: their numbers
do_read_msr:
    call need_room
    mov r8, rcx
next_msr_read:
    test r8, r8
    jz done
    lodsq
    mov ecx, eax
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rax, rdx
    stosq
    dec r8
    jmp next_msr_read

# WRITE_MSR: number and value of each
do_write_msr:
    shr ecx, 1
    jc bad_payload
    mov r8, rcx
next_msr_written:
    test r8, r8
    jz done
    mov ecx, [rsi]
    mov eax, [rsi + 8]
    mov edx, [rsi + 12]
    add rsi, 16
    wrmsr
    dec r8
    jmp next_msr_written

# CPUID: leaf and, in the upper half, subleaf of each. Answers EAX and EBX, ECX and EDX.
do_cpuid:
    mov r8, rcx
    shl rcx, 1
    call need_room
next_leaf:
    test r8, r8
    jz done
    mov eax, [rsi]
    mov ecx, [rsi + 4]
    add rsi, 8
    cpuid
    mov [rdi], eax
    mov [rdi + 4], ebx
    mov [rdi + 8], ecx
    mov [rdi + 12], edx
    add rdi, 16
    dec r8
    jmp next_leaf

# SET_REGISTERS: those of the guest, as GET_REGISTERS answers them.
do_set_registers:
    cmp ecx, REGISTERS
    jne bad_payload
    mov rbx, rdi
    lea rdi, [rbp + D_RAX]
    rep movsq
    mov rdi, rbx
    jmp done

do_get_registers:
    lea rsi, [rbp + D_RAX]
    mov ecx, REGISTERS
    rep movsq
    jmp done

# HANDLE: exit reasons, as bits; rows of CPUID.
do_handle:
    test ecx, ecx
    jz bad_payload
    lodsq
    mov [rbp + D_HANDLED], rax
    dec ecx
    mov eax, ecx
    xor edx, edx
    mov ebx, 5
    div ebx
    test edx, edx
    jnz bad_payload
    cmp eax, P_MOST_ROWS
    ja bad_payload
    mov [rbp + D_ROWS], rax
    mov rbx, rdi
    lea rdi, [rbp + P_CPUID_ROWS]
    rep movsq
    mov rdi, rbx
    jmp done

bad_payload:
    mov eax, REFUSAL_PAYLOAD
    jmp refuse

# Refuse the command unless an answer of RCX words has room, and the checksum behind it.
need_room:
    mov rax, [rbp + D_ANSWERS_END]
    sub rax, rdi
    shr rax, 3
    sub rax, KEPT_WORDS
    jbe too_long
    cmp rcx, rax
    ja too_long
    ret
too_long:
    pop rax
    mov eax, REFUSAL_ROOM
    jmp refuse
