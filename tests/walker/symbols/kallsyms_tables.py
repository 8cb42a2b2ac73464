"""Tables of kallsyms, as the kernel's build writes them in each form that there has been.

Written out from Linux, scripts/kallsyms.c, and not from what reads them here.
"""

import struct

LINKED = 0xFFFF_FFFF_8100_0000
LINKED_32 = 0xC100_0000
FORMS = ("5.10", "6.2", "6.4", "7.0")

# Each printable character is a token of itself; some others are pieces of names.
PIECES = {0x01: b"symbol_", 0x02: b"long", 0x80: b"init_", 0xFF: b"_number"}
TOKENS = [PIECES.get(each, bytes([each]) if 0x20 < each < 0x7F else b"?") for each in range(256)]


def spelt(name):
    """The tokens of a name."""
    found = b""
    while name:
        for token, piece in PIECES.items():
            if name.startswith(piece):
                found += bytes([token])
                name = name[len(piece) :]
                break
        else:
            found += name[:1]
            name = name[1:]
    return found


def symbols(count=900, *, base=LINKED, per_cpu=False, long_name=False):
    """Symbols of a kernel, in order: the letter of each one's type, its name, its address."""
    found = [("A", f"symbol_{n}_number", 0x40 * n) for n in range(8 if per_cpu else 0)]
    found += [("T", "_text", base), ("t", "init_symbol_", base + 0x40)]
    if long_name:
        found.append(("T", "x" * 300, base + 0x41))
    found += [
        ("tTdDbR"[n % 6], f"symbol_{n}_long_number", base + 0x80 + 16 * n) for n in range(count)
    ]
    return found


class Tables:
    """Memory at `address` that ends with the tables of these symbols, in a form of that release."""

    def __init__(self, held, form, *, bits, address, per_cpu, before):
        self.held, self.form, self.address, self.per_cpu = held, form, address, per_cpu
        self.width = bits // 8
        self.memory = bytearray(before)

    def label(self, data):
        fill = self.width if self.form != "7.0" else 4
        self.memory.extend(bytes(-len(self.memory) % fill))
        self.memory.extend(data)

    def addresses(self):
        base = next(at for _, name, at in self.held if name == "_text")
        self.label(b"")
        for _, _, at in self.held:
            offset = at - base
            if self.form == "7.0":
                offset = at - self.address - len(self.memory)
            elif self.per_cpu:
                offset = base - 1 - at if at >= base else at
            self.memory.extend(struct.pack("<I", offset % (1 << 32)))
        if self.form != "7.0":
            self.label(base.to_bytes(self.width, "little"))

    def names(self):
        self.label(struct.pack("<I", len(self.held)))
        names, markers = b"", []
        for row, (kind, name, _) in enumerate(self.held):
            if row % 256 == 0:
                markers.append(len(names))
            text = spelt(kind.encode() + name.encode())
            size = len(text)
            names += bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
            names += text
        self.label(names)
        self.label(struct.pack(f"<{len(markers)}I", *markers))

    def order(self):
        self.label(b"".join(row.to_bytes(3, "big") for row in range(len(self.held))))

    def tokens(self):
        self.label(b"".join(token + b"\0" for token in TOKENS))
        index, at = [], 0
        for token in TOKENS:
            index.append(at)
            at += len(token) + 1
        self.label(struct.pack("<256H", *index))


_ORDERS = {
    "5.10": ("addresses", "names", "tokens"),
    "6.2": ("addresses", "names", "order", "tokens"),
    "6.4": ("names", "tokens", "addresses", "order"),
    "7.0": ("names", "tokens", "addresses", "order"),
}


def tables(held, form, *, bits=64, address=LINKED, per_cpu=False, before=b"\x90" * 0x1230):
    """Memory at `address` that ends with the tables of these symbols, in a form of that release."""
    made = Tables(held, form, bits=bits, address=address, per_cpu=per_cpu, before=before)
    for part in _ORDERS[form]:
        getattr(made, part)()
    return bytes(made.memory)


def lines(held):
    """The symbols as /proc/kallsyms would have them."""
    return "".join(f"{at:016x} {kind} {name}\n" for kind, name, at in held).encode()


def vmlinux_of(memory, address=LINKED, bits=64):
    """A stripped ELF file of one segment, which is this memory."""
    if bits == 64:
        header = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            2,
            62,
            1,
            address,
            64,
            0,
            0,
            64,
            56,
            1,
            0,
            0,
            0,
        )
        segment = struct.pack(
            "<IIQQQQQQ", 1, 7, 0x1000, address, 0x100_0000, len(memory), len(memory), 0x1000
        )
    else:
        header = struct.pack(
            "<16sHHIIIIIHHHHHH",
            b"\x7fELF\x01\x01\x01",
            2,
            3,
            1,
            address,
            52,
            0,
            0,
            52,
            32,
            1,
            0,
            0,
            0,
        )
        segment = struct.pack(
            "<IIIIIIII", 1, 0x1000, address, 0x100_0000, len(memory), len(memory), 7, 0x1000
        )
    return (header + segment).ljust(0x1000, b"\0") + memory


def with_section(vmlinux):
    """A 64-bit ELF file as `vmlinux_of` has it, with a section of its memory."""
    size = len(vmlinux) - 0x1000
    file = bytearray(vmlinux)
    names = b"\0.text\0.shstrtab\0"
    at = len(file)
    file += names.ljust(32, b"\0")
    section = struct.Struct("<IIQQQQIIQQ")
    struct.pack_into("<Q", file, 0x28, len(file))
    struct.pack_into("<HHH", file, 0x3A, 64, 3, 2)
    file += section.pack(*[0] * 10)
    file += section.pack(1, 1, 6, LINKED, 0x1000, size, 0, 0, 16, 0)
    file += section.pack(7, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    return bytes(file)
