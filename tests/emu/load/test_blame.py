"""Who wrote a word of memory: its stores, their instructions, and what is none."""

import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.blame import KEPT, StoreLog, WatchedWord
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import parse_point
from tests.emu.load.linux.kernels import TABLES, talking, vmlinux
from tests.emu.load.user_kernel import CODE3, user_kernel

PAGE = 0x180_0000
"""One that nothing else uses."""
SAID = parse_point("console:\n")


def booted(source, until=SAID):
    boot = Boot(Ram(0, 32 << 20), LinuxGuest(parse_kernel(vmlinux(source)), b""))
    return boot, lambda: list(boot.run([], until, 20))


def written(source, *words, until=SAID, sources=None):
    """What is written to words, given as (address, size) or an address of 8 bytes."""
    boot, run = booted(source, until)
    given = [WatchedWord(*(word if isinstance(word, tuple) else (word, 8))) for word in words]
    log = StoreLog(boot.machine, given, sources)
    run()
    return log.written(), boot


def at_page(then):
    return talking("", "x").replace("lea rdi", f"mov esi, {PAGE}\n{then}\nlea rdi", 1)


def test_each_store_to_a_word_is_kept_with_its_instruction():
    source = at_page("mov eax, 0x1234\nmov [rsi + 8], rax\nmov dword ptr [rsi + 12], 5")
    (found,), boot = written(source, PAGE + 8)
    assert (0, 0x5_0000_1234, 2) == (found.first, found.last, found.count)
    first, second = found.stores
    assert (0, 0x1234, 0x1234, 0x5_0000_1234) == (
        *(first.before, first.after, second.before),
        second.after,
    )
    assert b"\x48\x89\x46\x08" == boot.machine.ram.read(first.rip, 4)
    assert b"\xc7\x46\x0c\x05" == boot.machine.ram.read(second.rip, 4)
    assert [(0, TABLES)] * 2 == [(each.cpl, each.cr3) for each in found.stores]


def test_a_store_to_the_same_page_before_hides_none():
    source = at_page("mov [rsi + 0x800], rsi\nmov [rsi + 8], rsi\nmov [rsi], rsi")
    (found,), _ = written(source, PAGE)
    assert (1, PAGE) == (found.count, found.last)


def test_a_wide_store_is_seen_in_each_word():
    source = at_page("mov rax, -1\nmovq xmm0, rax\npunpcklqdq xmm0, xmm0\nmovdqu [rsi + 3], xmm0")
    source = source.replace("mov rax, -1", "mov rax, cr4\nor eax, 0x200\nmov cr4, rax\nmov rax, -1")
    found, _ = written(source, PAGE, PAGE + 8, PAGE + 16)
    assert [0xFFFF_FFFF_FF00_0000, (1 << 64) - 1, 0xFF_FFFF] == [each.last for each in found]
    assert [each.last for each in found] == [each.stores[-1].after for each in found]


def test_a_store_through_another_address_is_one_to_the_word():
    alias = f"mov rax, 0x1800083\nmov [{TABLES + 0x2000} + 15 * 8], rax\nmov cr3, rbx\n"
    (found,), _ = written(at_page(f"{alias}mov edi, 0x1e00000\nmov [rdi], rdi"), PAGE)
    assert (1, 0x1E0_0000) == (found.count, found.last)


def test_stores_of_other_sizes_and_places_change_what_they_reach():
    source = at_page("mov rax, -1\nmov [rsi + 5], rax\nmov word ptr [rsi + 7], 0")
    found, _ = written(source, PAGE, (PAGE + 8, 4), (PAGE + 12, 4), PAGE + 16)
    assert [0x00FF_FF00_0000_0000, 0xFFFF_FF00, 0xFF, 0] == [each.last for each in found]
    assert [2, 2, 1, 0] == [each.count for each in found]
    for each in found:
        assert each.last == (each.stores[-1].after if each.stores else 0)


