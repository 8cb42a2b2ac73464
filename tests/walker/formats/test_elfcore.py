import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput, CrosswalkError, LimitExceeded
from crosswalk.walker.formats.elfcore import MAX_SEGMENTS, read_core
from crosswalk.walker.formats.registers import Registers


def read(elf, cpu=0, **changes):
    return read_core(elf.mapped(elf.Core(**changes).build()), cpu)


def reason(elf, cpu=0, **changes):
    with pytest.raises(CrosswalkError) as caught:
        read(elf, cpu, **changes)
    return str(caught.value)


def test_segments_are_memory_at_their_physical_addresses(elf):
    low, high = b"\x11" * 0x2000, b"\x22" * 0x1000
    memory = read(elf, loads=[(0xFFFC0000, high), (0x4000, low)]).memory
    assert [(0x4000, 0x2000), (0xFFFC0000, 0x1000)] == list(memory.ranges)
    assert b"\x11" * 8 == memory.read(0x5FF8, 8)
    assert 0x2222222222222222 == memory.word(0xFFFC0008)


def test_memory_is_a_view_of_the_file(elf):
    data = elf.mapped(elf.Core(notes=b"").build())
    memory = read_core(data).memory
    data[-8:] = b"\x01" * 8
    assert 0x0101010101010101 == memory.word(0x2FF8)


def test_registers_come_from_the_note(elf):
    state = elf.cpu_state(cr0=0x80050033, cr3=0x289A000, cr4=0x750EB0, rflags=0x246)
    found = read(elf, notes=elf.qemu_notes(state)).registers
    expected = Registers(
        cr0=0x80050033, cr3=0x289A000, cr4=0x750EB0, rflags_ac=False, long_mode=True
    )
    assert expected == found


def test_bit_18_of_rflags_is_ac(elf):
    only, others = elf.cpu_state(rflags=1 << 18), elf.cpu_state(rflags=0x3F_FFFF & ~(1 << 18))
    assert True is read(elf, notes=elf.qemu_notes(only)).registers.rflags_ac
    assert False is read(elf, notes=elf.qemu_notes(others)).registers.rflags_ac


def test_a_note_without_kernel_gs_base_will_do(elf):
    state = elf.cpu_state(cr3=0x2000)[:432]
    assert 0x2000 == read(elf, notes=elf.qemu_notes(state)).registers.cr3


SECOND = {"cs_flags": 0x00CF9B00}  # In 32-bit code.


@pytest.mark.parametrize(
    ("changes", "machine", "expected", "why"),
    [
        ({}, 62, (None, True), "CS is a 64-bit segment"),
        (SECOND, 62, (None, None), ""),
        (SECOND | {"gdt": 1 << 32}, 3, (None, True), "the GDT lies above 4 GiB"),
        (SECOND | {"gdt": (1 << 32) - 1}, 3, (None, False), "the core is one of a 386"),
        (SECOND | {"cr3": 1 << 32}, 62, (None, True), "CR3 has more than 32 bits"),
        (SECOND | {"cr4": 0x20020}, 62, (None, True), "CR4.PCIDE is set"),
        (SECOND | {"rip": 1 << 32}, 62, (None, True), "RIP has more than 32 bits"),
        ({"cr0": 0x33}, 62, (0, None), ""),
        ({"cr4": 0}, 62, (0, None), ""),
    ],
    ids=[
        "64-bit code",
        "x86-64",
        "high GDT",
        "32-bit code of a 386",
        "wide CR3",
        "PCIDE",
        "wide RIP",
        "no paging",
        "no PAE",
    ],
)
def test_efer_stays_open_only_where_paging_with_pae_is_on(elf, changes, machine, expected, why):
    notes = elf.qemu_notes(elf.cpu_state(**changes))
    found = read(elf, notes=notes, machine=machine)
    assert expected == (found.registers.efer, found.registers.long_mode)
    assert why == found.why


def test_of_another_cpu_than_the_first_the_machine_says_nothing(elf):
    notes = elf.qemu_notes(elf.cpu_state(**SECOND), elf.cpu_state(**SECOND))
    found = [read(elf, cpu, notes=notes, machine=3).registers.long_mode for cpu in (0, 1)]
    assert [False, None] == found


