"""A tiny kernel as the guest of a monitor in Bochs: under EPT, protected and attacked."""

from dataclasses import astuple, replace

import pytest

from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect.attack import NotStopped, Violation, VmExited
from crosswalk.emu.protect.attack_kinds import CR0_WRITTEN, CR4_WRITTEN, EFER_WRITTEN
from crosswalk.emu.protect.kernel import ept, ept_scenario, ept_subject
from crosswalk.emu.protect.kernel.attack_kinds import KERNEL_RUN_BY_USER, USER_RUN_BY_KERNEL
from crosswalk.emu.protect.kernel.attacks import IMAGE
from crosswalk.emu.protect.kernel.enforcement import Enforcement
from crosswalk.emu.protect.kernel.ept_moment import require_point
from crosswalk.emu.protect.kernel.ept_report import ept_boot_lines, ept_checks, ept_refusal_record
from crosswalk.emu.protect.kernel.ept_scenario import run_under_ept
from crosswalk.emu.protect.kernel.monitored import BASE, BOCHS_SETTINGS
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.guest.monitor import commands
from crosswalk.walker.access import AccessType
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.nested import translate_nested
from crosswalk.walker.protection.policy import TableKind
from tests.emu.protect.kernel.tiny_kernel import (
    ALL_FLUSHED,
    DATA,
    IMAGE_LEAVES,
    MODULE,
    MODULE_LEAVES,
    MODULES,
    OUTSIDE,
    PAGE,
    PAGES_FLUSHED,
    PATCH,
    PROCESS_FRAME,
    PROTECT_AT,
    READY,
    REMOVE,
    RUN_USER,
    TABLES,
    TEXT,
    guest,
    module,
    tiny_kernel,
)

SIZE = 18 << 20
# What copies is on a page of text of its own: injected code replaces the first.
ROOM = "jmp past\n.space 0xf00\npast:\n"
NOT_STOPPED = {"forge the patching window", "free loaded code", "swap rodata", "write data"}
APART = {USER_RUN_BY_KERNEL, KERNEL_RUN_BY_USER}


def not_stopped(boot):
    return {each.attack.name for each in boot.attacks if isinstance(each.result, NotStopped)}


@pytest.fixture(scope="module")
def monitor(bochs3):
    with Monitor(BochsHost(bochs3, more=BOCHS_SETTINGS), seconds=60) as found:
        yield found


@pytest.fixture
def booted(monitor, monkeypatch):
    """What boots the tiny kernel, which goes on with some source when it is protected."""

    monkeypatch.setattr(ept_scenario, "IDLE_TICKS", 20)

    def boot(then="", kind=TableKind.EPT_MBEC, *, size=SIZE, kernel=None, point=PROTECT_AT):
        return run_under_ept(
            monitor,
            guest(ROOM + then) if kernel is None else replace(guest(), kernel=kernel),
            size=size,
            kind=kind,
            protect_at=point,
            seconds=60,
        )

    return boot


@pytest.fixture
def none(monkeypatch):
    monkeypatch.setattr(ept_subject, "attacks_for", lambda *_: [])


