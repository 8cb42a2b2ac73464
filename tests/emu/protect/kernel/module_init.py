"""An initial RAM disk whose first process loads a module, removes it, and loads it again."""

import struct

from crosswalk.guest.assembler import assemble

BASE = 0x40_0000
HEADERS = 64 + 56
SAID = ("inserted", "removed", "inserted again")

_SAY = """
    mov eax, 1
    mov edi, 1
    lea rsi, [rip + text{0}]
    mov edx, {1}
    syscall
"""
_LOAD = """
    mov eax, 313
    mov rdi, r12
    lea rsi, [rip + nothing]
    xor edx, edx
    syscall
    test rax, rax
    jnz failed
"""
_REMOVE = """
    mov eax, 176
    lea rdi, [rip + module]
    mov esi, 0x800
    syscall
    test rax, rax
    jnz failed
"""


def init_with_module(name, content):
    """The RAM disk; `name` is what the kernel calls the module that is `content`."""
    says = [_SAY.format(at, len(text) + 1) for at, text in enumerate(SAID)]
    texts = "\n".join(f'text{at}:\n.ascii "{text}\\n"' for at, text in enumerate(SAID))
    source = f"""
    mov eax, 2
    lea rdi, [rip + path]
    xor esi, esi
    syscall
    mov r12, rax
    {_LOAD}{says[0]}{_REMOVE}{says[1]}{_LOAD}{says[2]}
failed:
    mov eax, 34
    syscall
    jmp failed
path:
    .asciz "/module.ko"
module:
    .asciz "{name}"
nothing:
    .byte 0
{texts}
"""
    code = assemble("module_init", source, bits=64, address=BASE + HEADERS, symbols={})
    size = HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    program = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    members = (
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, header + program + code, (0, 0)),
        ("module.ko", 0o100644, content, (0, 0)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    )
    return b"".join(_member(number, *each) for number, each in enumerate(members, 1))


def _member(number, name, mode, content, device):
    text = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(text), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + text
    return b"".join(part + bytes(-len(part) % 4) for part in (head, content))
