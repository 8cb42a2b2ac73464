"""The attack tables of a 32-bit kernel and of any 32-bit guest, on the tiny one."""

import numpy as np
import pytest

from crosswalk.emu.cpu.cpu import Segment
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.protect.attack import (
    Attack,
    DeliveryRefused,
    Intercepted,
    NestedFault,
    NotBuilt,
    NotStopped,
    Other,
    run_attack,
)
from crosswalk.emu.protect.kernel.attacks import Code
from crosswalk.emu.protect.kernel.guest_attacks import attack_guest, find_guest_frames
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.injected import find_frames
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.subject import attack_kernel, linux_subject
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import Permission
from tests.emu.protect.kernel.tiny_kernel_32 import (
    DIRECT,
    END,
    LARGE,
    LOADED,
    MODES,
    PATCH,
    PLACE,
    RAM,
    RODATA,
    TEXT,
    USER,
    USER_FRAME,
    Protected32,
)

TARGET = TEXT + 2 * FRAME
"""The text that is attacked: the attacker's own code lies in the page at `TEXT`."""
NO_NX = NotBuilt("32-bit paging has no NX")
ONE_MAPPING = NotBuilt("the image has no mapping of its own")
# By the policy: what isn't writable stays so, and what isn't executable in the image; the pins.
LINUX = {
    "clear WP": Intercepted(ExitCode.CR0_WRITE),
    "text, direct map": NestedFault(TARGET, 7),
    "text, image": ONE_MAPPING,
    "remap rodata": NestedFault(RODATA, 7),
    "forge tables": NestedFault(TARGET, 7),
    "execute data": NestedFault(END - FRAME, 0x15),
    "loaded code": NestedFault(LOADED, 7),
    "execute user code": Intercepted(ExitCode.CR4_WRITE),
    "clear NXE": Intercepted(ExitCode.MSR),
    "exception frame": DeliveryRefused(),
    "forge the patching window": NotStopped(),
    "execute free memory": NotStopped(),
    "free loaded code": NotStopped(),
    "swap rodata": NotStopped(),
    "write data": NotStopped(),
}
WITHOUT_NX = {"execute data": NO_NX, "clear NXE": NO_NX}
KERNELS = {"32-bit": LINUX | WITHOUT_NX, "PAE": LINUX}
# The last page that the supervisor executes has the code, and the first read-only one is attacked.
ANY = {
    "clear WP": Intercepted(ExitCode.CR0_WRITE),
    "write past WP": NestedFault(TEXT, 7),
    "own entry": NestedFault(TEXT, 7),
    "forge tables": NestedFault(TEXT, 7),
    "execute data": NestedFault(RODATA, 0x15),
    "clear NXE": Intercepted(ExitCode.MSR),
    "clear SMEP": Intercepted(ExitCode.CR4_WRITE),
    "execute free memory": NotStopped(),
    "write data": NotStopped(),
}
NOTHING_WITHHELD = NotBuilt("execution is withheld from no frame")
GUESTS = {"32-bit": ANY | {"execute data": NOTHING_WITHHELD, "clear NXE": NO_NX}, "PAE": ANY}
LINUX_ALONE = {
    "loaded code",
    "execute user code",
    "exception frame",
    "forge the patching window",
    "free loaded code",
    "swap rodata",
}
each_mode = pytest.mark.parametrize("mode", MODES)


def idle(mode, then="", **options):
    guest = Protected32(mode, then, **options)
    assert None is guest.go_on()
    return guest


def attacked(guest, attacks=attack_kernel):
    return {each.attack.name: each for each in attacks(guest.protection)}


def unexpected(guest):
    """The attacks that were built and don't end as expected, or don't work unprotected."""
    return {name for name, each in attacked(guest).items() if each.built and each.wrong}


@each_mode
def test_each_attack_works_unprotected_and_ends_as_the_policy_has_it(mode):
    guest = idle(mode, PATCH)
    words = guest.ram.words.copy()
    found = attacked(guest)
    assert (guest.ram.words == words).all()
    assert KERNELS[mode] == {name: each.result for name, each in found.items()}
    assert {True} == {each.works_unprotected for each in found.values()}
    assert {NotStopped()} == {each.unprotected for each in found.values() if each.built}
    assert [] == [name for name, each in found.items() if each.built and each.wrong]


@each_mode
def test_any_guest_is_attacked_by_its_own_tables_and_free_entries(mode):
    guest = idle(mode)
    words = guest.ram.words.copy()
    found = attacked(guest, attack_guest)
    assert (guest.ram.words == words).all()
    alone = NotBuilt("it takes what is known of Linux alone")
    assert GUESTS[mode] | dict.fromkeys(LINUX_ALONE, alone) == {
        name: each.result for name, each in found.items()
    }
    assert {NotStopped()} == {each.unprotected for each in found.values() if each.built}
    assert [] == [name for name, each in found.items() if each.built and each.wrong]


def test_an_attacker_of_32_bit_paging_turns_large_pages_on():
    guest = idle("32-bit", pse=False)
    assert not guest.protection.context.pse
    found = attacked(guest)
    assert KERNELS["32-bit"] == {name: each.result for name, each in found.items()}
    assert [] == [name for name, each in found.items() if each.built and each.wrong]
    found = attacked(guest, attack_guest)
    assert NestedFault(TEXT, 7) == found["forge tables"].result
    assert NotStopped() == found["forge tables"].unprotected


