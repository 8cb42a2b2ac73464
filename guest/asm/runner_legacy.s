# A program in 32-bit or PAE paging: leaves IA-32e mode, makes one access, and comes back.
#
# Assembled as 32-bit code, at the offset that it has from the runner's first page. The segments CODE
# and DATA begin at that page: where it lies in physical memory until the run's registers are to be
# loaded, from then on at the run's alias. So all addresses here are offsets, and only descriptors
# change. The tables at L_ROOT, the runner's own, show the runner's pages at both addresses.
#
# 64-bit code (runner_legacy_call.s) fills the variables L_* with what is to be done, and reads there
# what came of it. The instruction that was fetched may have changed any register: no handler trusts
# one. A double fault is a task of its own, for the case that there was no stack.

.equ CODE64, 0x08
.equ CODE, 0x10
.equ DATA, 0x18
.equ FLAT_CODE, 0x20
.equ FLAT_DATA, 0x28            # both for CPL 0
.equ USER_CODE, 0x33
.equ USER_DATA, 0x3b            # both for CPL 3 and flat, with RPL 3
.equ TASK, 0x40
.equ FAULT_TASK, 0x48

# How far it came: what is being loaded, as a refusal has it (Refusal in log.py).
.equ LOADING_EFER, 8
.equ LOADING_CR4, 7
.equ LOADING_CR0, 5
.equ LOADING_CR3, 6
.equ MAKING_ACCESS, 0

.equ READ, 1
.equ WRITE, 2
.equ EXECUTE, 3
.equ TRAP_FLAG, 0x100
.equ COMPLETED, 0x20            # the vector that an access ends with which nothing stops
.equ NO_VECTOR, 0xff
.equ DOUBLE_FAULT, 8
.equ EFER, 0xc0000080

legacy:
    jmp enter
    .balign 8
    jmp double_fault            # at offset 8: where that task begins

.equ LOW, P_LEGACY & 0xffff     # halves of the offsets of gates
.equ HIGH, P_LEGACY >> 16
.equ GATE, 0x8e00
.equ USER_GATE, 0xee00
.equ TASK_GATE, 0x8500
    .balign 16
idt:                            # at offset 16
    .short vector_0 - legacy + LOW, CODE, GATE, HIGH
    .short vector_1 - legacy + LOW, CODE, GATE, HIGH
    .short vector_2 - legacy + LOW, CODE, GATE, HIGH
    .short vector_3 - legacy + LOW, CODE, USER_GATE, HIGH
    .short vector_4 - legacy + LOW, CODE, GATE, HIGH
    .short vector_5 - legacy + LOW, CODE, GATE, HIGH
    .short vector_6 - legacy + LOW, CODE, GATE, HIGH
    .short vector_7 - legacy + LOW, CODE, GATE, HIGH
    .short 0, FAULT_TASK, TASK_GATE, 0
    .short vector_9 - legacy + LOW, CODE, GATE, HIGH
    .short vector_10 - legacy + LOW, CODE, GATE, HIGH
    .short vector_11 - legacy + LOW, CODE, GATE, HIGH
    .short vector_12 - legacy + LOW, CODE, GATE, HIGH
    .short vector_13 - legacy + LOW, CODE, GATE, HIGH
    .short vector_14 - legacy + LOW, CODE, GATE, HIGH
    .short vector_15 - legacy + LOW, CODE, GATE, HIGH
    .short vector_16 - legacy + LOW, CODE, GATE, HIGH
    .short vector_17 - legacy + LOW, CODE, GATE, HIGH
    .short vector_18 - legacy + LOW, CODE, GATE, HIGH
    .short vector_19 - legacy + LOW, CODE, GATE, HIGH
    .short vector_20 - legacy + LOW, CODE, GATE, HIGH
    .short vector_21 - legacy + LOW, CODE, GATE, HIGH
    .quad 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    .short completed - legacy + LOW, CODE, USER_GATE, HIGH
