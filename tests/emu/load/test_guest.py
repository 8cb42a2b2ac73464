from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.load.guest import boot
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import GuestError
from crosswalk.walker.errors import CrosswalkError
from tests.emu.patched_guests import failure

TEXT = 0x100000
PROTECTED = 0x8200
PAGE = 4096


@pytest.fixture(scope="module", params=[4, 5], ids=["4-level", "5-level"])
def booted(request):
    return boot(build_image(request.param))


Leaf = tuple[int, int, int, str, str]


def leaves(words, levels, table, level, va=0, allowed=7) -> Iterator[Leaf]:
    """Yield (va, pa, size, supervisor, user) of every leaf, by the manual and by nothing else."""
    span = 1 << (3 + 9 * level)
    for index in np.flatnonzero(words[table // 8 : table // 8 + 512] & np.uint64(1)):
        entry = int(words[table // 8 + index])
        at = va + int(index) * span
        left = allowed & (entry & 6 | (not entry >> 63))
        leaf = level == 1 or entry & 0x80
        low = (span - 1) & ~0x1FFF if leaf and level > 1 else 0
        if entry & (0xFFF << 40 | low) or (leaf and level > 3):
            continue
        pa = entry & 0xFF_FFFF_F000
        if leaf:
            top = 12 + 9 * levels
            rights = "r" + "-w"[left >> 1 & 1] + "-x"[left & 1]
            pair = ("---", rights) if left & 4 else (rights, "---")
            yield at | (1 << 64) - (1 << top) if at >> (top - 1) else at, pa & -span, span, *pair
        elif pa < words.nbytes:
            yield from leaves(words, levels, pa, level - 1, at, left)


def mapped(booted):
    words, levels = booted.ram.words, booted.image.levels
    return sorted(leaves(words, levels, booted.context.root, levels))


def meant(booted):
    return sorted(
        (i.va + at, i.pa + at, i.size, i.supervisor, i.user)
        for i in booted.image.resolve_intended(booted.status)
        for at in range(0, i.size * i.count, i.size)
    )


def test_the_guest_reports_the_registers_it_was_to_set(booted):
    la57 = 0x1000 if booted.image.levels == 5 else 0
    context = booted.context
    assert (0x80010011, 0x7000A0 | la57, 0xD00, 0xC0000024) == (
        context.cr0,
        context.cr4,
        context.efer,
        context.pkru,
    )
    assert booted.image.levels == context.levels
    assert booted.status.tables[0].pa == context.root


def test_all_that_is_mapped_is_meant_and_all_that_is_meant_is_mapped(booted):
    assert meant(booted) == mapped(booted)


def test_one_wrong_bit_in_one_entry_is_noticed(booted):
    # The entry for the last page of the address space: the last word of the table made for it.
    (table,) = (t.pa for t in booted.status.tables if (t.level, t.va >> 12) == (1, (1 << 52) - 1))
    changed = replace(booted, ram=boot(booted.image).ram)
    changed.ram.words[table // 8 + 511] ^= np.uint64(2)
    assert 2 == len(set(meant(changed)) ^ set(mapped(changed)))


def test_one_frame_is_writable_and_executable_over_all_mappings_and_it_is_meant_to_be(booted):
    frames = booted.ram.size // PAGE
    allowed = {right: np.zeros(frames, dtype=bool) for right in "wx"}
    for _, pa, size, supervisor, user in mapped(booted):
        for right, where in allowed.items():
            where[pa // PAGE : (pa + size) // PAGE] |= right in supervisor + user
    (jit,) = (i.pa // PAGE for i in booted.image.intended if i.name == "user jit")
    assert [jit] == np.flatnonzero(allowed["w"] & allowed["x"]).tolist()


def test_junk_is_planted_as_described_and_nothing_is_in_holes(booted):
    words, levels = booted.ram.words, booted.image.levels
    frames = {
        (table.level, table.va >> (12 + 9 * table.level)): table.pa
        for table in booted.status.tables[1:]
    }
    frames[levels, 0] = booted.context.root
    for raw in booted.image.memory_map.raws:
        prefix = raw.va >> (12 + 9 * raw.level)
        table = frames[raw.level, prefix if raw.level < levels else 0]
        index = raw.va >> (3 + 9 * raw.level) & 511
        assert raw.entry == int(words[table // 8 + index]), raw.name
    starts = {va for va, *_ in mapped(booted)}
    assert not {hole.va for hole in booted.image.faulting} & starts


def test_tables_hold_as_many_entries_as_the_guest_says_it_planted(booted):
    tables = booted.memory.tables(np.array([t.pa for t in booted.status.tables], dtype=np.uint64))
    assert booted.status.entries == np.count_nonzero(tables)


def test_the_processor_has_used_the_tables(booted):
    tables = booted.memory.tables(np.array([t.pa for t in booted.status.tables], dtype=np.uint64))
    present = tables[(tables & np.uint64(1)) != 0]
    accessed = np.count_nonzero(present & np.uint64(0x20))
    assert 0 < accessed < len(present)


def test_memory_is_a_view_of_ram(booted):
    memory = boot(booted.image)
    memory.ram.words[0] = 0x1234
    assert 0x1234 == memory.memory.word(0)


def test_two_boots_leave_the_same_ram(booted):
    assert np.array_equal(booted.ram.bytes, boot(booted.image).ram.bytes)


def test_a_guest_that_loops_is_stopped():
    message = failure(TEXT, "ebfe", max_blocks=20_000)
    assert "no HLT within 20000 blocks" in message
    assert "at 0xffffffff80100000: jmp 0xffffffff80100000" in message


def test_an_invalid_instruction_is_shown_with_state_and_registers():
    message = failure(TEXT, "0f0b")
    assert message.startswith("built-in guest, 4-level paging: exception 6 (#UD): triple fault")
    assert "state: enabling paging; at 0xffffffff80100000: ud2" in message
    assert "rsp=0xffffffff8010f000" in message


def test_a_page_fault_is_shown_with_its_address_in_full():
    message = failure(TEXT, "48a1000000000080ffff")
    assert "exception 14 (#PF)" in message
    assert "movabs rax, qword ptr [0xffff800000000000]" in message
    assert "cr2=0xffff800000000000" in message


def test_a_general_protection_fault_is_shown():
    assert "exception 13 (#GP)" in failure(TEXT, "48a10000000000800000")


def test_a_jump_into_nowhere_is_shown():
    message = failure(0x8800, "31c0 ffe0")
    assert "exception 14 (#PF)" in message
    assert "at 0x0, outside the guest's code" in message


def test_an_access_outside_ram_before_paging_is_shown():
    message = failure(PROTECTED, "a1000000f0")
    assert "READ_UNMAPPED" in message
    assert "at 0x8200: mov eax, dword ptr [0xf0000000]" in message


def test_a_hlt_too_early_is_no_success():
    message = failure(TEXT, "f4")
    assert "the guest is not done: enabling paging; at 0xffffffff80100000: hlt" in message


def test_a_wrong_magic_is_refused():
    image = build_image(4)
    (kernel,) = (code for code in image.code if code.source == "kernel.s")
    at = kernel.pa + kernel.data.index(b"CROSSWLK")
    assert "the status block begins with 0x4b4c5753534f5200" in failure(at, "00")


@pytest.mark.parametrize(
    ("store", "instead", "message"),
    [
        (
            "48894318",
            "48895b18",
            "the guest reports cr0 = 0xffff888000002000, but it is 0x80010011",
        ),
        ("48894320", "48895b20", "the guest reports cr3 = 0xffff888000002000, but it is 0x800000"),
        ("48894328", "48895b28", "the guest reports cr4 = 0xffff888000002000, but it is 0x7000a0"),
        ("894330", "895330", "the guest reports efer = 0x0, but it is 0xd00"),
    ],
    ids=["cr0", "cr3", "cr4", "efer"],
)
def test_a_register_that_is_reported_wrong_is_refused(store, instead, message):
    # RBX, the status block's address, or EDX, EFER's upper half, is stored and not RAX.
    (kernel,) = (code for code in build_image(4).code if code.source == "kernel.s")
    at = kernel.pa + kernel.data.index(bytes.fromhex(store))
    assert message in failure(at, instead)


def test_a_wrong_proof_is_refused():
    image = build_image(4)
    with pytest.raises(GuestError, match="the guest's proof is 0x"):
        boot(replace(image, proof=image.proof ^ 1))


def test_a_guest_with_other_levels_than_its_image_is_refused():
    image = build_image(4)
    with pytest.raises(GuestError, match="the guest runs with 4 paging levels"):
        boot(replace(image, memory_map=replace(image.memory_map, levels=5)))


def test_a_guest_that_runs_out_of_tables_says_so():
    image = build_image(4)
    (code,) = (code for code in image.code if code.source == "protected.s")
    at = code.pa + code.data.index(bytes.fromhex("3d00010000"))  # cmp eax, 256
    assert "the guest is not done: pool empty" in failure(at, "3d05000000")


def test_a_guest_with_two_claims_to_one_entry_says_so():
    # The second record's va becomes the first one's.
    assert "the guest is not done: entry occupied" in failure(0x9010 + 80, "0020000000000000")


def test_errors_of_guests_are_the_projects_own():
    assert issubclass(GuestError, CrosswalkError)
