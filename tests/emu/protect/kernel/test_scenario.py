"""The scenario of the tiny kernel, and the checks of it."""

from dataclasses import astuple, replace

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.protect.attack import NestedFault, NotStopped
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.report import attack_lines, attack_record, boot_lines, checks
from crosswalk.emu.protect.kernel.results import Sealing
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.emu.protect.kernel.scenario import run_plain, run_protected
from crosswalk.emu.protect.kernel.sealing import LaterSeals
from crosswalk.walker.errors import BadInput
from tests.emu.protect.kernel.tiny_kernel import (
    IMAGE_LEAVES,
    LOAD,
    LOWER,
    MODULE,
    PATCH,
    PATCH_LOADED,
    PROTECT_AT,
    RAM,
    RODATA,
    TEXT,
    guest,
    module,
    tiny_kernel,
)

REMAP = """
    mov rbx, DIRECT + {entry}
    or qword ptr [rbx], 2
    mov rbx, IMAGE + RODATA
    invlpg [rbx]
    mov [rbx], rbx
"""


def results(then=PATCH):
    rams = Ram(0, RAM), Ram(0, RAM)
    plain = run_plain(rams[0], guest(then), PROTECT_AT, 20)
    protected = run_protected(rams[1], guest(then), PROTECT_AT, 20)
    words = [(int(a), int(b)) for a, b in zip(rams[0].words, rams[1].words, strict=True) if a != b]
    return plain, protected, words


@pytest.fixture(scope="module")
def booted():
    return results()


def failing(plain, protected, words=()):
    return [check.text for check in checks(plain, protected, words) if not check.holds]


