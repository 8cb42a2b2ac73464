# The runner of a boot image: runs, and programs in them (guest/boot/programs.py says what they are,
# wire.py how they are encoded, log.py what is answered). 64-bit code, behind runner_start.s.
#
# All addresses that are kept are physical; RBX is where physical address 0 shows: 0 under own tables,
# else the run's alias. RBP is the base of the runner's pages there. In a run R12 is the run, R13 the
# program, R15 the step, R14 where the next word of a record goes.

.equ MARK, 0xb0c5
.equ ADDRESS_BITS, 52

# What is where in an encoded run, and in a step.
.equ R_SIZE, 0
.equ R_MODE, 8
.equ R_CR0, 16
.equ R_CR3, 24
.equ R_CR4, 32
.equ R_EFER, 40
.equ R_PKRU, 48
.equ R_PKRS, 52
.equ R_ALIAS, 56
.equ R_USER, 64
.equ R_CLEARED, 72
.equ R_BLOCKS, 80
.equ R_PROGRAMS, 88
.equ R_TAG, 96
.equ R_NEEDS, 104
.equ R_BODY, 128
.equ MOST_NEEDS, 12
.equ CPU_WORDS, 64           # in the results, behind the greeting and a head
.equ S_VA, 8
.equ S_VALUE, 16
.equ S_MORE, 24
.equ S_SIZE, 32

.equ FIRST_LONG_MODE, 2         # of the numbers of paging modes
.equ LEVEL5, 3

.equ LEAF, 0xe3                 # PS, D, A, R/W, P
.equ TABLE, 0x23
.equ ALIAS4, P_DIRECT3 + TABLE
.equ ALIAS5, P_DIRECT4 + TABLE

.equ NO_VECTOR, 0xff
.equ AT_ACCESS, 1
.equ BEHIND, 2
.equ HAS_CR2, 4
.equ HAS_SEEN, 8
.equ TORN, 16
.equ SHOWING, 0x7a              # ops that leave something in RAX: READ, EXECUTE, XADD, CMPXCHG, READ8
.equ WRITING, 0xb4              # WRITE, XADD, CMPXCHG, WRITE8

begin:
    xor ebx, ebx
    mov [rbp + D_DM], rbx
    lea rsp, [rbp + P_STACK_TOP]
    mov [rbp + D_RSP], rsp
    call set_descriptors
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_large
    mov eax, 0x80000001
    cpuid
    shr edx, 26
    and edx, 1
    mov [rbp + D_PAGE1GB], rdx
no_large:
    mov eax, 0x80000000
    cpuid
    mov edx, 36
    cmp eax, 0x80000008
    jb width_known
    mov eax, 0x80000008
    cpuid
    movzx edx, al
width_known:
    mov [rbp + D_WIDTH], rdx
    xor ebx, ebx                # CPUID wrote there
    call find_serial
    call note_screen

    mov eax, KIND_GREETING
    call begin_record
    mov eax, 1
    call add_word
    mov rax, [rbp + P_DIGEST]
    call add_word
    mov rax, [rbp + P_DIGEST + 8]
    call add_word
    mov rax, [rbp + P_DIGEST + 16]
    call add_word
    mov rax, [rbp + P_DIGEST + 24]
    call add_word
    call end_record
    call report_cpu
    call report_ram

next_run:
    mov rax, [rbp + D_RUN_INDEX]
    cmp rax, [rbp + D_RUN_COUNT]
    jae finished
    mov eax, KIND_RUN
    call begin_record
    mov rax, [rbp + D_RUN_INDEX]
    call add_word
    mov r12, [rbp + D_RUNS]
    mov [rbp + D_RUN], r12
    mov rax, [r12 + R_TAG]
    call add_word
    call end_record
    call check_addresses
    movzx eax, byte ptr [r12 + R_MODE + 1]
    call set_key
    call write_words
    cmp byte ptr [r12 + R_MODE], FIRST_LONG_MODE
    jb entered
    call enter
entered:
    mov r13, [rbp + D_PROGRAMS]
    mov rcx, [rbx + r12 + R_PROGRAMS]
    mov [rbp + D_PROGRAMS_LEFT], rcx
next_program:
    dec qword ptr [rbp + D_PROGRAMS_LEFT]
    js run_done
    call do_program
    mov r13, [rbp + D_NEXT]
    jmp next_program
run_done:
    call leave
    mov r12, [rbp + D_RUN]
    mov rax, [r12 + R_SIZE]
    add [rbp + D_RUNS], rax
    inc qword ptr [rbp + D_RUN_INDEX]
    jmp next_run