@pytest.mark.parametrize(
    ("changes", "machine", "mode"),
    [
        ({}, 62, PagingMode.LEVEL4),
        ({"cr4": 0x1020}, 62, PagingMode.LEVEL5),
        (SECOND, 3, PagingMode.PAE),
        (SECOND | {"cr4": 0x90}, 3, PagingMode.BIT32),
    ],
)
def test_the_core_tells_the_paging_mode(elf, changes, machine, mode):
    notes = elf.qemu_notes(elf.cpu_state(**changes))
    registers = read(elf, notes=notes, machine=machine).registers
    assert mode is registers.context().mode
    assert mode is PagingMode.BIT32 or registers.context().nxe


@pytest.mark.parametrize("ident", [b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01"])
def test_a_core_of_a_386_is_read_in_either_class(elf, ident):
    data = elf.Core(ident=ident, machine=3).build()
    assert 0x1000 == read_core(elf.mapped(data)).registers.cr3
    assert [(0, 0x3000)] == list(read_core(elf.mapped(data)).memory.ranges)


def test_cpu_chooses_among_the_notes(elf):
    notes = elf.qemu_notes(elf.cpu_state(cr3=0x1000), elf.cpu_state(cr3=0x2000))
    assert [0x1000, 0x2000] == [read(elf, cpu, notes=notes).registers.cr3 for cpu in (0, 1)]
    assert 2 == len(read(elf, notes=notes).cpus)


@pytest.mark.parametrize("cpu", [-1, 1])
def test_a_cpu_without_a_note_is_an_error(elf, cpu):
    expected = f"ELF core: no CPU {cpu}; the file has the registers of 1"
    assert expected == reason(elf, cpu)


def test_without_a_qemu_note_no_register_is_known(elf):
    other = elf.note(b"VMCOREINFO\0", 0, b"x" * 5) + elf.note(b"QEMU\0", 7, elf.cpu_state())
    for notes in (b"", other):
        core = read(elf, notes=notes)
        assert (Registers(), ()) == (core.registers, core.cpus)


def test_without_a_qemu_note_there_is_no_cpu_to_choose(elf):
    expected = "ELF core: no CPU 1; the file has the registers of 0"
    assert expected == reason(elf, 1, notes=b"")


def test_a_qemu_note_behind_others_of_odd_sizes_is_found(elf):
    other = elf.note(b"VMCOREINFO\0", 0, b"x" * 5)
    notes = other + elf.qemu_notes(elf.cpu_state(cr3=0x2000))
    assert 0x2000 == read(elf, notes=notes).registers.cr3


def test_a_segment_that_the_dump_left_out_is_not_backed(elf):
    left_out = (1, 0, (1 << 64) - 1, 0, 0x100000, 0, 0x1000, 0)
    found = read(elf, parts=[left_out])
    assert ([(0, 0x3000)], 0x1000) == (list(found.memory.ranges), found.missing)


def test_what_the_file_does_not_hold_of_a_segment_is_not_backed(elf):
    half = (1, 0, 0, 0, 0x100000, 0x1000, 0x2000, 0)
    found = read(elf, parts=[half])
    assert [(0, 0x3000), (0x100000, 0x1000)] == list(found.memory.ranges)
    assert (0x1000, 0) == (found.missing, read(elf).missing)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ident": b"\x7fELG\x02\x01\x01"}, "not an ELF file"),
        ({"ident": b"\x7fELF\x07\x01\x01"}, "truncated or damaged ELF header"),
        (
            {"machine": 183},
            "ELF file of another machine: EM_AARCH64, 64 bits, little-endian; x86-64 or 386 needed",
        ),
        (
            {"ident": b"\x7fELF\x02\x02\x01"},
            "ELF file of another machine: 15872, 64 bits, big-endian; x86-64 or 386 needed",
        ),
        (
            {"ident": b"\x7fELF\x01\x01\x01"},
            "ELF file of another machine: EM_X86_64, 32 bits, little-endian; x86-64 or 386 needed",
        ),
        ({"type": 2}, "not an ELF core: its type is ET_EXEC"),
        ({"loads": []}, "ELF core: no PT_LOAD segment, so no memory"),
        (
            {"loads": [], "notes": b"", "stride": 0},
            "ELF core: no PT_LOAD segment, so no memory",
        ),
        ({"stride": 8}, "damaged ELF header: program headers of 8 bytes"),
        (
            {"loads": [(0, bytes(0x2000)), (0x1000, b"x" * 0x1000)]},
            "ELF core: segments overlap at 0x1000 and differ there",
        ),
        (
            {"loads": [((1 << 52) - 0x1000, bytes(0x2000))]},
            "ELF core: a segment at 0xffffffffff000 ends beyond 52 bits",
        ),
        (
            {"loads": [], "parts": [(1, 0, 0, 0, (1 << 64) - 1, 0x10, 0x10, 0)]},
            (
                "ELF core: its segments have virtual addresses only, as those of a process: "
                "no physical memory"
            ),
        ),
        (
            {
                "loads": [],
                "parts": [(1, 0, at, 0x400000 + at, 0, 0x10, 0x10, 0) for at in (0, 0x20)],
            },
            (
                "ELF core: its segments have virtual addresses only, as those of a process: "
                "no physical memory"
            ),
        ),
        (
            {"notes": b"\x05\0\0\0\xff\0\0\0\0\0\0\0QEMU\0\0\0\0"},
            "truncated ELF core: a note runs beyond its segment",
        ),
    ],
    ids=[
        "magic",
        "class",
        "machine",
        "byte order",
        "32 bits",
        "type",
        "no memory",
        "no headers",
        "stride",
        "overlap",
        "too high",
        "no address",
        "all at 0",
        "note",
    ],
)
def test_what_is_not_a_whole_core_of_this_machine_is_an_error(elf, changes, expected):
    assert expected == reason(elf, **changes)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (lambda elf: elf.cpu_state()[:431], "a QEMU note of 431 bytes; at least 432 are needed"),
        (lambda elf: elf.cpu_state(version=2), "a QEMU note of version 2; version 1 is known"),
    ],
    ids=["short", "version"],
)
def test_a_note_of_another_form_is_an_error(elf, state, expected):
    assert f"ELF core: {expected}" == reason(elf, notes=elf.qemu_notes(state(elf)))


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (6, "truncated or damaged ELF header"),
        (63, "truncated or damaged ELF header"),
        (64 + 55, "truncated ELF core: program headers end at byte 120, the file at 119"),
        (120 + 0xFFF, "truncated ELF core: a PT_LOAD segment ends at byte 4216, the file at 4215"),
    ],
)
def test_a_cut_core_is_an_error_that_says_where(elf, kept, expected):
    whole = elf.Core(loads=[(0, bytes(0x1000))], notes=b"").build()
    with pytest.raises(BadInput) as caught:
        read_core(elf.mapped(whole[:kept]))
    assert expected == str(caught.value)


