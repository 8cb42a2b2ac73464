"""Symbols in a kernel's image: Linux, scripts/kallsyms.c."""

import struct

import pytest

from crosswalk.walker.symbols.kallsyms import kallsyms_in, kallsyms_of_elf
from crosswalk.walker.symbols.symbol_files import parse_symbols
from tests.walker.symbols.kallsyms_tables import (
    FORMS,
    LINKED,
    LINKED_32,
    TOKENS,
    lines,
    symbols,
    tables,
    vmlinux_of,
    with_section,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [900, 765, 766, 767])  # 766 and two more fill three markers.
def test_symbols_are_found_in_each_form_of_the_tables(form, count):
    held = symbols(count)
    assert lines(held) == kallsyms_in(tables(held, form), LINKED)


@pytest.mark.parametrize("form", ["5.10", "6.2", "6.4"])
def test_addresses_of_per_cpu_variables_are_themselves(form):
    held = symbols(per_cpu=True)
    assert lines(held) == kallsyms_in(tables(held, form, per_cpu=True), LINKED)


@pytest.mark.parametrize("form", FORMS)
def test_symbols_of_a_32_bit_kernel_are_found(form):
    held = symbols(base=LINKED_32)
    memory = tables(held, form, bits=32, address=LINKED_32)
    assert lines(held) == kallsyms_in(memory, LINKED_32, 32)
    assert lines(held) == kallsyms_of_elf(vmlinux_of(memory, LINKED_32, 32))


@pytest.mark.parametrize("form", ["6.2", "6.4", "7.0"])
def test_a_name_of_more_than_127_tokens_is_read(form):
    held = symbols(long_name=True)
    assert lines(held) == kallsyms_in(tables(held, form), LINKED)


def test_a_table_of_digits_that_is_no_table_of_tokens_is_passed_over():
    held = symbols()
    digits = b"".join(bytes([digit, 0]) for digit in b"0123456789")
    memory = tables(held, "6.4", before=digits * 3 + b"".join(token + b"\0" for token in TOKENS))
    assert lines(held) == kallsyms_in(memory, LINKED)


def test_many_tables_of_tokens_that_nothing_belongs_to_take_no_time():
    memory = tables(symbols(), "6.4")
    begin = memory.find(b"".join(token + b"\0" for token in TOKENS))
    end = begin + sum(len(token) + 1 for token in TOKENS)
    one = memory[begin:end]
    one += bytes(-len(one) % 8) + memory[end + -end % 8 :][: 2 * len(TOKENS)]
    one += bytes(-len(one) % 8)
    assert b"" == kallsyms_in(one * 20_000, LINKED)


def test_memory_at_the_end_of_all_addresses_is_read():
    assert b"" == kallsyms_in(tables(symbols(), "7.0"), (1 << 64) - 8)


def test_addresses_of_7_0_depend_on_where_the_memory_is():
    held = symbols()
    moved = [(kind, name, at + 0x1000) for kind, name, at in held]
    assert lines(moved) == kallsyms_in(tables(held, "7.0"), LINKED + 0x1000)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_truncated_tables_have_no_symbols(form, part):
    memory = tables(symbols(), form)
    assert b"" == kallsyms_in(memory[: int(len(memory) * part)], LINKED)


@pytest.mark.parametrize("form", ["6.4", "7.0"])
def test_truncated_addresses_leave_no_symbols(form):
    held = symbols()
    memory = tables(held, form)
    order = 3 * len(held)
    assert lines(held) == kallsyms_in(memory[:-order], LINKED)
    assert b"" == kallsyms_in(memory[: -order - 16], LINKED)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_marker_leaves_no_symbols(form):
    held = symbols()
    memory = bytearray(tables(held, form))
    second = sum(1 + len(f"{kind}{name}") for kind, name, _ in held[:256])
    names = memory.find(b"\x06T_text")
    at = memory.find(struct.pack("<I", _size(memory, names, 256)))
    assert second > _size(memory, names, 256) > 0
    memory[at] ^= 4
    assert b"" == kallsyms_in(bytes(memory), LINKED)


def _size(memory, begin, count):
    at = begin
    for _ in range(count):
        at += 1 + memory[at]
    return at - begin


@pytest.mark.parametrize("form", FORMS)
def test_addresses_out_of_order_leave_no_symbols(form):
    held = symbols()
    swapped = [*held[:400], held[401], held[400], *held[402:]]
    assert b"" == kallsyms_in(tables(swapped, form), LINKED)


def test_a_damaged_index_of_tokens_leaves_no_symbols():
    memory = bytearray(tables(symbols(), "6.4"))
    tokens = b"".join(token + b"\0" for token in TOKENS)
    at = memory.find(tokens) + len(tokens)
    at += -at % 8
    memory[at + 2 * 100] ^= 1
    assert b"" == kallsyms_in(bytes(memory), LINKED)


@pytest.mark.parametrize("sections", [True, False])
def test_a_stripped_vmlinux_has_the_symbols_of_its_own(sections):
    vmlinux = vmlinux_of(tables(symbols(), "6.4"))
    file = parse_symbols(with_section(vmlinux) if sections else vmlinux, "vmlinux")
    assert {name: at for _, name, at in symbols()} == file.symbols.addresses()


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(70)])
def test_a_damaged_file_has_no_symbols(data):
    assert b"" == kallsyms_of_elf(data)


def test_memory_of_no_kernel_has_no_symbols():
    assert b"" == kallsyms_in(bytes(1 << 16), LINKED)