# From wherever, RSP included: the run isn't done, or no further, because of EAX, with the value RDX.
refuse:
    lea rsp, [rbp + P_STACK_TOP]
    push rdx
    push rax
    call leave
    mov eax, KIND_REFUSED
    call begin_record
    pop rax
    call add_word
    pop rax
    call add_word
    call end_record
    jmp run_done

finished:
    mov eax, KIND_END
    call begin_record
    call end_record
    mov eax, [rbp + D_OUTPUT]
    and eax, OUTPUT_SCREEN + OUTPUT_SERIAL
    cmp eax, OUTPUT_SCREEN      # and no COM1
    jz show_results
    test al, OUTPUT_SERIAL
    jz power_off
    mov edx, 0x3fd              # until the last byte is out
draining:
    in al, dx
    test al, 0x40
    jz draining
# Bochs ends by its port; QEMU and other hypervisors by ACPI's, where they have them. A PC stays.
power_off:
    test byte ptr [rbp + D_OUTPUT], OUTPUT_SCREEN
    jnz not_bochs               # on a PC another device may have that port
    lea rsi, [rip + shutdown]
    mov ecx, 8
    mov edx, 0x8900
    rep outsb
not_bochs:
    mov eax, 1
    cpuid
    test ecx, ecx
    jns stay
    mov eax, 0x2000
    mov edx, 0x604
    out dx, ax
    mov edx, 0xb004
    out dx, ax
stay:
    cli
    hlt
    jmp stay
shutdown:
    .ascii "Shutdown"

# ---- Programs

# Do the program at R13; D_NEXT is where the next one begins.
do_program:
    mov rax, [rbx + r13]
    mov [rbp + D_COUNTS], rax
    movzx ecx, ax
    shl ecx, 5
    lea r15, [r13 + 8]
    lea rsi, [r15 + rcx]
    mov [rbp + D_WATCHED], rsi
    shr rax, 16
    movzx ecx, ax
    lea rsi, [rsi + rcx * 8]
    mov [rbp + D_SIGNED], rsi
    shr rax, 16
    movzx ecx, ax
    mov edx, ecx
    shl edx, 4
    lea rdx, [rsi + rdx]
    mov [rbp + D_NEXT], rdx

    # Sign, and note what was there; then note what is watched.
    mov rdi, [rbp + D_SCRATCH]
    test ecx, ecx
    jz signed
sign:
    mov rax, [rbx + rsi]
    mov rdx, [rbx + rax]
    mov [rbx + rdi], rdx
    mov rdx, [rbx + rsi + 8]
    mov [rbx + rax], rdx
    add rsi, 16
    add rdi, 8
    dec ecx
    jnz sign
signed:
    mov rsi, [rbp + D_WATCHED]
    movzx ecx, word ptr [rbp + D_COUNTS + 2]
    jrcxz watched
watch:
    mov rax, [rbx + rsi]
    mov rdx, [rbx + rax]
    mov [rbx + rdi], rdx
    add rsi, 8
    add rdi, 8
    dec ecx
    jnz watch
watched:
    call empty_tlb

    mov eax, KIND_PROGRAM
    call begin_record
    call add_word               # the counts, later
    xor eax, eax
    mov [rbp + D_WROTE], rax
    movzx eax, word ptr [rbp + D_COUNTS]
    mov [rbp + D_STEPS_LEFT], rax
next_step:
    dec qword ptr [rbp + D_STEPS_LEFT]
    js steps_done
    mov [rbp + D_STEP], r15
    mov [rbp + D_WORD], r14
    mov [rbp + D_RSP], rsp
    cmp byte ptr [rbx + r15], OP_LOOK
    jz look
    cmp byte ptr [rbx + r12 + R_MODE], FIRST_LONG_MODE
    jae long_step
    call legacy_step
    test eax, eax
    jnz refuse
    jmp step_done
long_step:
    lea rax, [rip + step_done]
    mov [rbp + D_RESUME], rax
    jmp do_step
step_done:                      # RBX, RBP and RSP are as before
    mov r12, [rbp + D_RUN]
    mov r15, [rbp + D_STEP]
    mov r14, [rbp + D_WORD]
    call report_step
    add r15, S_SIZE
    jmp next_step

# A word, as it shows to the runner.
look:
    mov rdi, [rbx + r15 + S_VA]
    mov rdx, [rbx + rdi]
    mov dword ptr [rbx + r14], NO_VECTOR
    mov dword ptr [rbx + r14 + 4], 0
    test rdx, rdx
    jz looked
    mov byte ptr [rbx + r14 + 1], HAS_SEEN
    add r14, 8
    mov [rbx + r14], rdx
looked:
    add r14, 8
    add r15, S_SIZE
    jmp next_step

