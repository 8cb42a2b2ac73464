import struct

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.symbols.elf import read_elf
from crosswalk.walker.symbols.identity import UNKNOWN, Identity, build_id_in
from crosswalk.walker.symbols.symbol_files import content_of, parse_symbols
from tests.packing import gzipped
from tests.walker.symbols.kernel_elf import (
    ABSOLUTE,
    ALLOC,
    EXECUTE,
    FILE,
    FUNCTION,
    GLOBAL,
    LOCAL,
    NO_TYPE,
    NOBITS,
    NOTES,
    OBJECT,
    PROGBITS,
    TLS,
    WEAK,
    kernel_elf,
)

SECTIONS = [
    (b".text", 0x40_1000, 0x1000, ALLOC | EXECUTE),
    (b".data", 0x40_3000, 0x800, ALLOC),
    (b".comment", 0, 0x20, 0),
    (b".tbss", 0x40_3800, 0x100, ALLOC | TLS, NOBITS),
    (b".percpu", 0, 0x100, ALLOC),
]
SYMBOLS = [
    (b"kernel.c", 0, 0, LOCAL, FILE, ABSOLUTE),
    (b"helper", 0x40_1800, 0x10, LOCAL, FUNCTION, 1),
    (b"entry", 0x40_1000, 0, GLOBAL, NO_TYPE, 1),
    (b"start_local", 0x40_1000, 0, LOCAL, NO_TYPE, 1),
    (b"start_weak", 0x40_1000, 0, WEAK, FUNCTION, 1),
    (b"late", 0x40_1F00, 0, GLOBAL, FUNCTION, 1),
    (b"counter", 0x40_3000, 8, GLOBAL, OBJECT, 2),
    (b"elsewhere", 0, 0, GLOBAL, NO_TYPE, 0),
    (b"CONSTANT", 0x1234, 0, GLOBAL, NO_TYPE, ABSOLUTE),
    (b"per_cpu", 0x10, 8, GLOBAL, OBJECT, 5),
]
WHOLE = len(kernel_elf(SECTIONS, SYMBOLS))


def listed(spans):
    return [(each.name, each.start, each.end) for each in spans]


def test_symbols_and_loaded_sections_are_read():
    symbols, sections, identity = read_elf(kernel_elf(SECTIONS, SYMBOLS))
    assert UNKNOWN == identity
    assert [(".text", 0x40_1000, 0x40_2000), (".data", 0x40_3000, 0x40_3800)] == listed(sections)
    assert [
        ("entry", 0x40_1000, 0x40_1800),
        ("start_weak", 0x40_1000, 0x40_1800),
        ("start_local", 0x40_1000, 0x40_1800),
        ("helper", 0x40_1800, 0x40_1810),
        # Without a size it ends with its section, not at the next symbol.
        ("late", 0x40_1F00, 0x40_2000),
        ("counter", 0x40_3000, 0x40_3008),
    ] == listed(symbols)


