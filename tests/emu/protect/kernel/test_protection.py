"""A tiny kernel under protection: what it may do, and what it may not."""

import faulthandler

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.protect.attack import NestedFault, exit_result
from crosswalk.emu.protect.kernel.protection import Protection
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import Cause, may
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.protection.pagelist import Permission
from tests.emu.protect.kernel.tiny_kernel import (
    ALL_FLUSHED,
    BASE,
    LEAVES,
    LOAD,
    LOADED,
    LOWER,
    MODULE,
    NX,
    OUTSIDE,
    PAGE,
    PAGES_FLUSHED,
    PATCH,
    PATCH_LOADED,
    REMOVE,
    RODATA,
    TABLES,
    TEXT,
    USER_TABLES,
    WINDOW_LEAF,
    WINDOW_TABLES,
    Protected,
    module,
)

READ, WRITE, EXECUTE = Permission
NO_WP = "mov rax, cr0\nbtr rax, 16\nmov cr0, rax\n"


def writable(guest):
    """The frames that may be written by the entries of the nested tables."""
    return may(guest.protection.nested.read_back(), WRITE)


def entry(frame):
    """The source that sets RBX to the address of a frame's leaf entry."""
    at = TABLES + LEAVES * PAGE + 8 * ((frame - BASE) // PAGE)
    return f"mov rbx, DIRECT + {at}\n"


def written(frame):
    return f"""
    {entry(frame)}
    or qword ptr [rbx], 2
    mov rbx, DIRECT + {frame}
    invlpg [rbx]
    mov qword ptr [rbx], 1
    """


def refused(then, **options):
    return Protected(then, **options).go_on()


def test_what_the_mappings_allow_goes_on():
    guest = Protected("mov rbx, IMAGE + DATA\nmov [rbx + 0x900], rbx\nmov rax, [rbx - 0x1000]")
    assert None is guest.go_on()
    assert {} == guest.protection.exits


def test_collective_rights_are_those_of_the_tables():
    guest = Protected()
    collective = guest.protection.rights.initial
    executable = may(collective, EXECUTE).nonzero()[0].tolist()
    # Its text, and the user's page.
    assert [0x800, *range(0x1000, 0x1004)] == executable
    read_only = (collective & (WRITE | EXECUTE) == 0).nonzero()[0].tolist()
    assert [RODATA // PAGE, OUTSIDE // PAGE] == read_only
    assert list(range(0x1000, 0x1005)) == guest.grants.sealed.nonzero()[0].tolist()
    assert [0x1004, 0x1005, 0x1006] == (~may(guest.grants.permissions, EXECUTE)).nonzero()[
        0
    ].tolist()


def test_text_is_patched_through_its_window_which_closes():
    guest = Protected(PATCH + PATCH)
    assert None is guest.go_on()
    assert {Cause.PATCHED: 2} == guest.protection.causes
    assert {(TEXT + 3 * PAGE) // PAGE} == guest.protection.patched
    assert not writable(guest)[guest.grants.sealed].any()


def test_a_window_that_stays_open_shows(monkeypatch):
    monkeypatch.setattr(Protection, "_close", lambda _: None)
    guest = Protected(PATCH + PATCH)
    guest.go_on()
    assert {Cause.PATCHED: 1} == guest.protection.causes
    assert writable(guest)[guest.grants.sealed].any()


@pytest.mark.parametrize(
    "then",
    [
        PATCH.replace("    cli\n", "    sti\n"),
        # A user's page in the window, and windows with two others, and a page elsewhere.
        f"mov rbx, DIRECT + {WINDOW_LEAF}\nor qword ptr [rbx], 4\nstac\n{PATCH}",
        (
            f"mov rbx, DIRECT + {WINDOW_LEAF}\nmov qword ptr [rbx + 8], 0x3003\n"
            f"mov qword ptr [rbx + 16], 0x4003\n{PATCH}"
        ),
        PATCH.replace("rdi, 0x5000", "rdi, DIRECT + TEXT + 0x3000").replace(
            "mov ecx", f"{entry(TEXT + 3 * PAGE)}\nor qword ptr [rbx], 2\nmov ecx"
        ),
    ],
    ids=["interrupts", "user", "more", "direct"],
)
def test_another_way_to_text_is_no_patch(then):
    found = refused(then)
    assert NestedFault(TEXT + 3 * PAGE, 7) == exit_result(found.left)


def test_a_patch_of_read_only_data_is_refused():
    leaf = f"mov rbx, DIRECT + {WINDOW_LEAF}\nmov rax, {RODATA + 3}\nmov [rbx], rax\n"
    assert NestedFault(RODATA, 7) == exit_result(refused(leaf + PATCH).left)


def test_what_the_kernel_makes_writable_outside_its_image_is_followed():
    guest = Protected(written(OUTSIDE))
    assert None is guest.go_on()
    assert {Cause.FOLLOWED: 1} == guest.protection.causes
    assert (1, 0) == (guest.protection.rights.steps, guest.protection.rights.differing)


def test_what_becomes_read_only_loses_writing_at_once():
    guest = Protected(LOAD)
    assert None is guest.go_on()
    protection = guest.protection
    assert [LOADED // PAGE] == protection.withdrawn.nonzero()[0].tolist()
    assert (1, 1, 0) == (protection.lost, protection.rights.steps, protection.rights.differing)
    assert not writable(guest)[LOADED // PAGE]


def test_what_was_followed_and_is_read_only_again_is_no_more_than_due():
    lowered = f"{entry(OUTSIDE)}\nbtr qword ptr [rbx], 1\nmov rbx, DIRECT + {OUTSIDE}\n"
    guest = Protected(f"{written(OUTSIDE)}\n{lowered}\ninvlpg [rbx]")
    assert None is guest.go_on()
    protection = guest.protection
    assert {Cause.FOLLOWED: 1} == protection.causes
    assert (1, False) == (protection.lost, writable(guest)[OUTSIDE // PAGE])
    assert (protection.due == protection.read_back()).all()


def test_what_became_read_only_cannot_be_written_past_the_tables():
    guest = Protected(f"{LOAD}\nmov rax, cr0\nbtr rax, 16\nmov cr0, rax\nmov [rbx], rbx")
    guest.protection.pins = False
    found = guest.go_on()
    assert NestedFault(LOADED, 7) == exit_result(found.left)


def test_a_frame_that_became_read_only_and_keeps_writing_is_written(monkeypatch):
    monkeypatch.setattr(Protection, "withdraw", lambda self, **_: self.follow())
    guest = Protected(f"{LOAD}\nmov rax, cr0\nbtr rax, 16\nmov cr0, rax\nmov [rbx], rbx")
    guest.protection.pins = False
    assert None is guest.go_on()
    assert guest.ram.words[LOADED // 8]


def test_loaded_code_is_patched_through_a_window_which_closes():
    guest = Protected(LOAD + PATCH_LOADED + PATCH_LOADED)
    assert None is guest.go_on()
    protection = guest.protection
    assert {Cause.PATCHED: 50, Cause.LOADED: 2} == protection.causes
    assert {LOADED // PAGE} == protection.loaded
    assert not protection.followed.any()
    assert not writable(guest)[LOADED // PAGE]


def test_loaded_code_is_not_patched_another_way():
    found = refused(LOAD + PATCH_LOADED.replace("    cli\n", "    sti\n"))
    assert NestedFault(LOADED, 7) == exit_result(found.left)


def test_plain_memory_that_lost_writing_and_is_writable_again_is_followed():
    guest = Protected(f"{LOWER}\n{written(LOADED)}")
    assert None is guest.go_on()
    protection = guest.protection
    assert {Cause.FOLLOWED: 1} == protection.causes
    assert protection.followed[LOADED // PAGE]
    assert not protection.withdrawn.any()
    assert (1, 0) == (protection.lost, protection.later.added)


def test_loaded_code_that_is_writable_again_where_it_runs_is_refused():
    found = refused(f"{LOAD}\n{written(LOADED)}")
    assert NestedFault(LOADED, 7) == exit_result(found.left)


@pytest.mark.parametrize("flush", [PAGES_FLUSHED, ALL_FLUSHED], ids=["pages", "all"])
def test_a_module_is_sealed_the_moment_it_is_read_only(flush):
    guest = Protected(module(flush=flush))
    assert None is guest.go_on()
    protection = guest.protection
    text, data = MODULE // PAGE, MODULE // PAGE + 1
    assert [text, data] == protection.later.frames.nonzero()[0].tolist()
    assert [text] == protection.later.code.nonzero()[0].tolist()
    assert [text, data] == protection.withdrawn.nonzero()[0].tolist()
    assert (2, 0, 2) == (protection.lost, protection.late, protection.later.added)
    assert not writable(guest)[[text, data]].any()
    assert {} == protection.causes


@pytest.mark.parametrize("page", [0, PAGE], ids=["text", "data"])
@pytest.mark.parametrize("past", [False, True], ids=["writable in the direct map", "past tables"])
def test_a_sealed_module_is_written_through_no_alias(page, past):
    then = NO_WP + f"mov [rbx + {page}], rbx" if past else written(MODULE + page)
    guest = Protected(module() + then)
    guest.protection.pins = not past
    guest.protection.intercept()
    found = guest.go_on()
    assert NestedFault(MODULE + page, 7) == exit_result(found.left)


def test_a_module_is_patched_as_text_is_by_a_window_alone():
    patch = PATCH_LOADED.replace(str(LOADED | 3 | NX), str(MODULE | 3 | NX))
    guest = Protected(module() + patch + patch)
    assert None is guest.go_on()
    assert {Cause.LOADED: 2} == guest.protection.causes
    assert {MODULE // PAGE} == guest.protection.loaded
    found = refused(module() + patch.replace("    cli\n", "    sti\n"))
    assert NestedFault(MODULE, 7) == exit_result(found.left)


@pytest.mark.parametrize("flush", [PAGES_FLUSHED, ALL_FLUSHED], ids=["pages", "all"])
def test_a_module_is_released_when_the_kernel_frees_it(flush):
    guest = Protected(module() + module(REMOVE, flush))
    assert None is guest.go_on()
    protection = guest.protection
    assert {Cause.FREED: 2} == protection.causes
    assert (2, 2) == (protection.later.added, protection.later.released)
    assert not protection.later.frames.any()
    assert writable(guest)[MODULE // PAGE]
    assert {} == protection.later.content


def test_a_module_that_comes_again_is_sealed_again():
    guest = Protected(module() + module(REMOVE) + module() + written(MODULE))
    found = guest.go_on()
    assert NestedFault(MODULE, 7) == exit_result(found.left)
    assert (4, 2) == (guest.protection.later.added, guest.protection.later.released)


def test_what_loses_writing_while_a_window_is_open_loses_it_when_that_closes():
    """The flush comes between the patch and the load of CR3 that ends it."""
    inside = PATCH.replace("    mov cr3, rdx\n", f"    {module()}\n    mov cr3, rdx\n")
    guest = Protected(inside)
    assert None is guest.go_on()
    protection = guest.protection
    assert {Cause.PATCHED: 1} == protection.causes
    assert (2, 0) == (protection.lost, protection.late)
    assert not writable(guest)[MODULE // PAGE]


def test_an_events_frame_follows_the_tables_too():
    """What became a stack again gets an interrupt's frame first of all stores."""
    stack = written(LOADED).replace("mov qword ptr [rbx], 1", "")
    then = f"{LOWER}\n{stack}\nmov r13, rsp\nlea rsp, [rbx + 0x800]\nint 0x30\nmov rsp, r13"
    guest = Protected(then)
    assert None is guest.go_on()
    assert guest.protection.followed[LOADED // PAGE]
    assert {} == guest.protection.causes


def test_an_events_frame_is_not_written_to_a_sealed_module_made_writable():
    stack = "or qword ptr [rcx], 2\ninvlpg [rbx]\nlea rsp, [rbx + 0x800]\nint 0x30"
    guest = Protected(
        f"{module()}\n{entry(MODULE)}\nmov rcx, rbx\nmov rbx, DIRECT + {MODULE}\n{stack}"
    )
    with pytest.raises(GuestFailure, match=f"frame {MODULE:#x} isn't granted for an event's frame"):
        list(guest.run)


def test_an_events_frame_is_not_written_where_forged_tables_alone_have_it_writable():
    window = f"mov rbx, DIRECT + {WINDOW_LEAF}\nmov rax, {LOADED | 3 | NX}\nmov [rbx], rax\n"
    guest = Protected(
        f"{LOWER}\n{window}mov eax, TABLES + 0x2000\nmov cr3, rax\nmov esp, 0x5800\nint 0x30"
    )
    with pytest.raises(GuestFailure, match=f"frame {LOADED:#x} isn't granted for an event's frame"):
        list(guest.run)


def test_an_events_frame_is_written_to_a_module_that_was_freed():
    freed, _, _ = module(REMOVE).partition("mov [rbx], rbx")
    stack = "mov r13, rsp\nlea rsp, [rbx + 0x800]\nint 0x30\nmov rsp, r13"
    guest = Protected(f"{module()}\n{freed}\n{stack}")
    assert None is guest.go_on()
    assert (1, 1) == (guest.protection.later.released, guest.protection.later.frames.sum())


def test_a_page_is_where_its_entry_says_once_its_translation_is_dropped():
    guest = Protected(
        f"mov rcx, DIRECT + {OUTSIDE}\nmov rax, [rcx]\n{entry(OUTSIDE)}\n"
        f"mov eax, {RODATA | 1}\nmov [rbx], rax\ninvlpg [rcx]\nmov r12, [rcx]"
    )
    guest.ram.words[RODATA // 8] = 5
    assert None is guest.go_on()
    assert 5 == guest.protection.machine.engine.reg_read(x86.UC_X86_REG_R12)


def test_what_is_sealed_is_not_followed():
    found = refused(written(RODATA))
    assert (NestedFault(RODATA, 7), 0) == (exit_result(found.left), found.cpl)


def test_rights_that_miss_a_change_differ_from_those_computed_afresh(monkeypatch):
    monkeypatch.setattr(RightsFollower, "_changed", lambda _: [])
    guest = Protected(written(OUTSIDE))
    guest.go_on()
    assert 1 == guest.protection.rights.differing


def test_a_right_too_few_is_a_nested_fault():
    def tampered(protection):
        protection.nested.withhold(TEXT // PAGE, EXECUTE)
        protection.host.flush()

    assert ExitCode.NPF == refused("", tampered=tampered).left.code


def test_a_right_too_many_lets_the_store_through():
    def tampered(protection):
        protection.nested.allow(RODATA // PAGE, WRITE)
        protection.host.flush()

    guest = Protected(written(RODATA), tampered=tampered)
    assert None is guest.go_on()
    assert 1 == guest.ram.words[RODATA // 8]


@pytest.mark.parametrize(
    ("then", "name", "detail"),
    [
        ("mov rax, cr0\nand rax, -0x10001\nmov cr0, rax", "CR0_WRITE", "clear CR0.WP by 0x"),
        ("mov r9, cr4\nand r9, -0x300001\nmov cr4, r9", "CR4_WRITE", "clear CR4.SMEP, SMAP by 0x"),
        ("mov ecx, 0xc0000080\nrdmsr\nand eax, -0x801\nwrmsr", "MSR", "clear EFER.NXE"),
        ("xor eax, eax\n.byte 0x0f, 0x01, 0xdb", "VMSAVE", "past nested paging"),
        ("lmsw ax", "CR0_WRITE", "isn't MOV"),
        ("mov ecx, 0xc0000080\nrdmsr\n.byte 0x66\nwrmsr", "MSR", "isn't MOV, CLTS or WRMSR"),
    ],
)
def test_what_would_undo_protection_is_refused(then, name, detail):
    found = refused(then)
    assert name == exit_name(found.left.code)
    assert detail in found.detail


def test_other_bits_of_control_registers_are_the_guests():
    guest = Protected(
        "mov r9, cr0\nor r9, 2\nmov cr0, r9\nmov rax, cr4\nor rax, 0x200\nmov cr4, rax\n"
        "mov ecx, 0xc0000080\nrdmsr\nor eax, 1\nwrmsr\nrdmsr\nmov r12, rax"
    )
    assert None is guest.go_on()
    assert {"CR0_WRITE": 1, "CR4_WRITE": 1, "MSR": 1} == guest.protection.exits
    read = guest.protection.machine.engine.reg_read
    assert read(x86.UC_X86_REG_CR0) & 2
    assert read(x86.UC_X86_REG_CR4) & 0x200
    assert read(x86.UC_X86_REG_R12) & 1


def test_a_kernel_may_clear_ts_as_it_may_by_mov():
    guest = Protected("mov rax, cr0\nor rax, 8\nmov cr0, rax\nclts\nmov r12, cr0")
    assert None is guest.go_on()
    assert {"CR0_WRITE": 2} == guest.protection.exits
    read = guest.protection.machine.engine.reg_read
    assert 0x8001_0011 == read(x86.UC_X86_REG_R12)


def test_a_table_without_execution_takes_the_emulator_down():
    """Why execution isn't withheld from every frame that needs none."""
    directory = TABLES + (WINDOW_TABLES + 1) * PAGE
    then = f"mov rbx, DIRECT + {directory}\nmov rax, DATA + 7\nmov [rbx], rax\n{PATCH}"

    def work():
        faulthandler.disable()  # It would tell all about it.
        return refused(then)

    with pytest.raises(EmulatorCrash, match="SIGSEGV"):
        contained(work)


def test_user_code_in_a_sealed_frame_runs():
    """To CPL 3, at the page that is the user's: its frame is read-only data now."""
    leaf = TABLES + (USER_TABLES + 2) * PAGE
    guest = Protected(
        f"""
        mov rbx, DIRECT + {leaf}
        mov rax, RODATA + 5
        mov [rbx], rax
        mov rbx, DIRECT + 0x1000
        mov rax, 0xaffb000000ffff
        mov [rbx + 0x20], rax
        mov rax, 0xcff3000000ffff
        mov [rbx + 0x28], rax
        sub rsp, 16
        mov word ptr [rsp], 0x2f
        mov [rsp + 2], rbx
        lgdt [rsp]
        push 0x2b
        push USER
        push 2
        push 0x23
        push USER
        iretq
        """
    )
    # It runs, and what it does first, a store, finds no handler.
    with pytest.raises(GuestFailure, match="shut down"):
        list(guest.run)
    assert {Cause.USER_CODE: 1} == guest.protection.causes
    assert guest.protection.nested.granted[RODATA // PAGE] & EXECUTE
    assert not guest.protection.nested.granted[RODATA // PAGE] & WRITE