steps_done:
    # What is watched: note what changed, and put it back. R8 is how many.
    xor r8d, r8d
    mov rsi, [rbp + D_WATCHED]
    movzx ecx, word ptr [rbp + D_COUNTS + 4]
    mov rdi, [rbp + D_SCRATCH]
    lea rdi, [rdi + rcx * 8]
    movzx ecx, word ptr [rbp + D_COUNTS + 2]
    jrcxz compared
compare:
    mov rax, [rbx + rsi]
    mov rdx, [rbx + rax]
    mov r9, [rbx + rdi]
    cmp rdx, r9
    jz same
    mov [rbx + r14], rax
    mov [rbx + r14 + 8], rdx
    add r14, 16
    inc r8d
    mov [rbx + rax], r9
same:
    add rsi, 8
    add rdi, 8
    dec ecx
    jnz compare
compared:
    # What was signed is put back, the last first.
    movzx ecx, word ptr [rbp + D_COUNTS + 4]
    jrcxz unsigned
    mov rsi, [rbp + D_NEXT]
    mov rdi, [rbp + D_SCRATCH]
unsign:
    sub rsi, 16
    mov rax, [rbx + rsi]
    lea r10, [rdi + rcx * 8 - 8]
    mov rdx, [rbx + r10]
    mov [rbx + rax], rdx
    dec ecx
    jnz unsign
unsigned:
    test byte ptr [rbp + D_COUNTS + 6], 1
    jz state_kept
    call load_state
state_kept:
    xor r9d, r9d
    test r8d, r8d
    jnz no_strays
    cmp byte ptr [rbp + D_WROTE], 0
    jz no_strays
    call find_strays
no_strays:
    shl r8, 16
    shl r9, 32
    movzx eax, word ptr [rbp + D_COUNTS]
    or rax, r8
    or rax, r9
    mov rdi, [rbp + D_OUT]
    mov [rbx + rdi + 8], rax
    jmp end_record

# Words of the run that differ: note MOST_STRAYS of them and put all back. R9 is how many are noted.
find_strays:
    mov rsi, [rbp + D_BLOCKS]
    mov r10, [rbx + r12 + R_BLOCKS]
    test r10, r10
    jz no_block
stray_block:
    mov rdi, [rbx + rsi]
    mov rcx, rdi
    shr rcx, ADDRESS_BITS
    shl rdi, 12
    shr rdi, 12
    add rsi, 8
    add rsi, rbx
    add rdi, rbx
go_on:
    repe cmpsq
    jz block_same
    mov rdx, [rdi - 8]
    mov rax, [rsi - 8]
    mov [rdi - 8], rax
    cmp r9d, MOST_STRAYS
    jae noted
    lea rax, [rdi - 8]
    sub rax, rbx
    mov [rbx + r14], rax
    mov [rbx + r14 + 8], rdx
    add r14, 16
    inc r9d
noted:
    test rcx, rcx               # ZF of an empty rest would be that of before
    jnz go_on
block_same:
    sub rsi, rbx
    dec r10
    jnz stray_block
no_block:
    ret

# Make the step at R15. Goes on at D_RESUME, by the exception with which each step ends.
do_step:
    mov rax, [rbx + r15]
    mov rdi, [rbx + r15 + S_VA]
    mov r8, [rbx + r15 + S_VALUE]
    mov r9, [rbx + r15 + S_MORE]
    mov rsi, rdi
    and rsi, -8
    movzx ecx, al               # op
    lea r10, [rbp + P_ACCESS]
    test ah, ah
    jz supervisor
    mov r10, [rbx + r12 + R_USER]
supervisor:
    mov [rbp + D_DONE_RIP], r10
    mov edx, ecx
    shl edx, 5
    add r10, rdx
    xor edx, edx
    bt eax, 16
    jnc no_ac
    mov edx, 0x40000            # RFLAGS.AC
no_ac:
    cmp ecx, OP_LOAD_FS
    jae special
    cmp ecx, OP_EXECUTE
    jnz go
    mov r10, rdi
    or edx, 0x100               # RFLAGS.TF
go:
    mov [rbp + D_ACCESS_RIP], r10
    or edx, 2
    test ah, ah
    mov rax, r8
    mov rcx, r9
    jnz as_user
    mov r11, rsp
    push DATA64
    push r11
    push rdx
    push CODE64
    push r10
    xor edx, edx
to_supervisor:
    iretq
as_user:
    push USER_SS
    push 0
    push rdx
    push USER_CS
    push r10
    xor edx, edx
to_user:
    iretq

