"""The attack table of a kernel, on the tiny one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.cpu.svm.host import HOST_MODEL
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import parse_point
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
from crosswalk.emu.protect.kernel.attacks import Code, attack_table
from crosswalk.emu.protect.kernel.injected import find_frames
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.report import attack_counts, attack_lines, attack_record
from crosswalk.emu.protect.kernel.subject import attack_kernel, linux_subject
from crosswalk.guest.init import init_archive
from crosswalk.walker.protection.pagelist import Permission
from tests.emu.load.linux.distribution_kernels import CLOUD, INIT, fetched
from tests.emu.protect.kernel.tiny_kernel import (
    BASE,
    DATA,
    END,
    LEAVES,
    NAMES,
    PAGE,
    RODATA,
    TABLES,
    TEXT,
    Protected,
    module,
)

NOT_STOPPED = {
    "forge the patching window",
    "execute free memory",
    "free loaded code",
    "swap rodata",
    "write data",
}


def attacked(guest):
    return {each.attack.name: each for each in attack_kernel(guest.protection)}


def unexpected(guest):
    """The attacks that were built and don't end as expected, or don't work unprotected."""
    return {
        name
        for name, each in attacked(guest).items()
        if each.built
        if not each.as_expected or not each.works_unprotected
    }


def subject_of(guest):
    guest.go_on()
    frames = find_frames(guest.protection)
    return linux_subject(guest.protection, frames), frames


@pytest.fixture(scope="module")
def table():
    guest = Protected(module())
    guest.go_on()
    words = guest.ram.words.copy()
    found = attacked(guest)
    assert (guest.ram.words == words).all()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_works_unprotected_and_ends_as_expected(table, name):
    each = table[name]
    assert isinstance(each.unprotected, NotStopped)
    assert each.attack.expected == each.result
    assert each.works_unprotected
    assert each.as_expected
    assert (name in NOT_STOPPED) is isinstance(each.result, NotStopped)
    assert bool(each.attack.why) is (name in NOT_STOPPED)


def test_a_nested_fault_tells_the_frame_and_the_access(table):
    assert NestedFault(TEXT + 2 * PAGE, 7) == table["forge tables"].result
    assert NestedFault(END - PAGE, 0x15) == table["execute data"].result
    assert DATA < END - PAGE


def test_a_result_says_more_in_words(table):
    assert "clear CR0.WP" in table["clear WP"].result.detail
    assert "beyond what the mappings allow" in table["forge tables"].result.detail
    assert f"frame {TEXT + 2 * PAGE:#x} isn't granted" in table["exception frame"].result.detail


@pytest.mark.parametrize(
    ("right", "attacks"),
    [
        (
            Permission.WRITE,
            [
                "remap rodata",
                "text, direct map",
                "text, image",
                "forge tables",
                "exception frame",
            ],
        ),
        (Permission.EXECUTE, ["execute data"]),
    ],
)
def test_a_right_too_many_is_seen(right, attacks):
    def tampered(protection):
        protection.nested.grant(protection.nested.granted | right)

    guest = Protected(module(), tampered=tampered)
    guest.go_on()
    assert set(attacks) == unexpected(guest)


def test_pins_that_are_none_are_seen(monkeypatch):
    guest = Protected()
    guest.go_on()

    def nothing(protection):
        protection.host.intercept(frozenset(), efer=False)

    monkeypatch.setattr(Protection, "intercept", nothing)
    assert {"clear WP", "execute user code", "clear NXE"} == unexpected(guest)


def test_a_subject_that_isnt_restored_is_seen(monkeypatch):
    guest = Protected(module())
    guest.go_on()
    monkeypatch.setattr(Protection, "suspend", lambda _: None)
    stopped = {name for name in NAMES if name not in NOT_STOPPED}
    assert stopped <= unexpected(guest)


def test_what_is_expected_depends_on_each_fact(table):
    stopped, passed = table["forge tables"], table["write data"]
    delivery = table["exception frame"]
    assert not replace(stopped, unprotected=Other("idle")).works_unprotected
    assert not replace(stopped, unprotected=stopped.result).works_unprotected
    assert not replace(stopped, result=NotStopped()).as_expected
    assert not replace(stopped, result=Other("idle")).as_expected
    assert not replace(stopped, result=NestedFault(TEXT, 7)).as_expected
    assert not replace(stopped, result=NestedFault(TEXT + 2 * PAGE, 0x15)).as_expected
    assert not replace(table["clear WP"], result=Intercepted(0x7C)).as_expected
    assert not replace(passed, result=stopped.result).as_expected
    assert not replace(delivery, result=stopped.result).as_expected
    assert replace(delivery, result=DeliveryRefused("in other words")).as_expected


def test_an_attack_that_is_stopped_after_it_has_worked_is_no_success():
    subject, frames = subject_of(Protected())
    source = "mov rax, MARK\nmov rbx, DATA_IMAGE\nmov [rbx], rax\nmov rbx, TEXT_ENTRY\n"
    source += "or qword ptr [rbx], 2\n"
    source += "mov rbx, TEXT_DIRECT\ninvlpg [rbx]\nmov [rbx], rbx"
    result = run_attack(subject, Attack("late", Code("", source, frames.data), NotStopped()))
    assert Other(f"works, then {NestedFault(frames.text, 7)}") == result


def test_an_attack_that_does_nothing_ends_otherwise():
    subject, frames = subject_of(Protected())
    result = run_attack(subject, Attack("idle", Code("", "nop", frames.data), NotStopped()))
    assert isinstance(result, Other)


def test_after_an_attack_what_is_due_is_what_was_before_it():
    """It frees code, and the host grants writing."""
    guest = Protected(module())
    subject, frames = subject_of(guest)
    (frees,) = (each for each in attack_table(frames) if each.name == "free loaded code")
    assert NotStopped() == run_attack(subject, frees)
    assert guest.protection.followed[frames.loaded // PAGE]
    subject.restore()
    assert not guest.protection.followed[frames.loaded // PAGE]
    assert (guest.protection.due == guest.protection.read_back()).all()


def test_an_attack_that_leaves_something_else_there_has_not_worked():
    """As one that reads an address which still leads where it led."""
    guest = Protected()
    guest.ram.words[RODATA // 8] = 5
    subject, frames = subject_of(guest)
    source = "mov rbx, RODATA_IMAGE\nmov rax, [rbx]\nmov rbx, RESULT_DIRECT\nmov [rbx], rax"
    code = Code("", source, frames.result)
    assert isinstance(run_attack(subject, Attack("swap", code, NotStopped())), Other)
    code = replace(code, marks=False)
    assert isinstance(run_attack(subject, Attack("swap", code, NotStopped())), NotStopped)


def test_a_register_has_worked_by_its_mark_whatever_it_was_shown_as_before():
    _, frames = subject_of(Protected())
    mark, register = frames.words.mark, Code("", "", None)
    assert register.works(frames.words, mark, mark)
    assert not register.works(frames.words, 0, 5)
    assert not Code("", "", frames.data).works(frames.words, mark, mark)


def test_one_attack_that_cannot_be_built_is_one_row_and_ends_nothing(table):
    guest = Protected(module())
    guest.go_on()
    content = guest.ram.bytes[TEXT:END]
    (at,) = (i for i in range(len(content)) if bytes(content[i : i + 3]) == b"\xf3\xa4\xc3")
    content[at + 2] = 0xCC
    found = attacked(guest)
    assert NAMES == list(found)
    copying = found.pop("forge the patching window")
    assert NotBuilt("the kernel has no code that copies a string and returns") == copying.result
    assert (False, []) == (copying.built, copying.wrong)
    assert {name: table[name].result for name in found} == {
        name: each.result for name, each in found.items()
    }
    stopped = len(NAMES) - len(NOT_STOPPED)
    counts = attack_counts([*found.values(), copying])
    assert {"stopped": stopped, "not_stopped": 4, "not_built": 1} == counts
    (_, line) = attack_lines([copying])
    assert line.strip() == f"not built: {copying.result.why}"
    record = attack_record(copying)
    assert (None, None, None, copying.result.why) == (
        record["protected"],
        record["stopped_by"],
        record["as_meant"],
        record["not_built"],
    )


def test_what_copies_has_to_return_by_itself_or_by_a_thunk():
    """A jump to somewhere else isn't one; a jump to a RET is."""
    guest = Protected(module())
    guest.go_on()
    content = guest.ram.bytes[TEXT:END]
    (at,) = (i for i in range(len(content)) if bytes(content[i : i + 3]) == b"\xf3\xa4\xc3")
    content[at + 2] = 0xE9
    # A RET; HLT; a call of a RET; a call of what drops its return address: LEA RSP, [RSP + 8]; RET.
    thunks = bytes.fromhex("c3 f4 e8f9ffffff e800000000 488d642408 c3")
    content[0x3000 : 0x3000 + len(thunks)] = np.frombuffer(thunks, "u1")
    for target, built in ((0x3000, True), (0x3001, False), (0x3002, False), (0x3007, True)):
        distance = target - (at + 7)
        content[at + 3 : at + 7] = np.frombuffer(distance.to_bytes(4, "little", signed=True), "u1")
        assert built is ("copier" not in find_frames(guest.protection).lacks)