def test_a_kernel_is_patched_runs_a_process_and_is_attacked(booted, monitor):
    boot = booted(module() + RUN_USER + PATCH)
    # The last attack's traces are gone: all RAM is as in the copy.
    (compared,) = monitor.perform(commands.compare(BASE, BASE + SIZE, SIZE // 8))
    assert [0] == compared.words
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    assert {Cause.PATCHED: 1, Cause.PROCESS_CODE: 1, Cause.LOADED_CODE: 1} == boot.causes
    assert {"EPT_VIOLATION": 3, "write of CR3": 1, EFER_WRITTEN: 1, "INVLPG": 5} == boot.exits
    assert {(TEXT + 3 * PAGE) // PAGE} == boot.patched
    assert READY.encode() == boot.console
    # Its text, and the page that a user has at first.
    assert SIZE // PAGE - 5 == boot.counts.no_execute
    assert (5, 4) == (boot.counts.sealed, boot.counts.text)
    results = {each.attack.name: each for each in boot.attacks}
    assert 17 == len(results)
    assert NOT_STOPPED == not_stopped(boot)
    assert all(each.as_expected and each.works_unprotected for each in boot.attacks)
    assert Violation(PROCESS_FRAME, AccessType.EXECUTE) == results[USER_RUN_BY_KERNEL].result
    assert VmExited(CR0_WRITTEN) == results["clear WP"].result
    words = "\n".join(ept_boot_lines(boot, str(PROTECT_AT)))
    assert "under VMX and EPT, MBEC" in words
    assert "execution granted to 1 of processes" in words


def test_what_bochs_is_known_to_report_otherwise_is_no_failure(booted, none, monkeypatch):
    """A page that a user executes is stored to: its right to execute is said in another bit."""
    runs = RUN_USER.replace(f"{PROCESS_FRAME | 7}", f"{OUTSIDE | 7}")
    runs = runs.replace(f"mov rbx, DIRECT + {PROCESS_FRAME}\n    mov word ptr [rbx], 0x050f\n", "")
    stores = "mov ecx, USER\n.byte 0x0f, 0x01, 0xcb\nmov dword ptr [rcx + 8], 1\n"
    writes = "mov ebx, OUTSIDE\nmov word ptr [rbx], 0x050f\n"
    kernel = tiny_kernel(f"{ROOM}{runs}{stores}", early=writes)
    boot = booted(kernel=kernel)
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    assert {"ept-user-execute-in-bit-13": 1} == boot.known
    assert 1 == boot.granted
    monkeypatch.setattr(ept, "departure_of", lambda *_: "")
    boot = booted(kernel=kernel)
    assert 1 == len(boot.unlike)
    assert not all(each.holds for each in ept_checks(boot))


def test_what_user_mode_and_the_supervisor_execute_only_mbec_keeps_apart(booted):
    boot = booted(module() + RUN_USER, TableKind.EPT)
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    assert 17 == len(boot.attacks)
    assert NOT_STOPPED | APART == not_stopped(boot)


def test_a_window_that_stays_open_shows_and_so_does_a_walk_of_another_mode(
    booted, none, monkeypatch
):
    def of_the_other_mode(memory, context, access):
        return translate_nested(memory, context, replace(access, cpl=3 - access.cpl))

    monkeypatch.setattr(Enforcement, "_close", lambda _: None)
    monkeypatch.setattr(ept, "translate_nested", of_the_other_mode)
    failed = [each.text for each in ept_checks(booted(RUN_USER + PATCH)) if not each.holds]
    assert [
        "each of them, and of those of attacks, as the nested walk predicts it",
        "no frame is left writable that no mapping may write",
        "the nested tables grant what the rules do",
    ] == [text.split(", exit")[0].split(", computed")[0].split(", and no")[0] for text in failed]
    assert "predicted none" in failed[0]


def test_what_the_guests_own_tables_refuse_never_comes_to_the_host(booted):
    with pytest.raises(GuestFailure, match="can't go on: TRIPLE_FAULT"):
        booted(f"lidt [rip]\nmov rbx, DIRECT + {OUTSIDE}\ncall rbx")


def test_an_exit_that_no_rule_lets_through_ends_the_run(booted):
    entry = f"mov rbx, DIRECT + {TABLES + IMAGE_LEAVES * PAGE + 8 * (DATA >> 12 & 511)}\n"
    boot = booted(
        f"{entry}btr qword ptr [rbx], 63\nmov rbx, IMAGE + {DATA}\ninvlpg [rbx]\ncall rbx"
    )
    assert {Cause.REFUSED: 1} == boot.causes
    assert () == boot.attacks
    (check,) = ept_checks(boot)
    assert not check.holds
    assert f"EPT_VIOLATION at {DATA:#x}" in check.text
    assert hex(DATA) == hex(ept_refusal_record(boot.refusal)["gpa"])


def test_pinned_bits_are_kept_and_others_are_the_guests(booted, none):
    boot = booted("mov rax, cr0\nbtr rax, 16\nmov cr0, rax")
    assert "write of CR0, RIP" in str(boot.refusal)
    assert "it would clear CR0.WP" in boot.refusal.detail
    # CR4.PGE drops translations; OSFXSR does nothing of the kind.
    kept = booted(
        "mov rax, cr4\nbts rax, 7\nmov cr4, rax\nmov rbx, cr4\nbt rbx, 7\njnc bad\nbtr rax, 7\n"
        "mov cr4, rax\nmov rbx, cr4\nbt rbx, 7\njc bad\nbts rax, 9\nmov cr4, rax\njmp fine\n"
        "bad:\ncli\nhlt\nfine:\n"
    )
    assert ({CR4_WRITTEN: 2}, None) == (kept.exits, kept.refusal)


@pytest.mark.parametrize("flush", [PAGES_FLUSHED, ALL_FLUSHED], ids=["pages", "all"])
def test_a_module_is_executed_and_sealed_once_it_is_read_only(booted, flush):
    boot = booted(module(flush=flush) + RUN_USER)
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    assert {Cause.LOADED_CODE: 1, Cause.PROCESS_CODE: 1} == boot.causes
    assert (0, 2, 0, 0, 0) == astuple(boot.sealing)[:5]
    results = {each.attack.name: each for each in boot.attacks}
    assert Violation(MODULE, AccessType.WRITE) == results["loaded code"].result
    assert NotStopped() == results["free loaded code"].result


def test_a_module_that_was_freed_is_not_executed_any_more(booted, none):
    """Its page is code again for the kernel's tables, but may be written."""
    again = f"""
    mov rbx, DIRECT + {TABLES + MODULE_LEAVES * PAGE}
    mov rax, {MODULE | 1}
    mov [rbx], rax
    mov rdi, {MODULES}
    call rdi
    """
    boot = booted(module() + module(REMOVE) + again)
    assert {Cause.LOADED_CODE: 1, Cause.FREED: 2, Cause.REFUSED: 1} == boot.causes
    assert "EPT_VIOLATION" in str(boot.refusal)
    assert MODULE == boot.refusal.left.gpa


def test_a_kernel_that_cannot_go_on_says_so(booted):
    with pytest.raises(GuestFailure, match="didn't reach idle: it halted for good"):
        booted("cli\nhlt")
    with pytest.raises(GuestFailure, match="asks for a reset") as reset:
        booted("mov al, 0xfe\nout 0x64, al")
    assert "  ready" in reset.value.lines
    with pytest.raises(BadInput, match="no RAM for a guest"):
        booted(size=3 << 30)


def test_ports_without_a_device_read_as_ones(booted, none):
    # A device is probed for; the kernel halts for good if one is there.
    probe = "mov dx, 0xcfc\nin eax, dx\ncmp eax, -1\njne bad\nmov dx, 0x1f7\nin al, dx\n"
    boot = booted(f"{probe}cmp al, 0xff\nje fine\nbad:\ncli\nhlt\nfine:\n")
    assert None is boot.refusal


def test_protection_that_begins_before_text_is_protected_is_refused(booted):
    # The same text, sent under the tables of the entry, which let everything be written.
    says = "".join(f"mov al, {byte}\nout dx, al\n" for byte in READY.encode())
    with pytest.raises(BadInput, match="hasn't write-protected its text there"):
        booted(kernel=tiny_kernel(early=f"mov dx, 0x3f8\n{says}"))


@pytest.mark.parametrize(
    ("point", "kind", "told"),
    [
        ("cr3:5", TableKind.EPT_MBEC, "--protect-at cr3:5: under EPT it is console:TEXT, symbol:"),
        ("user", TableKind.EPT, "--protect-at user: it needs --tables ept-mbec"),
        ("symbol:far", TableKind.EPT, "--protect-at symbol:far: 0xffffffff80000fff isn't in the"),
    ],
)
def test_a_point_that_a_monitor_cannot_see_is_refused(point, kind, told):
    with pytest.raises(BadInput, match=told):
        require_point(parse_point(point, {"far": IMAGE + 0xFFF}), kind, tiny_kernel())


TRACED = """
    call begins
    jmp past_it
    .balign 16
begins:
    .byte 0xf3, 0x0f, 0x1e, 0xfa
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
past_it:
"""


def test_protection_begins_at_a_symbol_or_with_a_process(booted, none):
    kernel = tiny_kernel(ROOM + TRACED + RUN_USER + PATCH)
    ((start, content, _), *_) = kernel.segments
    at = start + content.index(bytes.fromhex("f30f1efa0f1f440000"))
    begins = parse_point("symbol:begins", {"begins": IMAGE + at})
    boot = booted(kernel=kernel, point=begins)
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    assert {Cause.PATCHED: 1, Cause.PROCESS_CODE: 1} == boot.causes
    boot = booted(kernel=kernel, point=parse_point("user"))
    assert [] == [each.text for each in ept_checks(boot) if not each.holds]
    # The tables that the process is in are the kernel's own here, and have its page executable.
    assert {Cause.PATCHED: 1} == boot.causes


def test_a_system_call_before_the_point_is_told(booted):
    again = 'lea rdi, [rip + again]\ncall say\njmp behind\nagain:\n.asciz "again"\nbehind:\n'
    point = parse_point("console:again")
    with pytest.raises(BadInput, match="too late: at least 1 system call had been made"):
        booted(RUN_USER + again, point=point)
    with pytest.raises(GuestFailure, match="didn't reach console:again"):
        booted(RUN_USER + "cli\nhlt", point=point)


def test_a_handler_of_system_calls_that_is_replaced_is_told(booted):
    """What waits there for the first system call would never be reached."""
    early = f"""
    mov ecx, 0xc0000082
    mov eax, {PROCESS_FRAME}
    xor edx, edx
    wrmsr
    mov byte ptr [rax], 0x90
    """
    with pytest.raises(CrosswalkError, match="has replaced the breakpoint at 0x810000"):
        booted(kernel=tiny_kernel(early=early))
