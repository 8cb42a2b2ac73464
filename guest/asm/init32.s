# The first process of a 32-bit Linux guest: what init.s does, by the system calls of x86-32. They
# are made by INT 0x80; one is made once more as the kernel's vDSO makes it, which is by SYSENTER.
.equ EXIT, 1
.equ FORK, 2
.equ WRITE, 4
.equ GETPID, 20
.equ PAUSE, 29
.equ MUNMAP, 91
.equ WAIT4, 114
.equ MPROTECT, 125
.equ MMAP2, 192
.equ PAGE, 0x1000
.equ READ_ONLY, 1
.equ READ_WRITE, 3
.equ READ_EXECUTE, 5
.equ PRIVATE_FIXED_ANONYMOUS, 0x32
.equ SHARED_FIXED_ANONYMOUS, 0x31
.equ AT_NULL, 0
.equ AT_SYSINFO, 32

start:
    lea ecx, [started]
    lea edx, [started_end]
    call say

    # Behind the arguments and the environment, each ending in a zero, are pairs of a key and a
    # value. One of them has the address of the vDSO's system call; the first process is number 1.
    mov ecx, [esp]
    lea esi, [esp + ecx * 4 + 8]
environment:
    mov eax, [esi]
    add esi, 4
    test eax, eax
    jnz environment
pairs:
    mov eax, [esi]
    mov edi, [esi + 4]
    add esi, 8
    cmp eax, AT_SYSINFO
    je vdso
    test eax, eax
    jnz pairs
    jmp private
vdso:
    mov eax, GETPID
    call edi
    cmp eax, 1
    jne failed

    # Private memory: one page stays as it is, and one of each kind follows; one goes.
private:
    mov ebx, AREA
    mov ecx, AREA_PAGES * PAGE
    mov esi, PRIVATE_FIXED_ANONYMOUS
    call map
    mov edi, AREA
    mov ecx, AREA_PAGES
touch:
    mov [edi], edi
    add edi, PAGE
    dec ecx
    jnz touch
    mov ebx, AREA + 1 * PAGE
    mov edx, READ_ONLY
    call protect
    mov ebx, AREA + 2 * PAGE
    mov edx, READ_EXECUTE
    call protect
    mov ebx, AREA + 3 * PAGE
    xor edx, edx
    call protect
    mov ebx, AREA + 4 * PAGE
    mov ecx, PAGE
    mov eax, MUNMAP
    call checked

    # Shared memory, for the child to write to.
    mov ebx, SHARED
    mov ecx, PAGE
    mov esi, SHARED_FIXED_ANONYMOUS
    call map

    mov eax, FORK
    call checked
    test eax, eax
    jz child
    mov ebx, -1
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    mov eax, WAIT4
    call checked

    # The child's store to private memory must not be seen here, the one to shared memory must.
    mov edi, AREA
    cmp [edi], edi
    jne failed
    mov edi, SHARED
    cmp [edi], edi
    jne failed

    # The fork has left private pages read-only until somebody stores to them: one is.
    mov edi, AREA + 5 * PAGE
    mov [edi], edi

.if PATCHING
    call patch
.endif
    lea ecx, [done]
    lea edx, [done_end]
    call say
sleep:
    mov eax, PAUSE
    int 0x80
    jmp sleep

child:
    mov edi, AREA
    mov dword ptr [edi], 1
    mov edi, SHARED
    mov [edi], edi
    xor ebx, ebx
    mov eax, EXIT
    int 0x80

# The text from ECX to EDX.
say:
    sub edx, ecx
    mov ebx, 1
    mov eax, WRITE
    jmp checked
map:
    mov edx, READ_WRITE
    mov edi, -1
    xor ebp, ebp
    mov eax, MMAP2
    jmp checked
protect:
    mov ecx, PAGE
    mov eax, MPROTECT
# Errors are the last 4095 numbers: addresses above them may have the sign bit.
checked:
    int 0x80
    cmp eax, -4095
    jae failed
    ret

failed:
    lea ecx, [broken]
    lea edx, [broken_end]
    sub edx, ecx
    mov ebx, 1
    mov eax, WRITE
    int 0x80
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