idt_end:

vector_0:
    push 0
    push 0
    jmp exception
vector_1:
    push 0
    push 1
    jmp exception
vector_2:
    push 0
    push 2
    jmp exception
vector_3:
    push 0
    push 3
    jmp exception
vector_4:
    push 0
    push 4
    jmp exception
vector_5:
    push 0
    push 5
    jmp exception
vector_6:
    push 0
    push 6
    jmp exception
vector_7:
    push 0
    push 7
    jmp exception
vector_9:
    push 0
    push 9
    jmp exception
vector_10:
    push 10
    jmp exception
vector_11:
    push 11
    jmp exception
vector_12:
    push 12
    jmp exception
vector_13:
    push 13
    jmp exception
vector_14:
    push 14
    jmp exception
vector_15:
    push 0
    push 15
    jmp exception
vector_16:
    push 0
    push 16
    jmp exception
vector_17:
    push 17
    jmp exception
vector_18:
    push 0
    push 18
    jmp exception
vector_19:
    push 0
    push 19
    jmp exception
vector_20:
    push 0
    push 20
    jmp exception
vector_21:
    push 21
    jmp exception

# From IA-32e mode, by a far return to CODE, with the runner's own tables.
enter:
    mov ax, DATA
    mov ds, ax
    mov ss, ax
    mov esp, L_STACK_TOP
    mov ax, USER_DATA
    mov es, ax
    .byte 0x0f, 0x01, 0x1d      # LIDT
    .long L_HERE_IDTR
    mov dword ptr [L_STAGE], LOADING_EFER
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp unpaged
unpaged:
    mov ecx, EFER
    mov eax, [L_RUN_EFER]
    xor edx, edx
    wrmsr
    mov dword ptr [L_STAGE], LOADING_CR4
    mov eax, [L_RUN_CR4]
    mov cr4, eax
    mov eax, [L_ROOT]
    mov cr3, eax
    mov dword ptr [L_STAGE], LOADING_CR0
    mov eax, [L_RUN_CR0]
    mov cr0, eax
    jmp paged
paged:
    mov dword ptr [L_STAGE], LOADING_CR3
    mov esi, L_THERE
    call set_segments
    .byte 0x0f, 0x01, 0x15      # LGDT
    .long L_THERE_GDTR
    .byte 0xea                  # JMP FAR
    .long there
    .short CODE
there:
    mov ax, DATA
    mov ds, ax
    mov ss, ax
    .byte 0x0f, 0x01, 0x1d      # LIDT
    .long L_THERE_IDTR
    mov ax, TASK
    ltr ax
    mov eax, [L_RUN_CR3]
    mov cr3, eax
    mov dword ptr [L_STAGE], MAKING_ACCESS

    mov edx, [L_VA]
    mov eax, [L_VALUE]
    mov ecx, [L_OP]
    cmp dword ptr [L_CPL], 0
    jnz by_user
    cmp ecx, EXECUTE
    jz fetch
    mov dword ptr [L_AT_CS], CODE
    cmp ecx, WRITE
    jz write
    lea esi, [supervisor_read]
    mov [L_AT], esi
    push dword ptr [L_FLAGS]
    popfd
supervisor_read:
    mov bl, byte ptr es:[edx]
    and edx, 0xfffffff8
    mov eax, es:[edx]
    mov edx, es:[edx + 4]
    int COMPLETED
write:
    lea esi, [supervisor_write]
    mov [L_AT], esi
    push dword ptr [L_FLAGS]
    popfd
supervisor_write:
    mov byte ptr es:[edx], al
    int COMPLETED

fetch:
    mov dword ptr [L_AT_CS], FLAT_CODE
    mov [L_AT], edx
    mov eax, edx
    mov ecx, [L_FLAGS]
    or ecx, TRAP_FLAG
    push ecx
    .byte 0x6a, FLAT_CODE         # PUSH, which Keystone makes of 16 bits
    push edx
    mov cx, FLAT_DATA
    mov ds, cx
    iretd

