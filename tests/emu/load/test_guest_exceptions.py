import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest

from crosswalk.emu.load.guest import _check_exceptions, boot
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import GuestError
from tests.emu.patched_guests import failure, patched


@pytest.fixture(scope="module", params=[4, 5], ids=["4-level", "5-level"])
def booted(request):
    return boot(build_image(request.param))


def test_handlers_see_what_the_layout_means_at_both_privilege_levels(booted):
    # Intel SDM vol. 3A, "Page-Fault Exceptions": P 1, W 2, U 4, RSVD 8, I/D 16, PK 32.
    faults = [taken for taken in booted.status.taken if taken.vector != 0x20]
    assert [
        *((0x10, 14, code) for code in (0, 2, 3, 0x11, 1, 0x11, 9)),
        (0x10, 13, 0),
        *((0x2B, 14, code) for code in (4, 5, 7, 0x15, 0x25)),
        (0x2B, 13, 0),
    ] == [(taken.cs, taken.vector, taken.error_code) for taken in faults]
    assert [each.va for each in booted.image.attempts if each.vector == 14] == [
        taken.cr2 for taken in faults if taken.vector == 14
    ]


def test_handlers_run_on_the_stacks_of_the_tss(booted):
    tops = {
        (taken.vector, taken.cs & 3): taken.top
        for taken in booted.status.taken
        if taken.vector != 14 or taken.cs & 3
    }
    rsp0, ist1 = 0xFFFF_FFFF_8010_E000, 0xFFFF_FFFF_8010_B000
    assert {(13, 0): ist1, (13, 3): ist1, (14, 3): rsp0, (0x20, 3): rsp0} == tops
    kernels = [taken for taken in booted.status.taken if (taken.vector, taken.cs) == (14, 0x10)]
    assert {taken.top for taken in kernels} == {taken.rsp & ~0xF for taken in kernels}


def test_what_was_pushed_is_on_the_stack_of_the_tss(booted):
    # The last exception from user code was an INT: SS, RSP, RFLAGS, CS, RIP, downwards.
    last = booted.status.taken[-1]
    words = struct.unpack("<5Q", booted.ram.read(last.top - 0xFFFF_FFFF_8000_0000 - 40, 40))
    assert (last.rip, last.cs, last.rflags, last.rsp, last.ss) == words


def twin(source, old, new):
    """Return what is said of a guest, a piece of whose code was replaced."""
    (code,) = (code for code in build_image(4).code if code.source == source)
    old = bytes.fromhex(old)
    assert len(old) == len(bytes.fromhex(new))
    assert 1 == code.data.count(old)
    return failure(code.pa + code.data.index(old), new)


# mov edx, word 4 of a gate: for #DF, #GP, #PF and the user's INT.
ON_IST2, ON_IST1, ON_SAME_STACK, FOR_USER = "ba028e0000", "ba018e0000", "ba008e0000", "ba00ee0000"
STACK = "the guest's handler saw a stack that begins at"


@pytest.mark.parametrize(
    ("gate", "instead", "message"),
    [
        (ON_SAME_STACK, "ba000e0000", "unexpected exception; last exceptions: 14 (#PF), 8 (#DF)"),
        (ON_SAME_STACK, "ba008c0000", "unexpected exception; last exceptions: 14 (#PF), 8 (#DF)"),
        (FOR_USER, ON_SAME_STACK, "last exceptions: 13 (#GP), 14 (#PF), 32, 13 (#GP)"),
        (ON_IST1, ON_SAME_STACK, f"CPL 0): {STACK} 0xffffffff8010efe0, not 0xffffffff8010b000"),
        (ON_SAME_STACK, ON_IST1, f"CPL 0): {STACK} 0xffffffff8010b000, not 0xffffffff8010efe0"),
    ],
    ids=["not present", "wrong type", "not for users", "no IST", "IST"],
)
def test_a_wrong_gate_is_noticed(gate, instead, message):
    assert message in twin("traps.s", gate, instead)