@pytest.mark.parametrize(
    ("symbol", "reach"),
    [
        # At the end of its section, before it, and behind it: nothing of it is there.
        ((b"end", 0x40_2000, 0, GLOBAL, NO_TYPE, 1), (0x40_2000, 0x40_2001)),
        ((b"end", 0x40_0FF0, 0, GLOBAL, NO_TYPE, 1), (0x40_0FF0, 0x40_0FF1)),
        ((b"end", 0x7000_0000, 0, GLOBAL, NO_TYPE, 1), (0x7000_0000, 0x7000_0001)),
        ((b"end", 0x40_2000, 8, GLOBAL, OBJECT, 1), (0x40_2000, 0x40_2008)),
        # A size that its section hasn't.
        ((b"big", 0x40_1F80, 0x8000, GLOBAL, OBJECT, 1), (0x40_1F80, 0x40_2000)),
        ((b"last", 0x40_1FFF, 0, GLOBAL, NO_TYPE, 1), (0x40_1FFF, 0x40_2000)),
        # By its own section, not by the one that it lies in.
        ((b"alias", 0x40_3100, 0, GLOBAL, NO_TYPE, 1), (0x40_3100, 0x40_3101)),
    ],
)
def test_a_symbol_covers_nothing_beyond_its_section(symbol, reach):
    symbols, *_ = read_elf(kernel_elf(SECTIONS, [*SYMBOLS, symbol]))
    assert [(symbol[0].decode(), *reach)] == listed(symbols.find(symbol[0].decode()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (kernel_elf(SECTIONS, SYMBOLS, machine=183), "of another machine .EM_AARCH64"),
        (kernel_elf(SECTIONS, SYMBOLS, kind=1), "an object file"),
        (kernel_elf(SECTIONS, SYMBOLS, kind=4), "an ELF core has no symbols"),
        (kernel_elf([], []), "was stripped of them"),
        (
            kernel_elf(SECTIONS, SYMBOLS)[:100],
            f"ELF file: truncated to 100 bytes, its section headers end at byte {WHOLE:,}",
        ),
        (kernel_elf(SECTIONS, SYMBOLS)[:-80], "a damaged ELF file: truncated to "),
        (kernel_elf(SECTIONS, SYMBOLS)[:60], "truncated to 60 bytes, its header ends at byte 64"),
        (b"\x7fELF", "a damaged ELF file: truncated to 4 bytes, its header ends at byte 52"),
        (b"Microsoft C/C++ MSF 7.00", "a PDB, Windows' symbols"),
        (b"MZ\0\0", "a PE image"),
        (b"!<arch>\n", "an archive"),
    ],
)
def test_files_without_symbols_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        parse_symbols(content_of(str(path)), "vmlinux")
    assert str(error.value).isprintable()


def test_a_large_core_is_refused_without_being_read(tmp_path):
    path = tmp_path / "core"
    path.write_bytes(kernel_elf(SECTIONS, SYMBOLS, kind=4))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInput, match="an ELF core has no symbols"):
        content_of(str(path))
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInput, match="neither an ELF file nor lines"):
        content_of(str(raw))


BUILD_ID = bytes(range(20))
NOTE = struct.pack("<III4s", 4, len(BUILD_ID), 3, b"GNU\0") + BUILD_ID
BANNER = b"Linux version 6.1.0-small (me@here) #1 SMP\n\0"


@pytest.mark.parametrize(
    ("note", "banner", "identity"),
    [
        (NOTE, BANNER, Identity(BUILD_ID.hex(), "6.1.0-small")),
        (NOTE.replace(b"GNU", b"XEN"), BANNER, Identity("", "6.1.0-small")),
        (NOTE, b"Xen version 4", Identity(BUILD_ID.hex(), "")),
    ],
)
def test_a_file_says_which_build_it_is(note, banner, identity):
    sections = [
        (b".rodata", 0x40_1000, 0x100, ALLOC, PROGBITS, banner),
        (b".notes", 0x40_2000, len(note), ALLOC, NOTES, note),
    ]
    content = kernel_elf(sections, [(b"linux_banner", 0x40_1000, 0, GLOBAL, OBJECT, 1)])
    assert identity == read_elf(content)[2]
    assert identity.build_id == build_id_in(content)
    assert "" == build_id_in(content[:100])


def test_a_name_outside_the_string_table_is_refused():
    content = bytearray(kernel_elf(SECTIONS, SYMBOLS))
    content[64 + 24 : 64 + 28] = (0x7FFF_FFFF).to_bytes(4, "little")
    content[64 + 24 + 4] = FUNCTION
    content[64 + 24 + 6 : 64 + 24 + 8] = (1).to_bytes(2, "little")
    with pytest.raises(BadInput, match="a symbol's name lies outside the string table"):
        read_elf(bytes(content))


def test_a_compressed_file_is_unpacked(tmp_path):
    path = tmp_path / "vmlinux.gz"
    path.write_bytes(gzipped(kernel_elf(SECTIONS, SYMBOLS)))
    file = parse_symbols(content_of(str(path)), "vmlinux.gz")
    assert "vmlinux.gz" == file.name
    assert "entry" == file.symbols[0].name


def test_a_file_cut_anywhere_is_read_or_refused_in_one_line():
    content = kernel_elf(SECTIONS, SYMBOLS)
    refused = []
    for size in range(4, len(content), 7):
        try:
            symbols, *_ = read_elf(content[:size])
        except BadInput as error:
            refused.append(str(error))
        else:
            assert 0 < len(symbols) <= 6
    assert len(refused) > 100
    assert all(text.isprintable() for text in refused)