def test_a_store_that_an_instruction_makes_in_parts_is_one():
    source = at_page("mov edi, esi\nmov al, 7\nmov ecx, 64\nrep stosb\nmov [rsi], rcx")
    (found,), _ = written(source, PAGE)
    assert 9 == found.count
    assert [(0, 0x0707_0707_0707_0707, 8), (0x0707_0707_0707_0707, 0, 1)] == [
        (each.before, each.after, each.times) for each in found.stores
    ]


def test_stores_of_one_instruction_for_several_callers_are_several():
    source = at_page("""
        mov esp, 0x1900000
        mov eax, 1
        call set
        mov eax, 3
        push rax
        call set
        mov eax, 1
        call set
        jmp over
        set: mov [rsi], rax
        ret
        over:
    """)
    (found,), boot = written(source, PAGE)
    assert [(0, 1, 1), (1, 3, 1), (3, 1, 1)] == [
        (each.before, each.after, each.times) for each in found.stores
    ]
    assert 1 == len({each.rip for each in found.stores})
    returns = [each.stack[0] for each in found.stores]
    assert [b"\xb8\x03", b"\xb8\x01", b"\xeb"] == [
        boot.machine.ram.read(at, size) for at, size in zip(returns, (2, 2, 1), strict=True)
    ]


def test_two_parts_between_which_the_processor_set_a_are_two_stores():
    """The halves of the entry of a large page, which is read in between."""
    entry, page = TABLES + 0x2000 + 8 * 14, 0x1C0_0000
    (found,), _ = written(
        at_page(f"""
        mov dword ptr [rsi], {page | 0x83}
        mov dword ptr [rsi + 4], 0
        mov edi, {entry}
        mov ebx, {page}
        mov ecx, 2
        again: mov eax, [rsi]
        mov [rdi], eax
        mov edx, [rbx]
        add rsi, 4
        add rdi, 4
        loop again
        """),
        entry,
    )
    *_, first, second = found.stores
    assert (page | 0x83, page | 0xA3, page | 0xA3) == (first.after, second.before, second.after)


def test_one_instruction_that_stores_to_the_same_bytes_again_makes_another_store():
    (found,), _ = written(at_page("mov ecx, 3\nagain: mov [rsi], rcx\nloop again"), PAGE)
    assert [(3, 1), (2, 1), (1, 1)] == [(each.after, each.times) for each in found.stores]


def test_of_many_stores_the_last_ones_are_kept():
    loop = "mov ecx, 20\nagain: mov [rsi], rcx\nadd qword ptr [rsi], 64\nloop again"
    (found,), _ = written(at_page(loop), PAGE)
    assert (40, KEPT) == (found.count, len(found.stores))
    assert [1, 65] == [each.after for each in found.stores[-2:]]


def test_what_the_loader_left_is_told():
    boot, run = booted(talking("", "x"))
    word = WatchedWord(0x10000, 8)  # The root of the loader's tables.
    log = StoreLog(boot.machine, [word])
    left = int.from_bytes(boot.machine.ram.read(0x10000, 8), "little")
    run()
    (found,) = log.written()
    assert (left, 0) == (found.first, found.count)
    assert left


def test_bits_that_the_processor_sets_are_seen_as_no_store():
    entry = TABLES + 0x2000 + 12 * 8  # Of the page's own 2 MiB.
    (found,), _ = written(at_page("mov [rsi], rsi"), entry)
    assert 1 == found.count
    assert (0x180_0083, 0x180_00E3) == (found.stores[-1].after, found.last)


def test_the_frame_of_a_delivered_event_is_no_store():
    gate = f"""
        mov edi, {PAGE + 0x400}
        lea rax, [rip + caught]
        mov [rdi + 0x60], ax
        mov word ptr [rdi + 0x62], 0x10
        mov word ptr [rdi + 0x64], 0x8e00
        shr rax, 16
        mov [rdi + 0x66], ax
        push rdi
        sub rsp, 2
        mov word ptr [rsp], 0xfff
        lidt [rsp]
        mov esp, {PAGE + 0x200}
        ud2
        caught:
    """
    (found,), boot = written(at_page(gate), PAGE + 0x1F8)
    assert (0, 0) == (found.count, found.first)
    assert 0x18 == found.last  # SS.
    assert 1 == sum(boot.machine.counts.values())


