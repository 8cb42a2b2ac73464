# The sample kernel's first page: what a multiboot loader looks for and enters. Assembled as 32-bit
# code, for where it is loaded: without paging, physical addresses are linear ones.
#
# The loader comes to `start` in protected mode, with flat segments and interrupts off; EAX is its
# mark. The regions of sample_rodata.s are mapped by pages of 4 KiB, and nothing else is.

.equ HEADER_MARK, 0x1badb002
.equ HEADER_FLAGS, 3            # modules on page boundaries; tell of memory
.equ LOADER_MARK, 0x2badb002

.equ PAE, 0x20
.equ EFER, 0xc0000080
.equ LME_NXE, 0x900
.equ PG_WP, 0x80010000
.equ TABLE_FLAGS, 7             # present, writable, user: the leaf entry decides

multiboot_header:
    .long HEADER_MARK, HEADER_FLAGS, 0 - HEADER_MARK - HEADER_FLAGS

.globl start
start:
    cmp eax, LOADER_MARK
    jne stop
    cld
    mov esp, STACK_END
    mov edi, TABLES
    mov ecx, TABLES_SIZE / 4
    xor eax, eax
    rep stosd
    mov ebp, TABLES + PAGE      # the next free table; the first is the root
    mov esi, regions

next_region:
    mov ebx, [esi + R_VA]
    mov edx, [esi + R_PA]
    and ebx, 0xfffff000
    and edx, 0xfffff000
next_page:
    call map_page
    add ebx, PAGE
    add edx, PAGE
    cmp ebx, [esi + R_END]
    jb next_page
    add esi, R_SIZE
    cmp esi, regions_end
    jb next_region

    mov eax, cr4
    or eax, PAE
    mov cr4, eax
    mov eax, TABLES
    mov cr3, eax
    mov ecx, EFER
    rdmsr
    or eax, LME_NXE
    wrmsr
    mov eax, cr0
    or eax, PG_WP
    mov cr0, eax
    .byte 0x0f, 0x01, 0x15      # lgdt [gdt_pointer]
    .long gdt_pointer
    .byte 0xea                  # a far jump
    .long MAIN
    .short CODE

# Map the page at linear address EBX to EDX with the flags of the region at ESI. EAX, EDI are lost.
.globl map_page
map_page:
    mov edi, TABLES             # its first entry leads to the first 512 GiB
    call table_below
    mov eax, ebx
    shr eax, 30
    lea edi, [edi + eax * 8]
    call table_below
    mov eax, ebx
    shr eax, 21
    and eax, 511
    lea edi, [edi + eax * 8]
    call table_below
    mov eax, ebx
    shr eax, 12
    and eax, 511
    lea edi, [edi + eax * 8]
    mov eax, edx
    or eax, [esi + R_FLAGS]
    mov [edi], eax
    mov eax, [esi + R_FLAGS + 4]
    mov [edi + 4], eax
    ret

# Return in EDI the table that the entry at EDI refers to; a new one where it refers to none.
.globl table_below
table_below:
    mov eax, [edi]
    test al, 1
    jnz there
    cmp ebp, TABLES + TABLES_SIZE
    jae stop
    mov eax, ebp
    or eax, TABLE_FLAGS
    mov [edi], eax
    add ebp, PAGE
there:
    and eax, 0xfffff000
    mov edi, eax
    ret

stop:
    hlt                         # interrupts are off: for good
    jmp stop
