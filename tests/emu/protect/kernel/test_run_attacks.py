"""The table of attacks, on the tiny kernel."""

from dataclasses import replace
from pathlib import Path

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.linux.boot import Boot
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.linux.points import parse_point
from crosswalk.emu.protect.kernel import run_attacks as battle
from crosswalk.emu.protect.kernel.attack_frames import find_places
from crosswalk.emu.protect.kernel.attacks import ATTACKS
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.run_attacks import fight, is_as_meant
from crosswalk.guest.init import init_archive
from tests.emu.load.linux.real import CLOUD, INIT, fetched
from tests.emu.protect.kernel.tiny import DATA, END, PAGE, TEXT, Protected

NOT_STOPPED = {
    "forge the patching window",
    "execute free memory",
    "swap rodata",
    "write data",
}


def fought(guest):
    return {each.attack.name: each for each in fight(guest.protection)}


@pytest.fixture(scope="module")
def table():
    guest = Protected()
    guest.go_on()
    words = guest.ram.words.copy()
    found = fought(guest)
    assert (guest.ram.words == words).all()
    return found


@pytest.mark.parametrize("name", [each.name for each in ATTACKS])
def test_an_attack_works_unprotected_and_ends_as_is_said(table, name):
    each = table[name]
    assert each.before
    assert (name in NOT_STOPPED) is each.after
    assert is_as_meant(each)
    assert bool(each.attack.why) is each.after


def test_a_nested_fault_tells_the_frame_and_the_access(table):
    assert (7, TEXT + 2 * PAGE) == told(table["forge tables"])
    assert (0x15, END - PAGE) == told(table["execute data"])
    assert DATA < END - PAGE


def told(each):
    return each.refusal.error_code, each.refusal.gpa


@pytest.mark.parametrize(
    ("right", "attacks"),
    [
        ("writable", ["text, direct map", "text, image", "forge tables", "exception frame"]),
        ("executable", ["execute data"]),
    ],
)
def test_a_right_too_many_is_seen(right, attacks):
    def tampered(protection):
        getattr(protection.nested, right)[:] = True
        protection.nested.set(protection.nested.writable, protection.nested.executable)

    guest = Protected(tampered=tampered)
    guest.go_on()
    found = fought(guest)
    assert {"remap rodata", *attacks} - {"remap rodata" if right == "executable" else ""} == {
        name for name, each in found.items() if not is_as_meant(each)
    }


def test_pins_that_are_none_are_seen(monkeypatch):
    guest = Protected()
    guest.go_on()

    def nothing(protection):
        protection.host.intercept(frozenset(), efer=False)

    monkeypatch.setattr(Protection, "_intercept", nothing)
    wrong = {name for name, each in fought(guest).items() if not is_as_meant(each)}
    assert {"clear WP", "execute user code", "clear NXE"} == wrong


def test_what_is_as_meant_depends_on_each_fact(table):
    stopped, passed = table["forge tables"], table["write data"]
    guarded = table["exception frame"]
    assert not is_as_meant(replace(stopped, before=False))
    assert not is_as_meant(replace(stopped, after=True))
    assert not is_as_meant(replace(stopped, refusal=None))
    assert not is_as_meant(replace(stopped, pa=TEXT))
    other = replace(stopped.refusal, exit=ExitCode.MSR.name)
    assert not is_as_meant(replace(stopped, refusal=other))
    assert not is_as_meant(replace(passed, after=False))
    assert not is_as_meant(replace(passed, refusal=stopped.refusal))
    assert not is_as_meant(replace(guarded, guarded=""))


@pytest.mark.slow
def test_what_a_real_kernel_makes_read_only_later_cannot_be_written_past_its_tables():
    """By the direct map with CR0.WP clear, not pinned: a filter's page, and its compiled code."""
    kernel = parse_kernel(Path(fetched(CLOUD)).read_bytes())
    initrd = init_archive(patching=True)
    boot = Boot(Ram(0, 128 << 20), kernel, initrd=initrd, model=HOST_MODEL)
    protection = Protection(boot, kernel)
    begin = parse_point(INIT)
    for reached in boot.run([begin], parse_point("idle"), 60):
        if reached.point == begin:
            protection.enforce()
    (withdrawn,) = protection.withdrawn.nonzero()[0].tolist()
    (loaded,) = protection.loaded
    attack = next(each for each in ATTACKS if each.name == "text, direct map")
    for frame in (withdrawn, loaded):
        places = replace(find_places(protection), text=frame * PAGE)
        arena = battle._Arena(protection, places)
        assert arena.run(attack, protected=False)[0]
        after, refusal, *_ = arena.run(attack, protected=True)
        assert (False, "NPF", 7, frame * PAGE) == (
            after,
            refusal.exit,
            refusal.error_code,
            refusal.gpa,
        )
        arena.restore()