special:
    cmp ecx, OP_STORE
    jz to_memory
    cmp ecx, OP_INVPCID
    jz with_descriptor
    cmp ecx, OP_LOAD_FS
    jnz go
    # A local descriptor table at RDI with the limit R9; the selector is of it.
    or r8d, 4
    mov [rbp + GDT_LOCAL], r9w
    mov [rbp + GDT_LOCAL + 2], rdi
    ror rdi, 24
    mov word ptr [rbp + GDT_LOCAL + 5], 0x82        # present, LDT
    mov [rbp + GDT_LOCAL + 7], dil
    shr rdi, 8
    mov [rbp + GDT_LOCAL + 8], edi
    mov dword ptr [rbp + GDT_LOCAL + 12], 0
    mov r11d, LOCAL
    lldt r11w
    jmp go
to_memory:
    add rdi, rbx
    jmp go
with_descriptor:
    mov [rbp + D_INVPCID], r8
    mov [rbp + D_INVPCID + 8], rdi
    lea rsi, [rbp + D_INVPCID]
    jmp go

# Add to the record what came of the step at R15: see log.py.
report_step:
    movzx r8d, byte ptr [rbx + r15]
    mov eax, [rbp + D_VECTOR]
    mov rdx, [rbp + D_RIP]
    xor ecx, ecx
    cmp rdx, [rbp + D_ACCESS_RIP]
    jz at_access
    # An address that isn't canonical is refused before it is fetched from.
    cmp r8d, OP_EXECUTE
    jnz elsewhere
    lea rsi, [rip + to_user]
    cmp rdx, rsi
    jz at_access
    lea rsi, [rip + to_supervisor]
    cmp rdx, rsi
    jnz elsewhere
at_access:
    or ecx, AT_ACCESS
elsewhere:
    cmp rdx, [rbp + D_DONE_RIP]
    jnz not_done
    cmp eax, 6                  # 3 outside IA-32e mode
    jz done_here
    cmp eax, 3
    jnz not_done
done_here:
    cmp r8d, OP_EXECUTE
    jz not_done
    mov eax, NO_VECTOR
    mov edx, WRITING
    bt edx, r8d
    jnc completed
    mov byte ptr [rbp + D_WROTE], 1
    jmp completed
not_done:
    cmp eax, 3
    jnz no_breakpoint
    lea rsi, [rdx - 1]
    cmp rsi, [rbp + D_ACCESS_RIP]
    jnz no_breakpoint
    or ecx, BEHIND
no_breakpoint:
    cmp eax, 1
    jz completed
    cmp eax, 3
    jnz faulted
completed:
    cmp eax, NO_VECTOR
    jnz whole
    cmp r8d, OP_READ
    jnz whole
    mov r9d, [rbx + r15 + S_VA]
    and r9d, 7
    mov dl, [rbp + r9 + D_SEEN]
    cmp dl, [rbp + D_FIRST]
    jz whole
    or ecx, TORN
whole:
    cmp r8d, 8
    jae report
    mov edx, SHOWING
    bt edx, r8d
    jnc report
    cmp qword ptr [rbp + D_SEEN], 0
    jz report
    or ecx, HAS_SEEN
    jmp report
faulted:
    cmp eax, 14
    jnz report
    or ecx, HAS_CR2
report:
    shl ecx, 8
    or eax, ecx
    mov rdx, [rbp + D_ERROR]
    shl rdx, 32
    or rax, rdx
    mov [rbx + r14], rax
    add r14, 8
    test ecx, HAS_CR2 << 8
    jz no_cr2
    mov rax, [rbp + D_CR2]
    mov [rbx + r14], rax
    add r14, 8
no_cr2:
    test ecx, HAS_SEEN << 8
    jz nothing_seen
    mov rax, [rbp + D_SEEN]
    mov [rbx + r14], rax
    add r14, 8
nothing_seen:
    ret

# ---- The state of a run

# From own tables to the run's, and to the alias.
enter:
    xor esi, esi
    cmp byte ptr [r12 + R_MODE], LEVEL5
    setz sil
    cmp esi, [rbp + D_LA57]
    jz levels_right
    call set_levels
levels_right:
    mov rax, [r12 + R_ALIAS]
    mov ecx, 39
    lea rdx, [rbp + ALIAS4]
    test esi, esi
    jz slot_found
    mov ecx, 48
    lea rdx, [rbp + ALIAS5]
slot_found:
    mov rbx, rax
    shr rax, cl
    and eax, 511
    mov rdi, [rbp + D_ROOT]
    mov [rdi + rax * 8], rdx
    lea rax, [rip + through_alias]
    add rax, rbx
    jmp rax
through_alias:
    add rbp, rbx
    add rsp, rbx
    add [rsp], rbx              # where this returns to
    mov [rbp + D_DM], rbx
    call set_descriptors
    jmp load_state

