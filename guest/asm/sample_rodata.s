# What the sample kernel only reads: the regions that it maps, and texts.

# A region: its first linear address, where that is in memory, its end, and the flags of its entries.
.globl regions, regions_end, gdt_pointer, idt_pointer
regions:
    .long TEXT, TEXT, TEXT_END; .quad READ_EXECUTE
    .long RODATA, RODATA, RODATA_END; .quad RODATA_FLAGS
    .long DATA, DATA_LOADED, DATA_END; .quad READ_WRITE
    .long BSS, BSS, BSS_END; .quad READ_WRITE
    .long TABLES, TABLES, TABLES + TABLES_SIZE; .quad READ_WRITE
    .long STACK_MAPPED, STACK_MAPPED, STACK_END; .quad READ_WRITE
    .long USER, USER_LOADED, USER_END; .quad USER_READ_EXECUTE
    .long USER_STACK, USER_STACK_LOADED, USER_STACK_END; .quad USER_READ_WRITE
regions_end:

gdt_pointer:
    .short GDT_SIZE - 1
    .quad GDT
idt_pointer:
    .short IDT_SIZE - 1
    .quad IDT

.globl banner, ticking, loaded, done, failed, at_rip, with_cr2, end_of_line
banner:
    .asciz "sample kernel: long mode, own page tables\n"
ticking:
    .asciz "the timer ticks\n"
loaded:
    .asciz "a module was loaded and answers\n"
done:
    .asciz "done\n"
failed:
    .asciz "exception "
at_rip:
    .asciz " at "
with_cr2:
    .asciz ", CR2 "
end_of_line:
    .asciz "\n"

# The module: code that works wherever it is copied to.
.globl module_image, module_image_end
module_image:
    .byte 0xb8                  # mov eax, MODULE_ANSWER
    .long MODULE_ANSWER
    .byte 0xc3                  # ret
module_image_end:
