# Results on the screen, for a machine without COM1: pages of lines, each with its number, 32 bytes
# and a checksum, in hex. guest/boot/screen.py reads them back. Assembled as 64-bit code.
#
# Under the runner's own tables: RBP is the base, and physical addresses are linear addresses. The
# screen shows in a window of its own, wherever it is, if the CPU has 1-GiB pages.

.equ TEXT_SCREEN, 0xb8000       # 80 columns of two bytes, where the loader says nothing else
.equ TEXT_PITCH, 160
.equ TEXT_ROWS, 25
.equ COLUMNS, 80
.equ BRIGHT, 0x0f00
.equ CELL, 16                   # scan lines of a row, 8 pixels a column

# Of the loader's information.
.equ INFO_FRAMEBUFFER, 0x1000   # a flag: what follows is there
.equ FB_ADDRESS, 88
.equ FB_PITCH, 96
.equ FB_WIDTH, 100
.equ FB_HEIGHT, 104
.equ FB_BITS, 108
.equ FB_TYPE, 109
.equ FB_IS_TEXT, 2

.equ LINE_SIZE, 32
.equ POLYNOMIAL, 0x11021       # CRC-16, as binascii.crc_hqx has it
.equ PAUSE, 30                  # seconds that a page is shown, where no key is pressed
.equ KEYBOARD, 0x60
.equ KEYBOARD_STATUS, 0x64
.equ RTC_INDEX, 0x70
.equ RTC_DATA, 0x71

.equ WINDOW, 510                # of the direct map's GiB, this one and the next
.equ WINDOW_ENTRY, P_DIRECT3 + WINDOW * 8
.equ NEXT_ENTRY, WINDOW_ENTRY + 8

# Note what the loader says of the screen, before a run overwrites it.
note_screen:
    mov qword ptr [rbp + D_SCREEN], TEXT_SCREEN
    mov qword ptr [rbp + D_PITCH], TEXT_PITCH
    mov qword ptr [rbp + D_ROWS], TEXT_ROWS
    mov qword ptr [rbp + D_PIXEL], 0
    mov esi, [rbp + D_INFO]
    test dword ptr [rsi], INFO_FRAMEBUFFER
    jz screen_noted
    mov rax, [rsi + FB_ADDRESS]
    cmp byte ptr [rbp + D_PAGE1GB], 0
    jnz address_noted
    cmp dword ptr [rsi + FB_ADDRESS + 4], 0
    jnz screen_noted
address_noted:
    mov [rbp + D_SCREEN], rax
    mov eax, [rsi + FB_PITCH]
    mov [rbp + D_PITCH], rax
    mov eax, [rsi + FB_HEIGHT]
    mov [rbp + D_ROWS], rax
    cmp byte ptr [rsi + FB_TYPE], FB_IS_TEXT
    jz screen_noted
    movzx eax, byte ptr [rsi + FB_BITS]
    add eax, 7
    shr eax, 3
    mov [rbp + D_PIXEL], rax
    mov eax, [rsi + FB_WIDTH]
    xor edx, edx
    mov ecx, COLUMNS * 8
    div ecx
    cmp eax, 1
    adc eax, 0                  # at least 1
    mov [rbp + D_SCALE], rax
    mov ecx, eax
    shl ecx, 4
    mov eax, [rsi + FB_HEIGHT]
    xor edx, edx
    div ecx
    mov [rbp + D_ROWS], rax
screen_noted:
    ret

# Show all results, page after page, again and again.
show_results:
    cmp byte ptr [rbp + D_PAGE1GB], 0
    jz show_all
    mov rax, [rbp + D_SCREEN]
    mov edx, eax
    and edx, 0x3fffffff
    xor rax, rdx
    or rax, LEAF
    mov [rbp + WINDOW_ENTRY], rax
    mov ecx, 0x40000000
    add rax, rcx
    mov [rbp + NEXT_ENTRY], rax
    mov eax, WINDOW
    shl rax, 30
    add rdx, rax
    mov [rbp + D_SCREEN], rdx
    mov rax, cr3
    mov cr3, rax
show_all:
    xor r12d, r12d              # the number of a line
    mov r13, [rbp + D_OUT]
    sub r13, [rbp + D_RESULTS]
    add r13, LINE_SIZE - 1
    shr r13, 5                  # how many there are
next_page:
    xor r14d, r14d              # the row
next_row:
    call blank_line
    cmp r12, r13
    jae line_made
    call make_line
    inc r12
line_made:
    call draw_line
    inc r14
    cmp r14, [rbp + D_ROWS]
    jb next_row
    call wait_for_reader
    cmp r12, r13
    jb next_page
    jmp show_all

blank_line:
    lea rdi, [rbp + D_LINE]
    mov ecx, COLUMNS
    mov al, 0x20
    cld
    rep stosb
    ret