# Load the run's registers; refused by name where the CPU does. CR3 holds PCID 0 or a root.
load_state:
    mov [rbp + D_RSP], rsp
    mov rax, [rbp + D_ROOT]
    mov cr3, rax
    xor eax, eax
    mov fs, eax
    lldt ax
    lea rax, [rip + efer_refused]
    mov [rbp + D_RESUME], rax
    mov eax, [rbx + r12 + R_EFER]
    mov edx, [rbx + r12 + R_EFER + 4]
    mov ecx, EFER
    wrmsr
    lea rax, [rip + cr4_refused]
    mov [rbp + D_RESUME], rax
    mov rax, [rbx + r12 + R_CR4]
    mov cr4, rax
    lea rax, [rip + cr0_refused]
    mov [rbp + D_RESUME], rax
    mov rax, [rbx + r12 + R_CR0]
    mov cr0, rax
    mov rax, [rbx + r12 + R_CR4]
    test eax, CR4_PKE
    jz no_pkru
    mov eax, [rbx + r12 + R_PKRU]
    xor ecx, ecx
    xor edx, edx
    wrpkru
no_pkru:
    test dword ptr [rbx + r12 + R_CR4], CR4_PKS
    jz no_pkrs
    lea rax, [rip + pkrs_refused]
    mov [rbp + D_RESUME], rax
    mov eax, [rbx + r12 + R_PKRS]
    mov ecx, IA32_PKRS
    xor edx, edx
    wrmsr
no_pkrs:
    lea rax, [rip + cr3_refused]
    mov [rbp + D_RESUME], rax
    mov rax, [rbx + r12 + R_CR3]
    mov cr3, rax
    mov qword ptr [rbp + D_RESUME], 0
    ret

efer_refused:
    mov rdx, [rbx + r12 + R_EFER]
    mov eax, REFUSED_EFER
    jmp refuse
cr4_refused:
    mov rdx, [rbx + r12 + R_CR4]
    mov eax, REFUSED_CR4
    jmp refuse
cr0_refused:
    mov rdx, [rbx + r12 + R_CR0]
    mov eax, REFUSED_CR0
    jmp refuse
pkrs_refused:
    mov edx, [rbx + r12 + R_PKRS]
    mov eax, REFUSED_PKRS
    jmp refuse
cr3_refused:
    mov rdx, [rbx + r12 + R_CR3]
    mov eax, REFUSED_CR3
    jmp refuse

# Back to own tables, own registers and physical addresses, if not there.
leave:
    test rbx, rbx
    jz left
    mov rax, [rbp + D_ROOT]
    mov cr3, rax
    mov rax, cr4
    test eax, CR4_PKS
    jz no_keys
    xor eax, eax
    xor edx, edx
    mov ecx, IA32_PKRS
    wrmsr
no_keys:
    mov eax, CR4_PAE
    cmp dword ptr [rbp + D_LA57], 0
    jz four
    or eax, CR4_LA57
four:
    mov cr4, rax
    mov eax, OWN_CR0
    mov cr0, rax
    mov eax, OWN_EFER
    xor edx, edx
    mov ecx, EFER
    wrmsr
    xor eax, eax
    mov fs, eax
    lldt ax
    lea rax, [rip + at_physical]
    sub rax, rbx
    jmp rax
at_physical:
    sub rbp, rbx
    sub rsp, rbx
    sub [rsp], rbx              # where this returns to
    mov rdi, [rbp + D_ROOT]     # the alias goes; the first slot stays
    add rdi, 8
    mov ecx, 511
    xor eax, eax
    mov [rbp + D_DM], rax
    mov rbx, rax
    rep stosq
    jmp set_descriptors
left:
    ret

# Own tables with five levels if ESI is 1, four if it is 0, at physical addresses. ESI is kept.
set_levels:
    push rsi
    mov edi, CR4_PAE
    lea rax, [rbp + P_OWN4]
    test esi, esi
    jz to_four
    mov eax, 7
    xor ecx, ecx
    cpuid
    xor ebx, ebx                # own tables: CPUID wrote there
    bt ecx, 16
    jnc cr4_refused
    mov edi, CR4_PAE + CR4_LA57
    lea rax, [rbp + P_OWN5]
to_four:
    mov rcx, [rsp]
    mov [rbp + D_LA57], rcx
    mov [rbp + D_ROOT], rax
    mov esi, eax
    call change_levels
    pop rsi
    ret

# Empty the TLB, global entries and those of all PCIDs included.
# Entries may have accesses made past the caches (PCD, PWT, PAT), which needn't see what is in them.
empty_tlb:
    wbinvd
    cmp byte ptr [rbx + r12 + R_MODE], FIRST_LONG_MODE
    jb left                     # of others each program switches paging on
    mov rax, [rbx + r12 + R_CR4]
    test eax, CR4_PGE + CR4_PCIDE
    jz by_cr3
    btc rax, 7                  # PGE
    mov cr4, rax
    btc rax, 7
    mov cr4, rax
    ret
