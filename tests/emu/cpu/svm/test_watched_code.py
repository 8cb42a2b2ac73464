"""Code that is about to run is looked at for VMRUN and port accesses, and only those are hooked."""

import pytest

from crosswalk.emu.cpu.svm.watched_code import VMRUN, WatchedCode
from tests.emu.cpu.machine import CODE, Bare

PAGE = 0x1000
RUN = f".byte {', '.join(map(hex, VMRUN))}\n"


class Watched:
    """A machine's code, and what is hooked of it; `guest` says whether it is a guest's under SVM.

    Nothing is mapped behind `end`.
    """

    def __init__(self, source, *, at=CODE, bits=64, guest=False, end=1 << 20):
        self.bare = Bare()
        self.at = at
        code = self.bare.write(at, source, bits=bits)
        self.end = at + len(code)
        with self.bare.cpu.changed():
            self.bare.cpu.enter(self.bare.segment(8), 0)
        self.hooked, self.read = [], []

        def read(va, size):
            self.read.append((va, size))
            return self.bare.ram.read(va, max(min(size, end - va), 0)), guest

        self.code = WatchedCode(
            self.bare.cpu, read, self.hooked.append, lambda _: None, lambda _: None
        )

    def enter(self, va=None):
        """The places that have been hooked once this one has been entered."""
        self.code.entering(self.at if va is None else va)
        return [action.args[0] - self.at for action in self.hooked]


@pytest.mark.parametrize(
    ("source", "places"),
    [
        (RUN, [0]),
        (f"nop\nmov eax, 1\n{RUN}", [6]),
        (f"{RUN}{RUN}", [0]),
        (f"jmp there\n{RUN}there: nop", []),
        (f"jz there\n{RUN}there: nop", []),
        (f"ret\n{RUN}", []),
        (f"call there\n{RUN}there: nop", []),
        ("mov eax, 0xd8010f\n", []),
        ("nop\n", []),
    ],
    ids=["first", "later", "of two the first", "jmp", "jz", "ret", "call", "operand", "none"],
)
def test_the_vmrun_of_straight_code_is_hooked(source, places):
    assert places == Watched(source).enter()


def test_what_is_hooked_is_hooked_once():
    watched = Watched(f"nop\nnop\n{RUN}")
    assert [2] == watched.enter()
    assert [2] == watched.enter()
    assert [2] == watched.enter(CODE + 1)


def test_code_that_changed_since_it_was_entered_is_looked_at_again():
    watched = Watched("nop\n" * 3)
    assert [] == watched.enter()
    watched.bare.ram.write(CODE, VMRUN)
    assert [0] == watched.enter()


def test_entering_ever_new_places_hooks_nothing():
    watched = Watched("nop\n" * 3000)
    for at in range(3000):
        assert [] == watched.enter(CODE + at)


def test_a_vmrun_that_begins_in_one_page_and_ends_in_the_next_is_hooked():
    for part in (1, 2):
        at = CODE + PAGE - part - 1
        assert [1] == Watched(f"nop\n{RUN}", at=at).enter()
        # Where the next page can't be read, nothing is executed.
        assert [] == Watched(f"nop\n{RUN}", at=at, end=CODE + PAGE).enter()


def test_the_next_page_is_not_read_without_a_reason():
    watched = Watched("nop\n" * 8, at=CODE + PAGE - 4)
    assert [] == watched.enter()
    assert [(CODE + PAGE - 4, 4)] == watched.read


@pytest.mark.parametrize("guest", [True, False])
def test_ports_are_hooked_of_a_guest_alone(guest):
    source = "nop\nin al, dx\nout 0x80, al\ninsb\nsub rsp, 8\njmp there\nin al, dx\nthere: nop"
    assert ([1, 2, 4] if guest else []) == Watched(source, guest=guest).enter()


def test_instructions_are_those_of_the_codes_size():
    # In 64-bit code a prefix of the VMRUN; in 32-bit code an instruction, DEC EAX.
    watched = Watched(f"inc eax\n{RUN}", bits=32)
    with watched.bare.cpu.changed():
        watched.bare.cpu.enter(watched.bare.segment(0x1B), 0)
    assert 32 == watched.bare.cpu.bits
    assert [1] == watched.enter()
