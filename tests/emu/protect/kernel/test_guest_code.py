"""What the code of attacks is made of, mode by mode; and forged tables of any guest."""

import pytest

from crosswalk.emu.protect.kernel.forged import find_room, forged_count
from crosswalk.emu.protect.kernel.guest_code import (
    WORDS,
    exception_gate,
    executable,
    forged_root,
    identity,
    in_words,
    large_pages,
    root_executable,
    window,
    words_of,
)
from crosswalk.guest.assembler import assemble
from crosswalk.walker import Access, Segments, Translation, translate
from tests.tables import (
    EXECUTE,
    GIB1,
    KIB4,
    LONG,
    MIB2,
    MIB4,
    MODES,
    PS,
    READ,
    RW,
    TOP,
    US,
    WRITE,
    P,
    PageTables,
    context,
)

RAM = 64 << 20
ROOT = 0x10_0000
FREE = (0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000)
KERNEL = {"32-bit": 0xC000_0000, "PAE": 0xC000_0000, 4: TOP - (1 << 47), 5: TOP - (1 << 56)}
each_mode = pytest.mark.parametrize("mode", MODES, ids=str)


def paging(mode, **switches):
    return context(**{"mode": mode, "root": ROOT} | switches)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mov rax, [rbx + rcx * 8]", "mov eax, [ebx + ecx * 8]"),
        ("or qword ptr [rsi], 2\nsub rsp, 8", "or dword ptr [esi], 2\nsub esp, 8"),
        ("mov word ptr [rdi], 5\nmov rbp, cr3", "mov word ptr [edi], 5\nmov ebp, cr3"),
        ("mov edx, 1\nrdmsr\nrrax:", "mov edx, 1\nrdmsr\nrrax:"),
    ],
)
def test_code_of_32_bits_has_registers_and_operands_of_that_size(source, expected):
    assert expected == in_words(source, 32)
    assert source == in_words(source, 64)


def test_a_string_is_copied_by_the_words_of_the_code():
    moves = [
        assemble("copy", in_words("rep movsq", bits), bits=bits, address=0, symbols={})
        for bits in (64, 32)
    ]
    assert [b"\xf3\x48\xa5", b"\xf3\xa5"] == moves


@each_mode
def test_words_follow_from_the_mode(mode):
    assert (64 if mode in LONG else 32) == words_of(paging(mode)).bits


def test_a_gate_has_the_handler_in_the_kernels_code():
    """Offset 15:0, selector, a present interrupt gate of level 0, offset 31:16, offset 63:32."""
    assert (0x8123_8E00_0010_4567, 0xFFFF_FFFF) == WORDS[64].gate_words(0xFFFF_FFFF_8123_4567)
    assert (0x0060_4567, 0xC123_8E00) == WORDS[32].gate_words(0xC123_4567)
    assert (0x60, 0x30) == (WORDS[64].gate(6), WORDS[32].gate(6))


def test_an_idt_is_loaded_with_a_base_of_32_bits():
    """Without an operand-size prefix, by which LIDT would load 24 bits of it."""
    symbols = {"FREE0_DIRECT": 0xC020_0000, "GATE_LOW": 1, "GATE_HIGH": 2}
    source = in_words(exception_gate(paging("PAE")), 32)
    code = assemble("gate", source, bits=32, address=0, symbols=symbols)
    assert b"\x0f\x01\x9b\x00\x08\x00\x00" == code[-7:]
    assert 0x66 != code[-8]


@pytest.mark.parametrize(
    ("mode", "nx", "expected"),
    [
        ("32-bit", True, "invlpg [rdi]"),
        ("PAE", True, "btr dword ptr [rbx + 4], 31\ninvlpg [rdi]"),
        ("PAE", False, "invlpg [rdi]"),
        (4, True, "btr dword ptr [rbx + 4], 31\ninvlpg [rdi]"),
    ],
    ids=str,
)
def test_nx_is_cleared_where_an_entry_has_it(mode, nx, expected):
    assert expected == executable(paging(mode, nxe=nx))


def test_a_root_has_nx_in_long_mode_alone():
    """An entry of PAE paging's first table has no rights."""
    assert ["", "", True, True] == [
        root_executable(paging("32-bit")),
        root_executable(paging("PAE")),
        *(root_executable(paging(mode)).startswith("mov rbx, USER_ENTRY") for mode in LONG),
    ]


@pytest.mark.parametrize(
    ("mode", "offset", "count"),
    # 256 entries of 4 bytes and one of 8, in words of 4 bytes; 256 entries of 8 bytes.
    [("32-bit", 0xC00, 256), ("PAE", 0x18, 2), (4, 0x800, 256), (5, 0x800, 256)],
    ids=str,
)
def test_a_forged_root_has_the_kernels_part(mode, offset, count):
    source = forged_root(paging(mode))
    assert f"ROOT_DIRECT + {offset:#x}\n" in source
    assert f"mov ecx, {count}\n" in source