by_cr3:
    mov rax, [rbx + r12 + R_CR3]
    mov cr3, rax
    ret

# ---- Words of a run, under own tables

# Refuse the run if anything it names isn't RAM, or is the runner's. Notes where its parts begin.
check_addresses:
    movzx edx, byte ptr [r12 + R_MODE + 2]
    test edx, edx
    jz any_width
    mov eax, REFUSED_WIDTH
    cmp [rbp + D_WIDTH], rdx
    ja refuse
any_width:
    lea rsi, [r12 + R_NEEDS]
    mov rdi, [rbp + D_RESULTS]
    mov ecx, MOST_NEEDS
    mov eax, REFUSED_FEATURE
next_need:
    movzx edx, word ptr [rsi]
    test edx, edx
    jz needs_met
    bt dword ptr [rdi + CPU_WORDS], edx
    jnc refuse
    add rsi, 2
    dec ecx
    jnz next_need
needs_met:
    xor r8d, r8d
    xor r9d, r9d
    mov rdi, [r12 + R_CR3]
    call check_root
    lea r13, [r12 + R_BODY]
    mov r15, [r12 + R_CLEARED]
check_cleared:
    dec r15
    js cleared_checked
    mov rdi, [r13]
    mov rsi, rdi
    shr rsi, ADDRESS_BITS
    shl rsi, 12
    shl rdi, 12
    shr rdi, 12
    add rsi, rdi
    call check_range
    add r13, 8
    jmp check_cleared
cleared_checked:
    mov [rbp + D_BLOCKS], r13
    mov r15, [r12 + R_BLOCKS]
check_block:
    dec r15
    js blocks_checked
    mov rdi, [r13]
    mov rsi, rdi
    shr rsi, ADDRESS_BITS
    lea r13, [r13 + rsi * 8 + 8]
    shl rdi, 12
    shr rdi, 12
    lea rsi, [rdi + rsi * 8]
    call check_range
    jmp check_block
blocks_checked:
    mov [rbp + D_PROGRAMS], r13
    mov r15, [r12 + R_PROGRAMS]
check_program:
    dec r15
    js all_checked
    movzx r10d, word ptr [r13]
    movzx r11d, word ptr [r13 + 2]
    movzx r14d, word ptr [r13 + 4]
    add r13, 8
check_step:
    dec r10d
    js steps_checked
    mov rdi, [r13 + S_VA]
    cmp byte ptr [r13], OP_STORE
    jz check_store
    cmp byte ptr [r13], OP_LOOK
    jz check_store
    cmp byte ptr [r13], OP_MOV_CR3
    jnz step_checked
    mov rdi, [r13 + S_VALUE]
    call check_root
    jmp step_checked
check_store:
    call check_word
step_checked:
    add r13, S_SIZE
    jmp check_step
steps_checked:
    dec r11d
    js watched_checked
    mov rdi, [r13]
    call check_word
    add r13, 8
    jmp steps_checked
watched_checked:
    dec r14d
    js check_program
    mov rdi, [r13]
    call check_word
    add r13, 16
    jmp watched_checked
all_checked:
    ret

# RDI is a value of CR3: its frame has to be RAM.
check_root:
    shl rdi, 12
    shr rdi, 24
    shl rdi, 12
    lea rsi, [rdi + 0x1000]
    jmp check_range
check_word:
    lea rsi, [rdi + 8]
# RDI to RSI has to be RAM and none of the runner's: R8 to R9 is where that is known. Above 4 GiB it
# lies within one GiB, which is made visible.
check_range:
    cmp rdi, r8
    jb find_range
    cmp rsi, r9
    jbe range_found
find_range:
    lea rdx, [rbp + P_RAM]
    mov ecx, [rbp + D_RAM_COUNT]
    jrcxz no_ram
next_range:
    cmp rdi, [rdx]
    jb another_range
    cmp rsi, [rdx + 8]
    jbe in_range
another_range:
    add rdx, 16
    dec ecx
    jnz next_range
no_ram:
    mov rdx, rdi
    mov eax, REFUSED_RUNNER
    cmp rdi, [rbp + D_END]
    jae not_there
    cmp rsi, [rbp + D_BASE]
    ja refuse
not_there:
    mov eax, REFUSED_NO_RAM
    jmp refuse
in_range:
    mov r8, [rdx]
    mov r9, [rdx + 8]
    mov rax, rdi
    shr rax, 30
    cmp rax, 512
    jae no_ram
    cmp rax, 4
    jae show_gib
    mov edx, 1
    shl rdx, 32
    cmp r9, rdx
    jbe range_found
    mov r9, rdx
range_found:
    ret
show_gib:
    mov rdx, rax
    shl rdx, 30
    cmp r8, rdx
    jae not_below
    mov r8, rdx