by_user:
    mov dword ptr [L_AT_CS], USER_CODE
    .byte 0x6a, USER_DATA         # PUSH, which Keystone makes of 16 bits
    push 0                      # nothing is pushed
    mov edi, [L_FLAGS]
    mov esi, edx
    cmp ecx, EXECUTE
    jz user_fetch
    mov esi, [L_ALIAS]
    add esi, P_LEGACY_USER
    cmp ecx, WRITE
    jz user_writes
    add esi, user_read - legacy
    jmp go_to_user
user_writes:
    add esi, user_write - legacy
    jmp go_to_user
user_fetch:
    or edi, TRAP_FLAG
    mov eax, edx
go_to_user:
    mov [L_AT], esi
    push edi
    .byte 0x6a, USER_CODE         # PUSH, which Keystone makes of 16 bits
    push esi
    mov cx, USER_DATA
    mov ds, cx
    iretd

# At CPL 3, in the page at P_LEGACY_USER of the alias.
user_read:
    mov bl, byte ptr [edx]
    and edx, 0xfffffff8
    mov eax, [edx]
    mov edx, [edx + 4]
    int COMPLETED
user_write:
    mov byte ptr [edx], al
    int COMPLETED

completed:
    push eax
    mov ax, DATA
    mov ds, ax
    pop dword ptr [L_SEEN]
    mov [L_SEEN + 4], edx
    mov [L_FIRST], ebx
    mov dword ptr [L_VECTOR], NO_VECTOR
    jmp leave

# With vector and error code on the stack.
exception:
    push eax
    mov ax, DATA
    mov ds, ax
    pop dword ptr [L_SEEN]
    mov dword ptr [L_SEEN + 4], 0
    pop dword ptr [L_VECTOR]
    pop dword ptr [L_ERROR]
    pop dword ptr [L_FOUND]
    pop dword ptr [L_FOUND_CS]
    mov eax, cr2
    mov [L_FAULT_CR2], eax
    jmp leave

# A task of its own: the exception it began with may have had no stack.
double_fault:
    mov dword ptr [L_VECTOR], DOUBLE_FAULT
    mov eax, [L_TSS_EIP]
    mov [L_FOUND], eax
    mov eax, [L_TSS_CS]
    mov [L_FOUND_CS], eax
    mov eax, cr2
    mov [L_FAULT_CR2], eax

leave:
    mov eax, [L_ROOT]
    mov cr3, eax
    mov esi, L_HERE
    call set_segments
    .byte 0xea                  # JMP FAR
    .long here
    .short CODE
here:
    mov ax, DATA
    mov ds, ax
    mov ss, ax
    mov esp, L_STACK_TOP
    push 2
    popfd                       # without NT, TF and AC
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp unpaged_again
unpaged_again:
    mov ecx, EFER
    mov eax, [L_OWN_EFER]
    xor edx, edx
    wrmsr
    mov eax, [L_OWN_CR4]
    mov cr4, eax
    mov eax, [L_OWN_CR3]
    mov cr3, eax
    mov eax, [L_OWN_CR0]
    mov cr0, eax
    jmp long_again
long_again:
    mov ebp, [L_OWN_BASE]
    .byte 0x0f, 0x01, 0x15      # LGDT
    .long L_HERE_GDTR
    .byte 0x6a, CODE64         # PUSH, which Keystone makes of 16 bits
    push dword ptr [L_OWN_RETURN]
    retf

# Give CODE and DATA the two descriptors at ESI. EAX is lost.
set_segments:
    mov eax, [esi]
    mov [L_GDT_CODE], eax
    mov eax, [esi + 4]
    mov [L_GDT_CODE + 4], eax
    mov eax, [esi + 8]
    mov [L_GDT_DATA], eax
    mov eax, [esi + 12]
    mov [L_GDT_DATA + 4], eax
    ret
