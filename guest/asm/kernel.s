# Long mode in the higher half: turn protections on, use the world, take exceptions, report.
# Assembled as 64-bit code.
#
# The proof is a constant that is read from rodata, goes over the stack into data, and comes back
# by the direct map's alias of it, then is mixed with a word of user memory: what the status
# block holds can't be right unless all of these are mapped as described.

.equ CR4_PROTECT, 0x700080      # SMEP, SMAP, PKE, PGE
.equ PKRU, 0xc0000024           # key 1: AD, key 2: WD, key 15: AD and WD
.equ EFER, 0xc0000080

.equ STATUS_MAGIC, 0x4b4c5753534f5243
.equ STATUS_VERSION, 2
.equ STATE_RUNNING, 3
.equ STATE_DONE, 4

.equ S_MAGIC, 0
.equ S_VERSION, 8
.equ S_STATE, 16
.equ S_CR0, 24
.equ S_CR3, 32
.equ S_CR4, 40
.equ S_EFER, 48
.equ S_PKRU, 56
.equ S_PROOF, 64

kernel:
    movabs rbx, STATUS_ALIAS
    mov dword ptr [rbx + S_STATE], STATE_RUNNING

    mov rax, cr4
    or rax, CR4_PROTECT
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, PKRU
    wrpkru

    movabs rsi, KERNEL_RODATA
    movabs rdi, KERNEL_DATA
    movabs rdx, KERNEL_DATA_ALIAS
    movabs r8, USER_DATA
    mov rax, [rsi]
    push rax
    pop rcx
    mov [rdi], rcx
    mov rax, [rdx]
    stac
    mov [r8], rax
    xor rax, [r8 + 8]
    clac
    mov [rbx + S_PROOF], rax

    movabs rax, TRAPS
    call rax
    call report
    hlt

# Enter the processor's own account of itself in the status block at RBX; the magic comes last.
report:
    mov rax, cr0
    mov [rbx + S_CR0], rax
    mov rax, cr3
    mov [rbx + S_CR3], rax
    mov rax, cr4
    mov [rbx + S_CR4], rax
    mov ecx, EFER
    rdmsr
    mov [rbx + S_EFER], eax
    mov [rbx + S_EFER + 4], edx
    xor ecx, ecx
    rdpkru
    mov [rbx + S_PKRU], eax
    mov dword ptr [rbx + S_VERSION], STATUS_VERSION
    mov dword ptr [rbx + S_STATE], STATE_DONE
    movabs rax, STATUS_MAGIC
    mov [rbx + S_MAGIC], rax
    ret