def test_too_many_program_headers_are_refused_before_they_are_read(elf):
    expected = f"ELF core: {MAX_SEGMENTS + 1:,} program headers; at most {MAX_SEGMENTS:,} are read"
    with pytest.raises(LimitExceeded) as caught:
        read(elf, many=MAX_SEGMENTS + 1)
    assert expected == str(caught.value)


@given(st.data())
def test_a_damaged_core_is_read_or_refused_but_never_a_surprise(elf, data):
    whole = bytearray(elf.Core(loads=[(0, bytes(0x1000))]).build())
    interesting = st.integers(0, 64 + 2 * 56 + 24)
    values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
    for at, value in data.draw(st.lists(st.tuples(interesting, values), max_size=8)):
        whole[at] = value
    with suppress(CrosswalkError):
        # Any other exception fails the test.
        assert read_core(elf.mapped(bytes(whole))).memory.ranges


@given(offset=st.integers(0, (1 << 64) - 1), size=st.integers(1, (1 << 64) - 1))
def test_a_program_header_of_any_extent_is_bounded_by_the_file(elf, offset, size):
    data = elf.Core(parts=[(1, 0, offset, 0, 1 << 40, size, size, 0)]).build()
    if offset + size <= len(data):
        assert (1 << 40, size) in read_core(elf.mapped(data)).memory.ranges
    else:
        with pytest.raises(BadInput, match=r"^truncated ELF core: a PT_LOAD segment ends at byte"):
            read_core(elf.mapped(data))


def test_program_headers_far_beyond_the_file_are_an_error(elf):
    data = bytearray(elf.Core().build())
    struct.pack_into("<Q", data, 32, (1 << 64) - 1)
    with pytest.raises(BadInput, match=r"^truncated ELF core: program headers end at byte 184"):
        read_core(elf.mapped(bytes(data)))