@pytest.mark.parametrize(
    ("mode", "table", "flags", "count", "size"),
    [
        ("32-bit", 0, None, 256, MIB4),
        ("PAE", 1, 1, 512, MIB2),
        (4, 1, 3, 1, GIB1),
        (5, 2, 3, 1, GIB1),
    ],
    ids=str,
)
def test_the_first_gib_is_mapped_by_the_largest_pages(mode, table, flags, count, size):
    source = identity(paging(mode))
    assert f"mov rbx, FREE{table}_DIRECT\n    mov rax, 0x83\n    mov ecx, {count}\n" in source
    assert f"add rax, {size:#x}\n" in source
    assert (f"FREE1 + {flags}\n" in source) is (flags is not None)


@pytest.mark.parametrize(("mode", "tables"), [("32-bit", 2), ("PAE", 3), (4, 4), (5, 5)], ids=str)
def test_a_window_is_one_page_below_a_table_of_each_level(mode, tables):
    source = window(paging(mode))
    assert [f"FREE{number}_DIRECT" for number in range(tables)] == [
        each.removeprefix("mov rbx, ")
        for each in map(str.strip, source.splitlines())
        if each.startswith("mov rbx")
    ]
    assert source.rstrip().endswith("mov rax, TEXT + 3\n    mov [rbx], rax")


def test_large_pages_are_turned_on_where_they_are_off():
    source = "mov rax, cr4\nor rax, 0x10\nmov cr4, rax"
    assert source == large_pages(paging("32-bit", pse=False))
    assert [""] * 3 == [
        large_pages(paging("32-bit")),
        large_pages(paging("PAE", pse=False)),
        large_pages(paging(4)),
    ]


def forged(mode, tables):
    """The forged tables, and the memory that they are written to."""
    asked = paging(mode)
    room = find_room(tables.memory, asked, RAM)
    memory = bytearray(RAM)
    for pa, word in tables.words.items():
        memory[pa : pa + 8] = word.to_bytes(8, "little")
    for pa, content in room.written(FREE):
        memory[pa : pa + KIB4] = content
    return room, Segments([(0, bytes(memory))])


def guest(mode):
    """A guest of a kernel's page, and a user's."""
    tables = PageTables(mode, root=ROOT, ram=((0, RAM),))
    return tables.map(KERNEL[mode], 0x5000, P | RW, upper=P | RW).map(0x40_0000, 0x6000)


@each_mode
def test_forged_tables_map_all_memory_once_more(mode):
    room, memory = forged(mode, guest(mode))
    asked = paging(mode, root=FREE[0])
    for pa in (0, 0x1234, FREE[0], RAM - 1):
        for access in (READ, WRITE, EXECUTE):
            found = translate(memory, asked, Access(room.address + pa, access, 0))
            assert isinstance(found, Translation)
            assert pa == found.pa
    kept = translate(memory, asked, Access(KERNEL[mode] + 0x10, WRITE, 0))
    assert isinstance(kept, Translation)
    assert 0x5010 == kept.pa


@pytest.mark.parametrize(("mode", "tables"), [("32-bit", 1), ("PAE", 2), (4, 2), (5, 3)], ids=str)
def test_a_table_is_forged_from_the_root_to_that_of_the_largest_pages(mode, tables):
    room, _ = forged(mode, guest(mode))
    assert tables == forged_count(paging(mode)) == len(room.tables)


def test_a_present_directory_is_copied_where_a_pdpt_has_no_free_entry():
    tables = PageTables("PAE", root=ROOT, ram=((0, RAM),))
    for gib in range(4):
        tables.map(gib * GIB1, 0x5000 + gib * KIB4, P | RW)
    room, memory = forged("PAE", tables)
    # The last one, behind its first entry.
    assert (3, 1) == room.slots
    assert 3 * GIB1 + MIB2 == room.address
    asked = paging("PAE", root=FREE[0])
    kept = translate(memory, asked, Access(3 * GIB1, READ, 0))
    assert 0x8000 == kept.pa
    assert RAM - 1 == translate(memory, asked, Access(room.address + RAM - 1, WRITE, 0)).pa


def test_tables_that_are_full_have_no_room():
    tables = PageTables("32-bit", root=ROOT, ram=((0, RAM),))
    # Every sixteenth entry is taken: there are never 16 free ones in a row, for 64 MiB.
    for slot in range(0, 1024, 16):
        tables.map(slot * MIB4, 0, P | RW | US | PS, level=2)
    assert None is find_room(tables.memory, paging("32-bit"), RAM)
    assert None is not find_room(tables.memory, paging("32-bit"), RAM - MIB4)
