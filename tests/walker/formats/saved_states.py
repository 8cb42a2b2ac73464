"""Saved states and crash dumps, written for tests: what volatility3's layers read."""

import json
import random
import struct

FRAME = 4096


def page(number):
    return random.Random(number).randbytes(64).ljust(FRAME, bytes([number % 251]))


def text(value):
    return bytes([len(value)]) + value


MEM_SIZE, ZERO, PAGE, END, CONTINUE = 4, 2, 8, 0x10, 0x20


CPU_FIELDS = [
    {"name": "env.regs", "array_len": 16, "type": "uint64", "size": 8},
    {"name": "env.eflags", "type": "uint64", "size": 8},
    {"name": "env.cr[0]", "type": "uint64", "size": 8},
    {"name": "env.cr[3]", "type": "uint64", "size": 8},
    {"name": "env.cr[4]", "type": "uint64", "size": 8},
    {"name": "env.efer", "type": "uint64", "size": 8},
    {"name": "env.pat", "type": "uint64", "size": 8},
]
PKRU = {"vmsd_name": "cpu/pkru", "version": 1, "fields": [{"name": "env.pkru", "size": 4}]}


def cpu(number, values):
    """The state of a CPU (flags, CR0, CR3, CR4, EFER, PKRU, PAT), and its description.

    Without PAT one that no CPU can have.
    """
    head = b"\x04" + struct.pack(">I", 9 + number) + text(b"cpu") + struct.pack(">II", number, 12)
    fields = bytes(128) + struct.pack(">6Q", *values[:5], *(values[6:] or (2,)))
    subsection = b"\x05" + text(b"cpu/pkru") + struct.pack(">II", 1, values[5])
    footer = b"\x7e" + struct.pack(">I", 9 + number)
    described = {"name": "cpu", "instance_id": number, "version": 12, "fields": CPU_FIELDS}
    return head + fields + subsection + footer, described | {"subsections": [PKRU]}


def qevm(
    pages,
    *,
    machine=b"pc-q35-7.2",
    ram=1 << 20,
    block=b"pc.ram",
    cpus=(),
    command=None,
    timer=bytes(24),
):
    """A migration stream of (frame number, page, or the byte that it is full of) in this order.

    QEMU docs/devel/migration.rst: a header, the configuration, sections of "ram", in big-endian
    order, the description of all in JSON.
    """
    name = text(b"ram")
    begin = b"\x01" + struct.pack(">I", 2) + name + struct.pack(">II", 0, 4)
    sizes = struct.pack(">Q", ram | MEM_SIZE) + text(block) + struct.pack(">Q", ram)
    stream = begin + sizes + struct.pack(">Q", END) + b"\x7e" + struct.pack(">I", 2)
    if command is not None:
        stream += b"\x08" + struct.pack(">HH", 11, len(command)) + command
    stream += b"\x03" + struct.pack(">I", 2)
    parts = [stream]
    for row, (number, content) in enumerate(pages):
        how = PAGE if isinstance(content, bytes) else ZERO
        parts.append(struct.pack(">Q", number * FRAME | how | (CONTINUE if row else 0)))
        parts.append(b"" if row else text(block))
        parts.append(content if isinstance(content, bytes) else bytes([content]))
    stream = b"".join(parts) + struct.pack(">Q", END) + b"\x7e" + struct.pack(">I", 2)
    states = [cpu(number, values) for number, values in enumerate(cpus)]
    devices = [described for _, described in states]
    description = json.dumps({"page_size": FRAME, "devices": devices}).encode()
    head = b"QEVM" + struct.pack(">I", 3) + b"\x07" + struct.pack(">I", len(machine)) + machine
    # A device that nobody describes. Where it begins with a 0, that looks like the stream's end.
    stream += b"\x04" + struct.pack(">I", 3) + text(b"timer") + struct.pack(">II", 0, 2) + timer
    stream += b"".join(state for state, _ in states) + b"\0"
    return head + stream + b"\x06" + struct.pack(">I", len(description)) + description


def libvirt(stream, packed=0):
    xml = b"<domain/>\0"
    head = struct.pack("<16s4I", b"LibvirtQemudSave", 2, len(xml), 1, packed).ljust(92, b"\0")
    return head + xml + stream


RUNS = [(0, 3), (0x10, 2)]


def tables():
    """Three frames: a PML4, a PDPT and a PD that maps one large page."""
    words = {0: 0x1003, 512: 0x2003, 1024 + 1: 0x83}
    return b"".join(words.get(at, 0).to_bytes(8, "little") for at in range(3 * 512))


def windows(*, kind=1, runs=RUNS, count=None, cr3=0, memory=None):
    """A complete dump of 64-bit Windows: a header of two frames, and pages by runs or a bitmap."""
    head = bytearray(2 * FRAME)
    head[:8] = b"PAGEDU64"
    struct.pack_into("<Q", head, 0x10, cr3)
    struct.pack_into("<II", head, 0x88, len(runs) if count is None else count & 0xFFFF, 0)
    for row, run in enumerate(runs):
        struct.pack_into("<QQ", head, 0x98 + 16 * row, *run)
    struct.pack_into("<I", head, 0xF98, kind)
    memory = tables() + page(1) + page(2) if memory is None else memory
    if kind == 5:
        bits = sum(((1 << n) - 1) << first for first, n in runs)
        size = 64 if count is None else count
        summary = b"SDMPDUMP".ljust(0x20, b"\0") + struct.pack("<QQQ", 3 * FRAME, 5, size)
        head += (summary + bits.to_bytes(8, "little")).ljust(FRAME, b"\0")
    return bytes(head) + memory


def vmware(regions, magic=b"\xd2\xbe\xd2\xbe"):
    """A .vmss file: groups of tags, of which "memory" says where regions of the .vmem belong."""

    def tag(name, value, *indices):
        flags = 4 | len(indices) << 6
        numbers = struct.pack(f"<{len(indices)}I", *indices)
        return bytes([flags, len(name)]) + name + numbers + struct.pack("<I", value)

    tags = tag(b"regionsCount", len(regions))
    for row, (place, frame, count) in enumerate(regions):
        tags += tag(b"regionPageNum", place, row) + tag(b"regionPPN", frame, row)
        tags += tag(b"regionSize", count, row)
    head = struct.pack("<4sII", magic, 0, 1) + struct.pack("<64sQQ", b"memory", 92, 0)
    return head + tags + b"\0\0"


def xen(pages, table=b".xen_pfn"):
    """What `xl dump-core` writes of a guest: an ELF core of sections alone."""
    names = b"\0.shstrtab\0" + table + b"\0.xen_pages\0"
    numbers = b"".join(struct.pack("<Q", number) for number, _ in pages)
    if table == b".xen_p2m":
        numbers = b"".join(struct.pack("<QQ", number, number) for number, _ in pages)
    contents = [b"", names, numbers, b"".join(content for _, content in pages)]
    at, sections, body = 64 + 4 * 64, b"", b""
    for name, content in zip((b"", b".shstrtab", table, b".xen_pages"), contents, strict=True):
        place = names.index(name + b"\0") if name else 0
        sections += struct.pack(
            "<IIQQQQIIQQ", place, 1, 0, 0, at + len(body), len(content), 0, 0, 0, 0
        )
        body += content
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 4, 1
    )
    return head + sections + body