# Make line R12: number, four words as they lie in memory, checksum.
make_line:
    mov rsi, r12
    shl rsi, 5
    add rsi, [rbp + D_RESULTS]
    lea rdi, [rbp + D_LINE]
    mov eax, r12d
    call put_number
    inc rdi
    xor r8d, r8d                # the checksum
    mov eax, r12d
    call sum_byte
    mov eax, r12d
    shr eax, 8
    call sum_byte
    mov edx, LINE_SIZE
next_byte:
    lodsb
    movzx eax, al
    mov ecx, eax
    call sum_byte
    mov eax, ecx
    call put_byte
    dec edx
    test dl, 7
    jnz same_word
    inc rdi
same_word:
    test edx, edx
    jnz next_byte
    mov eax, r8d

# Put EAX, AL as hex digits at RDI.
put_number:
    push rax
    shr eax, 8
    call put_byte
    pop rax
put_byte:
    push rax
    shr eax, 4
    call put_digit
    pop rax
put_digit:
    and eax, 15
    add al, 0x30
    cmp al, 0x3a
    jb digit_known
    add al, 0x27                # from a on
digit_known:
    stosb
    ret

# Add AL to the checksum R8. RAX, R9 are lost.
sum_byte:
    movzx eax, al
    shl eax, 8
    xor r8d, eax
    mov r9d, 8
next_bit:
    shl r8d, 1
    test r8d, 0x10000
    jz bit_done
    xor r8d, POLYNOMIAL
bit_done:
    dec r9d
    jnz next_bit
    ret

# Draw the line at row R14.
draw_line:
    lea rsi, [rbp + D_LINE]
    cmp qword ptr [rbp + D_PIXEL], 0
    jnz draw_pixels
    mov rdi, r14
    imul rdi, [rbp + D_PITCH]
    add rdi, [rbp + D_SCREEN]
    mov ecx, COLUMNS
next_character:
    lodsb
    movzx eax, al
    or eax, BRIGHT
    stosw
    dec ecx
    jnz next_character
    ret

# R8: the scan line of the row, R9: how often it is still to be drawn.
draw_pixels:
    xor r8d, r8d
    mov r11, r14
    shl r11, 4
    imul r11, [rbp + D_SCALE]
    imul r11, [rbp + D_PITCH]
    add r11, [rbp + D_SCREEN]
next_scan:
    mov r9, [rbp + D_SCALE]
scan_again:
    mov rdi, r11
    lea rsi, [rbp + D_LINE]
    mov r10d, COLUMNS
next_glyph:
    lodsb
    movzx eax, al
    xor edx, edx
    sub eax, 0x30
    jb glyph_known
    cmp eax, 10
    jb has_glyph
    sub eax, 0x27
has_glyph:
    lea rcx, [rip + font]
    lea rcx, [rcx + rax * 8]
    mov eax, r8d
    shr eax, 1                  # each line of a glyph twice
    movzx edx, byte ptr [rcx + rax]
glyph_known:
    mov r15d, 8
next_pixel:
    shl dl, 1
    sbb eax, eax                # white, or black
    mov rcx, [rbp + D_SCALE]
pixel_again:
    push rcx
    mov rcx, [rbp + D_PIXEL]
    rep stosb
    pop rcx
    dec rcx
    jnz pixel_again
    dec r15d
    jnz next_pixel
    dec r10d
    jnz next_glyph
    add r11, [rbp + D_PITCH]
    dec r9
    jnz scan_again
    inc r8d
    cmp r8d, CELL
    jb next_scan
    ret

# Return after a key, or after PAUSE seconds.
wait_for_reader:
    mov ecx, PAUSE
    call seconds
    mov dl, al
waiting:
    pause
    in al, KEYBOARD_STATUS
    test al, 1
    jz no_key
    mov ah, al
    in al, KEYBOARD
    test ah, 0x20               # of the mouse
    jnz no_key
    dec al
    jns key_pressed             # 1 to 0x7f: down; else up, or no keyboard
no_key:
    call seconds
    cmp al, dl
    jz waiting
    mov dl, al
    dec ecx
    jnz waiting
key_pressed:
    ret

seconds:
    xor eax, eax
    out RTC_INDEX, al
    in al, RTC_DATA
    ret

# The digits 0 to f: eight lines of eight pixels each, the first in the lowest byte.
font:
    .quad 0x1c22322a26221c00
    .quad 0x1c08080808180800
    .quad 0x3e10080402221c00
    .quad 0x1c22020408043e00
    .quad 0x04043e24140c0400
    .quad 0x1c2202023c203e00
    .quad 0x1c22223c20100c00
    .quad 0x1010100804023e00
    .quad 0x1c22221c22221c00
    .quad 0x1804021e22221c00
    .quad 0x1e221e021c000000
    .quad 0x3c2222322c202000
    .quad 0x1c2220201c000000
    .quad 0x1e2222261a020200
    .quad 0x1c203e221c000000
    .quad 0x1010103810120c00