not_below:
    add rdx, 0x40000000
    cmp r9, rdx
    jbe not_above
    mov r9, rdx
not_above:
    sub rdx, 0x40000000
    cmp qword ptr [rbp + rax * 8 + P_DIRECT3], 0
    jnz range_found
    mov rcx, [rbp + D_KEY]
    shl rcx, 59
    or rcx, rdx
    or rcx, LEAF
    cmp byte ptr [rbp + D_PAGE1GB], 0
    jnz show
    mov rdx, [rbp + D_POOL_USED]
    cmp edx, P_POOL_PAGES
    jae no_window
    inc qword ptr [rbp + D_POOL_USED]
    shl edx, 12
    push rdi
    lea rdi, [rbp + rdx + P_POOL]
    lea rdx, [rdi + TABLE]
    push rsi
    mov esi, 512
next_large:
    mov [rdi], rcx
    add rcx, 0x200000
    add rdi, 8
    dec esi
    jnz next_large
    mov rcx, rdx
    pop rsi
    pop rdi
show:
    mov [rbp + rax * 8 + P_DIRECT3], rcx
    ret
no_window:
    mov rdx, rdi
    mov eax, REFUSED_WINDOW
    jmp refuse

# Clear the run's frames, write its words, and look whether they are there.
write_words:
    lea rsi, [r12 + R_BODY]
    mov rdx, [r12 + R_CLEARED]
next_frames:
    dec rdx
    js next_words
    mov rdi, [rsi]
    mov rcx, rdi
    shr rcx, ADDRESS_BITS
    shl rcx, 9
    shl rdi, 12
    shr rdi, 12
    xor eax, eax
    rep stosq
    add rsi, 8
    jmp next_frames
next_words:
    mov rdx, [r12 + R_BLOCKS]
next_block:
    dec rdx
    js blocks_written
    call block
    rep movsq
    jmp next_block
blocks_written:
    mov rsi, [rbp + D_BLOCKS]
    mov rdx, [r12 + R_BLOCKS]
next_look:
    dec rdx
    js all_written
    call block
    repe cmpsq
    jz next_look
    lea rdx, [rdi - 8]
    mov eax, REFUSED_NOT_HELD
    jmp refuse
all_written:
    ret
block:                          # RSI is a block's head: RDI is where it goes, RCX its words
    mov rdi, [rsi]
    mov rcx, rdi
    shr rcx, ADDRESS_BITS
    shl rdi, 12
    shr rdi, 12
    add rsi, 8
    ret

# The leaves of the direct map have the protection key EAX.
set_key:
    cmp eax, [rbp + D_KEY]
    jz key_set
    mov [rbp + D_KEY], rax
    shl rax, 59
    movabs rdx, 0x87ffffffffffffff
    lea rdi, [rbp + P_DIRECT2]
    mov ecx, 4 * 512
    call set_keys
    lea rdi, [rbp + P_POOL]
    mov ecx, P_POOL_PAGES * 512
    call set_keys
    lea rdi, [rbp + P_DIRECT3]
    mov ecx, 512
    call set_keys
    mov rax, cr3
    mov cr3, rax
key_set:
    ret
set_keys:
    test byte ptr [rdi], 0x80   # PS
    jz no_leaf
    and [rdi], rdx
    or [rdi], rax
no_leaf:
    add rdi, 8
    dec ecx
    jnz set_keys
    ret

# ---- Reports

# Begin a record of kind EAX: R14 is where its words go. Its head stays zero until it is whole: in
# memory, a log ends there if the machine does.
begin_record:
    mov [rbp + D_KIND], rax
    mov r14, [rbp + D_OUT]
    add r14, 8
    ret
add_word:
    mov [rbx + r14], rax
    add r14, 8
    ret

# End it: head and checksum; then send it.
end_record:
    mov rsi, [rbp + D_OUT]
    mov rcx, r14
    sub rcx, rsi
    shr ecx, 3
    lea rax, [rcx - 1]
    shl rax, 16
    mov rdx, [rbp + D_KIND]
    shl rdx, 32
    or rax, rdx
    movzx edx, word ptr [rbp + D_SEQUENCE]
    inc word ptr [rbp + D_SEQUENCE]
    shl rdx, 40
    or rax, rdx
    or rax, MARK
    movabs rdx, 0x9e3779b97f4a7c15
    imul rdx, rax
    shr rdx, 56
    shl rdx, 56
    or rax, rdx
    mov [rbx + rsi], rax
    movabs rax, 0xcbf29ce484222325
    movabs rdx, 0x100000001b3
    lea rdi, [rbx + rsi]
