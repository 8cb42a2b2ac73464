# The first process of a Linux guest. It says that it runs, changes its page tables in the ways
# that a process has, says that it is done, and sleeps. System calls are Linux's for x86-64.
.equ WRITE, 1
.equ MMAP, 9
.equ MPROTECT, 10
.equ MUNMAP, 11
.equ PAUSE, 34
.equ FORK, 57
.equ EXIT, 60
.equ WAIT4, 61
.equ PAGE, 0x1000
.equ READ_ONLY, 1
.equ READ_WRITE, 3
.equ READ_EXECUTE, 5
.equ PRIVATE_FIXED_ANONYMOUS, 0x32
.equ SHARED_FIXED_ANONYMOUS, 0x31

start:
    lea rsi, [rip + started]
    lea rdx, [rip + started_end]
    call say

    # Private memory: one page stays as it is, and one of each kind follows; one goes.
    mov edi, AREA
    mov esi, AREA_PAGES * PAGE
    mov r10d, PRIVATE_FIXED_ANONYMOUS
    call map
    mov edi, AREA
    mov ecx, AREA_PAGES
touch:
    mov [rdi], rdi
    add rdi, PAGE
    dec ecx
    jnz touch
    mov edi, AREA + 1 * PAGE
    mov edx, READ_ONLY
    call protect
    mov edi, AREA + 2 * PAGE
    mov edx, READ_EXECUTE
    call protect
    mov edi, AREA + 3 * PAGE
    xor edx, edx
    call protect
    mov edi, AREA + 4 * PAGE
    mov esi, PAGE
    mov eax, MUNMAP
    call checked

    # Shared memory, for the child to write to.
    mov edi, SHARED
    mov esi, PAGE
    mov r10d, SHARED_FIXED_ANONYMOUS
    call map

    mov eax, FORK
    call checked
    test eax, eax
    jz child
    mov rdi, -1
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    mov eax, WAIT4
    call checked

    # The child's store to private memory must not be seen here, the one to shared memory must.
    mov edi, AREA
    mov rax, [rdi]
    cmp rax, rdi
    jne failed
    mov edi, SHARED
    mov rax, [rdi]
    cmp rax, rdi
    jne failed

    # The fork has left private pages read-only until somebody stores to them: one is.
    mov edi, AREA + 5 * PAGE
    mov [rdi], rdi

.if PATCHING
    call patch
.endif
    lea rsi, [rip + done]
    lea rdx, [rip + done_end]
    call say
sleep:
    mov eax, PAUSE
    syscall
    jmp sleep

child:
    mov edi, AREA
    mov dword ptr [rdi], 1
    mov edi, SHARED
    mov [rdi], rdi
    xor edi, edi
    mov eax, EXIT
    syscall

# The text from RSI to RDX.
say:
    sub rdx, rsi
    mov edi, 1
    mov eax, WRITE
    jmp checked
map:
    mov edx, READ_WRITE
    mov r8, -1
    xor r9d, r9d
    mov eax, MMAP
    jmp checked
protect:
    mov esi, PAGE
    mov eax, MPROTECT
checked:
    syscall
    test rax, rax
    js failed
    ret

failed:
    lea rsi, [rip + broken]
    lea rdx, [rip + broken_end]
    sub rdx, rsi
    mov edi, 1
    mov eax, WRITE
    syscall
    jmp sleep

started:
    .ascii "crosswalk init: started\n"
started_end:
done:
    .ascii "crosswalk init: done\n"
done_end:
broken:
    .ascii "crosswalk init: failed\n"
broken_end:
