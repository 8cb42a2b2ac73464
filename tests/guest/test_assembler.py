import ctypes
import struct

import pytest

from crosswalk.guest.assembler import assemble
from crosswalk.guest.errors import AssemblyError
from crosswalk.walker.errors import CrosswalkError


def test_code_is_assembled_for_its_address_and_with_its_symbols():
    code = assemble(
        "own",
        "here: mov eax, ANSWER\nmov ebx, here",
        bits=32,
        address=0x8200,
        symbols={"ANSWER": 42},
    )
    assert code == bytes.fromhex("b82a000000 bb00820000")


@pytest.mark.parametrize(
    ("bits", "expected"), [(16, "66b801000000"), (32, "b801000000"), (64, "b801000000")]
)
def test_the_code_size_decides_the_encoding(bits, expected):
    assert assemble("own", "mov eax, 1", bits=bits, address=0, symbols={}).hex() == expected


def test_comments_are_no_code():
    source = "# all of it\nnop    # the rest\n"
    assert b"\x90" == assemble("own", source, bits=64, address=0, symbols={})


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nop\n    frobnicate eax  # why not\n", "own.s:2: 'frobnicate eax': Invalid mnemonic"),
        ("l: nop\njmp l\nmov eax, ecx, edx", "own.s:3: 'mov eax, ecx, edx': Invalid operand"),
        ("jmp l\nnop\nl: jmp nowhere", "own.s:3: 'l: jmp nowhere': Cannot find a symbol"),
        (".equ A, 1\nmov eax, A\nmov eax, B", "own.s:3: 'mov eax, B': Cannot find a symbol"),
        ("l: nop\nl: nop", "own.s: Invalid symbol redefined"),
    ],
)
def test_an_error_names_the_source_and_the_line(bits, source, message):
    with pytest.raises(AssemblyError) as caught:
        assemble("own.s", source, bits=bits, address=0x8000, symbols={})
    assert str(caught.value).startswith(message)


def test_errors_are_the_projects_own():
    assert issubclass(AssemblyError, CrosswalkError)


def test_decimal_numbers_are_decimal_whatever_the_assembler_finds_in_its_memory():
    # Keystone takes the base of numbers from memory that it doesn't initialise.
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    left = [(libc.malloc(size), size) for size in range(16, 2000, 16) for _ in range(3)]
    for address, size in left:
        ctypes.memmove(address, struct.pack("<I", 16) * (size // 4), size)
        libc.free(address)
    source = '.equ N, 16\nmov eax, 16\nadd eax, N + 10\n.ascii "16 \\"24\\" 32"\nmov al, 9'
    code = assemble("test", source, bits=64, address=0, symbols={"M": 16})
    assert bytes.fromhex("b810000000 83c01a") + b'16 "24" 32' + b"\xb0\x09" == code
