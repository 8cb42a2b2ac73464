# Protected mode: build the paging structures from the records, switch to long mode.
#
# Assembled as 32-bit code. Physical addresses are linear addresses here, and every table lies
# below 4 GiB, so a table's address is one register; entries and linear addresses are two words.
#
# A record says: plant `count` entries at `level`, from `va` on, the first being `entry`, each
# next one greater by `step`; tables on the way are made where there are none, and entered in
# the level above with the `upper` flags for that level. A `base` of 1 adds the root's address.

.equ CODE64, 0x10
.equ DATA, 0x18

.equ RECORDS_COUNT, RECORDS
.equ RECORDS_FIRST, RECORDS + 16
.equ R_VA, 0
.equ R_ENTRY, 8
.equ R_STEP, 16
.equ R_COUNT, 24
.equ R_LEVEL, 32
.equ R_BASE, 40
.equ R_UPPER, 48                # for levels 2 to 5
.equ R_SIZE, 80

.equ S_STATE, STATUS + 16
.equ S_TABLES, STATUS + 72
.equ S_ENTRIES, STATUS + 80
.equ S_LOG, STATUS + LOG_OFFSET

.equ STATE_BUILDING, 1
.equ STATE_PAGING, 2
.equ STATE_POOL_EMPTY, 0x101
.equ STATE_OCCUPIED, 0x102

.equ ROOT, VARIABLES
.equ LEFT, VARIABLES + 4        # entries of this record still to plant
.equ RECORDS_LEFT, VARIABLES + 8
.equ VA, VARIABLES + 16
.equ ENTRY, VARIABLES + 24

.equ P, 1
.equ PS, 0x80

.equ CR4_BOOT, 0x20 + (LEVELS - 4) * 0x1000     # PAE, LA57
.equ CR0_PAGING, 0x80010000                     # PG, WP
.equ EFER, 0xc0000080
.equ EFER_BOOT, 0x900                           # NXE, LME

protected:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, BOOT_STACK_TOP
    cld
    mov dword ptr [S_STATE], STATE_BUILDING

    mov dword ptr [VA], 0
    mov dword ptr [VA + 4], 0
    mov ecx, LEVELS
    call new_table
    mov [ROOT], eax

    mov eax, [RECORDS_COUNT]
    mov [RECORDS_LEFT], eax
    mov esi, RECORDS_FIRST

record:
    mov eax, [esi + R_VA]
    mov [VA], eax
    mov eax, [esi + R_VA + 4]
    mov [VA + 4], eax
    mov eax, [esi + R_ENTRY]
    cmp dword ptr [esi + R_BASE], 0
    jz base_known
    add eax, [ROOT]
base_known:
    mov [ENTRY], eax
    mov eax, [esi + R_ENTRY + 4]
    mov [ENTRY + 4], eax
    mov eax, [esi + R_COUNT]
    mov [LEFT], eax

plant:
    call find_entry
plant_here:
    mov eax, [ENTRY]
    mov [edi], eax
    mov eax, [ENTRY + 4]
    mov [edi + 4], eax
    inc dword ptr [S_ENTRIES]

    mov eax, [esi + R_STEP]
    mov edx, [esi + R_STEP + 4]
    add [ENTRY], eax
    adc [ENTRY + 4], edx
    mov ecx, [esi + R_LEVEL]
    call shift_of
    xor eax, eax
    xor edx, edx
    test cl, 32
    jnz span_high
    bts eax, ecx
    jmp span_known
span_high:
    and ecx, 31
    bts edx, ecx
span_known:
    add [VA], eax
    adc [VA + 4], edx
    dec dword ptr [LEFT]
    jz record_done
    add edi, 8                  # the neighbour, unless it is in the next table
    test edi, 0xfff
    jz plant
    call must_be_free
    jmp plant_here

record_done:
    add esi, R_SIZE
    dec dword ptr [RECORDS_LEFT]
    jnz record

    mov dword ptr [S_STATE], STATE_PAGING
    mov eax, cr4
    or eax, CR4_BOOT
    mov cr4, eax
    mov eax, [ROOT]
    mov cr3, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_BOOT
    wrmsr
    mov eax, cr0
    or eax, CR0_PAGING
    mov cr0, eax
    .byte 0xea                  # a far jump with a 32-bit target
    .long LONG
    .short CODE64

# Return in EDI the address of the free entry at the record's level on the way to VA.
find_entry:
    mov edi, [ROOT]
    mov ecx, LEVELS
descend:
    call index_of
    lea edi, [edi + eax * 8]
    cmp ecx, [esi + R_LEVEL]
    jz arrived
    test byte ptr [edi], P
    jnz follow
    call must_be_free
    dec ecx
    call new_table
    inc ecx
    or eax, [esi + ecx * 8 + R_UPPER - 16]
    mov [edi], eax
    mov eax, [esi + ecx * 8 + R_UPPER - 12]
    mov [edi + 4], eax
    inc dword ptr [S_ENTRIES]
follow:
    test byte ptr [edi], PS
    jnz occupied
    mov edi, [edi]
    and edi, 0xfffff000
    dec ecx
    jmp descend
arrived:
must_be_free:
    mov eax, [edi]
    or eax, [edi + 4]
    jnz occupied
    ret

# Return in ECX the number of the lowest address bit that selects an entry at level ECX.
shift_of:
    lea ecx, [ecx + ecx * 8 + 3]
    ret

# Return in EAX the index of VA into a table of level ECX. EDX is lost.
index_of:
    push ecx
    call shift_of
    mov eax, [VA]
    mov edx, [VA + 4]
    test cl, 32
    jnz index_high
    shrd eax, edx, cl
    jmp index_known
index_high:
    shr edx, cl                 # by cl modulo 32
    mov eax, edx
index_known:
    and eax, 511
    pop ecx
    ret

# Return in EAX the address of a new, empty table of level ECX, entered in the log. EDX is lost.
new_table:
    mov eax, [S_TABLES]
    cmp eax, POOL_FRAMES
    jae pool_empty
    inc dword ptr [S_TABLES]
    lea edx, [eax + eax * 2]
    lea edx, [edx * 8 + S_LOG]
    shl eax, 12
    add eax, POOL
    mov [edx], ecx
    mov [edx + 16], eax
    mov eax, [VA]
    mov [edx + 8], eax
    mov eax, [VA + 4]
    mov [edx + 12], eax

    push edi
    push ecx
    mov edi, [edx + 16]
    xor eax, eax
    mov ecx, 64                 # unrolled: a host that counts blocks is waiting
clear:
    stosd; stosd; stosd; stosd; stosd; stosd; stosd; stosd
    stosd; stosd; stosd; stosd; stosd; stosd; stosd; stosd
    dec ecx
    jnz clear
    pop ecx
    pop edi
    mov eax, [edx + 16]
    ret

pool_empty:
    mov dword ptr [S_STATE], STATE_POOL_EMPTY
    hlt
occupied:
    mov dword ptr [S_STATE], STATE_OCCUPIED
    hlt