def test_all_holds(booted):
    plain, protected, words = booted
    assert not failing(plain, protected, words)
    assert {Cause.PATCHED: 1} == protected.causes
    assert {"CR3_WRITE": 1, "NPF": 1} == protected.exits
    counts = protected.counts
    assert (8192, 2, 8185, 4, 1) == (
        counts.frames,
        counts.read_only,
        counts.read_write,
        counts.read_execute,
        counts.all_three,
    )
    assert (6, 3, 5, 4) == (counts.no_write, counts.no_execute, counts.sealed, counts.text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"causes": {}}, "nested fault"),
        ({"differing": 1}, "afresh"),
        ({"steps": 0}, "afresh"),
        ({"as_ruled": False}, "nested tables"),
        ({"stale": 1}, "no mapping may write"),
        ({"sealing": Sealing(0, 0, 0, 1, 0, 0, 0.0)}, "outside the image are sealed, 1 aren't"),
        ({"sealing": Sealing(0, 0, 0, 0, 1, 0, 0.0)}, "dropped; 1 frames later"),
        ({"changed": frozenset([TEXT // 0x1000])}, "sealed frames"),
    ],
    ids=str,
)
def test_each_check_can_fail(booted, change, said):
    plain, protected, words = booted
    (text,) = failing(plain, replace(protected, **change), words)
    assert said in text


def test_what_differs_from_the_plain_run_is_seen(booted):
    plain, protected, _ = booted
    for change in ({"console": b""}, {"events": 1}, {"system_calls": 9}):
        (text,) = failing(replace(plain, **change), protected)
        assert "same console" in text
    assert not failing(plain, protected, [(0x901, 0x1901)])
    (text,) = failing(plain, protected, [(0x901, 0x1901), (0, 1)])
    assert "1 other words differ" in text


def test_an_attack_that_is_not_as_expected_is_seen(booted):
    plain, protected, words = booted
    first = replace(protected.attacks[0], result=NotStopped())
    attacks = (first, *protected.attacks[1:])
    (text,) = failing(plain, replace(protected, attacks=attacks), words)
    assert text.startswith("clear WP")


def test_a_kernel_that_is_refused_something_is_reported():
    at = 0x101_0000 + IMAGE_LEAVES * 0x1000 + 8 * ((RODATA - 0x100_0000) // 0x1000)
    plain, protected, words = results(REMAP.format(entry=at))
    (text,) = failing(plain, protected, words)
    assert f"stopped by NPF at {RODATA:#x}" in text
    assert () == protected.attacks


def test_a_window_left_open_is_seen(monkeypatch):
    monkeypatch.setattr(Protection, "_close", lambda _: None)
    plain, protected, words = results()
    assert not protected.as_ruled
    assert any("nested tables" in text for text in failing(plain, protected, words))


def test_what_happens_to_code_loaded_later_is_reported():
    plain, protected, words = results(LOAD + PATCH_LOADED)
    assert not failing(plain, protected, words)
    assert {Cause.PATCHED: 50, Cause.LOADED: 1} == protected.causes
    text = "\n".join(boot_lines(plain, protected, "here"))
    assert "1 frames of code patched, writing granted to 0 and withdrawn from 1" in text
    assert "rights by the kernel's root\n" in text
    text = "\n".join(boot_lines(plain, replace(protected, isolated=True), "here"))
    assert "rights by the kernel's root and the user's\n" in text


def test_what_became_read_only_and_keeps_writing_is_seen(monkeypatch):
    monkeypatch.setattr(Protection, "withdraw", lambda self, **_: self.follow())
    plain, protected, words = results(LOWER)
    (text,) = failing(plain, protected, words)
    assert text.startswith("no frame is left writable that no mapping may write")
    assert 1 == protected.stale


def test_a_host_that_follows_late_is_seen(monkeypatch):
    monkeypatch.setattr(Protection, "flushed", lambda _: None)
    plain, protected, words = results(module())
    (text,) = failing(plain, protected, words)
    assert text.endswith("; 2 frames later")
    assert 2 == protected.sealing.late


def test_a_host_that_forgets_to_seal_a_module_is_seen(monkeypatch):
    monkeypatch.setattr(LaterSeals, "add", lambda *_: None)
    plain, protected, words = results(module())
    sealed, attack = failing(plain, protected, words)
    assert "0 frames outside the image are sealed, 2 aren't" in sealed
    assert attack.startswith("loaded code: ")
    assert isinstance(row(protected, "loaded code").result, NotStopped)


def test_a_host_that_releases_what_is_not_freed_is_seen(monkeypatch):
    monkeypatch.setattr(LaterSeals, "freed", lambda *_: True)
    plain, protected, words = results(module())
    (text,) = failing(plain, protected, words)
    assert text.startswith("loaded code: ")


def test_what_is_sealed_and_written_all_the_same_is_seen():
    plain, protected, words = results(module())
    assert not failing(plain, protected, words)
    assert (0, 2, 0, 0, 0) == astuple(protected.sealing)[:5]
    text = "\n".join(boot_lines(plain, protected, "here"))
    assert "sealed outside the image: 0 frames at first, 2 since, 0 freed; " in text
    for name, result in (
        ("loaded code", NestedFault(MODULE, 7)),
        ("free loaded code", NotStopped()),
    ):
        assert result == row(protected, name).result
    (text,) = failing(plain, replace(protected, changed=frozenset([MODULE // 0x1000])), words)
    assert text.startswith("of 7 sealed frames none has changed")


def row(protected, name):
    return next(each for each in protected.attacks if each.attack.name == name)


def test_lines_and_records_say_what_was_found(booted):
    plain, protected, _ = booted
    text = "\n".join((*boot_lines(plain, protected, "here"), *attack_lines(protected.attacks)))
    assert "at here: 8,192 frames" in text
    assert "1 nested faults: text patching" in text
    assert "EXITINFO1 0x15 (fetch), EXITINFO2 0x1006000" in text
    assert 4 == text.count("NOT STOPPED")
    record = attack_record(protected.attacks[4])
    assert ("NPF", 7, "0x1002000", True) == (
        record["stopped_by"],
        record["error_code"],
        record["gpa"],
        record["as_meant"],
    )


def test_a_point_after_the_end_or_before_protection_is_bad():
    with pytest.raises(GuestFailure, match="idle came before console:never"):
        run_protected(Ram(0, RAM), guest(), parse_point("console:never"), 20)
    with pytest.raises(BadInput, match="hasn't write-protected"):
        run_protected(Ram(0, RAM), guest(), parse_point("instructions:3"), 20)


def test_a_kernel_that_fails_is_a_failure_of_its_own():
    with pytest.raises(GuestFailure, match="halted for good"):
        run_protected(Ram(0, RAM), guest("cli\nhlt"), PROTECT_AT, 20)


def test_what_reaches_past_nested_paging_is_refused_before_protection_too():
    early = replace(guest(), kernel=tiny_kernel(early=".byte 0x0f, 0x01, 0xdb"))
    with pytest.raises(BadInput, match=f"stopped before {PROTECT_AT}: VMSAVE, RIP 0x"):
        run_protected(Ram(0, RAM), early, PROTECT_AT, 20)
