"""Words on a stack, and what may be a return address: Intel SDM vol. 2A, "CALL—Call Procedure"."""

import pytest

from crosswalk.emu.load.stack import behind_call, stack_words
from crosswalk.guest.assembler import assemble
from tests.emu.cpu.machine import STACK, UNMAPPED, Bare


@pytest.mark.parametrize(
    ("source", "bits"),
    [
        ("call there\n.balign 16\nthere:", 64),
        ("call rax", 64),
        ("call r9", 64),
        ("call [rax]", 64),
        ("call [rax + 8 * rcx]", 64),
        ("call [rax + 8]", 64),
        ("call [rsp + 8]", 64),
        ("call [rbx + 0x1000]", 64),
        ("call [rsp + 0x1000]", 64),
        ("call [rip + 0x1000]", 64),
        ("call [8 * rax + 0x12345678]", 64),
        ("call [0x12345678]", 64),
        ("call [0x12345678]", 32),
        ("call [ebp - 4]", 32),
        ("call edx", 32),
    ],
)
def test_what_is_behind_a_call_may_be_a_return_address(source, bits):
    before, call = (
        assemble("test", text, bits=bits, address=0, symbols={}) for text in ("nop\n" * 9, source)
    )
    size = 5 if source.startswith("call there") else len(call)
    assert behind_call(before + call, 9 + size)
    assert not behind_call(before + call, 9)


@pytest.mark.parametrize("source", ["jmp rax", "push rax", "lea rax, [rsp + 8]", "ret", "ud2"])
def test_what_is_behind_another_instruction_is_none(source):
    code = assemble("test", source, bits=64, address=0, symbols={})
    assert not behind_call(b"\x90" * 8 + code, 8 + len(code))


def test_the_beginning_of_code_is_behind_nothing():
    assert not behind_call(b"\xe8\0\0\0\0", 0)


def loaded(machine):
    machine.cpu.load()
    return stack_words(machine.cpu, machine.ram)


def test_words_of_a_stack_come_the_last_pushed_first():
    bare = Bare()
    bare.start("push 7\npush 8\nud2", rsp=STACK - 0x100)
    words = loaded(bare)
    # The frame of the exception, of five words; then what was pushed before it.
    assert [8, 7] == list(words[5:7])
    assert 0x200 // 8 == len(words)


def test_a_stack_ends_where_nothing_is_mapped():
    bare = Bare()
    bare.start("push 9\nud2", rsp=UNMAPPED - 8)
    # The frame, what was pushed, and the word where the stack began.
    assert [9, 0] == list(loaded(bare)[5:])


def test_a_large_page_is_read_as_one():
    bare = Bare()
    bare.start("push 4\npush 5\nud2", rsp=STACK - 0x100)
    bare.ram.words[0x3000 // 8] = 0x83  # In the page directory: the first 2 MiB.
    assert 5 == loaded(bare)[5]


def test_without_paging_a_stack_is_where_its_pointer_says():
    bare = Bare()
    bare.ram.words[0x5000 // 8] = 0x1234
    bare.cpu.set_mode(bits=32)
    with bare.cpu.changed():
        bare.cpu.rsp = 0x5000
    assert (0x1234, 0) == loaded(bare)[:2]


def test_in_real_mode_there_is_no_stack_to_read():
    bare = Bare()
    bare.cpu.set_mode(bits=16, cr0=0)
    assert () == loaded(bare)