sum:
    xor rax, [rdi]
    imul rax, rdx
    add rdi, 8
    dec ecx
    jnz sum
    mov [rdi], rax
    mov [rdi + 8], rcx          # the log ends here, until it goes on
    add r14, 8
    mov [rbp + D_OUT], r14
    sub r14, rsi
    add rsi, rbx
    test byte ptr [rbp + D_OUTPUT], 2
    jz no_debug_port
    push rsi
    mov ecx, r14d
    mov edx, 0xe9
    rep outsb
    pop rsi
no_debug_port:
    test byte ptr [rbp + D_OUTPUT], 1
    jz sent
next_burst:
    mov edx, 0x3fd              # until what was sent is out
transmitting:
    in al, dx
    test al, 0x20
    jz transmitting
    mov ecx, [rbp + D_BURST]
    cmp ecx, r14d
    jbe burst
    mov ecx, r14d
burst:
    sub r14d, ecx
    mov edx, 0x3f8
    rep outsb
    test r14d, r14d
    jnz next_burst
sent:
    ret

# COM1 as it is wanted; if there is none, nothing is sent there.
find_serial:
    test byte ptr [rbp + D_OUTPUT], 1
    jz sent
    mov edx, 0x3ff              # the scratch register
    mov al, 0x5a
    out dx, al
    in al, dx
    cmp al, 0x5a
    jnz no_serial
    mov al, 0xa5
    out dx, al
    in al, dx
    cmp al, 0xa5
    jnz no_serial
    mov edx, 0x3fb
    mov al, 0x80
    out dx, al
    mov edx, 0x3f8
    mov al, 1
    out dx, al
    inc edx
    xor eax, eax
    out dx, al
    mov edx, 0x3fb
    mov al, 3
    out dx, al
    mov edx, 0x3f9
    xor eax, eax
    out dx, al
    inc edx
    mov al, 7                   # FIFOs, emptied
    out dx, al
    in al, dx
    mov ecx, 1
    cmp al, 0xc0
    jb no_fifo
    mov ecx, 16
no_fifo:
    mov [rbp + D_BURST], rcx
    ret
no_serial:
    and byte ptr [rbp + D_OUTPUT], 0xfe
    ret

# What the CPU says of itself: leaf and subleaf each, in the order of log.py.
report_cpu:
    mov eax, KIND_CPU
    call begin_record
    lea rsi, [rip + leaves]
next_leaf:
    mov eax, [rsi]
    mov ecx, [rsi + 4]
    cpuid
    mov [r14], eax
    mov [r14 + 4], ebx
    mov [r14 + 8], ecx
    mov [r14 + 12], edx
    add r14, 16
    add rsi, 8
    lea rax, [rip + leaves_end]
    cmp rsi, rax
    jb next_leaf
    xor ebx, ebx
    jmp end_record
leaves:
    .long 0, 0, 1, 0, 7, 0, 7, 1
    .long 0x80000000, 0, 0x80000001, 0, 0x80000002, 0, 0x80000003, 0, 0x80000004, 0, 0x80000008, 0
leaves_end:

# RAM by the loader's map. It is copied, since runs may write where the map is.
report_ram:
    mov eax, KIND_RAM
    call begin_record
    mov esi, [rbp + D_INFO]
    test byte ptr [rsi], 0x40
    jz without_map
    mov r8d, [rsi + 44]
    mov esi, [rsi + 48]
    add r8, rsi
next_entry:
    cmp rsi, r8
    jae end_record
    cmp dword ptr [rsi + 20], 1
    jnz no_entry
    mov rax, [rsi + 4]
    mov rdx, [rsi + 12]
    add rdx, rax
    call add_range
no_entry:
    mov eax, [rsi]
    lea rsi, [rsi + rax + 4]
    jmp next_entry
without_map:
    mov eax, 0x100000
    mov edx, [rsi + 8]          # KiB above 1 MiB
    shl rdx, 10
    add rdx, rax
    call add_range
    jmp end_record

# RAX to RDX is RAM: so it is said, and kept without the runner's part.
add_range:
    cmp dword ptr [rbp + D_RAM_COUNT], 200
    jae range_kept
    mov [r14], rax
    mov [r14 + 8], rdx
    add r14, 16
    push rdx
    mov rdi, [rbp + D_BASE]
    cmp rdx, rdi
    jbe below
    mov rdx, rdi
below:
    call keep_range
    pop rdx
    mov rdi, [rbp + D_END]
    cmp rax, rdi
    jae keep_range
    mov rax, rdi
keep_range:
    cmp rax, rdx
    jae range_kept
    mov ecx, [rbp + D_RAM_COUNT]
    inc qword ptr [rbp + D_RAM_COUNT]
    shl ecx, 4
    mov [rbp + rcx + P_RAM], rax
    mov [rbp + rcx + P_RAM + 8], rdx
range_kept:
    ret