def test_a_page_fault_that_not_even_a_double_fault_can_tell_is_a_triple_fault():
    image = build_image(4)
    for gate in (ON_SAME_STACK, ON_IST2):
        (code,) = (code for code in image.code if code.source == "traps.s")
        at = code.pa + code.data.index(bytes.fromhex(gate))
        image = patched(image, at + 2, b"\x0e")
    with pytest.raises(GuestError) as caught:
        boot(image)
    assert (
        "exception 14 (#PF): triple fault: 14 (#PF), 8 (#DF), 11 (#NP); state: running; "
        "at 0xffffffff80101"
    ) in str(caught.value)
    assert "cr2=0xffffffff8010cff8" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("6a0eeb", "6a0deb", "stack at CPL 0): the guest's handler saw vector 0xd, not 0xe"),
        ("6a006a20", "6a056a20", "CPL 3): the guest's handler saw error code 0x5, not 0x0"),
        ("0f20d0", "0f20d8", "saw CR2 0x800000, not 0xffffffff8010cff8"),
        (
            "00e01080ffffffff",
            "00d81080ffffffff",
            f"user text at CPL 3): {STACK} 0xffffffff8010d800, not 0xffffffff8010e000",
        ),
        ("83f818", "83f805", "the guest is not done: account full; last exceptions: 14 (#PF)"),
        ("4c897c2438", "0f1f440000", "not done: unexpected exception; last exceptions: 14 (#PF)"),
    ],
    ids=["vector", "error code", "CR2", "RSP0", "account too small", "no way on"],
)
def test_a_wrong_handler_is_noticed(old, new, message):
    assert message in twin("traps.s", old, new)


def test_an_exception_that_was_not_meant_is_noticed():
    # The kernel doesn't say where to go on: instead of lea r15, R15 becomes 0.
    (code,) = (code for code in build_image(4).code if code.source == "traps.s")
    at = code.data.index(bytes.fromhex("4983f901"))  # cmp r9, 1; before it, lea r15
    message = failure(code.pa + at - 7, "4531ff 0f1f4000")
    assert "not done: unexpected exception; last exceptions: 14 (#PF)" in message


def test_an_invalid_opcode_without_a_gate_is_a_protection_fault_for_the_guest():
    (code,) = (code for code in build_image(4).code if code.source == "traps.s")
    at = code.data.index(bytes.fromhex("4983f901"))
    message = failure(code.pa + at - 7, "4531ff 0f0b 9090")
    assert "not done: unexpected exception; last exceptions: 6 (#UD), 13 (#GP)" in message


@pytest.mark.parametrize(
    ("source", "old", "new", "number"),
    [
        ("protected.s", "0d00000180", "0d00000080", "exception 2 (write of rodata at CPL 0)"),
        ("kernel.s", "480d80007000", "480d80005000", "exception 4 (read of user data at CPL 0)"),
        ("kernel.s", "480d80007000", "480d80006000", "exception 5 (execute of user text at CPL 0)"),
        ("kernel.s", "b8240000c0", "b8200000c0", "exception 16 (read of user key 1 at CPL 3)"),
    ],
    ids=["WP", "SMAP", "SMEP", "PKRU"],
)
def test_a_protection_that_is_off_shows_in_the_account(source, old, new, number):
    assert number in twin(source, old, new)


def test_an_account_that_the_processor_contradicts_is_refused(booted):
    taken = booted.status.taken
    watch = SimpleNamespace(taken=list(taken))
    _check_exceptions(booted.image, booted.status, watch)
    for name, value in (("rip", 1), ("rflags", 1), ("rsp", 16), ("error_code", 8)):
        wrong = replace(taken[0], **{name: getattr(taken[0], name) ^ value})
        with pytest.raises(GuestError, match=r"exception 0: the guest's handler saw Taken\("):
            _check_exceptions(
                booted.image, booted.status, SimpleNamespace(taken=[wrong, *taken[1:]])
            )