@each_mode
def test_what_is_attacked_lies_where_the_kernel_has_it(mode):
    frames = find_frames(idle(mode).protection)
    assert (TEXT, TARGET, RODATA) == (frames.site, frames.text, frames.rodata)
    assert (LOADED, PLACE) == (frames.loaded, frames.loaded_place)
    assert (USER, USER_FRAME) == (frames.user, frames.user_frame)
    # REP MOVSB; POP ESI; POP EDI; RET.
    assert (1, 8) == (frames.copier_unit, frames.copier_pops)
    assert DIRECT + TEXT <= frames.copier < DIRECT + RODATA


@each_mode
def test_memory_that_the_direct_map_has_not_is_not_free(mode):
    """Linux' high memory, where it is mapped for a while elsewhere."""
    guest = idle(mode)
    assert RAM - FRAME == find_frames(guest.protection).free[0]
    top = find_leaf(guest.protection.memory, guest.protection.context, DIRECT + RAM - FRAME)
    guest.ram.write(top.entry, bytes(4))
    assert RAM - LARGE[mode] - FRAME == find_frames(guest.protection).free[0]


@each_mode
def test_an_attack_begins_at_level_0_wherever_the_guest_is(mode):
    guest = idle(mode)
    cpu = guest.protection.machine.cpu
    user = Segment(0x7B, 0x1000, 0xFFFF_FFFF, 0x00C0_F300)
    with cpu.changed():
        for name in ("ds", "es"):
            cpu.set_segment(name, user)
        cpu.enter(Segment(0x73, 0x1000, 0xFFFF_FFFF, 0x00C0_FB00), 3, user)
    found = attacked(guest)
    assert KERNELS[mode] == {name: each.result for name, each in found.items()}


@pytest.mark.parametrize(
    ("mode", "right", "attacks"),
    [
        (
            mode,
            Permission.WRITE,
            {"text, direct map", "remap rodata", "forge tables", "loaded code", "exception frame"},
        )
        for mode in MODES
    ]
    + [("PAE", Permission.EXECUTE, {"execute data"})],
)
def test_a_right_too_many_is_seen(mode, right, attacks):
    def tampered(protection):
        protection.nested.grant(protection.nested.granted | np.uint8(right))

    assert attacks == unexpected(idle(mode, tampered=tampered))


@pytest.mark.parametrize(("mode", "more"), [("32-bit", set()), ("PAE", {"clear NXE"})])
def test_pins_that_are_none_are_seen(mode, more, monkeypatch):
    guest = idle(mode)

    def nothing(protection):
        protection.host.intercept(frozenset(), efer=False)

    monkeypatch.setattr(Protection, "intercept", nothing)
    assert {"clear WP", "execute user code"} | more == unexpected(guest)


@each_mode
def test_a_subject_that_isnt_restored_is_seen(mode, monkeypatch):
    guest = idle(mode)
    monkeypatch.setattr(Protection, "suspend", lambda _: None)
    stopped = {
        name
        for name, expected in KERNELS[mode].items()
        if not isinstance(expected, NotStopped | NotBuilt)
    }
    assert stopped <= unexpected(guest)


@each_mode
def test_an_attack_that_does_nothing_ends_otherwise(mode):
    guest = idle(mode)
    frames = find_frames(guest.protection)
    subject = linux_subject(guest.protection, frames)
    result = run_attack(subject, Attack("idle", Code("", "nop", frames.data), NotStopped()))
    assert isinstance(result, Other)


@each_mode
def test_the_mark_is_32_bits_of_a_register(mode):
    guest = idle(mode)
    subject = linux_subject(guest.protection, find_frames(guest.protection))
    marked = Attack("marks", Code("", "nop", None), NotStopped())
    assert NotStopped() == run_attack(subject, marked)
    halted = Attack("halts", Code("", "xor ebp, ebp\nhlt", None), NotStopped())
    assert isinstance(run_attack(subject, halted), Other)


def test_an_entry_without_rights_is_not_made_writable():
    """A PDPTE has none, and a reserved bit where others have R/W."""
    entries = {mode: find_guest_frames(idle(mode).protection).entries for mode in MODES}
    assert {"32-bit": 2, "PAE": 2} == {mode: len(found) for mode, found in entries.items()}


@pytest.mark.parametrize(
    ("behind", "pops"),
    [
        ("5e 5f c3", 8),
        ("90 5f c3", 4),
        ("c3 90 90", 0),
        # POP ESP, POP SI, RET 8, and MOV BYTE PTR [EBX], 0.
        ("5c 5f c3", None),
        ("66 5e c3", None),
        ("c2 08 00", None),
        ("c6 03 00", None),
    ],
)
def test_code_that_copies_may_pop_registers_before_it_returns(behind, pops):
    guest = idle("32-bit")
    content = guest.ram.bytes[TEXT:RODATA]
    (at,) = (i for i in range(len(content)) if bytes(content[i : i + 2]) == b"\xf3\xa4")
    content[at + 2 : at + 5] = np.frombuffer(bytes.fromhex(behind), "u1")
    frames = find_frames(guest.protection)
    assert (pops is None) is ("copier" in frames.lacks)
    assert pops is None or pops == frames.copier_pops