def test_text_that_is_elsewhere_leaves_nothing_to_build():
    guest = Protected()
    guest.go_on()
    at = TABLES + LEAVES * PAGE + 8 * ((TEXT - BASE) // PAGE)
    guest.ram.words[at // 8] += PAGE
    found = attacked(guest)
    assert {False} == {each.built for each in found.values()}
    assert "isn't mapped at" in found["write data"].result.why


@pytest.mark.slow
def test_what_a_real_kernel_makes_read_only_later_cannot_be_written_past_its_tables():
    """By the direct map with CR0.WP clear, not pinned: a filter's page, and its compiled code."""
    kernel = parse_kernel(Path(fetched(CLOUD)).read_bytes())
    initrd = init_archive(patching=True)
    boot = Boot(Ram(0, 128 << 20), LinuxGuest(kernel, initrd), model=HOST_MODEL)
    protection = Protection(boot, kernel)
    begin = parse_point(INIT)
    for reached in boot.run([begin], parse_point("idle"), 60):
        if reached.point == begin:
            protection.enforce()
    (withdrawn,) = protection.withdrawn.nonzero()[0].tolist()
    (loaded,) = protection.loaded
    for frame in (withdrawn, loaded):
        frames = replace(find_frames(protection), text=frame * PAGE)
        attack = next(each for each in attack_table(frames) if each.name == "text, direct map")
        subject = linux_subject(protection, frames)
        assert NotStopped() == run_attack(subject, attack, protected=False)
        assert NestedFault(frame * PAGE, 7) == run_attack(subject, attack) == attack.expected
        subject.restore()