def test_the_end_of_a_store_that_begins_in_the_page_before_is_not_seen_as_one():
    (found,), _ = written(at_page("mov rax, -1\nmov [rsi - 4], rax"), PAGE)
    assert (0, 0xFFFF_FFFF) == (found.count, found.last)


def test_the_moment_is_told_by_the_console_and_the_counts():
    source = user_kernel("syscall\nsyscall\n", called=f"mov edi, {PAGE}\nmov [rdi], rsp")
    says = "mov dx, 0x3f8\nmov al, 0x41\nout dx, al\nmov al, 10\nout dx, al"
    source = source.replace("push 43", f"{says}\npush 43", 1)
    (found,), _ = written(source, PAGE, until=parse_point("syscall:2"))
    (store,) = found.stores
    assert (1, "A", 1) == (store.moment.lines, store.moment.line, store.moment.system_calls)
    assert (0, 0) == (store.cpl, store.moment.events)
    assert store.moment.seconds > 0


def test_stores_of_user_mode_have_its_privilege_level():
    (found,), _ = written(
        user_kernel(f"mov edi, {PAGE}\nmov [rdi], rdi\nsyscall"),
        PAGE,
        until=parse_point("syscall:1"),
    )
    assert [CODE3 & 3] == [store.cpl for store in found.stores]


def test_a_run_that_is_watched_is_the_same_byte_for_byte():
    source = at_page("mov edi, esi\nmov al, 7\nmov ecx, 8192\nrep stosb")
    boot, run = booted(source)
    run()
    _, watched = written(source, PAGE, PAGE + 8, TABLES + 0x2000)
    assert np.array_equal(boot.machine.ram.bytes, watched.machine.ram.bytes)


TO, FROM = PAGE + 0x1008, PAGE + 8
FILL = "mov eax, 0x8067\nmov [rsi + 8], rax\n"
COPIES = {
    "a load and a store": ("mov rdx, [rsi + 8]\nmov [rsi + 0x1008], rdx", FROM),
    "REP MOVSQ": ("lea rdi, [rsi + 0x1000]\nmov ecx, 4\nrep movsq", FROM),
    "halves": (
        "mov edx, [rsi + 8]\nmov [rsi + 0x1008], edx\nmov edx, [rsi + 12]\nmov [rsi + 0x100c], edx",
        FROM,
    ),
    "a load that begins before": ("movdqu xmm0, [rsi + 4]\nmovdqu [rsi + 0x1004], xmm0", FROM),
    "A and D apart": ("mov rdx, [rsi + 8]\nand dl, ~0x60\nmov [rsi + 0x1008], rdx", FROM),
    "another value": ("mov rdx, [rsi + 8]\nor dl, 2\nnot rdx\nmov [rsi + 0x1008], rdx", None),
    "a load long before": (
        "mov rdx, [rsi + 8]\n" + "nop\n" * 65 + "mov [rsi + 0x1008], rdx",
        None,
    ),
    "a load behind the store": (
        "jmp load\nback: mov [rsi + 0x1008], rdx\njmp on\nload: mov rdx, [rsi + 8]\njmp back\non:",
        None,
    ),
    "no load": ("mov [rsi + 0x1008], rax", None),
}
SSE = "mov rax, cr4\nor eax, 0x200\nmov cr4, rax\n"


@pytest.mark.parametrize(("copy", "source"), COPIES.values(), ids=COPIES)
def test_a_copy_names_the_word_that_it_is_of(copy, source):
    found, _ = written(at_page(f"{SSE}{FILL}{copy}"), FROM, TO, sources={TO: [FROM]})
    filled, copied = (each.stores[-1] for each in found)
    assert (None, source) == (filled.source, copied.source)
    assert filled.order < copied.order


def test_only_words_that_may_be_the_source_are_it():
    copy, _ = COPIES["a load and a store"]
    found, _ = written(at_page(f"{FILL}{copy}"), FROM, TO, sources={TO: [PAGE + 0x2008]})
    assert [None, None] == [each.stores[-1].source for each in found]
