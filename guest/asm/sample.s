# The sample kernel in long mode. Assembled as 64-bit code.
#
# It prints, takes a few ticks of the timer, copies a module to a page and runs it there, runs a
# program in user mode that makes two system calls, and ends by the debug exit port with status 0;
# after an exception with 1.

.equ UART, 0x3f8
.equ LINE_STATUS, 0x3fd
.equ READY, 0x20
.equ PIC, 0x20
.equ PIC_DATA, 0x21
.equ SECOND_PIC, 0xa0
.equ SECOND_PIC_DATA, 0xa1
.equ END_OF_INTERRUPT, 0x20
.equ PIT, 0x40
.equ PIT_COMMAND, 0x43
.equ EVERY_10_MS, 11932         # of 1,193,182 a second

.equ TIMER, 0x20                # vectors
.equ SYSTEM_CALL, 0x80
.equ GATE, 0x8e00               # present, an interrupt gate
.equ USER_GATE, 0xee00          # DPL 3
.equ WITH_ERROR_CODE, 0x27d00   # vectors 8, 10 to 14, 17
.equ INTERRUPTS_ON, 0x202

.globl main
main:
    mov eax, WRITABLE
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK_END
    call set_up_uart
    mov esi, banner
    call print
    call set_up_interrupts
    call set_up_timer
    sti
wait_for_ticks:
    hlt
    mov eax, TICKS
    cmp qword ptr [rax], 3
    jb wait_for_ticks
    cli
    mov esi, ticking
    call print
    call load_module
    mov esi, loaded
    call print

    mov eax, USER_WRITABLE + 3
    push rax
    mov eax, USER_STACK_END
    push rax
    push INTERRUPTS_ON
    mov eax, USER_CODE + 3
    push rax
    mov eax, USER
    push rax
    iretq

# Copy the module to its page, make that executable, and call it.
.globl load_module
load_module:
    mov edi, MODULE
    mov rsi, READ_WRITE
    or rsi, rdi
    call set_page
    mov esi, module_image
    mov ecx, module_image_end - module_image
    rep movsb
    mov edi, MODULE
    mov rsi, MODULE_FLAGS
    or rsi, rdi
    call set_page
    call rdi
    cmp eax, MODULE_ANSWER
    jne exit
    ret

# Make RSI the entry that maps the page at RDI; tables on the way are there. RAX, RCX, RDX are lost.
.globl set_page
set_page:
    mov eax, TABLES
    mov ecx, 39
next_level:
    mov rdx, rdi
    shr rdx, cl
    and edx, 511
    lea rdx, [rax + rdx * 8]
    cmp ecx, 12
    je at_leaf
    mov rax, [rdx]
    and eax, 0xfffff000
    sub ecx, 9
    jmp next_level
at_leaf:
    mov [rdx], rsi
    invlpg [rdi]
    ret

.globl set_up_interrupts
set_up_interrupts:
    mov edi, IDT
    lea rax, [rip + exceptions]
    mov ecx, 32
next_exception:
    mov edx, GATE
    call set_gate
    add rax, 5                  # the next call
    dec ecx
    jnz next_exception
    lea rax, [rip + timer]      # vector 32
    call set_gate
    mov edi, IDT + SYSTEM_CALL * 16
    lea rax, [rip + system_call]
    mov edx, USER_GATE
    call set_gate
    mov eax, idt_pointer
    lidt [rax]
    mov eax, TASK
    ltr ax
    ret

# Make the gate at RDI, of type EDX, lead to RAX; RDI comes to the next one.
set_gate:
    mov [rdi], ax
    mov word ptr [rdi + 2], CODE
    mov [rdi + 4], dx
    mov r8, rax
    shr r8, 16
    mov [rdi + 6], r8w
    shr r8, 16
    mov [rdi + 8], r8d
    mov dword ptr [rdi + 12], 0
    add edi, 16
    ret

# The interrupt controllers: vectors from TIMER on, everything masked but the timer.
.globl set_up_timer
set_up_timer:
    mov al, 0x11
    out PIC, al
    out SECOND_PIC, al
    mov al, TIMER
    out PIC_DATA, al
    mov al, TIMER + 8
    out SECOND_PIC_DATA, al
    mov al, 4
    out PIC_DATA, al
    mov al, 2
    out SECOND_PIC_DATA, al
    mov al, 1
    out PIC_DATA, al
    out SECOND_PIC_DATA, al
    mov al, 0xfe
    out PIC_DATA, al
    mov al, 0xff
    out SECOND_PIC_DATA, al
    mov al, 0x34                # channel 0, low byte and high byte, a rate
    out PIT_COMMAND, al
    mov al, EVERY_10_MS & 0xff
    out PIT, al
    mov al, EVERY_10_MS >> 8
    out PIT, al
    ret

# One call a vector: its return address tells which.
exceptions:
    .rept 32
    call exception
    .endr

# Tell of an exception and give up.
.globl exception
exception:
    pop rbx
    lea rax, [rip + exceptions]
    sub rbx, rax
    mov eax, ebx
    xor edx, edx
    mov ecx, 5
    div ecx
    lea ebx, [rax - 1]
    mov eax, WITH_ERROR_CODE
    bt eax, ebx
    jnc no_error_code
    pop rax
no_error_code:
    pop rbp                     # RIP
    mov esi, failed
    call print
    mov rdi, rbx
    call print_hex
    mov esi, at_rip
    call print
    mov rdi, rbp
    call print_hex
    mov esi, with_cr2
    call print
    mov rdi, cr2
    call print_hex
    mov esi, end_of_line
    call print
    mov al, 1
    jmp exit

.globl timer
timer:
    push rax
    mov eax, TICKS
    inc qword ptr [rax]
    mov al, END_OF_INTERRUPT
    out PIC, al
    pop rax
    iretq

# EAX is 1: print the text at RSI; any other: the program has ended.
.globl system_call
system_call:
    cmp eax, 1
    jne program_ended
    call print
    iretq
program_ended:
    mov esi, done
    call print
    xor eax, eax
# Leave by the debug exit port with status AL.
.globl exit
exit:
    out EXIT_PORT, al
    cli
    hlt
    jmp exit

.globl set_up_uart
set_up_uart:
    mov edx, UART + 1
    xor eax, eax
    out dx, al                  # no interrupts
    mov edx, UART + 3
    mov al, 0x80
    out dx, al                  # the divisor…
    mov edx, UART
    mov al, 1
    out dx, al                  # …of 115,200 baud
    mov edx, UART + 1
    mov al, 0
    out dx, al
    mov edx, UART + 3
    mov al, 3
    out dx, al                  # 8 bits, no parity
    ret

# Print the text at RSI, which ends with a zero. RAX, RCX, RDX, RSI are lost.
.globl print
print:
    lodsb
    test al, al
    jz printed
    mov ecx, eax
    mov edx, LINE_STATUS
wait_for_uart:
    in al, dx
    test al, READY
    jz wait_for_uart
    mov edx, UART
    mov eax, ecx
    out dx, al
    jmp print
printed:
    ret

# Print RDI in hex. RAX, RCX, RDX are lost.
.globl print_hex
print_hex:
    mov r8d, 16
next_digit:
    rol rdi, 4
    mov ecx, edi
    and ecx, 15
    cmp ecx, 10
    jb decimal
    add ecx, 0x27               # from behind 9 to a
decimal:
    add ecx, 0x30
    mov edx, UART
    mov eax, ecx
    out dx, al
    dec r8d
    jnz next_digit
    ret
