# What a step of a boot image executes at CPL 0 or 3: an op of guest/boot/programs.py each 32 bytes.
# Assembled as 64-bit code, and independent of where it runs: supervisor code through the alias, user
# code on the lent page. The first instruction of each is the access that may fault.
#
# RDI is the address, RSI the aligned eight bytes around it (of INVPCID the descriptor), RAX the
# value, RCX what programs.py calls `more`, RDX zero.

done:                           # INT3 at CPL 0 isn't for every hypervisor's emulator
    ud2
.align 32
read:                           # the byte, and then a second look at it with those around it
    mov dl, [rdi]
    mov rax, [rsi]
    jmp done
.align 32
write:
    mov [rdi], al
    jmp done
.align 32
execute:                        # goes there itself
    int3
.align 32
exchange_and_add:
    lock xadd [rdi], al
    jmp done
.align 32
compare_and_exchange:
    lock cmpxchg [rdi], dl
    jmp done
.align 32
read8:
    mov rax, [rdi]
    jmp done
.align 32
write8:
    mov [rdi], rax
    jmp done
.align 32
load_fs:
    mov fs, ax
    jmp done
.align 32
store:
    mov [rdi], rax
    jmp done
.align 32
invalidate_page:
    invlpg [rdi]
    jmp done
.align 32
invalidate_pcid:
    invpcid rcx, [rsi]
    jmp done
.align 32
load_cr0:
    mov cr0, rax
    jmp done
.align 32
load_cr3:
    mov cr3, rax
    jmp done
.align 32
load_cr4:
    mov cr4, rax
    jmp done
.align 32
write_pkru:
    wrpkru
    jmp done
